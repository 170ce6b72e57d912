"""Cross-fitted thresholds: the threshold of an item is chosen on other sources than its own.

Enters: a ``ProbeTable`` and a metadata column. Leaves: one threshold an item. Choosing and judging a threshold on the
same items would find a gain in pure noise; five folds of sources avoid that. The cost of a miss against a
false alarm is the one that the run's own thresholds imply (the ratio of the two densities there), so that a threshold
that was put high on purpose is not taken for a fault.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from tidegate.diagnosis.signatures import log_odds
from tidegate.diagnosis.table import Floats, ProbeTable, Strings

__all__ = ["best_slice_thresholds", "cross_fitted", "folds_of", "implied_miss_cost"]

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def folds_of(sources: Strings, *, num_folds: int = 5) -> Ints:
    """Fold of each item by a hash of its source: the same source, the same fold, in every run."""
    fold_of = {source: int.from_bytes(hashlib.blake2b(source.encode(), digest_size=4).digest()) % num_folds
               for source in set(sources.tolist())}
    return np.asarray([fold_of[source] for source in sources.tolist()], dtype=np.int64)


def implied_miss_cost(table: ProbeTable, *, share: float = 0.15) -> float:
    """What a miss costs in false alarms, read off the run's thresholds: density of negatives over positives there."""
    distance = np.abs(log_odds(table, table.scores) - log_odds(table, table.thresholds))
    known = np.flatnonzero(np.isfinite(distance))
    if not len(known):
        return 1.0
    nearest = known[np.argsort(distance[known], kind="stable")[: max(20, int(share * len(known)))]]
    positives = int(table.labels[nearest].sum())
    return float(np.clip((len(nearest) - positives + 1.0) / (positives + 1.0), 0.1, 10.0))


def cross_fitted(
    table: ProbeTable, column: Strings | None, *, scores: Floats | None = None, miss_cost: float | None = None,
    min_items: int = 20, min_z: float = 1.5, weights: Floats | None = None,
) -> Floats:
    """Thresholds per value of ``column`` (None: one for all), each fitted without the item's own fold.

    A value with fewer than ``min_items`` others, or whose best threshold does not save ``min_z`` standard errors more
    than it costs, keeps what it has.
    """
    values = np.zeros(len(table), dtype=np.int64) if column is None else np.unique(column, return_inverse=True)[1]
    given = table.scores if scores is None else scores
    weight = np.ones(len(table)) if weights is None else weights
    cost = implied_miss_cost(table) if miss_cost is None else miss_cost
    folds = folds_of(table.sources)
    fitted = table.thresholds.copy()
    known = np.isfinite(given)
    for value in np.unique(values):
        inside = (values == value) & known
        unnamed = column is not None and bool((column[inside] == "").any())
        if unnamed or inside.sum() < min_items or _rarer(table.labels[inside]) < 5:
            continue
        for fold in np.unique(folds[inside]):
            others = inside & (folds != fold)
            if others.sum() >= min_items * 0.75:
                moved = _best(given[others], table.labels[others], table.thresholds[others], weight[others],
                              miss_cost=cost, min_z=min_z)
                if moved is not None:
                    fitted[inside & (folds == fold)] = moved
    return fitted


def _rarer(labels: Ints) -> int:
    """Items of the rarer class: a column that goes with the label would let its threshold read the label."""
    return int(min(labels.sum(), len(labels) - labels.sum()))


def _best(scores: Floats, labels: Ints, thresholds: Floats, weights: Floats, *, miss_cost: float,
          min_z: float) -> float | None:
    """The threshold of least cost, the nearest to the present one among equals; None if it saves too little."""
    order = np.argsort(-scores, kind="stable")
    ranked, truth, weight = scores[order], labels[order] * weights[order], weights[order]
    last = np.append(ranked[1:] != ranked[:-1], True)
    distinct, total = ranked[last], float(truth.sum())
    points = np.concatenate([[np.nextafter(distinct[0], np.inf)], (distinct[:-1] + distinct[1:]) / 2, distinct[-1:]])
    flagged = np.concatenate([[0], np.cumsum(weight)[last]])
    caught = np.concatenate([[0], np.cumsum(truth)[last]])
    costs = (total - caught) * miss_cost + (flagged - caught)
    now = float(np.median(thresholds))
    flags = scores >= thresholds
    present = float(((((labels == 1) & ~flags) * miss_cost + ((labels == 0) & flags)) * weights).sum())
    best = np.flatnonzero(costs <= costs.min() + 1e-9)
    chosen = int(best[np.argmin(np.abs(points[best] - now))])
    # The variance of the sum of what changes: one item that stands for thirty is no thirty items.
    changed = float((weights**2 * ((scores >= points[chosen]) != flags)).sum())
    saved = present - float(costs[chosen])
    enough = saved > max(1.0, min_z * np.sqrt(changed * max(1.0, miss_cost)))
    return float(points[chosen]) if changed > 0 and enough else None


def best_slice_thresholds(
    table: ProbeTable, *, max_values: int = 150, with_global: bool = True
) -> tuple[str, Floats]:
    """(column, thresholds) of the metadata column whose cross-fitted thresholds save most; column "" is one for all."""
    cost = implied_miss_cost(table)
    candidates: dict[str, Strings | None] = {"": None} if with_global else {}
    candidates |= {name: column for name, column in table.slices.items() if 1 < len(set(column.tolist())) <= max_values}
    fitted = {name: cross_fitted(table, column, miss_cost=cost) for name, column in candidates.items()}

    def spent(thresholds: Floats) -> float:
        flags = np.nan_to_num(table.scores, nan=-np.inf) >= thresholds
        return float((((table.labels == 1) & ~flags) * cost + ((table.labels == 0) & flags)).sum())

    if not fitted:
        return "", table.thresholds
    name = min(fitted, key=lambda key: (spent(fitted[key]), key != ""))
    return name, fitted[name]
