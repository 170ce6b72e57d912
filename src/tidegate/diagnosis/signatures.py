"""Signatures: what a probe does to the errors, beyond what it does to matched right items and beyond plain noise.

Enters: a ``ProbeTable``. Leaves: per item and probe an ``Effect`` (cured, broken, movement towards the label), and per
probe a ``Signature``: the share of errors cured, minus the share broken of right items with the same label and margin
decile (and slice, where there are enough), minus the same difference of the ``null`` probe. Why twice a difference:
a probe that only shakes scores cures whatever lies near the threshold and breaks as much, and errors were picked
for their unlucky noise, so that scoring again with nothing changed cures some of them (regression to the mean).
Intervals resample whole sources.

Shape legend: N items, B resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tidegate.diagnosis.table import Floats, ProbeTable
from tidegate.evaluation import Interval

__all__ = ["Effect", "Signature", "effect_of", "log_odds", "margins", "matched_cells", "matched_rate", "null_noise",
           "signatures"]

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
_EDGE = 1e-4
_MATCH_ON = ("clause", "language", "region")


@dataclass(frozen=True, kw_only=True, eq=False)
class Effect:
    """What one change did to each of N items."""

    ran: Bools
    """The item has a score under the change."""
    cured: Bools
    """Wrong before, right after."""
    broken: Bools
    """Right before, wrong after."""
    move: Floats
    """Movement towards the label in log-odds; NaN where either score is not known."""


@dataclass(frozen=True, kw_only=True)
class Signature:
    """One probe over a run: shares of the errors and of their matched controls, with 95 % intervals."""

    probe: str
    n_errors: int
    """Errors that were probed."""
    n_controls: int
    """Right items that were probed and can be matched."""
    cured: Interval
    broken: Interval
    """Of matched right items, weighted as the errors lie."""
    excess: Interval
    """Cured minus broken, minus the same of the ``null`` probe (where it was run): the signature."""
    mean_move: float
    """Mean movement of the errors towards their labels, in log-odds."""


def log_odds(table: ProbeTable, scores: Floats) -> Floats:
    """Scores on a scale without ends: log-odds if the run's scores are probabilities, else as they are."""
    known = table.scores[np.isfinite(table.scores)]
    if len(known) and (known.min() < 0.0 or known.max() > 1.0):
        return scores
    inside = np.clip(scores, _EDGE, 1.0 - _EDGE)
    odds: Floats = np.log(inside) - np.log1p(-inside)
    return odds


def margins(table: ProbeTable) -> Floats:
    """Distance of each score from its threshold in log-odds; NaN without a score."""
    distance: Floats = np.abs(log_odds(table, table.scores) - log_odds(table, table.thresholds))
    return distance


def effect_of(table: ProbeTable, scores: Floats, thresholds: Floats | None = None) -> Effect:
    """Effect of other ``scores`` of the same items, held against the same thresholds unless others are given."""
    held = table.thresholds if thresholds is None else thresholds
    ran = np.isfinite(scores) & np.isfinite(held)
    wrong_after = (np.nan_to_num(scores, nan=-np.inf) >= held) != (table.labels == 1)
    towards = np.where(table.labels == 1, 1.0, -1.0)
    before = log_odds(table, table.scores) - log_odds(table, table.thresholds)
    after = log_odds(table, scores) - log_odds(table, held)
    return Effect(
        ran=ran,
        cured=ran & table.errors & ~wrong_after,
        broken=ran & ~table.errors & wrong_after,
        move=np.where(ran, (after - before) * towards, np.nan),
    )


def null_noise(table: ProbeTable) -> float:
    """Standard deviation of a score when nothing is changed, in log-odds (robust); NaN without a null probe."""
    if "null" not in table.probes:
        return float("nan")
    change = log_odds(table, table.probes["null"]) - log_odds(table, table.scores)
    known = change[np.isfinite(change)]
    return float(max(1e-3, 1.4826 * np.median(np.abs(known)))) if len(known) >= 5 else float("nan")


def matched_cells(table: ProbeTable, *, deciles: int = 10, match_on: Sequence[str] = _MATCH_ON) -> list[Ints]:
    """Nested cells from coarse to fine: all, label, label and margin decile (of the errors), and a slice."""
    margin = margins(table)
    of_errors = margin[table.errors & np.isfinite(margin)]
    edges = np.quantile(of_errors, np.arange(1, deciles) / deciles) if len(of_errors) else np.zeros(0)
    decile = np.searchsorted(edges, np.nan_to_num(margin, nan=np.inf), side="right")
    cells = [np.zeros(len(table), dtype=np.int64), table.labels.astype(np.int64)]
    cells.append(cells[1] * deciles + decile)
    column = next((table.slices[name] for name in match_on if len(set(table.slices.get(name, ()))) > 1), None)
    if column is not None:
        _, codes = np.unique(column, return_inverse=True)
        cells.append(cells[2] * (int(codes.max()) + 1) + codes.astype(np.int64))
    return cells


def matched_rate(event: Bools, pool: Bools, cells: Sequence[Ints], *, strength: float = 5.0,
                 weights: Floats | None = None) -> Floats:
    """Rate of ``event`` in the pool's items of each item's cell; small cells lean on the next coarser one."""
    weight = pool.astype(np.float64) if weights is None else weights * pool
    hits = weight * event
    rate: Floats = np.full(len(event), (hits.sum() + 0.5) / (weight.sum() + 1.0))
    for codes in cells[1:]:
        size = int(codes.max()) + 1 if len(codes) else 0
        total = np.bincount(codes, weight, minlength=size)[codes]
        found = np.bincount(codes, hits, minlength=size)[codes]
        rate = (found + strength * rate) / (total + strength)
    return rate


def control_pool(table: ProbeTable) -> Bools:
    """Right items near enough to the threshold to be compared with an error."""
    margin = margins(table)
    of_errors = margin[table.errors & np.isfinite(margin)]
    reach = float(of_errors.max()) * 1.25 if len(of_errors) else np.inf
    pool: Bools = ~table.errors & np.isfinite(margin) & (margin <= reach)
    return pool


def signatures(
    table: ProbeTable, *, num_samples: int = 200, level: float = 0.95, seed: int = 0
) -> tuple[Signature, ...]:
    """The signature of every probe of the table that ran on at least one error."""
    cells, pool = matched_cells(table)[:3], control_pool(table)
    effects = {name: effect_of(table, scores) for name, scores in table.probes.items()}
    _, codes = np.unique(table.sources, return_inverse=True)
    num_sources = int(codes.max()) + 1 if len(codes) else 0
    rng = np.random.default_rng(seed)
    resamples = [np.bincount(rng.integers(0, num_sources, num_sources), minlength=num_sources)[codes].astype(float)
                 for _ in range(num_samples if num_sources else 0)]
    ones = np.ones(len(table))
    null = effects.get("null")
    base = [_shares(table, null, pool, cells, weight) for weight in (ones, *resamples)] if null else None
    found = []
    for name, effect in effects.items():
        if (effect.ran & table.errors).any():
            rows = [_shares(table, effect, pool, cells, weight) for weight in (ones, *resamples)]
            noise = None if base is None or name == "null" else np.asarray(base)
            found.append(_signature(name, table, effect, pool, rows=np.asarray(rows), base=noise, level=level,
                                    units=num_sources))
    return tuple(found)


def _shares(table: ProbeTable, effect: Effect, pool: Bools, cells: Sequence[Ints],
            weight: Floats) -> tuple[float, float]:
    """(cured share of the errors, broken share of their controls) under item weights; NaN without errors."""
    errors = effect.ran & table.errors
    total = weight[errors].sum()
    if total == 0:
        return float("nan"), float("nan")
    broken = matched_rate(effect.broken, pool & effect.ran, cells, weights=weight)
    return float(weight[errors & effect.cured].sum() / total), float(np.average(broken[errors], weights=weight[errors]))


def _signature(name: str, table: ProbeTable, effect: Effect, pool: Bools, *, rows: Floats, base: Floats | None,
               level: float, units: int) -> Signature:
    excess = rows[:, 0] - rows[:, 1]
    if base is not None:
        excess = excess - np.nan_to_num(base[:, 0] - base[:, 1])

    def interval(values: Floats) -> Interval:
        known = values[1:][np.isfinite(values[1:])]
        tail = (1 - level) / 2
        low, high = np.quantile(known, [tail, 1 - tail]) if len(known) else (np.nan, np.nan)
        return Interval(estimate=float(values[0]), low=float(low), high=float(high), level=level,
                        method="cluster bootstrap", n_clusters=units, n_undefined=len(values) - 1 - len(known))

    probed = effect.ran & table.errors
    moved = effect.move[probed]
    return Signature(
        probe=name,
        n_errors=int(probed.sum()),
        n_controls=int((pool & effect.ran).sum()),
        cured=interval(rows[:, 0]),
        broken=interval(rows[:, 1]),
        excess=interval(excess),
        mean_move=float(np.nanmean(moved)) if np.isfinite(moved).any() else float("nan"),
    )
