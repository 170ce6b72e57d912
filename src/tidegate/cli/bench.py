"""``tidegate bench ...``: the figures in the documentation, as commands.

Each verb measures side by side in one run and prints a Markdown table, or one JSON object with ``--json``.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["register"]

bench = typer.Typer(
    name="bench", no_args_is_help=True, help="Measure speed, memory and validity: the figures in docs/, as commands."
)

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Repeats = Annotated[int, typer.Option(min=1, help="How often each way is measured.")]
Sizes = Annotated[str, typer.Option(help="Numbers of videos, with commas.")]
Workers = Annotated[str, typer.Option(help="Numbers of worker processes, with commas.")]


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    app.add_typer(bench)


@contextmanager
def _said_plainly() -> Iterator[None]:
    """What the user can mend is one line on stderr and exit code 2."""
    from tidegate.errors import TidegateError

    try:
        yield
    except TidegateError as error:
        typer.echo(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from error


def _progress(message: str) -> None:
    typer.echo(message, file=sys.stderr)


def _print(record: dict[str, Any], text: str, *, as_json: bool) -> None:
    typer.echo(json.dumps(_finite(record), default=str, allow_nan=False) if as_json else text)


def _finite(value: Any) -> Any:
    """JSON knows no NaN: what could not be computed is null."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(text: str, name: str) -> list[int]:
    from tidegate.errors import UsageError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{name}: expected whole numbers with commas, got {text!r}") from None


@bench.command("decode", epilog="Example: tidegate bench decode --clip-seconds 30,600 --repeats 5")
def _decode(
    *,
    clip_seconds: Annotated[str, typer.Option(help="Lengths of the clips, multiples of 30, with commas.")] = "30,600",
    repeats: Repeats = 5,
    folder: Annotated[Path, typer.Option(help="Where the clips are kept for the next run.")] = Path("out/bench/decode"),
    as_json: Json = False,
) -> None:
    """CPU time of eight frames of a video: ours, PyAV in order, OpenCV, decord2; and whose frames are right."""
    with _said_plainly():
        from tidegate.bench.decode import render, run_decode_benchmark

        lengths = _numbers(clip_seconds, "--clip-seconds")
        folder.mkdir(parents=True, exist_ok=True)
        found = run_decode_benchmark(folder, clip_seconds=lengths, repeats=repeats, progress=_progress)
    _print(found.to_dict(), render(found), as_json=as_json)


@bench.command("scan", epilog="Example: tidegate bench scan --sizes 10,100,1000")
def _scan(
    *,
    sizes: Sizes = "10,100,1000",
    distinct: Annotated[int, typer.Option(min=1, help="Different synthetic videos; more are links to them.")] = 100,
    corpus: Annotated[Path | None, typer.Option(help="Folder of videos to use instead of making some.")] = None,
    preset: Annotated[str, typer.Option(help="Preset, or a folder with checkpoints.")] = "tiny",
    workers: Annotated[int | None, typer.Option(min=1, help="Decoding processes; default: one a core.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Videos a second and peak memory of the whole cascade, and where the time goes."""
    with _said_plainly():
        from dataclasses import asdict

        from tidegate.bench.scan import render, run_scan_benchmark

        rows = run_scan_benchmark(
            _numbers(sizes, "--sizes"), seed=seed, distinct=distinct, corpus=corpus, preset=preset, workers=workers,
            progress=_progress,
        )  # fmt: skip
    _print({"rows": [asdict(row) for row in rows]}, render(rows), as_json=as_json)


@bench.command("model", epilog="Example: tidegate bench model --preset paper-ucc --random-weights --device cuda")
def _model(
    *,
    preset: Annotated[str, typer.Option(help="tiny, compact or paper-ucc: its large model.")] = "tiny",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1.")] = "cpu",
    dtype: Annotated[str | None, typer.Option(help="Precision; default bfloat16 on CUDA, float32 on the CPU.")] = None,
    random_weights: Annotated[bool, typer.Option("--random-weights", help="Full shape, new weights: no hub.")] = False,
    batch: Annotated[str, typer.Option(help="Clips of a batch, with commas.")] = "1,8",
    frames: Annotated[str, typer.Option(help="Frames of a clip, with commas.")] = "8",
    repeats: Repeats = 3,
    training: Annotated[bool, typer.Option("--training/--no-training", help="LoRA steps too.")] = True,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="torch.compile too.")] = True,
    as_json: Json = False,
) -> None:
    """The large model: videos a second, memory, share of the matrix peak, LoRA steps, kernels side by side."""
    with _said_plainly():
        from tidegate.bench.model import render, run_model_benchmark
        from tidegate.errors import UsageError

        if dtype not in {None, "float32", "bfloat16", "float16"}:
            raise UsageError(f"--dtype: expected float32, bfloat16 or float16, got {dtype!r}")
        found = run_model_benchmark(
            preset, device=device, dtype=dtype, batches=_numbers(batch, "--batch"), frames=_numbers(frames, "--frames"),
            repeats=repeats, random_weights=random_weights, training=training, compiled=compiled, progress=_progress,
        )  # fmt: skip
    _print(found.to_dict(), render(found), as_json=as_json)


@bench.command("cascade", epilog="Example: tidegate bench cascade --quick")
def _cascade(
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Few families and trials: to see that all works.")] = False,
    trials: Annotated[int, typer.Option(min=1, help="Trials a cell.")] = 500,
    only: Annotated[str | None, typer.Option(help="Sections with commas; default: all.")] = None,
    scores: Annotated[
        Path | None, typer.Option(help="Score file with feature_ columns for the section ranking; default: simulated.")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Whether promises hold and what they cost, beside plug-in, SUPG, LOTUS and BARGAIN; drift, budget, speed."""
    with _said_plainly():
        from tidegate.bench.cascade import SECTIONS, render, run_cascade_benchmark
        from tidegate.errors import UsageError

        sections = SECTIONS if only is None else tuple(only.split(","))
        if unknown := sorted(set(sections) - set(SECTIONS)):
            raise UsageError(f"--only: expected sections among {', '.join(SECTIONS)}, got {', '.join(unknown)}")
        found = run_cascade_benchmark(
            quick=quick, trials=trials, seed=seed, only=sections, scores=scores, progress=_progress
        )
    _print(found.to_dict(), render(found), as_json=as_json)


@bench.command("pipeline", epilog="Example: tidegate bench pipeline --videos 200000 --workers 1,2,4")
def _pipeline(
    *,
    videos: Annotated[int, typer.Option(min=1000, help="Events that go through.")] = 200_000,
    workers: Annotated[str, typer.Option(help="Numbers of worker processes, with commas.")] = "1,2,4",
    batch: Annotated[int, typer.Option(min=1, help="Largest mini-batch.")] = 1024,
    index: Annotated[str, typer.Option(help="Kind of the index: sqlite or redis.")] = "sqlite",
    sync: Annotated[bool, typer.Option("--sync/--no-sync", help="Audit trail survives a power cut.")] = True,
    rivals: Annotated[bool, typer.Option("--rivals/--no-rivals", help="The same flow on Bytewax too.")] = True,
    memory_videos: Annotated[int, typer.Option(min=0, help="Videos of the memory test; 0 leaves it out.")] = 0,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """The platform without models: videos a second, added latency, memory, nothing lost or doubled, where time goes."""
    with _said_plainly():
        from tidegate.bench.pipeline import run_pipeline_benchmark

        found = run_pipeline_benchmark(
            videos=videos, workers=_numbers(workers, "--workers"), batch=batch, index=index, sync=sync, rivals=rivals,
            memory_videos=memory_videos, seed=seed, progress=_progress,
        )  # fmt: skip
    _print(found.to_dict(), found.table(), as_json=as_json)


def _fit_first(folder: Path, worlds: int, gains: int, *, across: bool, workers: int) -> None:
    """Fit the shipped classifier and the transfer ratios anew, each only if asked for."""
    if worlds:
        from tidegate.bench.diagnosis_fit import fit_and_save

        fit_and_save(folder / "fit", worlds, across=across, progress=_progress, workers=workers)
    if gains:
        from tidegate.bench.diagnosis_fit_gains import fit_gains_and_save

        fit_gains_and_save(folder / "gains", gains, progress=_progress, workers=workers)


def _on_clips(clips: Path | None, fights: Path | None, models: str, settings: dict[str, Any], *, as_json: bool) -> None:
    """Faults planted in the videos of a manifest, or in real clips."""
    from tidegate.bench.diagnosis_clips import ClipBenchConfig, run_clip_benchmark, run_fight_benchmark
    from tidegate.bench.diagnosis_clips.table import render_clips

    config = ClipBenchConfig(**settings)
    if clips is not None:
        found = run_clip_benchmark(clips, models, config, _progress)
    else:
        assert fights is not None
        found = run_fight_benchmark(fights, config, _progress)
    _print(found.to_dict(), render_clips(found), as_json=as_json)


@bench.command(
    "diagnosis",
    epilog="Examples: tidegate bench diagnosis --quick; tidegate bench diagnosis --clips corpus/manifest.parquet; "
    "tidegate bench diagnosis --fights FOLDER --sounds ESC10_FOLDER",
)
def _diagnosis(
    *,
    full: Annotated[bool, typer.Option("--full/--quick", help="Several worlds, or a first look.")] = False,
    clips: Annotated[
        Path | None, typer.Option(help="Plant faults in the test videos of this manifest instead of in worlds.")
    ] = None,
    models: Annotated[str, typer.Option(help="With --clips: preset, or a folder with checkpoints.")] = "tiny",
    fights: Annotated[
        Path | None, typer.Option(help="Plant faults in these real clips instead; a model fitted out of fold judges.")
    ] = None,
    sounds: Annotated[
        Path | None, typer.Option(help="With --clips or --fights: ESC-10, to swap sounds; default: of other clips.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Test worlds; default: 4, quick: 1. On clips: plantings of each fault.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="On clips: seed of halves, slices and faults.")] = 0,
    items: Annotated[int, typer.Option(min=20, help="With --clips: most videos of each half.")] = 240,
    max_errors: Annotated[int, typer.Option(min=1, help="On clips: errors of a run that are probed.")] = 16,
    max_controls: Annotated[int, typer.Option(min=1, help="On clips: right videos that each probe is run on.")] = 12,
    gains_every: Annotated[
        int, typer.Option(min=0, help="With --clips: carry interventions out in every so many runs; 0: in none.")
    ] = 4,
    folder: Annotated[Path, typer.Option(help="Where rows are kept; what is there is not run again.")] = Path(
        "out/bench/diagnosis"
    ),
    fit_worlds: Annotated[int, typer.Option(min=0, help="Fit the classifier on as many worlds first.")] = 0,
    across: Annotated[
        bool, typer.Option("--across", help="With --fit-worlds: say how well classes carry over between mechanisms.")
    ] = False,
    fit_gains: Annotated[
        int, typer.Option(min=0, help="Carry out all interventions in as many runs first and fit predicted gains.")
    ] = 0,
    max_seconds: Annotated[float | None, typer.Option(help="Stop then and score what there is.")] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="In worlds: processes that plant and diagnose.")] = 1,
    as_json: Json = False,
) -> None:
    """Plant faults with a known cause: is it named, and does the advice work? In worlds, rendered or real clips."""
    with _said_plainly():
        from tidegate.errors import UsageError

        if clips is not None and fights is not None:
            raise UsageError("expected --clips or --fights, got both")
        if sounds is not None and clips is None and fights is None:
            raise UsageError("--sounds: expected --clips or --fights with it, got neither")
        if clips is not None or fights is not None:
            settings = {
                "folder": folder, "seeds": seeds or 1, "seed": seed, "items": items, "max_errors": max_errors,
                "max_controls": max_controls, "gains_every": gains_every, "sounds": sounds, "max_seconds": max_seconds,
            }  # fmt: skip
            _on_clips(clips, fights, models, settings, as_json=as_json)
            return
        if across and not fit_worlds:
            raise UsageError("--across: expected --fit-worlds with it, got none")
        _fit_first(folder, fit_worlds, fit_gains, across=across, workers=workers)
        from tidegate.bench.diagnosis import render, run_diagnosis_benchmark

        found = run_diagnosis_benchmark(folder, full=full, seeds=seeds, max_seconds=max_seconds, progress=_progress,
                                        workers=workers)
    _print(found.to_dict(), render(found), as_json=as_json)
