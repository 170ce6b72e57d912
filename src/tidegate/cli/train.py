"""``tidegate train base|avlm``: a manifest becomes a checkpoint folder."""

from __future__ import annotations

import json
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidegate.cli import lifecycle
from tidegate.cli.plainly import said_plainly

if TYPE_CHECKING:
    from tidegate.training.recipes import TrainRecipe
    from tidegate.training.stage import TrainResult
    from tidegate.training.start import PublishedParts

__all__ = ["register"]

_IDEAS = "What diagnosis recommends"


class Selection(StrEnum):
    """Which validation figure chooses the best epoch."""

    average_precision = "average-precision"
    recall_at_precision = "recall-at-precision"


class Arithmetic(StrEnum):
    """Arithmetic of the forward pass."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


class FusionName(StrEnum):
    """Where an AVLM's audio meets the rest."""

    early = "early"
    late = "late"
    none = "none"


class Strategy(StrEnum):
    """How several processes share one training run."""

    none = "none"
    fsdp = "fsdp"
    deepspeed = "deepspeed"


class TrackerName(StrEnum):
    """Where training curves go."""

    tensorboard = "tensorboard"
    mlflow = "mlflow"


def _train(  # noqa: PLR0917 - one parameter an option
    context: typer.Context,
    data: Annotated[Path, typer.Option(help="Manifest (Parquet or CSV) with splits train, validation, test.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write.")],
    init: Annotated[Path | None, typer.Option(help="Checkpoint folder to start from.")] = None,
    vl: Annotated[str | None, typer.Option(help="LLaVA-OneVision to start from, hub id or folder: avlm only.")] = None,
    audio_encoder: Annotated[str | None, typer.Option(help="Whisper to start from, with --vl.")] = None,
    frames: Annotated[int, typer.Option(help="Frames of a video, with --vl.")] = 8,
    teacher: Annotated[
        Path | None, typer.Option(help="Checkpoint folder whose soft scores to follow; training videos need no label.")
    ] = None,
    issue: Annotated[list[str] | None, typer.Option(help="Label to learn, icd by default; may repeat.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="tiny-base, tiny-avlm or lora-avlm; tiny by default, lora-avlm with --vl.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training split; the recipe's by default.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Clips of one optimiser step, over all processes.")] = None,
    micro_batch_size: Annotated[
        int | None, typer.Option(help="Clips of one forward pass; gradients are accumulated over the step.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak rate; the recipe's by default.")] = None,
    positive_weight: Annotated[float | None, typer.Option(help="Loss weight of a violating clip.")] = None,
    lora_rank: Annotated[
        int | None, typer.Option(help="LoRA on the language model; 0 trains the head alone. None: all is trained.")
    ] = None,
    lora_alpha: Annotated[int | None, typer.Option(help="Scale of LoRA; twice the rank by default.")] = None,
    lora_dropout: Annotated[float, typer.Option(help="Dropout before LoRA's matrices.")] = 0.0,
    freeze_towers: Annotated[
        bool | None,
        typer.Option("--freeze-towers/--train-towers", help="Vision and audio towers; as the recipe by default."),
    ] = None,
    gradient_checkpointing: Annotated[
        bool | None, typer.Option(help="Recompute activations: less memory, slower steps.")
    ] = None,
    modality_dropout: Annotated[
        float | None, typer.Option(help="Probability that a modality of a clip is left out.", rich_help_panel=_IDEAS)
    ] = None,
    swap_audio: Annotated[
        float, typer.Option(help="Probability of a harmless clip's audio; the label stays.", rich_help_panel=_IDEAS)
    ] = 0.0,
    swap_vision: Annotated[
        float, typer.Option(help="Probability of a harmless clip's frames.", rich_help_panel=_IDEAS)
    ] = 0.0,
    swap_text: Annotated[
        float, typer.Option(help="Probability of a harmless clip's texts.", rich_help_panel=_IDEAS)
    ] = 0.0,
    corruption: Annotated[
        float | None,
        typer.Option(help="Probability of grain, blur, coarse blocks and noise.", rich_help_panel=_IDEAS),
    ] = None,
    corruption_strength: Annotated[
        float | None, typer.Option(help="The worst corruption, above 0, at most 1.", rich_help_panel=_IDEAS)
    ] = None,
    fusion: Annotated[
        FusionName | None,
        typer.Option(help="Fuse the audio otherwise than --init does: avlm only.", rich_help_panel=_IDEAS),
    ] = None,
    emphasise: Annotated[
        Path | None,
        typer.Option(help="File of ids of training videos to see more often, one a line.", rich_help_panel=_IDEAS),
    ] = None,
    emphasise_where: Annotated[
        list[str] | None,
        typer.Option(help="The same by metadata: language=hi, region=BR; may repeat.", rich_help_panel=_IDEAS),
    ] = None,
    emphasise_missed: Annotated[
        str | None,
        typer.Option(
            help="The same for violating videos that --init scores below its threshold of this base precision, "
            "in percent.",
            rich_help_panel=_IDEAS,
        ),
    ] = None,
    emphasis: Annotated[
        int, typer.Option(help="How often such a video is seen in an epoch.", rich_help_panel=_IDEAS)
    ] = 3,
    select_on: Annotated[
        Selection | None, typer.Option(help="Validation figure that chooses the epoch and stops early.")
    ] = None,
    select_precision: Annotated[float | None, typer.Option(help="The precision of recall-at-precision.")] = None,
    patience: Annotated[int | None, typer.Option(help="Epochs without improvement before it stops.")] = None,
    precision: Annotated[Arithmetic | None, typer.Option(help="auto: bfloat16 on a GPU that has it.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    strategy: Annotated[
        Strategy, typer.Option(help="Under torchrun: how the processes share the run.")
    ] = Strategy.none,
    track: Annotated[TrackerName | None, typer.Option(help="Training curves.")] = None,
    track_to: Annotated[
        str | None, typer.Option(help="TensorBoard's folder or MLflow's address; beside --out by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, order and augmentation.")] = 0,
    cache: Annotated[Path | None, typer.Option(help="Feature cache; beside --out by default.")] = None,
    live: Annotated[bool, typer.Option("--live", help="Decode while training instead of caching features.")] = False,
    workers: Annotated[int, typer.Option(help="Decoding processes.")] = 2,
    threads: Annotated[int | None, typer.Option(help="Processor threads of torch; its own choice by default.")] = None,
    half: Annotated[bool, typer.Option("--half", help="Store the weights as float16.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Train a stage of the cascade; progress goes to stderr."""
    import torch

    from tidegate.training.console import console_progress
    from tidegate.training.emphasis import EmphasisConfig
    from tidegate.training.launch import engine_of
    from tidegate.training.recipes import customised
    from tidegate.training.stage import train_stage
    from tidegate.training.swapping import SwapConfig
    from tidegate.training.tracking import tracked

    if threads is not None:
        torch.set_num_threads(threads)
    with said_plainly():
        chosen = customised(
            recipe or ("lora-avlm" if vl is not None else f"tiny-{context.info_name}"),
            tuple(issue or ("icd",)),
            lora=(lora_rank, lora_alpha, lora_dropout),
            train_towers=None if freeze_towers is None else not freeze_towers,
            gradient_checkpointing=gradient_checkpointing,
            epochs=epochs,
            fusion=None if fusion is None else fusion.value,
            swap=SwapConfig(audio=swap_audio, vision=swap_vision, text=swap_text),
            emphasis=EmphasisConfig(
                times=emphasis, ids=emphasise, where=tuple(emphasise_where or ()), missed_at=emphasise_missed
            ),
            augment={
                "modality_dropout": modality_dropout,
                "corruption": corruption,
                "corruption_strength": corruption_strength,
            },
            batch_size=batch_size,
            micro_batch_size=micro_batch_size,
            learning_rate=learning_rate,
            positive_weight=positive_weight,
            select_on=None if select_on is None else select_on.value.replace("-", "_"),
            select_precision=select_precision,
            patience=patience,
            precision=None if precision is None else precision.value,
        )
        where = track_to or _default_place(track, out)
        with (
            console_progress() as progress,
            engine_of(strategy.value, device) as engine,
            tracked(
                progress,
                track if engine.shard.rank == 0 else None,
                where,
                {"recipe": chosen.name, "seed": seed, "out": out},
            ) as reported,
        ):
            result = train_stage(
                data,
                out,
                chosen,
                init=init,
                parts=_parts(vl, audio_encoder, frames),
                teacher=teacher,
                seed=seed,
                cache=cache,
                workers=workers,
                live=live,
                half=half,
                command="tidegate " + shlex.join(sys.argv[1:]),
                progress=reported,
                engine=engine,
            )
            first = engine.shard.rank == 0
    if first:
        _print(result, chosen, as_json)


def _parts(vl: str | None, audio_encoder: str | None, frames: int) -> PublishedParts | None:
    from tidegate.errors import ConfigError
    from tidegate.training.start import PublishedParts

    if vl is None and audio_encoder is not None:
        raise ConfigError("expected --vl with --audio-encoder, got none")
    return None if vl is None else PublishedParts(vl=vl, audio=audio_encoder, num_frames=frames)


def _default_place(track: TrackerName | None, out: Path) -> str:
    return str(out.absolute().with_name(out.name + (".mlflow" if track is TrackerName.mlflow else ".curves")))


def _print(result: TrainResult, recipe: TrainRecipe, as_json: bool) -> None:
    if as_json:
        values = {
            "checkpoint": str(result.folder),
            "best_epoch": result.fit.best_epoch,
            "seconds": result.fit.seconds,
            "features_from_cache": result.features_from_cache,
            "failed": len(result.failed),
            "history": list(result.fit.history),
            "test": result.test.to_dict(),
            "more": {issue: report.to_dict() for issue, report in result.more.items()},
        }
        typer.echo(json.dumps(values))
        return
    from tidegate.training.console import print_reports

    for issue, report in {recipe.model.issue: result.test, **result.more}.items():
        if result.more:
            typer.echo(f"issue {issue}:")
        print_reports([report])
    typer.echo(f"checkpoint: {result.folder}")


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    stages = typer.Typer(help="Train a stage of the cascade.", no_args_is_help=True)
    stages.command("base", help="The cheap first stage.")(_train)
    stages.command("avlm", help="The large stage, whole or by LoRA.")(_train)
    lifecycle.register(stages)
    app.add_typer(stages, name="train")
