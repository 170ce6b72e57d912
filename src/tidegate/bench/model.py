"""``tidegate bench model``: how fast the large model is, how much memory it takes, and how near it comes to the peak.

Enters: a preset, batch sizes, numbers of frames. Leaves: a row for each way of running it. Operations are counted by
``FlopCounterMode`` (2 for a multiply and an add) on the plain attention, so that every way is held against the same
work; the peak is the fastest large matrix product of the same run, in the same precision. Each row is the median of
its repeats after a warm-up: by the clock on CUDA, in processor time on the CPU. Memory is the allocator's peak on
CUDA, and the process's high-water mark on the CPU.
"""

from __future__ import annotations

import contextlib
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tidegate.bench.model_shapes import BenchModel, bench_model
from tidegate.errors import DependencyMissing, UsageError
from tidegate.models import Avlm, Batch
from tidegate.training.lora import adapt
from tidegate.training.recipes import AdapterConfig

__all__ = ["ModelBenchmark", "ModelRow", "counted_operations", "render", "run_model_benchmark"]

Progress = Callable[[str], None]
_WAYS = ("sdpa", "eager", "flash_attention_2", "head and cache", "compiled")
_STEPS = ("LoRA step", "LoRA step, checkpointing")


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """One way of running the model on one shape of batch."""

    way: str
    """``sdpa``, ``eager``, ``flash_attention_2``: attention kernels. ``head and cache``: sdpa, with the logits of all
    positions and the KV cache, which a classifier does not need. ``compiled``: sdpa under ``torch.compile``."""
    batch: int
    frames: int
    seconds: float | None
    """Of one batch; None: this way does not run here. On CUDA by the clock; on the CPU processor time, all threads
    added, which other load on the machine does not change."""
    videos_per_second: float | None
    peak_memory_mib: float | None
    share_of_peak: float | None
    """Of the measured matrix peak, by the counted operations of the plain forward pass."""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelBenchmark:
    """All rows, and what they rest on."""

    preset: str
    device: str
    dtype: str
    num_parameters: int
    matmul_tera_per_second: float
    """Measured: operations of a large square matrix product, per second, in units of 10^12."""
    giga_per_video: dict[int, float]
    """Counted operations of one video's forward pass, by number of frames, in units of 10^9."""
    machine: str
    threads: int
    rows: tuple[ModelRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)


def run_model_benchmark(
    preset: str = "tiny",
    *,
    device: str = "cpu",
    dtype: str | None = None,
    batches: Sequence[int] = (1, 8),
    frames: Sequence[int] = (8,),
    repeats: int = 3,
    random_weights: bool = False,
    training: bool = True,
    compiled: bool = True,
    progress: Progress | None = None,
) -> ModelBenchmark:
    """Measure; ``dtype`` None is bfloat16 on CUDA and float32 on the CPU."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device: expected a device of this machine, got {device!r}; CUDA is not available")
    if min((*batches, *frames, repeats)) < 1:
        raise UsageError(f"expected batches, frames and repeats >= 1, got {batches}, {frames}, {repeats}")
    say = progress or (lambda _: None)
    kind = getattr(torch, dtype or ("bfloat16" if device.startswith("cuda") else "float32"))
    say(f"building {preset} on {device} in {kind}")
    bench = bench_model(preset, device=device, dtype=kind, random_weights=random_weights)
    peak, parameters = _matmul_peak(device, kind), bench.num_parameters
    rows: list[ModelRow] = []
    counted: dict[int, float] = {}
    for count in frames:
        counted[count] = counted_operations(bench, count, device, kind)
        for size in batches:
            batch = bench.batch(size, count, device=device, dtype=kind)
            for way in _WAYS if compiled else _WAYS[:-1]:
                rows.append(_row(way, batch, count, partial(_forward, bench.model, batch, way), repeats))
                rows[-1] = _with_share(rows[-1], counted[count], peak)
                say(_said(rows[-1]))
    if training:
        shapes = [(count, size) for count in frames for size in batches]
        rows += _training_rows(bench, shapes, device=device, dtype=kind, repeats=repeats, say=say)
    return ModelBenchmark(
        preset=preset,
        device=torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        dtype=str(kind).removeprefix("torch."),
        num_parameters=parameters,
        matmul_tera_per_second=peak / 1e12,
        giga_per_video={count: value / 1e9 for count, value in counted.items()},
        machine=f"{platform.machine()}, torch {torch.__version__}",
        threads=torch.get_num_threads(),
        rows=tuple(rows),
    )


def _matmul_peak(device: str, dtype: torch.dtype) -> float:
    """Operations a second of the fastest of a few square matrix products."""
    best = 0.0
    for side in (4096, 8192) if device.startswith("cuda") else (1024, 2048):
        left = torch.randn(side, side, device=device, dtype=dtype)
        seconds = min(_timed(partial(torch.matmul, left, left), device) for _ in range(4))
        best = max(best, 2.0 * side**3 / seconds)
    return best


def _timed(work: Callable[[], Any], device: str) -> float:
    if not device.startswith("cuda"):
        started = time.process_time()
        work()
        return time.process_time() - started
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - started


def counted_operations(bench: BenchModel, frames: int, device: str, dtype: torch.dtype) -> float:
    """Operations of one video's forward pass."""
    batch = bench.batch(1, frames, device=device, dtype=dtype)
    with _attention(bench.model, "eager"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        bench.model(batch)
    return float(counter.get_total_flops())


@contextlib.contextmanager
def _attention(model: Avlm, kernel: str) -> Iterator[None]:
    parts = [model.vision_language] + ([] if model.audio is None else [model.audio.encoder])
    try:
        for part in parts:
            part.set_attn_implementation(kernel)
        yield
    finally:
        for part in parts:
            part.set_attn_implementation("sdpa")


@contextlib.contextmanager
def _forward(model: Avlm, batch: Batch, way: str) -> Iterator[Callable[[], Any]]:
    """A forward pass in one way, ready to be timed."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(_attention(model, way if way in {"eager", "flash_attention_2"} else "sdpa"))
        if way == "head and cache":
            yield lambda: _with_head_and_cache(model, batch)
        elif way == "compiled":
            stack.enter_context(_compiled(model))
            yield lambda: model(batch)
        else:
            yield lambda: model(batch)


def _with_head_and_cache(model: Avlm, batch: Batch) -> Any:
    inputs = model.inputs(batch)
    output = model.vision_language.language_model(
        inputs_embeds=inputs.embeds_BLD, attention_mask=inputs.mask_BL, position_ids=inputs.positions(), use_cache=True
    )
    table = model.vision_language.get_input_embeddings().weight  # as large as the head that the checkpoint left out
    logits = nn.functional.linear(output.last_hidden_state, table)
    heard = () if model.audio is None else (model.audio(batch),)
    return logits, model.head(torch.cat([output.last_hidden_state[:, -1], *heard], dim=-1)), output.past_key_values


@contextlib.contextmanager
def _compiled(model: Avlm) -> Iterator[None]:
    """Towers and language model under ``torch.compile``; what joins them stays as it is."""
    places: list[tuple[Any, str]] = [(model.vision_language, "vision_tower"), (model.vision_language, "language_model")]
    if model.audio is not None:
        places.append((model.audio, "encoder"))
    before = [(owner, name, getattr(owner, name).forward) for owner, name in places]
    try:
        for owner, name, forward in before:
            getattr(owner, name).forward = torch.compile(forward, dynamic=False)
        yield
    finally:
        for owner, name, _ in before:
            del getattr(owner, name).forward
        torch.compiler.reset()


def _row(
    way: str, batch: Batch, frames: int, ready: Callable[[], contextlib.AbstractContextManager[Callable[[], Any]]],
    repeats: int,
) -> ModelRow:  # fmt: skip
    """Measure one way; one that this machine cannot run is a row without figures that says why."""
    assert batch.token_ids_BL is not None
    device = str(batch.token_ids_BL.device)
    empty = {"seconds": None, "videos_per_second": None, "peak_memory_mib": None, "share_of_peak": None}
    try:
        if device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(device)
        with ready() as work:
            work()
            seconds = statistics.median(_timed(work, device) for _ in range(repeats))
    except (ImportError, RuntimeError, ValueError, DependencyMissing) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].split("error: ")[-1][:120]
        return ModelRow(way=way, batch=batch.size, frames=frames, note=reason, **empty)  # type: ignore[arg-type]
    return ModelRow(
        way=way,
        batch=batch.size,
        frames=frames,
        seconds=seconds,
        videos_per_second=batch.size / seconds,
        peak_memory_mib=_peak_memory_mib(device),
        share_of_peak=None,
    )


def _peak_memory_mib(device: str) -> float:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _with_share(row: ModelRow, operations: float, peak: float) -> ModelRow:
    if row.seconds is None:
        return row
    return ModelRow(**{**asdict(row), "share_of_peak": operations * row.batch / row.seconds / peak})


def _training_rows(
    bench: BenchModel,
    shapes: Sequence[tuple[int, int]],
    *,
    device: str,
    dtype: torch.dtype,
    repeats: int,
    say: Progress,
) -> list[ModelRow]:
    """One optimiser step of rank 32 on the language model, without and with checkpointing of activations."""
    rows = []
    adapted = adapt(bench.model, AdapterConfig(rank=32, alpha=64))
    trained = [parameter for parameter in bench.model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-4)
    for count, size in shapes:
        batch = bench.batch(size, count, device=device, dtype=dtype)
        for way in _STEPS:
            adapted.model.gradient_checkpointing(way != _STEPS[0])
            rows.append(_row(way, batch, count, partial(_step, adapted.model, optimiser, batch), repeats))
            say(_said(rows[-1]))
    return rows


@contextlib.contextmanager
def _step(model: Avlm, optimiser: torch.optim.Optimizer, batch: Batch) -> Iterator[Callable[[], Any]]:
    assert batch.token_ids_BL is not None
    labels_B = torch.arange(batch.size, device=batch.token_ids_BL.device) % 2

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(batch).float(), labels_B).backward()
        optimiser.step()

    model.train()
    try:
        yield step
    finally:
        model.eval()
        optimiser.zero_grad(set_to_none=True)


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _said(row: ModelRow) -> str:
    speed = f"{row.videos_per_second:.2f} videos/s" if row.videos_per_second is not None else f"not run: {row.note}"
    return f"{row.way}, batch {row.batch}, {row.frames} frames: {speed}"


def render(found: ModelBenchmark) -> str:
    """The rows as a Markdown table."""
    lines = [
        f"{found.preset}: {found.num_parameters / 1e6:.1f} M parameters, {found.dtype}, {found.device}, "
        f"{found.threads} threads; matrix peak {found.matmul_tera_per_second:.3f} tera-operations/s; operations of a "
        + ", ".join(f"video of {frames} frames {value:.3f} giga" for frames, value in found.giga_per_video.items()),
        "",
        "| way | batch | frames | s a batch | videos/s | peak memory MiB | share of peak | |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in found.rows:
        share = "" if row.share_of_peak is None else f"{row.share_of_peak:.0%}"
        lines.append(
            f"| {row.way} | {row.batch} | {row.frames} | {_figure(row.seconds, '.3f')} | "
            f"{_figure(row.videos_per_second, '.2f')} | {_figure(row.peak_memory_mib, '.0f')} | {share} | {row.note} |"
        )
    return "\n".join(lines)
