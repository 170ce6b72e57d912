"""Labels, verdicts and views → what a platform is judged by.

A missed violation seen by a million people is not one miss among many, so misses are weighed by views: the violating
view rate (views of violating videos per all views) is the figure that COEF-VQ's online test reports (-9.9 %).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from tidegate.errors import UsageError
from tidegate.evaluation.arrays import checked_labels, checked_weights, same_length

__all__ = [
    "cost_per_thousand",
    "overturn_rate",
    "qps_ratio",
    "view_weighted_recall",
    "views_before_action",
    "violating_view_rate",
]


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan


def violating_view_rate(labels: npt.ArrayLike, views: npt.ArrayLike) -> float:
    """Views of violating videos / all views; ``views`` are those that happened (none after removal)."""
    truth, weights = checked_labels(labels), checked_weights(views, name="views")
    same_length(labels=truth, views=weights)
    return _share(float(weights[truth == 1].sum()), float(weights.sum()))


def view_weighted_recall(labels: npt.ArrayLike, removed: npt.ArrayLike, views: npt.ArrayLike) -> float:
    """Share of the views that violating videos would have had which removal prevents."""
    truth, gone = checked_labels(labels), checked_labels(removed, name="removed")
    weights = checked_weights(views, name="views")
    same_length(labels=truth, removed=gone, views=weights)
    bad = weights * truth
    return _share(float((bad * gone).sum()), float(bad.sum()))


def views_before_action(
    labels: npt.ArrayLike, removed: npt.ArrayLike, views_at_action: npt.ArrayLike, *, quantile: float | None = None
) -> float:
    """Mean (or a quantile) of the views that removed violating videos had collected when they were removed."""
    truth, gone = checked_labels(labels), checked_labels(removed, name="removed")
    weights = checked_weights(views_at_action, name="views_at_action")
    same_length(labels=truth, removed=gone, views_at_action=weights)
    seen = weights[(truth == 1) & (gone == 1)]
    if len(seen) == 0:
        return math.nan
    return float(seen.mean() if quantile is None else np.quantile(seen, quantile))


def overturn_rate(*, n_overturned: int, n_appealed: int) -> float:
    """Share of appealed removals that people took back."""
    if not 0 <= n_overturned <= n_appealed:
        raise UsageError(f"expected 0 <= n_overturned <= n_appealed, got {n_overturned} and {n_appealed}")
    return _share(n_overturned, n_appealed)


def qps_ratio(escalated: npt.ArrayLike) -> float:
    """Share of videos that reach the large model (COEF-VQ's QPS ratio, here in [0, 1])."""
    sent = checked_labels(escalated, name="escalated")
    return _share(float(sent.sum()), len(sent))


def cost_per_thousand(cost_seconds: npt.ArrayLike) -> float:
    """Model seconds per 1,000 videos."""
    costs = checked_weights(cost_seconds, name="cost_seconds")
    return 1000 * _share(float(costs.sum()), len(costs))
