"""Drift: two periods, and what share of the change is traffic mix, label rate, and the model.

Enters: two ``ProbeTable`` values of one system in two periods. Leaves: the change of the error rate (or of the share
flagged) split exactly into three: which slices the traffic comes from, how often each slice violates, and how often the
model errs on each kind of item. The split is the Shapley value over the three factors (each may be taken from either
period), so it does not depend on an order and adds up. Intervals resample sources in both periods.

Shape legend: S slices, two labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tidegate.diagnosis.shapley import shapley_values
from tidegate.diagnosis.table import Floats, ProbeTable, Strings
from tidegate.errors import UsageError
from tidegate.evaluation import Interval

__all__ = ["FACTORS", "Drift", "drift_between"]

FACTORS = ("traffic mix", "label rate", "model")
Quantity = Literal["error_rate", "flagged_rate"]


@dataclass(frozen=True, kw_only=True)
class Drift:
    """A change between two periods."""

    quantity: Quantity
    before: float
    after: float
    change: Interval
    factors: dict[str, Interval]
    """Factor → its part of the change; the estimates add up to ``change.estimate``."""
    column: str
    notes: tuple[str, ...]


def _cells(table: ProbeTable, column: Strings, values: list[str], quantity: Quantity, weight: Floats
           ) -> tuple[Floats, Floats, Floats]:
    """(share of slices (S,), violating share (S,), rate of the quantity (S, 2)); NaN where there are no items."""
    codes = np.searchsorted(values, column)
    count = np.bincount(codes * 2 + table.labels, weight, minlength=2 * len(values)).reshape(-1, 2)
    event = table.errors if quantity == "error_rate" else table.flagged
    hits = np.bincount(codes * 2 + table.labels, weight * event, minlength=2 * len(values)).reshape(-1, 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return count.sum(axis=1) / count.sum(), count[:, 1] / count.sum(axis=1), hits / count


def _split(before: tuple[Floats, Floats, Floats], after: tuple[Floats, Floats, Floats]) -> dict[str, float]:
    """Shapley values of the three factors; what one period lacks is taken from the other (no change)."""
    filled = [(np.where(np.isnan(a), np.nan_to_num(b), a), np.where(np.isnan(b), np.nan_to_num(a), b))
              for a, b in zip(before, after, strict=True)]

    def rate(changed: frozenset[str]) -> float:
        mix, label, model = (pair[name in changed] for name, pair in zip(FACTORS, filled, strict=True))
        return float((mix * ((1 - label) * model[:, 0] + label * model[:, 1])).sum())

    return shapley_values(FACTORS, rate)


def _weights(table: ProbeTable, rng: np.random.Generator | None) -> Floats:
    if rng is None:
        return np.ones(len(table))
    _, codes = np.unique(table.sources, return_inverse=True)
    units = int(codes.max()) + 1
    drawn: Floats = np.bincount(rng.integers(0, units, units), minlength=units)[codes].astype(np.float64)
    return drawn


def drift_between(before: ProbeTable, after: ProbeTable, *, column: str = "region", quantity: Quantity = "error_rate",
                  num_samples: int = 300, level: float = 0.95, seed: int = 0) -> Drift:
    """The change from ``before`` to ``after``, split; ``column`` says what a slice is."""
    for name, table in (("first", before), ("second", after)):
        if not len(table) or column not in table.slices:
            raise UsageError(f"expected items with a column {column!r} in the {name} run, found {sorted(table.slices)}")
    values = sorted(set(before.slices[column].tolist()) | set(after.slices[column].tolist()))
    rng, rows = np.random.default_rng(seed), []
    for sample in range(num_samples + 1):
        source = None if sample == 0 else rng
        pair = [_cells(table, table.slices[column], values, quantity, _weights(table, source))
                for table in (before, after)]
        parts = _split(pair[0], pair[1])
        rows.append([parts[name] for name in FACTORS])
    parts_BF = np.asarray(rows)
    change = np.column_stack([parts_BF, parts_BF.sum(axis=1)])
    only = [text for text, here, there in (("second", after, before), ("first", before, after))
            if set(here.slices[column].tolist()) - set(there.slices[column].tolist())]
    notes = tuple(f"The {text} period has values of {column} that the other lacks: their rates are taken not to have "
                  "changed." for text in only)
    event = (lambda table: table.errors) if quantity == "error_rate" else (lambda table: table.flagged)
    return Drift(
        quantity=quantity, before=float(event(before).mean()), after=float(event(after).mean()),
        change=_interval(change[:, -1], level), column=column, notes=notes,
        factors={name: _interval(change[:, place], level) for place, name in enumerate(FACTORS)},
    )


def _interval(values: Floats, level: float) -> Interval:
    tail = (1 - level) / 2
    low, high = np.quantile(values[1:], [tail, 1 - tail]) if len(values) > 1 else (np.nan, np.nan)
    return Interval(estimate=float(values[0]), low=float(low), high=float(high), level=level,
                    method="cluster bootstrap", n_clusters=len(values) - 1)
