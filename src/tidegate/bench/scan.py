"""``tidegate bench scan``: videos a second and peak memory of the whole cascade, and where the time goes.

Enters: numbers of videos. Leaves: one row for each. Every row is a scan in a fresh process, as a user's would be;
its memory is that of the process and all its children (resident pages, shared ones divided by their sharers),
looked at 20 times a second. Videos are the synthetic corpus; past ``distinct`` of them, the same files again under
other names (hard links), which the scan takes for other videos and decodes again.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidegate.errors import DependencyMissing, TidegateError, UsageError

__all__ = ["ScanRow", "render", "run_scan_benchmark"]

_LOOK_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class ScanRow:
    """One scan."""

    videos: int
    distinct: int
    video_seconds: float
    """Length of all videos together."""
    start_seconds: float
    """From the start of the process until the models are loaded."""
    scan_seconds: float
    """From the first video taken to the last one written, exports included."""
    videos_per_second: float
    cpu_seconds_per_video: float
    """Processor time of the process and its decoders from their start, loading included; no other load changes it."""
    peak_memory_mib: float
    escalated_share: float
    decode_share: float
    """Of all busy seconds, added over threads."""
    listen_share: float
    """Finding speech and loud stretches, for the report."""
    base_share: float
    large_share: float
    other_share: float
    """Fingerprints, policy, evidence pictures, writing."""
    failed: int


def run_scan_benchmark(
    sizes: Sequence[int] = (10, 100, 1000),
    *,
    seed: int = 0,
    distinct: int = 100,
    corpus: Path | None = None,
    preset: str = "tiny",
    workers: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[ScanRow]:
    """One row for each size. ``corpus`` is a folder with videos to use instead of making ``distinct`` ones."""
    if not sizes or min(sizes) < 1:
        raise UsageError(f"expected sizes >= 1, got {list(sizes)}")
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as scratch:
        root = Path(scratch)
        videos = _videos(root / "corpus", corpus, seed, min(distinct, max(sizes)), progress)
        rows = []
        for size in sizes:
            progress(f"scanning {size} videos")
            folder = _named_anew(videos, size, root / f"videos-{size}")
            facts, peak_bytes = _measured([folder, root / f"out-{size}", preset, workers or 0])
            rows.append(_row(facts, peak_bytes, videos=size, distinct=min(size, len(videos))))
        return rows


def _videos(folder: Path, given: Path | None, seed: int, count: int, progress: Callable[[str], None]) -> list[Path]:
    if given is not None:
        found = sorted(given.rglob("*.mp4"))[:count]
        if not found:
            raise UsageError(f"expected .mp4 videos below {given}, found none")
        return found
    from tidegate.corpus.synthetic import SyntheticConfig, make_corpus

    progress(f"making {count} synthetic videos")
    config = SyntheticConfig(out=folder, videos=count, seed=seed, workers=len(os.sched_getaffinity(0)))
    return [entry.path for entry in make_corpus(config)]


def _named_anew(videos: Sequence[Path], size: int, folder: Path) -> Path:
    """A folder of ``size`` videos with their sidecars, the same files again and again."""
    folder.mkdir()
    for number in range(size):
        video = videos[number % len(videos)]
        for file, suffix in ((video, video.suffix), (video.with_name(video.stem + ".info.json"), ".info.json")):
            if file.exists():
                _link(file, folder / f"{number:06d}{suffix}")
    return folder


def _link(file: Path, name: Path) -> None:
    try:
        os.link(file, name)
    except OSError:  # another file system
        name.symlink_to(file.resolve())


def _measured(arguments: Sequence[object]) -> tuple[dict[str, Any], int]:
    """Facts of a scan in a process of its own, and the most memory that it and its children held."""
    command = [sys.executable, "-m", "tidegate.bench.scan", *map(str, arguments)]
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        with subprocess.Popen(command, stdout=output, stderr=errors) as process:  # noqa: S603 - our own module
            peak_bytes = _peak_bytes(process)
        output.seek(0)
        errors.seek(0)
        if process.returncode != 0:
            told = errors.read().decode(errors="replace")[-500:]
            raise UsageError(f"expected the scan to end with code 0, got {process.returncode}: {told}")
        return json.loads(output.read()), peak_bytes


def _row(facts: dict[str, Any], peak_bytes: int, *, videos: int, distinct: int) -> ScanRow:
    busy = facts["busy_seconds"]
    total = sum(busy.values())
    named = {name: busy.get(name, 0.0) / total for name in ("decode", "listen", "base", "large")}
    return ScanRow(
        videos=videos, distinct=distinct, video_seconds=facts["video_seconds"], start_seconds=facts["start_seconds"],
        scan_seconds=facts["scan_seconds"], videos_per_second=videos / facts["scan_seconds"],
        cpu_seconds_per_video=facts["cpu_seconds"] / videos, peak_memory_mib=peak_bytes / 2**20,
        escalated_share=facts["escalated"] / videos, decode_share=named["decode"],
        listen_share=named["listen"], base_share=named["base"], large_share=named["large"],
        other_share=1 - sum(named.values()), failed=facts["failed"],
    )  # fmt: skip


def _peak_bytes(process: subprocess.Popen[bytes]) -> int:
    try:
        import psutil
    except ImportError as error:
        process.kill()
        raise DependencyMissing("expected the extra 'bench': pip install 'tidegate[bench]'") from error
    root, peak = psutil.Process(process.pid), 0
    while process.poll() is None:
        total = 0
        for member in [root, *_children(root)]:
            try:
                total += int(member.memory_full_info().pss)
            except (psutil.Error, OSError):
                continue  # it has just ended
        peak = max(peak, total)
        time.sleep(_LOOK_SECONDS)
    return peak


def _children(root: object) -> list[object]:
    import psutil

    assert isinstance(root, psutil.Process)
    try:
        return list(root.children(recursive=True))
    except psutil.Error:
        return []


def render(rows: Sequence[ScanRow]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| videos | distinct | video s | videos/s | CPU s each | peak MiB | to large | decode | listen | base | large "
        "| other |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row.videos} | {row.distinct} | {row.video_seconds:.0f} | {row.videos_per_second:.2f} "
        f"| {row.cpu_seconds_per_video:.2f} | {row.peak_memory_mib:.0f} "
        f"| {row.escalated_share:.0%} | {row.decode_share:.0%} | {row.listen_share:.0%} | {row.base_share:.0%} "
        f"| {row.large_share:.0%} | {row.other_share:.0%} |"
        for row in rows
    ]
    return "\n".join(lines)


def _scan(folder: str, out: str, preset: str, workers: str) -> dict[str, object]:
    """The measured process: one scan, its facts as JSON on stdout."""
    began = time.perf_counter()
    from tidegate.pipeline.scanner import ScanSettings, load_preset
    from tidegate.pipeline.sink import FolderSink
    from tidegate.pipeline.source import Source

    settings = ScanSettings(workers=int(workers)) if int(workers) else ScanSettings()
    with load_preset(preset, settings=settings) as scanner, FolderSink(Path(out)) as sink:
        loaded = time.perf_counter()
        runner, video_seconds, escalated = scanner.runner(sink), 0.0, 0
        for finished in runner.run(Source([folder])):
            video_seconds += finished.outcome.duration_seconds or 0.0
            escalated += finished.outcome.escalated
        sink.finish()
        ended = time.perf_counter()
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "start_seconds": loaded - began, "scan_seconds": ended - loaded, "video_seconds": video_seconds,
        "cpu_seconds": sum(usage.ru_utime + usage.ru_stime for usage in used), "escalated": escalated,
        "failed": runner.stats.by_status["failed"], "busy_seconds": dict(runner.stats.busy_seconds),
    }  # fmt: skip


if __name__ == "__main__":
    try:
        sys.stdout.write(json.dumps(_scan(*sys.argv[1:])))
    except TidegateError as error:
        sys.exit(f"{type(error).__name__}: {error}")
