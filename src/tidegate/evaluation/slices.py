"""A metric, its data and a group per item → the metric in every group, with its interval and its size.

Groups without the positives that a figure needs are kept, with NaN and their counts: leaving them out would hide them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.evaluation.arrays import checked_labels, checked_scores, group_codes, same_length
from tidegate.evaluation.intervals import Interval, bootstrap_interval

__all__ = ["Slice", "slice_metric"]


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One group's figure."""

    group: Hashable
    n: int
    n_positives: int
    value: float
    interval: Interval | None
    """None when the metric is undefined in this group, or no interval was asked for."""


def slice_metric(
    metric: Callable[[Any, Any], float],
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    groups: Sequence[Hashable] | npt.NDArray[Any],
    *,
    clusters: Sequence[Hashable] | npt.NDArray[Any] | None = None,
    num_samples: int = 0,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Slice, ...]:
    """``metric(labels, scores)`` per group, largest group first; ``num_samples`` > 0 adds a bootstrap interval."""
    truth, values = checked_labels(labels), checked_scores(scores)
    same_length(labels=truth, scores=values, groups=groups, **({} if clusters is None else {"clusters": clusters}))
    names, codes = group_codes(groups)
    cluster_codes = None if clusters is None else group_codes(clusters)[1]
    slices = []
    for code, name in enumerate(names):
        chosen = np.flatnonzero(codes == code)
        value = metric(truth[chosen], values[chosen])
        interval = None
        if num_samples and not math.isnan(value):
            interval = bootstrap_interval(
                metric,
                truth[chosen],
                values[chosen],
                clusters=None if cluster_codes is None else cluster_codes[chosen],
                num_samples=num_samples,
                level=level,
                seed=seed,
            )
        slices.append(
            Slice(group=name, n=len(chosen), n_positives=int(truth[chosen].sum()), value=value, interval=interval)
        )
    return tuple(sorted(slices, key=lambda entry: (-entry.n, str(entry.group))))
