"""Evaluation of checkpoints on a split: one stage, or a cascade of two at a P_base.

Enters: a manifest and checkpoint folders. Leaves: an ``EvaluationReport``: F1, AUC, average precision, recall at
precision 60, 70, 80, 90 (deployed: threshold from validation; oracle: from the test split itself), each with a
bootstrap interval that resamples whole sources, and the share escalated. In a cascade a video that is not escalated is
final negative: score 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.cascade.routing import PrecisionRule
from tidegate.corpus.manifest import Entry, Manifest, read_manifest
from tidegate.errors import CheckpointError, ManifestError
from tidegate.evaluation import (
    Interval,
    average_precision,
    best_f1,
    bootstrap_interval,
    confusion_at,
    roc_auc,
    threshold_at_precision,
)
from tidegate.models.checkpoint import load_checkpoint
from tidegate.training.features import FailedVideo, Progress, load_features
from tidegate.training.loop import score_rows

__all__ = [
    "EvaluationReport",
    "RecallRow",
    "ScoredSplit",
    "entries_of",
    "evaluate_cascade",
    "evaluate_checkpoints",
    "evaluate_scores",
    "score_manifest",
]

_PERCENT = (60, 70, 80, 90)
Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredSplit:
    """Labels and scores of one split's videos that decode."""

    video_ids: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    scores: Scores
    sources: tuple[str, ...]
    failed: tuple[FailedVideo, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RecallRow:
    """Recall at one precision, in one meaning."""

    precision_percent: int
    meaning: str
    recall: Interval
    precision: float
    """What the evaluated split shows at the threshold; NaN if nothing is flagged."""
    threshold: float


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """All figures of one row of a table."""

    name: str
    n: int
    n_positives: int
    n_failed: int
    f1: Interval
    """At the threshold that maximises F1 on validation."""
    auc: Interval
    average_precision: Interval
    recall: tuple[RecallRow, ...]
    escalated_share: float | None = None
    """Share that the large stage was asked about; None for a single stage."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form: numbers that are not finite become null."""
        plain = _finite(asdict(self))
        assert isinstance(plain, dict)
        return plain


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def entries_of(manifest: Manifest, split: str, issue: str, *, labelled: bool = True) -> list[Entry]:
    """Entries of a split that are labelled for an issue (or all, if not ``labelled``); none is a ``ManifestError``."""
    entries = [entry for entry in manifest.entries if entry.split == split and (issue in entry.labels or not labelled)]
    if not entries:
        splits = sorted({str(entry.split) for entry in manifest.entries})
        issues = sorted({name for entry in manifest.entries for name in entry.labels})
        raise ManifestError(
            f"expected videos of split {split!r} labelled {issue!r}, found the splits {splits} and the labels {issues}"
        )
    return entries


def score_manifest(
    entries: Sequence[Entry],
    checkpoint: Path,
    cache: Path,
    *,
    issue: str | None = None,
    workers: int = 2,
    progress: Progress | None = None,
) -> ScoredSplit:
    """Scores of a checkpoint for entries labelled for ``issue``; None: the checkpoint's first issue."""
    model, processor, _ = load_checkpoint(checkpoint)
    issues = model.config.issues
    wanted = issue or issues[0]
    if wanted not in issues:
        raise CheckpointError(f"expected a checkpoint of issue {wanted!r} in {checkpoint}, found {list(issues)}")
    table = load_features(entries, processor, cache, workers=workers, progress=progress)
    entry_of = {entry.video_id: entry for entry in entries}
    kept = [entry_of[video_id] for video_id in table.video_ids]
    return ScoredSplit(
        video_ids=table.video_ids,
        labels=np.asarray([entry.labels[wanted] for entry in kept], dtype=np.int64),
        scores=score_rows(model, processor, table, range(len(table))).reshape(len(table), -1)[:, issues.index(wanted)],
        sources=tuple(entry.source_id or entry.video_id for entry in kept),
        failed=table.failed,
    )


def _recall_at(threshold: float) -> Callable[[Any, Any], float]:
    return lambda labels, scores: confusion_at(labels, scores, threshold).recall


def _f1_at(threshold: float) -> Callable[[Any, Any], float]:
    return lambda labels, scores: confusion_at(labels, scores, threshold).f1


def evaluate_scores(
    name: str, test: ScoredSplit, validation: ScoredSplit, *, num_samples: int = 500, seed: int = 0
) -> EvaluationReport:
    """Figures of one set of scores; thresholds come from ``validation``."""

    def interval(metric: Callable[[Any, Any], float]) -> Interval:
        return bootstrap_interval(
            metric, test.labels, test.scores, clusters=test.sources, num_samples=num_samples, seed=seed
        )

    rows = []
    for percent in _PERCENT:
        for meaning, source in (("deployed", validation), ("oracle", test)):
            threshold = threshold_at_precision(source.labels, source.scores, percent / 100)
            rows.append(
                RecallRow(
                    precision_percent=percent,
                    meaning=meaning,
                    recall=interval(_recall_at(threshold)),
                    precision=confusion_at(test.labels, test.scores, threshold).precision,
                    threshold=threshold,
                )
            )
    return EvaluationReport(
        name=name,
        n=len(test.labels),
        n_positives=int(test.labels.sum()),
        n_failed=len(test.failed),
        f1=interval(_f1_at(best_f1(validation.labels, validation.scores)[1])),
        auc=interval(roc_auc),
        average_precision=interval(average_precision),
        recall=tuple(rows),
    )


def _cascaded(base: ScoredSplit, large: ScoredSplit, tau: float) -> tuple[ScoredSplit, float]:
    row_of = {video_id: row for row, video_id in enumerate(large.video_ids)}
    kept = [row for row, video_id in enumerate(base.video_ids) if video_id in row_of]
    large_scores = large.scores[[row_of[base.video_ids[row]] for row in kept]]
    escalated = PrecisionRule(tau=tau).batch(base.scores[kept])
    split = ScoredSplit(
        video_ids=tuple(base.video_ids[row] for row in kept),
        labels=base.labels[kept],
        scores=np.where(escalated, large_scores, 0.0),
        sources=tuple(base.sources[row] for row in kept),
        failed=base.failed + large.failed,
    )
    return split, float(escalated.mean())


def evaluate_cascade(
    base: tuple[ScoredSplit, ScoredSplit],
    large: tuple[ScoredSplit, ScoredSplit],
    p_base_percent: int,
    *,
    num_samples: int = 500,
    seed: int = 0,
) -> EvaluationReport:
    """Figures of a cascade; each pair is (test, validation) of one stage. tau is chosen on validation."""
    tau = threshold_at_precision(base[1].labels, base[1].scores, p_base_percent / 100)
    test, share = _cascaded(base[0], large[0], tau)
    validation, _ = _cascaded(base[1], large[1], tau)
    report = evaluate_scores(f"cascade, P_base {p_base_percent}", test, validation, num_samples=num_samples, seed=seed)
    return EvaluationReport(**{**vars(report), "escalated_share": share})


def evaluate_checkpoints(
    data: Path,
    checkpoint: Path,
    large: Path | None = None,
    *,
    p_base_percent: Sequence[int] = (10, 20, 30),
    split: str = "test",
    cache: Path,
    workers: int = 2,
    num_samples: int = 500,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[EvaluationReport]:
    """A report of the checkpoint; with ``large``, also of that and of the cascade at each P_base."""
    manifest = read_manifest(data)
    pairs: list[tuple[ScoredSplit, ScoredSplit]] = []
    reports: list[EvaluationReport] = []
    for folder in (checkpoint,) if large is None else (checkpoint, large):
        issue = load_checkpoint(folder)[0].config.issue
        test, validation = (
            score_manifest(entries_of(manifest, name, issue), folder, cache, workers=workers, progress=progress)
            for name in (split, "validation")
        )
        pairs.append((test, validation))
        reports.append(evaluate_scores(folder.name, test, validation, num_samples=num_samples, seed=seed))
    if large is not None:
        reports += [
            evaluate_cascade(pairs[0], pairs[1], percent, num_samples=num_samples, seed=seed)
            for percent in p_base_percent
        ]
    return reports
