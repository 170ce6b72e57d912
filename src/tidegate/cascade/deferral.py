"""Base scores and base features → a better order in which to ask the large model.

A certificate's cost is set by the ranking alone: at a fixed promise only a proxy that ranks the large model's
positives higher lowers the escalated share. ``fit_deferral`` learns P(large model flags | base score, features) by
ridge logistic regression on logged pairs; its output is a score in [0, 1] like any other, and is certified like any
other, on an audit that it was not fitted on. ``fit_gain`` estimates the *gain* of asking (how much better the
answer gets), for budgets. Sources: arXiv 2307.02764, 2605.18796 (calibrated deferral), 2606.08090 (train on the
large model's soft scores).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from tidegate.errors import UsageError
from tidegate.evaluation.arrays import FloatArray, checked_scores

__all__ = ["DeferralModel", "GainModel", "fit_deferral", "fit_gain"]


@dataclass(frozen=True, kw_only=True, eq=False)
class DeferralModel:
    """A logistic model over standardised features and, if asked for, their squares and products."""

    mean: FloatArray
    scale: FloatArray
    weights: FloatArray
    """Offset first."""
    quadratic: bool

    def __call__(self, features: npt.ArrayLike) -> FloatArray:
        """P(large model flags) of each row."""
        matrix = _matrix(features)
        if matrix.shape[1] != len(self.mean):
            raise UsageError(f"features: expected {len(self.mean)} columns, got {matrix.shape[1]}")
        return np.asarray(special.expit(_design((matrix - self.mean) / self.scale, self.quadratic) @ self.weights))


def _matrix(features: npt.ArrayLike) -> FloatArray:
    matrix = np.asarray(features, dtype=np.float64)
    if matrix.ndim != 2 or not np.isfinite(matrix).all():
        raise UsageError(f"features: expected a finite (items, features) matrix, got shape {matrix.shape}")
    return matrix


def _design(standard: FloatArray, quadratic: bool) -> FloatArray:
    columns = [np.ones((len(standard), 1)), standard]
    if quadratic:
        first, second = np.triu_indices(standard.shape[1])
        columns.append(standard[:, first] * standard[:, second])
    return np.hstack(columns)


def _loss(design: FloatArray, target: FloatArray, penalty: FloatArray, weights: FloatArray) -> float:
    logits = design @ weights
    return float(np.sum(np.logaddexp(0.0, logits) - target * logits) + np.sum(penalty * weights**2) / 2.0)


def fit_deferral(
    features: npt.ArrayLike, large: npt.ArrayLike, *, ridge: float = 1.0, quadratic: bool = True, steps: int = 50
) -> DeferralModel:
    """Newton with step halving. ``large``: flags, or the large model's soft scores (distillation), in [0, 1]."""
    matrix, target = _matrix(features), checked_scores(large, name="large", probability=True)
    if len(matrix) != len(target) or not len(target):
        raise UsageError(f"expected one target a row and at least one row, got {len(matrix)} and {len(target)}")
    mean, scale = matrix.mean(axis=0), matrix.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    design = _design((matrix - mean) / scale, quadratic)
    penalty = np.full(design.shape[1], ridge)
    penalty[0] = 1e-6
    weights = np.zeros(design.shape[1])
    weights[0] = special.logit(np.clip(target.mean(), 1e-6, 1 - 1e-6))
    for _ in range(steps):
        probability = special.expit(design @ weights)
        gradient = design.T @ (probability - target) + penalty * weights
        curvature = (design * (probability * (1 - probability))[:, None]).T @ design + np.diag(penalty)
        change = np.linalg.solve(curvature, gradient)
        loss, length = _loss(design, target, penalty, weights), 1.0
        while length > 1e-6 and _loss(design, target, penalty, weights - length * change) > loss:
            length /= 2.0
        weights = weights - length * change
        if length * float(np.abs(change).max()) < 1e-8:
            break
    return DeferralModel(mean=mean, scale=scale, weights=weights, quadratic=quadratic)


@dataclass(frozen=True, kw_only=True, eq=False)
class GainModel:
    """Expected gain of asking the next stage as a step function of the score; the ``gain`` of ``LearnedDeferral``."""

    edges: FloatArray
    gains: FloatArray

    def __call__(self, scores: npt.ArrayLike, views: npt.NDArray[Any] | None = None) -> FloatArray:
        """Gain of each item; where views are known (>= 0), per view: a gain counts as often as it is seen."""
        gain = self.gains[np.searchsorted(self.edges, np.asarray(scores, dtype=np.float64), side="right")]
        return np.asarray(gain if views is None else gain * np.where(views >= 0, np.maximum(views, 1), 1))


def fit_gain(scores: npt.ArrayLike, gain: npt.ArrayLike, *, num_bins: int = 50, shrink: float = 10.0) -> GainModel:
    """Mean gain in bins of equal mass, shrunk towards the overall mean by ``shrink`` imaginary items."""
    values, gains = checked_scores(scores, probability=True), checked_scores(gain, name="gain")
    if len(values) != len(gains) or not len(values):
        raise UsageError(f"expected one gain a score and at least one, got {len(values)} and {len(gains)}")
    edges = np.unique(np.quantile(values, np.arange(1, num_bins) / num_bins))
    codes = np.searchsorted(edges, values, side="right")
    count = np.bincount(codes, minlength=len(edges) + 1)
    total = np.bincount(codes, gains, minlength=len(edges) + 1)
    return GainModel(edges=edges, gains=(total + shrink * gains.mean()) / (count + shrink))
