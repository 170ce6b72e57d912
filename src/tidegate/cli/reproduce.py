"""``tidegate reproduce``: the paper's tables again, with the ``tiny`` preset, and what they leave open."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]

_TABLES = ("table1", "table2", "table3", "table4", "table5", "table6")
reproduce = typer.Typer(
    name="reproduce",
    no_args_is_help=True,
    help="The paper's six tables again, row by row beside the paper's figures, and what they leave open.",
)

Preset = Annotated[str, typer.Option(help="Preset whose models are trained; only tiny has a foundation.")]
Data = Annotated[
    Path | None, typer.Option(help="Manifest with splits; a synthetic corpus is made in --work by default.")
]
Videos = Annotated[
    int, typer.Option(min=200, help="Of the corpus that is made without --data; a smaller one is a part of a larger.")
]
Work = Annotated[Path, typer.Option(help="Folder of features, tower outputs and finished trainings.")]
FoundationFolder = Annotated[
    Path | None, typer.Option("--foundation", help="Folder with warm-base and warm-large; the package's by default.")
]
Seeds = Annotated[int, typer.Option(min=1, help="Trainings of each row.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes that train; one thread each.")]
Samples = Annotated[int, typer.Option(min=1, help="Bootstrap resamples of the intervals.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
_WORK = Path("out/reproduce")
_VIDEOS = 4500


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for name in (*_TABLES, "all"):
        reproduce.command(name, help=_help(name))(_verb(name))
    reproduce.command("shift")(_shift)
    reproduce.command("grid")(_grid)
    reproduce.command("kinds")(_kinds)
    app.add_typer(reproduce)


def _help(name: str) -> str:
    what = "All six tables" if name == "all" else f"Table {name.removeprefix('table')}"
    return (
        f"{what}: trains what is compared, prints the paper's rows beside ours; a row that is done is not repeated."
        "\n\n"
        f"Example: tidegate reproduce {name} --data corpus/manifest.parquet"
    )


@contextmanager
def _said_plainly() -> Iterator[None]:
    from tidegate.errors import TidegateError, UsageError

    try:
        yield
    except TidegateError as error:
        typer.echo(f"{error.code}: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, UsageError) else 1) from error


def _say(text: str) -> None:
    typer.echo(text, file=sys.stderr)


def _check(preset: str) -> None:
    from tidegate.errors import UsageError

    if preset != "tiny":
        raise UsageError(f"expected the preset tiny, the only one with a packaged foundation, got {preset!r}")


def _corpus(data: Path | None, work: Path, videos: int = _VIDEOS) -> Path:
    """The manifest; by default the corpus that docs/results-reproduce.md is measured on, made if it is not there."""
    if data is not None:
        return data
    from tidegate.corpus import SyntheticConfig, make_corpus

    make_corpus(SyntheticConfig(out=work / "corpus", videos=videos, seed=7, prevalence=0.4, workers=2))
    return work / "corpus" / "manifest.parquet"


def _verb(name: str):  # type: ignore[no-untyped-def]
    def verb(  # noqa: PLR0917 - one parameter an option
        preset: Preset = "tiny",
        data: Data = None,
        videos: Videos = _VIDEOS,
        work: Work = _WORK,
        foundation: FoundationFolder = None,
        seeds: Seeds = 3,
        workers: Workers = 2,
        samples: Samples = 300,
        as_json: Json = False,
    ) -> None:
        with _said_plainly():
            _check(preset)
            from tidegate.bench.reproduce.run import ReproduceConfig, reproduce_tables

            tables = tuple(range(1, 7)) if name == "all" else (int(name.removeprefix("table")),)
            config = ReproduceConfig(
                data=_corpus(data, work, videos), folder=work, tables=tables, seeds=seeds, workers=workers,
                foundation=foundation, num_samples=samples,
            )  # fmt: skip
            reports = reproduce_tables(config, _say)
        if as_json:
            record = {"data": str(config.data), "seeds": seeds, "tables": [report.to_dict() for report in reports]}
            typer.echo(json.dumps(record))
        else:
            typer.echo("\n\n".join(report.to_markdown() for report in reports))

    return verb


def _shift(  # noqa: PLR0917 - one parameter an option
    data: Data = None,
    work: Work = _WORK,
    base: Annotated[Path | None, typer.Option(help="Base checkpoint; the package's by default.")] = None,
    large: Annotated[Path | None, typer.Option(help="AVLM checkpoint; the package's by default.")] = None,
    videos: Annotated[int, typer.Option(min=20, help="Of each new corpus.")] = 300,
    longer: Annotated[
        str, typer.Option(help="Lengths in seconds, with commas, of clips among harmless others; may be empty.")
    ] = "5,30,120,600",
    each: Annotated[int, typer.Option(min=1, help="Violating and harmless videos of each length.")] = 12,
    p_base: Annotated[int, typer.Option(min=1, max=99, help="Of the cascade, per cent.")] = 50,
    samples: Samples = 500,
    as_json: Json = False,
) -> None:
    """Base, cascade and AVLM where the content moved: another mix, other places and languages, longer videos.

    Nothing is trained or chosen again. Example: tidegate reproduce shift --data corpus/manifest.parquet
    """
    with _said_plainly():
        from tidegate.bench.reproduce.durations import make_longer
        from tidegate.bench.reproduce.shift import FOREIGN_REGIONS, ShiftConfig, run_shift
        from tidegate.bench.reproduce.stock import PACKAGED_FOUNDATION
        from tidegate.corpus import SyntheticConfig, make_corpus

        manifest, others = _corpus(data, work), {}
        for name, seed, regions in (("other places and people", 202, None), ("rare languages", 101, FOREIGN_REGIONS)):
            out = work / f"shift-{seed}-{videos}"
            make_corpus(SyntheticConfig(out=out, videos=videos, seed=seed, prevalence=0.4, regions=regions, workers=2))
            others[name] = out / "manifest.parquet"
        for length in _whole("--longer", longer):
            others[f"{length} s long"] = make_longer(manifest, work / "longer", length, each=each)
            _say(f"videos of {length} s: made")
        weights = PACKAGED_FOUNDATION.parent
        config = ShiftConfig(
            data=manifest, base=base or weights / "base", large=large or weights / "large", folder=work / "features",
            others=others, p_base_percent=p_base, num_samples=samples,
        )  # fmt: skip
        report = run_shift(config, _say)
    typer.echo(json.dumps(report.to_dict()) if as_json else report.to_markdown())


def _whole(option: str, text: str) -> list[int]:
    from tidegate.errors import UsageError

    try:
        found = [int(part) for part in text.split(",") if part]
    except ValueError:
        raise UsageError(f"{option}: expected whole numbers with commas, got {text!r}") from None
    if any(number < 1 for number in found):
        raise UsageError(f"{option}: expected numbers of at least 1, got {text!r}")
    return found


def _grid(  # noqa: PLR0917 - one parameter an option
    data: Data = None,
    work: Work = _WORK,
    foundation: FoundationFolder = None,
    seeds: Seeds = 1,
    workers: Workers = 2,
    samples: Samples = 300,
    ranks: Annotated[str, typer.Option(help="Ranks, with commas.")] = "16,32,64,128",
    alphas: Annotated[str, typer.Option(help="Alphas, with commas; each goes with every rank.")] = "32,64,128,256",
    rate: Annotated[float | None, typer.Option(min=1e-7, max=1.0, help="Peak learning rate; default: 2e-3.")] = None,
) -> None:
    """LoRA's rank by alpha on the large model, as AUC and R@P80.

    Example, whether a small rate suits high ranks: tidegate reproduce grid --ranks 128 --alphas 256 --rate 2e-4
    """
    with _said_plainly():
        from tidegate.bench.reproduce.run import ReproduceConfig, grid_markdown, lora_grid

        config = ReproduceConfig(
            data=_corpus(data, work), folder=work, tables=(), seeds=seeds, workers=workers, foundation=foundation,
            num_samples=samples,
        )  # fmt: skip
        grid = lora_grid(config, _whole("--ranks", ranks), _whole("--alphas", alphas), _say, rate=rate)
    typer.echo("\n\n".join(grid_markdown(grid, column) for column in ("AUC", "R@P80")))


def _kinds(  # noqa: PLR0917 - one parameter an option
    data: Data = None,
    work: Work = _WORK,
    foundation: FoundationFolder = None,
    seeds: Seeds = 3,
    base: Annotated[Path | None, typer.Option(help="Base checkpoint; the package's by default.")] = None,
    large: Annotated[Path | None, typer.Option(help="AVLM checkpoint; the package's by default.")] = None,
) -> None:
    """Which kinds of evidence each model sees: two checkpoints, and the trainings of tables 1, 3, 6 that are done."""
    with _said_plainly():
        from tidegate.bench.reproduce.kinds import kinds_of_checkpoints, kinds_of_trials, kinds_table
        from tidegate.bench.reproduce.run import ReproduceConfig
        from tidegate.bench.reproduce.stock import PACKAGED_FOUNDATION

        weights, manifest = PACKAGED_FOUNDATION.parent, _corpus(data, work)
        folders = {"base checkpoint": base or weights / "base", "AVLM checkpoint": large or weights / "large"}
        config = ReproduceConfig(data=manifest, folder=work, seeds=seeds, foundation=foundation)
        columns = {**kinds_of_checkpoints(manifest, folders, work / "features"), **kinds_of_trials(config)}
    typer.echo(kinds_table(columns))
