"""From scores to the paper's columns, over seeds, with intervals.

Enters: the trials' results of a row, one a seed. Leaves: ``Figures``: the mean over seeds of each column, a 95 %
interval that resamples whole sources of the test split (all seeds on the same resamples), and the standard deviation
over seeds. R@P is the oracle kind, as in the paper's tables: largest recall over all thresholds of the test split;
F1 stands at the threshold that validation chose.

Shape legend: N test videos, S seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tidegate.bench.reproduce.paper import COLUMNS
from tidegate.bench.reproduce.training import TrialResult
from tidegate.bench.reproduce.trials import CascadeRow
from tidegate.evaluation import (
    Interval,
    best_f1,
    bootstrap_interval,
    confusion_at,
    precision_recall_curve,
    recall_at_precision,
    recall_at_transported_precision,
    roc_auc,
    threshold_at_precision,
)

__all__ = ["Figures", "RowScores", "difference", "figures_of", "scores_of_cascade", "scores_of_trial"]

Scores = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
_AUC = "AUC"


@dataclass(frozen=True, kw_only=True, eq=False)
class RowScores:
    """All that the columns of one row are computed from."""

    labels_N: npt.NDArray[np.int64]
    sources_N: npt.NDArray[np.str_]
    scores_SN: Scores
    f1_thresholds_S: Scores
    """Chosen on validation; NaN where F1 is not asked for."""
    num_parameters: int
    qps_ratio_S: Scores | None = None
    """Share of videos that reach the large model; None: not a cascade."""
    prevalence: float | None = None
    """Precisions are transported to it; None: that of the test split."""

    def metric(self, column: str) -> Callable[[Rows], float]:
        """The column on a resample of the test split, as the mean over seeds."""

        def value(rows: Rows) -> float:
            one = [self._one(column, seed, rows) for seed in range(len(self.scores_SN))]
            return float(np.mean(one))

        return value

    def _one(self, column: str, seed: int, rows: Rows) -> float:
        labels, scores = self.labels_N[rows], self.scores_SN[seed][rows]
        if column == "F1":
            return confusion_at(labels, scores, float(self.f1_thresholds_S[seed])).f1
        if column == _AUC:
            return roc_auc(labels, scores)
        target = int(column.removeprefix("R@P")) / 100
        if self.prevalence is None:
            return recall_at_precision(labels, scores, target).recall
        return recall_at_transported_precision(labels, scores, target, prevalence=self.prevalence)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that this row has."""
        return COLUMNS if np.isfinite(self.f1_thresholds_S).all() else COLUMNS[1:]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """A row's figures, as shares."""

    values: dict[str, Interval]
    deviation: dict[str, float]
    """Standard deviation over seeds; NaN for one seed."""
    num_parameters: int
    qps_ratio: float | None
    seeds: int


def scores_of_trial(results: Sequence[TrialResult]) -> RowScores:
    """One result a seed."""
    first = results[0]
    thresholds = [best_f1(one.validation_labels, one.validation_scores)[1] for one in results]
    return RowScores(
        labels_N=first.test_labels,
        sources_N=first.test_sources,
        scores_SN=np.stack([one.test_scores for one in results]),
        f1_thresholds_S=np.asarray(thresholds),
        num_parameters=first.num_parameters,
    )


def _tau(labels: npt.NDArray[np.int64], scores: Scores, precision: float, prevalence: float | None) -> float:
    """Lowest threshold whose precision, transported if wished, reaches ``precision``; inf when there is none."""
    if prevalence is None:
        return threshold_at_precision(labels, scores, precision)
    curve = precision_recall_curve(labels, scores)
    alarms = (curve.num_flagged - curve.true_positives) / (curve.n - curve.n_positives) * (1 - prevalence)
    caught = curve.recall * prevalence
    reaching = np.flatnonzero(caught >= precision * (caught + alarms))
    return float(curve.thresholds[reaching[-1]]) if len(reaching) else float("inf")


def _share(labels: npt.NDArray[np.int64], escalated: npt.NDArray[np.bool_], prevalence: float | None) -> float:
    if prevalence is None:
        return float(escalated.mean())
    positives, negatives = escalated[labels == 1].mean(), escalated[labels == 0].mean()
    return float(prevalence * positives + (1 - prevalence) * negatives)


def scores_of_cascade(row: CascadeRow, base: Sequence[TrialResult], large: Sequence[TrialResult]) -> RowScores:
    """Seed by seed: the base's threshold from validation; what is not escalated is final negative (score 0)."""
    scores, shares = [], []
    for cheap, costly in zip(base, large, strict=True):
        place = {video: number for number, video in enumerate(costly.video_ids.tolist())}
        order = [place[video] for video in cheap.video_ids.tolist()]
        labels, asked = cheap.test_labels, np.ones(len(cheap.test_labels), dtype=bool)
        if row.p_base_percent is not None:
            precision = row.p_base_percent / 100
            tau = _tau(cheap.validation_labels, cheap.validation_scores, precision, row.prevalence)
            asked = cheap.test_scores >= tau
        scores.append(np.where(asked, costly.test_scores[order], 0.0))
        shares.append(_share(labels, asked, row.prevalence))
    return RowScores(
        labels_N=base[0].test_labels,
        sources_N=base[0].test_sources,
        scores_SN=np.stack(scores),
        f1_thresholds_S=np.full(len(scores), np.nan),
        num_parameters=base[0].num_parameters + large[0].num_parameters,
        qps_ratio_S=np.asarray(shares),
        prevalence=row.prevalence,
    )


def figures_of(row: RowScores, *, num_samples: int, seed: int = 0) -> Figures:
    """Every column of the row."""
    everything = np.arange(len(row.labels_N))
    values, deviation = {}, {}
    for column in (*row.columns, _AUC):
        values[column] = bootstrap_interval(
            row.metric(column), everything, clusters=row.sources_N, num_samples=num_samples, seed=seed
        )
        single = [row._one(column, number, everything) for number in range(len(row.scores_SN))]
        deviation[column] = float(np.std(single, ddof=1)) if len(single) > 1 else float("nan")
    return Figures(
        values=values,
        deviation=deviation,
        num_parameters=row.num_parameters,
        qps_ratio=None if row.qps_ratio_S is None else float(row.qps_ratio_S.mean()),
        seeds=len(row.scores_SN),
    )


def difference(row: RowScores, other: RowScores, column: str, *, num_samples: int, seed: int = 0) -> Interval:
    """Interval of row minus other on common resamples of the sources."""
    mine, theirs = row.metric(column), other.metric(column)
    return bootstrap_interval(
        lambda rows: mine(rows) - theirs(rows),
        np.arange(len(row.labels_N)),
        clusters=row.sources_N,
        num_samples=num_samples,
        seed=seed,
    )
