"""``tidegate evaluate``: what a checkpoint, or a cascade of two, reaches on a split of a manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tidegate.cli.plainly import said_plainly

__all__ = ["register"]


def _evaluate(  # noqa: PLR0917 - one parameter an option
    data: Annotated[Path, typer.Option(help="Manifest (Parquet or CSV) with splits.")],
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint folder; the base stage if --large is given.")],
    large: Annotated[
        Path | None, typer.Option(help="Checkpoint folder of the large stage: evaluates a cascade.")
    ] = None,
    p_base: Annotated[
        list[int] | None, typer.Option(help="Base precision in percent, of the cascade; may repeat.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split to evaluate; thresholds come from validation.")] = "test",
    cache: Annotated[Path | None, typer.Option(help="Feature cache; beside the manifest by default.")] = None,
    workers: Annotated[int, typer.Option(help="Decoding processes.")] = 2,
    samples: Annotated[int, typer.Option(help="Bootstrap resamples of the intervals.")] = 500,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """F1, AUC, average precision, recall at precision, with intervals; thresholds are chosen on validation."""
    from tidegate.training.console import console_progress, print_reports
    from tidegate.training.evaluate import evaluate_checkpoints

    with said_plainly(), console_progress() as progress:
        reports = evaluate_checkpoints(
            data,
            checkpoint,
            large,
            p_base_percent=tuple(p_base or (10, 20, 30)),
            split=split,
            cache=cache or data.parent / "feature-cache",
            workers=workers,
            num_samples=samples,
            seed=seed,
            progress=progress.on_decode,
        )
    if as_json:
        typer.echo(json.dumps({"data": str(data), "split": split, "rows": [report.to_dict() for report in reports]}))
    else:
        print_reports(reports)


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command("evaluate")(_evaluate)
