"""``tidegate train base|avlm``: a manifest becomes a checkpoint folder."""

from __future__ import annotations

import json
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tidegate.training.stage import TrainResult

__all__ = ["register"]


class Model(StrEnum):
    """Which stage of a cascade to train."""

    base = "base"
    avlm = "avlm"


def _train(  # noqa: PLR0917 - one parameter an option
    model: Annotated[Model, typer.Argument(help="base: the cheap first stage; avlm: the large one.")],
    data: Annotated[Path, typer.Option(help="Manifest (Parquet or CSV) with splits train, validation, test.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write.")],
    init: Annotated[Path | None, typer.Option(help="Checkpoint folder to start from.")] = None,
    teacher: Annotated[
        Path | None, typer.Option(help="Checkpoint folder whose soft scores to follow; training videos need no label.")
    ] = None,
    issue: Annotated[str, typer.Option(help="Label to learn, e.g. icd, ucc.")] = "icd",
    recipe: Annotated[str | None, typer.Option(help="Recipe; tiny-base or tiny-avlm by default.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training split; the recipe's by default.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, order and augmentation.")] = 0,
    cache: Annotated[Path | None, typer.Option(help="Feature cache; beside --out by default.")] = None,
    workers: Annotated[int, typer.Option(help="Decoding processes.")] = 2,
    threads: Annotated[int | None, typer.Option(help="Processor threads of torch; its own choice by default.")] = None,
    half: Annotated[bool, typer.Option("--half", help="Store the weights as float16.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Train a stage of the cascade; progress goes to stderr."""
    import torch

    from tidegate.errors import TidegateError, UsageError
    from tidegate.training.console import console_progress
    from tidegate.training.recipes import recipe as find_recipe
    from tidegate.training.recipes import with_epochs
    from tidegate.training.stage import train_stage

    if threads is not None:
        torch.set_num_threads(threads)
    try:
        chosen = with_epochs(find_recipe(recipe or f"tiny-{model.value}", issue), epochs)
        with console_progress() as progress:
            result = train_stage(
                data,
                out,
                chosen,
                init=init,
                teacher=teacher,
                seed=seed,
                cache=cache,
                workers=workers,
                half=half,
                command="tidegate " + shlex.join(sys.argv[1:]),
                progress=progress,
            )
    except TidegateError as error:
        typer.echo(f"{error.code}: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, UsageError) else 1) from error
    _print(result, as_json)


def _print(result: TrainResult, as_json: bool) -> None:
    if as_json:
        values = {
            "checkpoint": str(result.folder),
            "best_epoch": result.fit.best_epoch,
            "seconds": result.fit.seconds,
            "features_from_cache": result.features_from_cache,
            "failed": len(result.failed),
            "history": list(result.fit.history),
            "test": result.test.to_dict(),
        }
        typer.echo(json.dumps(values))
        return
    from tidegate.training.console import print_reports

    print_reports([result.test])
    typer.echo(f"checkpoint: {result.folder}")


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command("train")(_train)
