"""Labels and probabilities → reliability bins, expected calibration error (plain and debiased), Brier and log score.

The plain ECE of a perfectly calibrated model is positive, because the rate in each bin is itself noisy. The debiased
form subtracts the expected squared noise p(1 - p)/(n - 1) of each bin's rate before the root (Kumar, Liang & Ma,
2019, the debiased L2 estimator), so a calibrated model scores about 0 at any sample size. Brier and log score are
proper: only the true probability minimises them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tidegate.errors import UsageError
from tidegate.evaluation.arrays import FloatArray, IntArray, checked_labels, checked_scores, same_length

__all__ = ["Reliability", "brier_score", "calibration_error", "debiased_calibration_error", "log_score", "reliability"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Reliability:
    """A reliability diagram: for each non-empty bin its mean probability, its rate of positives and its size."""

    mean_probability: FloatArray
    positive_rate: FloatArray
    count: IntArray

    @property
    def weight(self) -> FloatArray:
        shares: FloatArray = self.count / self.count.sum()
        return shares


def _probabilities(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> tuple[IntArray, FloatArray]:
    truth = checked_labels(labels)
    values = checked_scores(probabilities, name="probabilities", probability=True)
    if same_length(labels=truth, probabilities=values) == 0:
        raise UsageError("expected at least one item, got none")
    return truth, values


def reliability(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    *,
    num_bins: int = 15,
    bins: Literal["equal_width", "equal_mass"] = "equal_width",
) -> Reliability:
    """Bins of equal width in probability, or of (nearly) equal mass with ties kept together."""
    truth, values = _probabilities(labels, probabilities)
    if num_bins < 1:
        raise UsageError(f"num_bins: expected >= 1, got {num_bins}")
    if bins == "equal_width":
        codes = np.minimum((values * num_bins).astype(np.int64), num_bins - 1)
    else:
        edges = np.quantile(values, np.arange(1, num_bins) / num_bins)
        codes = np.searchsorted(edges, values, side="right")
    count = np.bincount(codes, minlength=num_bins)
    used = count > 0
    return Reliability(
        mean_probability=np.bincount(codes, values, minlength=num_bins)[used] / count[used],
        positive_rate=np.bincount(codes, truth, minlength=num_bins)[used] / count[used],
        count=count[used],
    )


def calibration_error(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    *,
    num_bins: int = 15,
    bins: Literal["equal_width", "equal_mass"] = "equal_width",
) -> float:
    """Expected calibration error: mean over items of |rate - probability| of their bin."""
    diagram = reliability(labels, probabilities, num_bins=num_bins, bins=bins)
    return float(np.sum(diagram.weight * np.abs(diagram.positive_rate - diagram.mean_probability)))


def debiased_calibration_error(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    *,
    num_bins: int = 15,
    bins: Literal["equal_width", "equal_mass"] = "equal_mass",
) -> float:
    """Root of the mean squared error per bin less its sampling noise; bins of one item are left out."""
    diagram = reliability(labels, probabilities, num_bins=num_bins, bins=bins)
    several = diagram.count > 1
    if not several.any():
        return math.nan
    rate, count = diagram.positive_rate[several], diagram.count[several]
    squared = (rate - diagram.mean_probability[several]) ** 2 - rate * (1 - rate) / (count - 1)
    return math.sqrt(max(0.0, float(np.average(squared, weights=count))))


def brier_score(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Mean squared difference between probability and truth; 0 is best."""
    truth, values = _probabilities(labels, probabilities)
    return float(np.mean((values - truth) ** 2))


def log_score(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Mean negative log-likelihood in nats; infinite when a certain answer was wrong."""
    truth, values = _probabilities(labels, probabilities)
    given = np.where(truth == 1, values, 1 - values)
    with np.errstate(divide="ignore"):
        return float(np.mean(-np.log(given)))
