"""Exact Shapley values: what each of several overlapping fixes is worth.

Enters: a value of every subset. Leaves: one number a fix; they add up to the value of all together. Fixes overlap, so
gains of single fixes must not be added. For fixes on a cached score matrix a subset's scores are taken to add in
log-odds, which is exact for thresholds and an assumption for re-scored items. 2^K subsets: K is limited.

Shape legend: K fixes, N items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from math import comb

import numpy as np

from tidegate.diagnosis.interventions.base import Change
from tidegate.diagnosis.signatures import log_odds
from tidegate.diagnosis.table import Floats, ProbeTable
from tidegate.errors import UsageError

__all__ = ["MAX_FIXES", "shapley_of_changes", "shapley_values"]

MAX_FIXES = 12


def shapley_values(names: tuple[str, ...], value: Callable[[frozenset[str]], float]) -> dict[str, float]:
    """Mean marginal value of each name over all orders of all names."""
    count = len(names)
    if count > MAX_FIXES:
        raise UsageError(f"expected at most {MAX_FIXES} fixes for exact Shapley values, got {count}")
    worth = {subset: value(subset) for size in range(count + 1) for subset in map(frozenset, combinations(names, size))}
    found = {}
    for name in names:
        rest = [other for other in names if other != name]
        found[name] = sum(
            (worth[frozenset(others) | {name}] - worth[frozenset(others)]) / (count * comb(count - 1, size))
            for size in range(count) for others in combinations(rest, size)
        )
    return found


def shapley_of_changes(
    table: ProbeTable, changes: Mapping[str, Change], weights: Floats | None = None
) -> dict[str, float]:
    """Errors that each change saves of those that all together save; what is not known under a change stays."""
    held = log_odds(table, table.thresholds)
    before = log_odds(table, table.scores) - held
    shifts = {}
    for name, change in changes.items():
        after = log_odds(table, change.scores) - log_odds(table, change.thresholds)
        known = np.isfinite(after)
        replaced = np.where(np.isnan(before) & known, after, 0.0)
        shifts[name] = (np.where(known & np.isfinite(before), after - before, 0.0), replaced,
                        table.labels if change.labels is None else change.labels)
    weight = np.ones(len(table)) if weights is None else weights

    def saved(subset: frozenset[str]) -> float:
        distance, labels = np.nan_to_num(before, nan=-np.inf), table.labels
        for name in sorted(subset):
            shift, replaced, turned = shifts[name]
            distance = np.where(np.isfinite(distance), distance + shift, np.where(replaced != 0.0, replaced, distance))
            labels = np.where(turned != table.labels, turned, labels)
        failed = ~np.isfinite(distance)
        wrong = ((distance >= 0) != (labels == 1)) | failed
        return float((weight * (table.errors.astype(float) - wrong)).sum())

    return shapley_values(tuple(changes), saved)
