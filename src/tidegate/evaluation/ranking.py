"""Labels and scores → F1, precision-recall curve, recall at a precision, ROC AUC, average precision.

Items with one score cannot be separated by a threshold, so a curve has one point per *distinct* score: every
threshold means "flag ``score >= threshold``". ``recall_at_precision`` has the two meanings that are mixed up in
papers:

- ``oracle``: the largest recall over all thresholds whose precision *on the test set itself* reaches the target.
  Optimistic: the test set chose its own threshold. COEF-VQ's tables (arXiv 2412.10435) print this one.
- ``deployed``: the threshold is chosen on validation data; precision and recall are what the test set then shows.
  This is what a platform would get, and the headline figure.

ROC AUC counts a tie between a positive and a negative as one half (Mann-Whitney); average precision is the step-wise
sum over distinct scores, not the optimistic trapezoid (Davis & Goadrich, 2006).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tidegate.errors import UsageError
from tidegate.evaluation.arrays import FloatArray, IntArray, checked_labels, checked_scores, same_length

__all__ = [
    "Confusion",
    "PrecisionRecallCurve",
    "RecallAtPrecision",
    "average_precision",
    "best_f1",
    "confusion_at",
    "f1",
    "f1_score",
    "precision_recall_curve",
    "recall_at_precision",
    "roc_auc",
    "threshold_at_precision",
]


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Counts of the four outcomes of a threshold, and the rates that follow from them (NaN where undefined)."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @property
    def precision(self) -> float:
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def false_positive_rate(self) -> float:
        return _ratio(self.false_positives, self.false_positives + self.true_negatives)

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN); 0 when nothing is true and nothing is flagged, as scikit-learn's default."""
        total = 2 * self.true_positives + self.false_positives + self.false_negatives
        return 2 * self.true_positives / total if total else 0.0

    @property
    def prevalence(self) -> float:
        positives = self.true_positives + self.false_negatives
        return _ratio(positives, positives + self.false_positives + self.true_negatives)


@dataclass(frozen=True, kw_only=True, eq=False)
class PrecisionRecallCurve:
    """One point per distinct score, from the highest threshold (few flagged) to the lowest (all flagged)."""

    thresholds: FloatArray
    precision: FloatArray
    recall: FloatArray
    """NaN everywhere when there is no positive."""
    true_positives: IntArray
    num_flagged: IntArray
    n_positives: int
    n: int

    @property
    def prevalence(self) -> float:
        return _ratio(self.n_positives, self.n)


@dataclass(frozen=True, kw_only=True)
class RecallAtPrecision:
    """Recall at a wanted precision, with all that a reader needs to judge it."""

    target: float
    meaning: Literal["oracle", "deployed"]
    recall: float
    precision: float
    """Precision on the test set at this threshold; NaN when nothing is flagged. ``deployed`` may miss the target."""
    threshold: float
    """``inf`` when no threshold reaches the target: nothing is flagged."""
    n_positives: int
    prevalence: float

    @property
    def held(self) -> bool:
        """Whether the test precision reaches the target."""
        return self.precision >= self.target


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _pair(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[IntArray, FloatArray]:
    truth, values = checked_labels(labels), checked_scores(scores)
    same_length(labels=truth, scores=values)
    return truth, values


def confusion_at(labels: npt.ArrayLike, scores: npt.ArrayLike, threshold: float) -> Confusion:
    """Counts when everything with ``score >= threshold`` is flagged."""
    truth, values = _pair(labels, scores)
    flagged = values >= threshold
    positives, caught = int(truth.sum()), int(truth[flagged].sum())
    false_positives = int(flagged.sum()) - caught
    return Confusion(
        true_positives=caught,
        false_positives=false_positives,
        false_negatives=positives - caught,
        true_negatives=len(truth) - positives - false_positives,
    )


def f1_score(labels: npt.ArrayLike, flagged: npt.ArrayLike) -> float:
    """F1 of yes/no answers; with scores, threshold them first (``confusion_at(...).f1``)."""
    return confusion_at(labels, checked_labels(flagged, name="flagged"), 0.5).f1


f1 = f1_score


def precision_recall_curve(labels: npt.ArrayLike, scores: npt.ArrayLike) -> PrecisionRecallCurve:
    """Precision and recall at every threshold that makes a difference; tied scores are one point."""
    truth, values = _pair(labels, scores)
    order = np.argsort(-values, kind="stable")
    truth, values = truth[order], values[order]
    last_of_tie = np.flatnonzero(np.append(values[:-1] != values[1:], True)) if len(values) else np.zeros(0, np.int64)
    caught = np.cumsum(truth)[last_of_tie]
    flagged = last_of_tie + 1
    positives = int(truth.sum())
    return PrecisionRecallCurve(
        thresholds=values[last_of_tie],
        precision=caught / flagged,
        recall=caught / positives if positives else np.full(len(caught), np.nan),
        true_positives=caught,
        num_flagged=flagged,
        n_positives=positives,
        n=len(truth),
    )


def threshold_at_precision(labels: npt.ArrayLike, scores: npt.ArrayLike, target: float) -> float:
    """Lowest threshold whose precision reaches ``target`` (so the largest recall); ``inf`` when there is none."""
    if not 0.0 <= target <= 1.0:
        raise UsageError(f"target precision: expected a value in [0, 1], got {target}")
    curve = precision_recall_curve(labels, scores)
    reaching = np.flatnonzero(curve.precision >= target)
    return float(curve.thresholds[reaching[-1]]) if len(reaching) else math.inf


def recall_at_precision(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    target: float,
    *,
    validation: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
) -> RecallAtPrecision:
    """Recall at precision ``target``: ``deployed`` with validation (labels, scores), else ``oracle``."""
    source = (labels, scores) if validation is None else validation
    threshold = threshold_at_precision(*source, target)
    counts = confusion_at(labels, scores, threshold)
    return RecallAtPrecision(
        target=target,
        meaning="oracle" if validation is None else "deployed",
        recall=counts.recall,
        precision=counts.precision,
        threshold=threshold,
        n_positives=counts.true_positives + counts.false_negatives,
        prevalence=counts.prevalence,
    )


def best_f1(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[float, float]:
    """Largest F1 over all thresholds and the highest threshold that reaches it; choose it on validation data."""
    curve = precision_recall_curve(labels, scores)
    if curve.n_positives == 0:
        return 0.0, math.inf
    values = 2 * curve.true_positives / (curve.num_flagged + curve.n_positives)
    best = int(np.argmax(values))
    return float(values[best]), float(curve.thresholds[best])


def roc_auc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """P(score of a positive > score of a negative) + half of P(tie); NaN when a class is absent."""
    curve = precision_recall_curve(labels, scores)
    negatives = curve.n - curve.n_positives
    if curve.n_positives == 0 or negatives == 0:
        return math.nan
    caught = np.concatenate([[0], curve.true_positives])
    alarms = np.concatenate([[0], curve.num_flagged - curve.true_positives])
    area = np.sum(np.diff(alarms) * (caught[1:] + caught[:-1]) / 2)
    return float(area / (curve.n_positives * negatives))


def average_precision(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Sum over distinct thresholds of precision times the step in recall; NaN without a positive."""
    curve = precision_recall_curve(labels, scores)
    if curve.n_positives == 0:
        return math.nan
    return float(np.sum(np.diff(curve.recall, prepend=0.0) * curve.precision))
