"""Scores of a reference period and of now → how far the distribution has moved (KS, PSI): a cheap early sign.

No labels and no large-model calls are needed, so these speak long before the audit can. They prove nothing about
the promise (scores may move while it holds, and it may break while they stay), so they never change a threshold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import special

from tidegate.errors import UsageError
from tidegate.evaluation.arrays import FloatArray, checked_scores

__all__ = ["ScoreMonitor", "Shift", "kolmogorov_smirnov", "population_stability"]


@dataclass(frozen=True, kw_only=True)
class Shift:
    """How far the scores have moved."""

    ks: float
    """Largest distance between the two distribution functions."""
    p_value: float
    psi: float
    level: Literal["stable", "watch", "moved"]
    """By the usual limits on PSI: below 0.1 stable, below 0.25 watch; a KS p-value under alpha is at least watch."""
    n: int


def kolmogorov_smirnov(reference: npt.ArrayLike, current: npt.ArrayLike) -> tuple[float, float]:
    """Two-sample statistic and its asymptotic p-value (on the safe side with ties)."""
    first, second = np.sort(checked_scores(reference)), np.sort(checked_scores(current))
    if not len(first) or not len(second):
        raise UsageError(f"expected scores on both sides, got {len(first)} and {len(second)}")
    grid = np.concatenate([first, second])
    before = np.searchsorted(first, grid, side="right") / len(first)
    after = np.searchsorted(second, grid, side="right") / len(second)
    distance = float(np.abs(before - after).max())
    scale = math.sqrt(len(first) * len(second) / (len(first) + len(second)))
    return distance, float(special.kolmogorov(scale * distance))


def population_stability(expected_share: npt.ArrayLike, count: npt.ArrayLike) -> float:
    """PSI = sum (q - p) ln(q / p) over bins; half an item is added to empty bins."""
    p, seen = np.asarray(expected_share, dtype=np.float64), np.asarray(count, dtype=np.float64)
    total = seen.sum()
    if total <= 0 or len(p) != len(seen):
        raise UsageError(f"expected a count for each of {len(p)} bins and at least one item, got {seen.tolist()}")
    q = np.maximum(seen, 0.5) / total
    p = np.maximum(p, 0.5 / total)
    return float(np.sum((q - p) * np.log(q / p)))


class ScoreMonitor:
    """Compares batches of scores with a reference period."""

    def __init__(self, reference: npt.ArrayLike, *, num_bins: int = 10, alpha: float = 0.001) -> None:
        self.reference: FloatArray = np.sort(checked_scores(reference, name="reference", probability=True))
        if len(self.reference) < num_bins:
            raise UsageError(f"reference: expected at least {num_bins} scores, got {len(self.reference)}")
        self.alpha = alpha
        self.edges = np.unique(np.quantile(self.reference, np.arange(1, num_bins) / num_bins))
        self.shares = self._counts(self.reference) / len(self.reference)

    def _counts(self, scores: FloatArray) -> npt.NDArray[np.int64]:
        return np.bincount(np.searchsorted(self.edges, scores, side="right"), minlength=len(self.edges) + 1)

    def check(self, scores: npt.ArrayLike) -> Shift:
        """Where this batch stands against the reference."""
        values = checked_scores(scores, probability=True)
        ks, p_value = kolmogorov_smirnov(self.reference, values)
        psi = population_stability(self.shares, self._counts(values))
        expected_noise = len(self.edges) * (1.0 / len(values) + 1.0 / len(self.reference))  # mean PSI without a shift
        excess = psi - expected_noise
        level: Literal["stable", "watch", "moved"] = "stable"
        if excess >= 0.25:
            level = "moved"
        elif excess >= 0.1 or p_value < self.alpha:
            level = "watch"
        return Shift(ks=ks, p_value=p_value, psi=psi, level=level, n=len(values))
