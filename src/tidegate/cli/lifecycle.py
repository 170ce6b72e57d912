"""``tidegate train align|prefer``: the stages of a model's life before and after supervised fine-tuning."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from tidegate.cli.plainly import said_plainly

__all__ = ["register"]


def _align(  # noqa: PLR0917 - one parameter an option
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write; <out>.alignment.json holds the curve.")],
    init: Annotated[Path | None, typer.Option(help="AVLM checkpoint folder to start from.")] = None,
    vl: Annotated[str | None, typer.Option(help="LLaVA-OneVision to start from: hub id or folder.")] = None,
    audio_encoder: Annotated[str | None, typer.Option(help="Whisper to start from, with --vl.")] = None,
    hours: Annotated[float, typer.Option(help="Hours of audio to hear in all, repetitions counted.")] = 4.0,
    mark: Annotated[list[float] | None, typer.Option(help="Hours at which errors are measured; may repeat.")] = None,
    language: Annotated[
        list[str] | None, typer.Option(help="Languages, ISO 639-1; may repeat; all by default.")
    ] = None,
    utterances: Annotated[int, typer.Option(help="Spoken items, by espeak-ng.")] = 4_000,
    sounds: Annotated[int, typer.Option(help="Sounds to be named.")] = 400,
    test_each: Annotated[int, typer.Option(help="Test items of each language and sound, by other speakers.")] = 8,
    audio_tokens: Annotated[int, typer.Option(help="Tokens that an item's audio becomes.")] = 32,
    train_tower: Annotated[bool, typer.Option("--train-tower/--freeze-tower", help="The audio tower.")] = True,
    train_language: Annotated[
        bool, typer.Option("--train-language/--freeze-language", help="The language model.")
    ] = True,
    batch_size: Annotated[int, typer.Option(help="Items of one step.")] = 16,
    learning_rate: Annotated[float, typer.Option(help="Peak rate.")] = 1e-3,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    cache: Annotated[
        Path | None, typer.Option(help="Where the spoken items are kept; beside --out by default.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Picture of the curve to write, .svg or .png.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of sentences, speakers, weights and order.")] = 0,
    threads: Annotated[int | None, typer.Option(help="Processor threads of torch; its own choice by default.")] = None,
) -> None:
    """Audio alignment: learn to transcribe speech and to name sounds; progress goes to stderr."""
    import torch

    from tidegate.training.align import AlignConfig
    from tidegate.training.console import console_progress
    from tidegate.training.engine import OneProcess
    from tidegate.training.lifecycle import align_stage, draw_curve, print_curve, start_of
    from tidegate.training.recipes import OptimiserConfig
    from tidegate.training.speech import SpeechConfig

    if threads is not None:
        torch.set_num_threads(threads)
    with said_plainly():
        config = AlignConfig(
            speech=SpeechConfig(
                languages=tuple(language or ()), utterances=utterances, sounds=sounds, test_each=test_each, seed=seed
            ),
            hours=hours,
            marks_hours=tuple(mark or AlignConfig().marks_hours),
            audio_tokens=audio_tokens,
            train_tower=train_tower,
            train_language=train_language,
            optimiser=OptimiserConfig(batch_size=batch_size, learning_rate=learning_rate, warmup_fraction=0.05),
        )
        with console_progress() as progress:
            result = align_stage(
                start_of(init, vl, audio_encoder),
                out,
                config,
                seed=seed,
                cache=cache or out.parent / "feature-cache",
                command="tidegate " + shlex.join(sys.argv[1:]),
                progress=progress,
                engine=OneProcess(device),
            )
    print_curve(result.curve)
    if plot is not None:
        draw_curve(result.curve, plot)
    typer.echo(f"checkpoint: {out}")


def _prefer(  # noqa: PLR0917 - one parameter an option
    data: Annotated[Path, typer.Option(help="Manifest (Parquet or CSV) with splits.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write.")],
    init: Annotated[Path, typer.Option(help="AVLM checkpoint folder with a language head, such as align's.")],
    pairs: Annotated[
        Path | None,
        typer.Option(help="JSON Lines of {video_id, chosen, rejected}; from the synthetic truth by default."),
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the pairs.")] = 1,
    beta: Annotated[float, typer.Option(help="How dear it is to leave the reference model.")] = 0.1,
    write_weight: Annotated[
        float, typer.Option(help="Weight of the likelihood of the chosen text, beside the preference.")
    ] = 0.0,
    batch_size: Annotated[int, typer.Option(help="Pairs of one step.")] = 8,
    learning_rate: Annotated[float, typer.Option(help="Peak rate.")] = 1e-4,
    train_towers: Annotated[bool, typer.Option("--train-towers/--freeze-towers", help="Vision and audio.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    cache: Annotated[Path | None, typer.Option(help="Feature cache; beside --out by default.")] = None,
    workers: Annotated[int, typer.Option(help="Decoding processes.")] = 2,
    seed: Annotated[int, typer.Option(help="Seed of the order.")] = 0,
    threads: Annotated[int | None, typer.Option(help="Processor threads of torch; its own choice by default.")] = None,
) -> None:
    """Preference alignment (DPO): prefer right verdicts and rationales to wrong ones; progress goes to stderr."""
    import torch

    from tidegate.training.console import console_progress
    from tidegate.training.engine import OneProcess
    from tidegate.training.lifecycle import prefer_stage
    from tidegate.training.prefer import PreferConfig
    from tidegate.training.recipes import OptimiserConfig

    if threads is not None:
        torch.set_num_threads(threads)
    with said_plainly():
        config = PreferConfig(
            beta=beta,
            write_weight=write_weight,
            train_towers=train_towers,
            optimiser=OptimiserConfig(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate),
        )
        with console_progress() as progress:
            result = prefer_stage(
                data,
                out,
                init,
                config,
                pairs=pairs,
                seed=seed,
                cache=cache or out.parent / "feature-cache",
                workers=workers,
                command="tidegate " + shlex.join(sys.argv[1:]),
                progress=progress,
                engine=OneProcess(device),
            )
    typer.echo(json.dumps({"before": result.before, "after": result.after}))
    typer.echo(f"checkpoint: {out}")


def register(stages: typer.Typer) -> None:
    """Add these stages to ``tidegate train``."""
    stages.command("align", help="Before fine-tuning: learn to hear.")(_align)
    stages.command("prefer", help="After fine-tuning: prefer right rationales to wrong ones.")(_prefer)
