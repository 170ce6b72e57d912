"""Scores and labels → maps from score to probability: temperature, Platt, Beta, isotonic, Venn-Abers.

All of them are monotone, so they change no ranking and no certificate: they make scores mean what they say, which
the entropy rule, expected gains and people's reading of scores need. Few labels: temperature (1 parameter), Platt
(2), Beta (3; Kull et al., 2017, keeps the identity inside its family, which Platt does not). Many: isotonic.
Venn-Abers (Vovk & Petej, 2014) gives an interval of probabilities that is calibrated in finite samples for
exchangeable data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from tidegate.errors import UsageError
from tidegate.evaluation.arrays import FloatArray, IntArray, checked_labels, checked_scores, same_length

__all__ = [
    "CALIBRATORS",
    "BetaCalibration",
    "Calibration",
    "IsotonicCalibration",
    "VennAbers",
    "fit_beta",
    "fit_isotonic",
    "fit_platt",
    "fit_temperature",
    "fit_venn_abers",
]

Calibration = Callable[[npt.ArrayLike], FloatArray]
SMALLEST = 1e-7  # scores are kept this far from 0 and 1 before their logarithm


def _pair(scores: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[FloatArray, IntArray]:
    values, truth = checked_scores(scores, probability=True), checked_labels(labels)
    if same_length(scores=values, labels=truth) == 0 or truth.min() == truth.max():
        raise UsageError(f"expected labels of both kinds to calibrate on, got {len(truth)} of one kind")
    return values, truth


def _inside(scores: npt.ArrayLike) -> FloatArray:
    return np.clip(checked_scores(scores, probability=True), SMALLEST, 1.0 - SMALLEST)


def _negative_log_likelihood(logits: FloatArray, targets: FloatArray) -> float:
    return float(np.mean(np.logaddexp(0.0, logits) - targets * logits))


@dataclass(frozen=True, kw_only=True)
class BetaCalibration:
    """logit p = a ln s - b ln(1 - s) + c. Temperature is a = b, c = 0; Platt on logits is a = b."""

    a: float
    b: float
    c: float

    def __call__(self, scores: npt.ArrayLike) -> FloatArray:
        value = _inside(scores)
        return np.asarray(special.expit(self.a * np.log(value) - self.b * np.log1p(-value) + self.c))


def fit_temperature(scores: npt.ArrayLike, labels: npt.ArrayLike) -> BetaCalibration:
    """One parameter: logits divided by a temperature (Guo et al., 2017)."""
    values, truth = _pair(scores, labels)
    logits, targets = special.logit(_inside(values)), truth.astype(np.float64)
    found = optimize.minimize_scalar(
        lambda log_t: _negative_log_likelihood(logits / math.exp(log_t), targets), bounds=(-5, 5), method="bounded"
    )
    inverse = math.exp(-found.x)
    return BetaCalibration(a=inverse, b=inverse, c=0.0)


def _fit(
    design: FloatArray, targets: FloatArray, start: list[float], limits: list[tuple[float, float | None]]
) -> FloatArray:
    def loss(parameters: FloatArray) -> tuple[float, FloatArray]:
        logits = design @ parameters
        return _negative_log_likelihood(logits, targets), design.T @ (special.expit(logits) - targets) / len(targets)

    found = optimize.minimize(loss, np.array(start), jac=True, bounds=limits, method="L-BFGS-B")
    return np.asarray(found.x, dtype=np.float64)


def fit_platt(scores: npt.ArrayLike, labels: npt.ArrayLike) -> BetaCalibration:
    """Two parameters on the logit, with Platt's smoothed targets (Platt, 1999)."""
    values, truth = _pair(scores, labels)
    positives, negatives = int(truth.sum()), int(len(truth) - truth.sum())
    targets = np.where(truth == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    design = np.column_stack([special.logit(_inside(values)), np.ones(len(values))])
    slope, offset = _fit(design, targets, [1.0, 0.0], [(0.0, None), (-50.0, 50.0)])
    return BetaCalibration(a=float(slope), b=float(slope), c=float(offset))


def fit_beta(scores: npt.ArrayLike, labels: npt.ArrayLike) -> BetaCalibration:
    """Three parameters, with both slopes >= 0 so that the map is monotone."""
    values, truth = _pair(scores, labels)
    value = _inside(values)
    design = np.column_stack([np.log(value), -np.log1p(-value), np.ones(len(value))])
    a, b, c = _fit(design, truth.astype(np.float64), [1.0, 1.0, 0.0], [(0.0, None), (0.0, None), (-50.0, 50.0)])
    return BetaCalibration(a=float(a), b=float(b), c=float(c))


@dataclass(frozen=True, kw_only=True, eq=False)
class IsotonicCalibration:
    """A monotone map through (score, probability) knots, linear between them and flat outside."""

    knots: FloatArray
    probabilities: FloatArray

    def __call__(self, scores: npt.ArrayLike) -> FloatArray:
        return np.interp(checked_scores(scores, probability=True), self.knots, self.probabilities)


def _grouped(values: FloatArray, truth: IntArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Distinct scores, the rate of positives at each and its weight."""
    distinct, codes = np.unique(values, return_inverse=True)
    weight = np.bincount(codes).astype(np.float64)
    return distinct, np.bincount(codes, truth) / weight, weight


def fit_isotonic(scores: npt.ArrayLike, labels: npt.ArrayLike) -> IsotonicCalibration:
    """Pool adjacent violators: the monotone map of least squared error."""
    distinct, rate, weight = _grouped(*_pair(scores, labels))
    fitted = optimize.isotonic_regression(rate, weights=weight).x
    return IsotonicCalibration(knots=distinct, probabilities=np.asarray(fitted, dtype=np.float64))


@dataclass(frozen=True, kw_only=True, eq=False)
class VennAbers:
    """Two isotonic fits per score: one as if its label were 0, one as if it were 1."""

    knots: FloatArray
    """Distinct calibration scores, ascending."""
    low: FloatArray
    """Probability if the label were 0, at knot i (position 2 i + 1) and between knots (even positions)."""
    high: FloatArray

    def interval(self, scores: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Lower and upper probability; one of them is calibrated whatever the distribution."""
        values = checked_scores(scores, probability=True)
        left = np.searchsorted(self.knots, values, side="left")
        at_knot = (left < len(self.knots)) & (self.knots[np.minimum(left, len(self.knots) - 1)] == values)
        position = 2 * left + at_knot
        return self.low[position], self.high[position]

    def __call__(self, scores: npt.ArrayLike) -> FloatArray:
        """One probability: high / (1 - low + high), the minimax choice for the log score."""
        low, high = self.interval(scores)
        return np.asarray(high / (1.0 - low + high))


def _coarsened(values: FloatArray, most: int) -> FloatArray:
    """At most ``most`` distinct scores: each is replaced by the largest of its equal-mass group."""
    if len(np.unique(values)) <= most:
        return values
    edges = np.unique(np.quantile(values, np.arange(1, most + 1) / most, method="higher"))
    return edges[np.searchsorted(edges, values, side="left")]


def fit_venn_abers(scores: npt.ArrayLike, labels: npt.ArrayLike, *, max_knots: int = 500) -> VennAbers:
    """Inductive Venn-Abers. More than ``max_knots`` distinct scores are first put into groups of equal mass."""
    values, truth = _pair(scores, labels)
    distinct, rate, weight = _grouped(_coarsened(values, max_knots), truth)
    fits = np.empty((2, 2 * len(distinct) + 1))
    for position in range(2 * len(distinct) + 1):
        index = position // 2
        for label in (0, 1):
            if position % 2:
                y, w = rate.copy(), weight.copy()
                y[index], w[index] = (y[index] * w[index] + label) / (w[index] + 1), w[index] + 1
            else:
                y, w = np.insert(rate, index, label), np.insert(weight, index, 1.0)
            fits[label, position] = optimize.isotonic_regression(y, weights=w).x[index]
    return VennAbers(knots=distinct, low=fits[0], high=fits[1])


CALIBRATORS: dict[str, Callable[[npt.ArrayLike, npt.ArrayLike], Calibration]] = {
    "temperature": fit_temperature,
    "platt": fit_platt,
    "beta": fit_beta,
    "isotonic": fit_isotonic,
    "venn_abers": fit_venn_abers,
}
