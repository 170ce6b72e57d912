"""``tidegate reproduce``: the paper's tables again, with the ``tiny`` preset on a manifest."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]

_WHAT = ("table1", "table2", "table3", "table4", "table5", "table6", "all")


def _reproduce(  # noqa: PLR0917 - one parameter an option
    what: Annotated[str, typer.Argument(help="table1 to table6, or all.")],
    preset: Annotated[str, typer.Option(help="Preset whose models are trained; only tiny has a foundation.")] = "tiny",
    data: Annotated[
        Path | None, typer.Option(help="Manifest with splits; a synthetic corpus is made in --work by default.")
    ] = None,
    work: Annotated[Path, typer.Option(help="Folder of features, tower outputs and finished trainings.")] = Path(
        "out/reproduce"
    ),
    foundation: Annotated[
        Path | None, typer.Option(help="Folder with warm-base and warm-large; the package's by default.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each row.")] = 3,
    workers: Annotated[int, typer.Option(min=1, help="Processes that train; one thread each.")] = 2,
    samples: Annotated[int, typer.Option(min=1, help="Bootstrap resamples of the intervals.")] = 300,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Train what a table of the paper compares, and print the paper's rows beside ours.

    Rows that are done are not repeated. Example: tidegate reproduce table1 --data corpus/manifest.parquet
    """
    from tidegate.errors import TidegateError, UsageError

    try:
        if what not in _WHAT:
            raise UsageError(f"expected one of {', '.join(_WHAT)}, got {what!r}")
        if preset != "tiny":
            raise UsageError(f"expected the preset tiny, the only one with a packaged foundation, got {preset!r}")
        from tidegate.bench.reproduce.run import ReproduceConfig, reproduce_tables

        tables = tuple(range(1, 7)) if what == "all" else (int(what.removeprefix("table")),)
        config = ReproduceConfig(
            data=data or _corpus(work),
            folder=work,
            tables=tables,
            seeds=seeds,
            workers=workers,
            foundation=foundation,
            num_samples=samples,
        )
        reports = reproduce_tables(config, lambda text: typer.echo(text, file=sys.stderr))
    except TidegateError as error:
        typer.echo(f"{error.code}: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, UsageError) else 1) from error
    if as_json:
        typer.echo(json.dumps({"data": str(config.data), "tables": [report.to_dict() for report in reports]}))
    else:
        typer.echo("\n\n".join(report.to_markdown() for report in reports))


def _corpus(work: Path) -> Path:
    """The corpus that docs/results-reproduce.md is measured on; made if it is not there."""
    from tidegate.corpus import SyntheticConfig, make_corpus

    make_corpus(SyntheticConfig(out=work / "corpus", videos=4500, seed=7, prevalence=0.4, workers=2))
    return work / "corpus" / "manifest.parquet"


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command("reproduce")(_reproduce)
