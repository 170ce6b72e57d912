"""The A/B test offline: a logged stream under two configurations, with paired intervals.

Enters: a table of videos with their label, their cached scores and how their views grew, and two policies. Leaves: for
each configuration the violating view rate (views before action included), recall, precision, actions, QPS ratio, model
seconds and latency, and the difference of each with a paired bootstrap interval over creators.

What a video is seen depends on *when* it is removed. So the replay is in time: a base score takes its cost; an
escalated video waits for one of ``large_workers`` servers, first come first served; views count until the decision
falls. Columns: ``video_id``, ``arrived_at`` (seconds), ``label`` (0 or 1), ``base_score``, ``large_score``,
``base_seconds``, ``large_seconds``, ``views`` (JSON list of ``[seconds after arrival, views so far]``, ascending),
optionally ``region`` and ``creator``.
"""

from __future__ import annotations

import dataclasses
import heapq
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.cascade import CachedStage, Escalate
from tidegate.errors import ManifestError, TidegateError
from tidegate.evaluation import Interval, bootstrap_interval, violating_view_rate
from tidegate.pipeline.policy import Policy
from tidegate.pipeline.routing import CalibratedStage, RegionalCascades
from tidegate.platform.verdicts import PolicyTable
from tidegate.types import Score, VideoContext

__all__ = ["BacktestReport", "Replayed", "StreamVideo", "compare", "read_stream", "replay_stream"]

Floats = npt.NDArray[np.float64]
_COLUMNS = ("video_id", "arrived_at", "label", "base_score", "large_score", "base_seconds", "large_seconds", "views")


@dataclass(frozen=True, kw_only=True)
class StreamVideo:
    """One video of the log."""

    video_id: str
    arrived_at: float
    label: int
    base_score: float
    large_score: float
    base_seconds: float
    large_seconds: float
    views: tuple[tuple[float, float], ...]
    """(seconds after arrival, views so far), ascending."""
    region: str | None = None
    creator: str | None = None

    def views_until(self, seconds: float) -> float:
        """Views collected up to an age, linear between the points."""
        ages, counts = zip(*self.views, strict=True)
        return float(np.interp(seconds, (0.0, *ages), (0.0, *counts)))


def read_stream(path: Path) -> list[StreamVideo]:
    """The log in a Parquet or CSV file, in order of arrival."""
    import polars

    try:
        frame = polars.read_parquet(path) if path.suffix == ".parquet" else polars.read_csv(path)
    except (OSError, polars.exceptions.PolarsError) as error:
        raise ManifestError(f"{path}: expected a Parquet or CSV table, got {error}") from error
    absent = [name for name in _COLUMNS if name not in frame.columns]
    if absent:
        raise ManifestError(f"{path}: expected columns {', '.join(_COLUMNS)}, missing {', '.join(absent)}")
    videos = [_video(path, number, row) for number, row in enumerate(frame.iter_rows(named=True), 1)]
    if not videos:
        raise ManifestError(f"{path}: expected at least one video, got none")
    return sorted(videos, key=lambda video: video.arrived_at)


def _video(path: Path, number: int, row: Mapping[str, Any]) -> StreamVideo:
    try:
        views = tuple((float(age), float(count)) for age, count in json.loads(row["views"]))
        ascending = all(a[0] < b[0] and a[1] <= b[1] for a, b in pairwise(views))
        label = int(row["label"])
        if not views or not ascending or label not in {0, 1}:
            raise ValueError(f"expected ascending views and a label of 0 or 1, got {views!r} and {label!r}")
        numbers = {name: float(row[name]) for name in _COLUMNS[3:7]}
        return StreamVideo(
            video_id=str(row["video_id"]), arrived_at=float(row["arrived_at"]), label=label, views=views,
            region=row.get("region"), creator=row.get("creator"), **numbers,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ManifestError(f"{path}: row {number}: {error}") from error


@dataclass(frozen=True, kw_only=True, eq=False)
class Replayed:
    """What one configuration made of the stream, column by column."""

    labels: Floats
    removed: Floats
    escalated: Floats
    views: Floats
    """Views that happened: all of a video that stayed, those before the action of one that went."""
    latency_seconds: Floats
    """From arrival to decision."""
    model_seconds: Floats


def replay_stream(videos: Sequence[StreamVideo], policy: Policy, *, large_workers: int = 1) -> Replayed:
    """The stream under one policy. Its ``[cascade]`` must give ``tau``; clauses without a threshold use 0.5."""
    stages = [
        CalibratedStage(stage=CachedStage(name=name, issue=policy.clauses[0].issue, scores={}))
        for name in ("base", "large")
    ]
    cascades, table = RegionalCascades(stages, policy), PolicyTable(policy)
    servers = [0.0] * large_workers
    rows = [_decide(video, cascades, table, servers) for video in videos]
    columns = [np.asarray(column, dtype=np.float64) for column in zip(*rows, strict=True)]
    return Replayed(
        labels=np.asarray([video.label for video in videos], dtype=np.float64), removed=columns[0],
        escalated=columns[1], views=columns[2], latency_seconds=columns[3], model_seconds=columns[4],
    )


def _decide(
    video: StreamVideo, cascades: RegionalCascades, table: PolicyTable, servers: list[float]
) -> tuple[float, float, float, float, float]:
    issue = table.policy.clauses[0].issue
    base = Score(value=video.base_score, stage="base", issue=issue, model="log")
    context = VideoContext(region=video.region, views=int(video.views_until(video.base_seconds)))
    step = cascades.step([base], context)
    escalated = isinstance(step, Escalate)
    done, spent = video.arrived_at + video.base_seconds, video.base_seconds
    if isinstance(step, Escalate):
        large = Score(value=video.large_score, stage="large", issue=issue, model="log")
        begin = max(done, heapq.heappop(servers))
        done, spent = begin + video.large_seconds, spent + video.large_seconds
        heapq.heappush(servers, done)
        step = cascades.step([base, large], context)
    if isinstance(step, Escalate):
        raise TidegateError(f"expected two stages to decide {video.video_id}, got another escalation")
    removed = table.judge(step, video.region).status == "removed"
    age = done - video.arrived_at
    views = video.views_until(age) if removed else video.views[-1][1]
    return float(removed), float(escalated), views, age, spent


_Metric = Callable[[Floats, Floats, Floats, Floats, Floats, Floats], float]
METRICS: dict[str, _Metric] = {
    "violating_view_rate": lambda y, removed, sent, views, age, spent: violating_view_rate(y, views),
    "recall": lambda y, removed, sent, views, age, spent: _share((y * removed).sum(), y.sum()),
    "precision": lambda y, removed, sent, views, age, spent: _share((y * removed).sum(), removed.sum()),
    "actions_per_1000": lambda y, removed, sent, views, age, spent: 1000 * float(removed.mean()),
    "qps_ratio": lambda y, removed, sent, views, age, spent: float(sent.mean()),
    "model_seconds_per_1000": lambda y, removed, sent, views, age, spent: 1000 * float(spent.mean()),
    "mean_latency_seconds": lambda y, removed, sent, views, age, spent: float(age.mean()),
    "p95_latency_seconds": lambda y, removed, sent, views, age, spent: float(np.quantile(age, 0.95)),
}


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else float("nan")


@dataclass(frozen=True, kw_only=True)
class BacktestReport:
    """Two configurations side by side."""

    live: str
    candidate: str
    num_videos: int
    live_values: Mapping[str, float]
    candidate_values: Mapping[str, float]
    differences: Mapping[str, Interval] = field(default_factory=dict)
    """Candidate minus live, paired."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return dataclasses.asdict(self)

    def table(self) -> str:
        """As text."""
        head = f"{'':24} {self.live:>16} {self.candidate:>16}   difference [95 % interval]"
        lines = [f"{self.num_videos} videos", head]
        for name, interval in self.differences.items():
            live, candidate = self.live_values[name], self.candidate_values[name]
            shown = f"{interval.estimate:+.4g} [{interval.low:+.4g}, {interval.high:+.4g}]"
            lines.append(f"{name:24} {live:16.4g} {candidate:16.4g}   {shown}")
        return "\n".join(lines)


def compare(
    videos: Sequence[StreamVideo],
    live: Policy,
    candidate: Policy,
    *,
    large_workers: int = 1,
    samples: int = 1000,
    seed: int = 0,
) -> BacktestReport:
    """Both policies on the same stream; intervals resample creators (videos without one stand for themselves)."""
    ours, theirs = (
        replay_stream(videos, policy, large_workers=large_workers) for policy in (candidate, live)
    )
    clusters = [video.creator or f"video:{video.video_id}" for video in videos]
    columns = (*_columns(ours), *_columns(theirs))
    return BacktestReport(
        live=f"{live.name}@{live.version}",
        candidate=f"{candidate.name}@{candidate.version}",
        num_videos=len(videos),
        live_values={name: metric(*_columns(theirs)) for name, metric in METRICS.items()},
        candidate_values={name: metric(*_columns(ours)) for name, metric in METRICS.items()},
        differences={
            name: bootstrap_interval(_paired(metric), *columns, clusters=clusters, num_samples=samples, seed=seed)
            for name, metric in METRICS.items()
        },
    )


def _columns(side: Replayed) -> tuple[Floats, Floats, Floats, Floats, Floats, Floats]:
    return side.labels, side.removed, side.escalated, side.views, side.latency_seconds, side.model_seconds


def _paired(metric: _Metric) -> Callable[..., float]:
    return lambda *columns: metric(*columns[:6]) - metric(*columns[6:])
