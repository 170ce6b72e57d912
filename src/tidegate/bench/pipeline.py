"""``tidegate bench pipeline``: the platform without models, measured side by side.

Enters: how many videos, which numbers of workers. Leaves: ``PipelineBenchmark``: videos per second, p99 of the added
latency at half load, peak memory, what was lost and doubled, and where the time goes; the same flow on Bytewax in the
same run. The flow is the real one: events from a log on disk, features from a Valkey server in batches, a score from a
feature (no model), policy filter, hash-chained audit trail, SQLite index, acknowledgement.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tidegate.bench.pipeline_server import valkey_server
from tidegate.platform.config import PlatformConfig, read_config
from tidegate.platform.contracts import Backend, Delivery, EventSource, Shard
from tidegate.platform.event import EventCodec, VideoEvent
from tidegate.platform.eventlog import LogSettings, LogSource, write_log
from tidegate.platform.measures import Tally
from tidegate.platform.worker import Worker

__all__ = ["PipelineBenchmark", "PipelineRun", "platform_file", "run_pipeline_benchmark", "server_cpu", "stored"]

PARTITIONS = 8
_CONFIG = """
[platform]
policy_file = "policy.toml"
state_folder = "{state}"
[batch]
max_batch = {batch}
poll_seconds = 0.02
[audit]
sync = {sync}
[source]
kind = "log"
folder = "events"
[[features]]
kind = "redis"
name = "cache"
url = "{url}"
deadline_seconds = 5.0
[scoring]
kind = "feature"
feature = "cache.base_score"
[index]
kind = "{index}"
{where}
"""
_POLICY = """
[policy]
name = "bench"
version = "1"
[[clause]]
id = "icd-1"
issue = "icd"
title = "inappropriate"
remove_at = 0.9
ignore_from = 0.85
"""


@dataclass(frozen=True, kw_only=True)
class PipelineRun:
    """One measurement."""

    flow: str
    """``tidegate`` or the name of the framework."""
    workers: int
    videos: int
    wall_seconds: float
    videos_per_second: float
    cpu_seconds: float
    """Of the workers, without the servers."""
    videos_per_cpu_second: float
    server_cpu_seconds: float
    """Of the cache server meanwhile."""
    peak_memory_mib: float
    """Largest resident set of one worker."""
    lost: int
    doubled: int
    seconds_by_phase: Mapping[str, float] = field(default_factory=dict)
    """Wall seconds, added over workers."""


@dataclass(frozen=True, kw_only=True)
class PipelineBenchmark:
    """What the benchmark found; the first five fields are those of the best number of workers."""

    videos_per_second: float
    p99_added_ms: float
    """Added latency at half of ``videos_per_second``, from due to acknowledged."""
    peak_memory_mib: float
    lost: int
    doubled: int
    p50_added_ms: float
    half_load_videos_per_second: float
    runs: tuple[PipelineRun, ...]
    memory_mib_by_videos: tuple[tuple[int, float], ...] = ()
    """(videos so far, resident MiB) of one worker over a long run."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return dataclasses.asdict(self)

    def table(self) -> str:
        """The runs as text."""
        head = (
            f"{'flow':12} {'workers':>7} {'videos/s':>9} {'per CPU s':>9} {'with server':>11} {'MiB':>6} {'lost':>5} "
            f"{'doubled':>7}"
        )
        lines = [head, *(
            f"{run.flow:12} {run.workers:7} {run.videos_per_second:9.0f} {run.videos_per_cpu_second:9.0f} "
            f"{run.videos / (run.cpu_seconds + run.server_cpu_seconds):11.0f} {run.peak_memory_mib:6.0f} "
            f"{run.lost:5} {run.doubled:7}" for run in self.runs
        )]
        lines.append(
            f"added latency at {self.half_load_videos_per_second:.0f} videos/s: "
            f"p50 {self.p50_added_ms:.0f} ms, p99 {self.p99_added_ms:.0f} ms"
        )
        for run in self.runs:
            spent = sorted(run.seconds_by_phase.items(), key=lambda entry: -entry[1])
            total = sum(run.seconds_by_phase.values()) or 1.0
            shares = ", ".join(f"{phase} {seconds / total:.0%}" for phase, seconds in spent)
            lines.append(f"{run.flow} with {run.workers}: {shares}")
        if self.memory_mib_by_videos:
            shown = ", ".join(f"{videos}: {mib:.1f}" for videos, mib in self.memory_mib_by_videos)
            lines.append(f"resident MiB of one worker by videos: {shown}")
        return "\n".join(lines)


def run_pipeline_benchmark(
    *,
    videos: int = 200_000,
    workers: Sequence[int] = (1, 2, 4),
    batch: int = 1024,
    index: str = "sqlite",
    sync: bool = True,
    half_load_seconds: float = 10.0,
    memory_videos: int = 0,
    rivals: bool = True,
    seed: int = 0,
    folder: Path | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> PipelineBenchmark:
    """Measure; the machine should be otherwise idle."""
    with _workplace(folder) as home, valkey_server(home) as url:
        progress(f"writing {videos} events and their features")
        expected = _prepare(home, url, videos, seed)
        runs = []
        for count in workers:
            path = platform_file(home, url=url, state=f"state-{count}", batch=batch, index=index, sync=sync)
            progress(f"{count} workers")
            runs.append(_measured(path, count, videos, expected, url))
        best = max(runs, key=lambda run: run.videos_per_second)
        rate = best.videos_per_second / 2
        progress(f"latency at {rate:.0f} videos/s with {best.workers} workers")
        path = platform_file(home, url=url, state="state-paced", batch=batch, index=index, sync=sync)
        latencies = _paced(path, best.workers, rate, min(videos, int(rate * half_load_seconds)))
        memory = _memory_run(home, url, batch=batch, videos=memory_videos, known=videos) if memory_videos else ()
        if rivals:
            from tidegate.bench.pipeline_rivals import run_bytewax

            progress("the same flow on Bytewax, 1 worker")
            path = platform_file(home, url=url, state="state-bytewax", batch=batch, index=index, sync=sync)
            runs.append(run_bytewax(path, videos, expected, batch, url))
    p50, p99 = np.quantile(latencies, [0.5, 0.99])
    return PipelineBenchmark(
        videos_per_second=best.videos_per_second, p99_added_ms=1000 * float(p99), p50_added_ms=1000 * float(p50),
        peak_memory_mib=best.peak_memory_mib, lost=best.lost, doubled=best.doubled, half_load_videos_per_second=rate,
        runs=tuple(runs), memory_mib_by_videos=memory,
    )


@contextmanager
def _workplace(folder: Path | None) -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="tidegate-bench-", dir=folder))
    try:
        yield home
    finally:
        shutil.rmtree(home)


def platform_file(home: Path, *, url: str, state: str, batch: int, index: str, sync: bool) -> Path:
    """Write the configuration of one run."""
    (home / "policy.toml").write_text(_POLICY)
    where = f'path = "{state}/index.db"' if index == "sqlite" else f'url = "{url}"\nprefix = "{state}:"'
    text = _CONFIG.format(state=state, batch=batch, sync=str(sync).lower(), url=url, index=index, where=where)
    path = home / f"{state}.toml"
    path.write_text(text)
    (home / state).mkdir(exist_ok=True)
    return path


def _prepare(home: Path, url: str, videos: int, seed: int) -> int:
    """Events on disk and features in the cache; how many videos the index must hold at the end."""
    import redis

    codec, scores = EventCodec(), np.random.default_rng(seed).random(videos).round(4)
    now = time.time()
    with redis.Redis.from_url(url) as client:
        for partition in range(PARTITIONS):
            numbers = range(partition, videos, PARTITIONS)
            write_log(home / "events", f"p{partition}", (codec.encode(_event(number, now)) for number in numbers))
        for start in range(0, videos, 5000):
            pairs = {
                f"features:v{number:09d}": msgspec.json.encode(
                    {"base_score": float(scores[number]), "likes": number % 977, "language_probability": 0.75}
                )
                for number in range(start, min(videos, start + 5000))
            }
            client.mset(pairs)
    return int((scores < 0.85).sum() + (scores >= 0.9).sum())


def _event(number: int, now: float) -> VideoEvent:
    return VideoEvent(
        video_id=f"v{number:09d}", version=1_700_000_000_000_000_000 + number, occurred_at=now,
        region=("DE", "US", "BR", "IN")[number % 4], views=number % 5000, creator=f"c{number % 1000}",
    )


def _rewind(config: PlatformConfig) -> None:
    for position in Path(config.source.settings.folder).glob("*.position"):
        position.unlink()


def server_cpu(url: str) -> float:
    """CPU seconds of the cache server so far."""
    import redis

    with redis.Redis.from_url(url) as client:
        spent = client.info("cpu")
    return float(spent["used_cpu_user"]) + float(spent["used_cpu_sys"])


def _measured(path: Path, workers: int, videos: int, expected: int, url: str) -> PipelineRun:
    config = read_config(path)
    _rewind(config)
    before = server_cpu(url)
    reports = _crew(path, workers, None, 0)
    served = server_cpu(url) - before
    wall = max(report["end"] for report in reports) - min(report["begin"] for report in reports)
    cpu = sum(report["cpu"] for report in reports)
    phases: dict[str, float] = {}
    for report in reports:
        for phase, seconds in report["phases"].items():
            if phase != "batch":
                phases[phase] = phases.get(phase, 0.0) + seconds
    taken = sum(report["taken"] for report in reports)
    return PipelineRun(
        flow="tidegate", workers=workers, videos=videos, wall_seconds=wall, videos_per_second=videos / wall,
        cpu_seconds=cpu, videos_per_cpu_second=videos / cpu, server_cpu_seconds=served,
        peak_memory_mib=max(report["peak_mib"] for report in reports),
        lost=expected - stored(config), doubled=max(0, taken - videos), seconds_by_phase=phases,
    )


def stored(config: PlatformConfig) -> int:
    """Records in the index."""
    index = config.index.backend.open(config.index.settings)
    try:
        return sum(index.counts().values())
    finally:
        index.close()


def _paced(path: Path, workers: int, rate: float, videos: int) -> list[float]:
    _rewind(read_config(path))
    reports = _crew(path, workers, rate / workers, videos // workers)
    return [latency for report in reports for latency in report["latencies"]]


def _crew(path: Path, workers: int, rate: float | None, limit: int) -> list[dict[str, Any]]:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    common = {"barrier": context.Barrier(workers), "queue": queue, "rate": rate, "limit": limit}
    crew = [
        context.Process(target=_work, args=(path, Shard(worker=number, workers=workers)), kwargs=common)
        for number in range(workers)
    ]
    for process in crew:
        process.start()
    reports = [queue.get(timeout=1800) for _ in crew]
    for process in crew:
        process.join()
    return reports


def _work(path: Path, shard: Shard, *, barrier: Barrier, queue: Any, rate: float | None, limit: int) -> None:
    config = dataclasses.replace(read_config(path), workers=shard.workers)
    if rate is not None:
        def paced(settings: LogSettings, shard: Shard, codec: EventCodec) -> EventSource:
            return _Paced(LogSource(Path(settings.folder), codec, shard), rate, limit)

        backend = Backend(settings=LogSettings, open=paced)
        config = dataclasses.replace(config, source=dataclasses.replace(config.source, backend=backend))
    tally = Tally(keep=limit)
    with Worker(config, shard, measures=tally) as worker:
        barrier.wait()
        begin, cpu = time.time(), time.process_time()
        stats = worker.run(until_idle=True)
        end = time.time()
    queue.put({
        "begin": begin, "end": end, "cpu": time.process_time() - cpu, "taken": stats.taken,
        "phases": dict(tally.seconds), "latencies": list(tally.latencies),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    })


class _Paced:
    """Hands out events at a steady rate, each with the instant at which it was due."""

    def __init__(self, source: EventSource, rate: float, limit: int) -> None:
        self._source, self._rate, self._limit = source, rate, limit
        self._begin: float | None = None
        self._sent = 0

    def poll(self, max_events: int, timeout_seconds: float) -> Sequence[Delivery]:
        if self._begin is None:
            self._begin = time.time()
        if self._sent >= self._limit:
            return []
        wait = self._begin + (self._sent + 1) / self._rate - time.time()
        if wait > 0:
            time.sleep(wait)
        due = min(self._limit, int((time.time() - self._begin) * self._rate)) - self._sent
        found = self._source.poll(max(1, min(max_events, due)), 0.0)
        dated = [
            msgspec.structs.replace(delivery, received_at=self._begin + (self._sent + number) / self._rate)
            for number, delivery in enumerate(found, 1)
        ]
        self._sent += len(found)
        return dated

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        self._source.acknowledge(deliveries)

    def lag(self) -> int | None:
        return self._source.lag()

    def close(self) -> None:
        self._source.close()


class _Endless:
    """Events made on the spot, in a cycle over known videos, each newer than the last; keeps nothing."""

    def __init__(self, videos: int, known: int, samples: list[tuple[int, float]], trail: Path) -> None:
        self._videos, self._known, self._sent = videos, known, 0
        self._samples, self._trail = samples, trail
        self._step = max(1, videos // 10)

    def poll(self, max_events: int, timeout_seconds: float) -> Sequence[Delivery]:
        now = time.time()
        numbers = range(self._sent, min(self._videos, self._sent + max_events))
        self._sent += len(numbers)
        return [
            Delivery(
                event=msgspec.structs.replace(_event(number % self._known, now), version=1 + number), error=None,
                raw=b"", partition="p", offset=number, received_at=now,
            )
            for number in numbers
        ]

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        if self._sent // self._step > len(self._samples):
            self._samples.append((self._sent, _resident_mib()))
            for shipped in sorted(self._trail.glob("*.log"))[:-1]:
                shipped.unlink()  # as a log shipper does with sealed files

    def lag(self) -> int:
        return self._videos - self._sent

    def close(self) -> None:
        """Nothing is held."""


def _memory_run(home: Path, url: str, *, batch: int, videos: int, known: int) -> tuple[tuple[int, float], ...]:
    """Resident memory of one worker over a long run; the index has as many rows as there are known videos."""
    path = platform_file(home, url=url, state="state-memory", batch=batch, index="sqlite", sync=False)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_run_long, args=(path, videos, known, queue))
    process.start()
    samples: tuple[tuple[int, float], ...] = queue.get(timeout=7200)
    process.join()
    return samples


def _run_long(path: Path, videos: int, known: int, queue: Any) -> None:
    config = read_config(path)
    samples: list[tuple[int, float]] = []
    source = _Endless(videos, known, samples, config.state / "audit")
    backend = Backend(settings=LogSettings, open=lambda *_: source)
    config = dataclasses.replace(config, source=dataclasses.replace(config.source, backend=backend))
    with Worker(config, measures=Tally(keep=1000)) as worker:
        worker.run(until_idle=True)
    queue.put(tuple(samples))


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20
