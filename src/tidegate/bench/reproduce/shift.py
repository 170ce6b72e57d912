"""What the paper leaves open: base, cascade and AVLM where the content is no longer what they were trained on.

Enters: the manifest that the stages were trained on, their checkpoints, further manifests. Leaves: ``ShiftReport``.
Nothing is trained or chosen again: thresholds are those of the old validation split, as on a platform the day after
the content moved. Conditions: the test split as it is; a later period, in which violations come in words three times
as often (resampled from the same test split); other corpora, such as one of regions and languages that are rare in
training, with other places, voices and people.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.corpus import Entry, read_manifest
from tidegate.errors import ManifestError
from tidegate.evaluation import (
    Interval,
    bootstrap_interval,
    confusion_at,
    markdown_table,
    roc_auc,
    threshold_at_precision,
)
from tidegate.training.evaluate import ScoredSplit, entries_of, score_manifest

__all__ = ["FOREIGN_REGIONS", "WORDS", "ShiftConfig", "ShiftReport", "run_shift"]

Say = Callable[[str], None]
Scores = npt.NDArray[np.float64]
FOREIGN_REGIONS = ("GE", "AM", "IL", "GR", "TH", "BG", "UA", "PL", "SE", "KE", "RO", "IR")
"""Regions whose languages make up a few per cent of a corpus of all regions."""
WORDS = frozenset({"title", "sticker", "speech", "conjunction"})
"""Kinds of evidence that lie in words."""
_MORE_WORDS = 3


@dataclass(frozen=True, kw_only=True)
class ShiftConfig:
    """What to compare."""

    data: Path
    """Manifest that the stages were trained on."""
    base: Path
    """Checkpoint folder of the base stage."""
    large: Path
    """Checkpoint folder of the AVLM."""
    folder: Path
    """Feature cache."""
    others: Mapping[str, Path]
    """Name of a further condition to its manifest; all of its videos are scored."""
    p_base_percent: int = 50
    """Of the cascade, reached on the old validation split."""
    precision_percent: int = 80
    """Of the verdict, reached on the old validation split."""
    num_samples: int = 500
    """Bootstrap resamples of each interval."""


@dataclass(frozen=True, kw_only=True)
class ShiftRow:
    """One model under one condition."""

    condition: str
    model: str
    n: int
    n_positives: int
    auc: Interval
    recall: Interval
    """At the threshold that reached the wished precision on the old validation split."""
    precision: Interval
    """At the same threshold; NaN where nothing is flagged."""
    escalated_share: float | None


@dataclass(frozen=True, kw_only=True)
class ShiftReport:
    """All conditions."""

    rows: tuple[ShiftRow, ...]
    precision_percent: int
    p_base_percent: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        rows = []
        for row in self.rows:
            intervals = {name: vars(getattr(row, name)) for name in ("auc", "recall", "precision")}
            rows.append({**vars(row), **intervals})
        return {"p_base": self.p_base_percent, "precision": self.precision_percent, "rows": rows}

    def to_markdown(self) -> str:
        """One line a model and condition."""
        at = f"P{self.precision_percent} of validation"
        return markdown_table(
            [
                {
                    "condition": row.condition,
                    "videos (violating)": f"{row.n} ({row.n_positives})",
                    "model": row.model,
                    "AUC": str(row.auc),
                    f"recall at {at}": str(row.recall),
                    f"precision at {at}": str(row.precision),
                    "escalated": "" if row.escalated_share is None else f"{row.escalated_share:.1%}",
                }
                for row in self.rows
            ]
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Thresholds:
    tau: float
    base: float
    large: float
    cascade: float


def _aligned(base: ScoredSplit, large: ScoredSplit) -> tuple[ScoredSplit, Scores]:
    """The base's split, and the large model's scores in its order."""
    if set(base.video_ids) != set(large.video_ids):
        raise ManifestError("expected the same videos to decode for both stages; look at the failures of each")
    place = {video: number for number, video in enumerate(large.video_ids)}
    return base, large.scores[[place[video] for video in base.video_ids]]


def _cascaded(base: Scores, large: Scores, tau: float) -> Scores:
    scores: Scores = np.where(base >= tau, large, 0.0)
    return scores


def _thresholds(base: ScoredSplit, large: Scores, config: ShiftConfig) -> _Thresholds:
    target, labels = config.precision_percent / 100, base.labels
    tau = threshold_at_precision(labels, base.scores, config.p_base_percent / 100)
    return _Thresholds(
        tau=tau,
        base=threshold_at_precision(labels, base.scores, target),
        large=threshold_at_precision(labels, large, target),
        cascade=threshold_at_precision(labels, _cascaded(base.scores, large, tau), target),
    )


def _rows(
    condition: str, base: ScoredSplit, large: Scores, at: _Thresholds, *, copies: npt.NDArray[np.int64], samples: int
) -> list[ShiftRow]:
    """The three models; video i counts ``copies[i]`` times."""
    chosen = np.repeat(np.arange(len(base.labels)), copies)
    labels, sources = base.labels[chosen], [base.sources[row] for row in chosen]
    rows = []
    for model, scores, threshold in (
        ("base", base.scores, at.base),
        ("cascade", _cascaded(base.scores, large, at.tau), at.cascade),
        ("AVLM", large, at.large),
    ):
        given = scores[chosen]

        def interval(metric: Callable[[Any, Any], float], given: Scores = given) -> Interval:
            return bootstrap_interval(metric, labels, given, clusters=sources, num_samples=samples)

        rows.append(
            ShiftRow(
                condition=condition,
                model=model,
                n=len(labels),
                n_positives=int(labels.sum()),
                auc=interval(roc_auc),
                recall=interval(lambda a, b, t=threshold: confusion_at(a, b, t).recall),  # type: ignore[misc]
                precision=interval(lambda a, b, t=threshold: confusion_at(a, b, t).precision),  # type: ignore[misc]
                escalated_share=float((base.scores[chosen] >= at.tau).mean()) if model == "cascade" else None,
            )
        )
    return rows


def _scored(config: ShiftConfig, entries: Sequence[Entry]) -> tuple[ScoredSplit, Scores]:
    base, large = (score_manifest(entries, folder, config.folder) for folder in (config.base, config.large))
    return _aligned(base, large)


def _later_period(entries: Sequence[Entry], base: ScoredSplit) -> npt.NDArray[np.int64]:
    """Copies of each test video: violations in words thrice, and as many more harmless ones, so that the prevalence
    stays."""
    kind_of = {entry.video_id: entry.truth.get("kind") for entry in entries}
    if not any(kind in WORDS for kind in kind_of.values()):
        raise ManifestError("expected the synthetic truth of the icd corpus, which says what lies in words; found none")
    worded = np.asarray([kind_of[video] in WORDS for video in base.video_ids])
    copies = np.where(worded, _MORE_WORDS, 1)
    positives = base.labels == 1
    growth = copies[positives].sum() / positives.sum()
    negatives = np.flatnonzero(~positives)
    copies[negatives] = int(growth)
    extra = round((growth - int(growth)) * len(negatives))
    copies[np.random.default_rng(0).permutation(negatives)[:extra]] += 1
    return copies


def run_shift(config: ShiftConfig, say: Say) -> ShiftReport:
    """Score all conditions."""
    manifest = read_manifest(config.data)
    old, test = entries_of(manifest, "validation", "icd"), entries_of(manifest, "test", "icd")
    at = _thresholds(*_scored(config, old), config)
    base, large = _scored(config, test)
    say("the manifest of training: scored")
    once, samples = np.ones(len(base.labels), dtype=np.int64), config.num_samples
    rows = _rows("as trained (test split)", base, large, at, copies=once, samples=samples)
    later = _later_period(test, base)
    rows += _rows(f"later period: words x{_MORE_WORDS}", base, large, at, copies=later, samples=samples)
    for name, path in config.others.items():
        entries = [entry for entry in read_manifest(path).entries if "icd" in entry.labels]
        elsewhere, scores = _scored(config, entries)
        say(f"{name}: scored")
        ones = np.ones(len(elsewhere.labels), dtype=np.int64)
        rows += _rows(name, elsewhere, scores, at, copies=ones, samples=samples)
    return ShiftReport(
        rows=tuple(rows), precision_percent=config.precision_percent, p_base_percent=config.p_base_percent
    )
