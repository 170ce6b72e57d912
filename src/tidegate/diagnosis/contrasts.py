"""Contrasts: how far two groups of items differ in what probes and measurements say of them, cured or not.

Enters: a ``ProbeTable``. Leaves: one vector of fixed length, for the learned classifier. A cure is a score that crosses
its threshold; most of what a fault does to scores crosses none. So whole distributions are compared, by Welch's t on
a signed square-root scale: errors with right items of the same label, and the slice where errors are most in surplus
with everything outside it, its right items too (a fault that turns few verdicts still moves the scores of all items in
its slice). 0 where a group is too small to say anything.

Shape legend: N items, F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from tidegate.diagnosis.signatures import log_odds
from tidegate.diagnosis.table import Floats, ProbeTable, Strings
from tidegate.diagnosis.taxonomy import PROBES

__all__ = ["contrast_names", "contrasts", "worst_slice"]

Bools = npt.NDArray[np.bool_]
_COLUMNS = ("region", "language", "clause", "surface", "period")
_MEASURES = (
    "violating", "harmless", "margin_violating", "margin_harmless", "base_violating", "base_harmless", "gained",
    "escalated", "knn_distance", "peers_against", "perceived_violating", "perceived_harmless", "noise_level",
    "duplicate_similarity", "noted", "label", "threshold",
)  # fmt: skip
"""Of every item: its log-odds, the same over its threshold, those of the base stage, what the large stage adds to
them, and what was observed."""
_OF_PROBES = ("misses", "alarms", "slice", "slice_right", "slice_size")
_LEAST = 4
"""Items of a group under which it says nothing."""


@lru_cache(maxsize=1)
def contrast_names() -> tuple[str, ...]:
    """Names of the features, in order."""
    probes = tuple(f"{group}:{probe}" for probe in PROBES for group in _OF_PROBES)
    measured = tuple(f"{group}:{name}" for name in _MEASURES for group in ("slice", "slice_errors", "errors"))
    columns = tuple(f"{column}:{name}" for name in _MEASURES for column in _COLUMNS)
    return (*probes, *measured, *columns, "surplus:z", "surplus:share", "surplus:values",
            *(f"surplus:{column}" for column in _COLUMNS))


def contrasts(table: ProbeTable) -> Floats:
    """(F,) features of a run, by ``contrast_names``."""
    inside, where = worst_slice(table)
    values = [*_probe_contrasts(table, inside), *_measured_contrasts(table, inside), *where]
    features: Floats = np.clip(np.nan_to_num(np.asarray(values)), -8.0, 8.0)
    return features


def worst_slice(table: ProbeTable) -> tuple[Bools, list[float]]:
    """(items of the slice with most surplus errors; how much it stands out, its share, of how many values, of which
    column).

    A slice is one or several values of one metadata column: values are joined in order of their error rate for as long
    as the surplus grows more significant. No slice holds more than four fifths of the items.
    """
    errors, best = table.errors.astype(np.float64), 0.0
    inside, where = np.zeros(len(table), dtype=np.bool_), [0.0] * (3 + len(_COLUMNS))
    for name in _COLUMNS:
        column = table.slices.get(name)
        if column is None or not len(table):
            continue
        joined, z = _joined(errors, column)
        if z > best:
            best, inside = z, np.isin(column, joined)
            at = [float(name == other) for other in _COLUMNS]
            where = [float(np.sqrt(z)), float(inside.mean()), float(len(joined)), *at]
    return inside, where


def _joined(errors: Floats, column: Strings) -> tuple[list[str], float]:
    """(values whose union has the most significant surplus of errors, its z)."""
    names, codes = np.unique(column, return_inverse=True)
    sizes, hits = np.bincount(codes), np.bincount(codes, errors)
    order = [code for code in np.argsort(-(hits + 1.0) / (sizes + 10.0), kind="stable") if names[code] != ""]
    size, held, best, chosen = 0, 0.0, 0.0, 0
    total, length = errors.sum(), len(errors)
    for place, code in enumerate(order):
        size, held = size + int(sizes[code]), held + float(hits[code])
        if size > 0.8 * length:
            break
        ratio = size / (length - size)
        usual = (total - held) * ratio
        z = float((held - usual) / np.sqrt(usual * (1 + ratio) + 1.0))
        if size >= 30 and z > best:
            best, chosen = z, place + 1
    return [str(names[code]) for code in order[:chosen]], best


def _probe_contrasts(table: ProbeTable, inside: Bools) -> list[float]:
    """Movements towards the label: of errors against right items of their label, in the slice against outside it."""
    towards = np.where(table.labels == 1, 1.0, -1.0)
    before, wrong = log_odds(table, table.scores), table.errors
    found: list[float] = []
    for probe in PROBES:
        if probe not in table.probes:
            found += [0.0] * len(_OF_PROBES)
            continue
        moved = log_odds(table, table.probes[probe]) - before
        move, size = moved * towards, np.abs(moved)
        found += [_welch(move[wrong & of], move[~wrong & of]) for of in (table.labels == 1, table.labels == 0)]
        found += [_welch(move[of & inside], move[of & ~inside]) for of in (wrong, ~wrong)]
        found.append(_welch(size[inside], size[~inside]))
    return found


def _measured(table: ProbeTable) -> Mapping[str, Floats]:
    """Measure → value of each item; NaN where it has none."""
    unknown = np.full(len(table), np.nan)
    score, held = log_odds(table, table.scores), log_odds(table, table.thresholds)
    base = unknown if table.base_scores is None else log_odds(table, table.base_scores)
    violating = table.labels == 1
    observed = {name: table.features.get(name, unknown) for name in
                ("knn_distance", "noise_level", "duplicate_similarity", "peer_score", "perceived")}
    escalated = unknown if table.escalated is None else table.escalated.astype(np.float64)

    def split(name: str, values: Floats) -> dict[str, Floats]:
        return {f"{name}violating": np.where(violating, values, np.nan),
                f"{name}harmless": np.where(violating, np.nan, values)}

    return {
        **split("", score), **split("margin_", score - held), **split("base_", base),
        **split("perceived_", observed.pop("perceived")), "gained": np.where(escalated == 1.0, score - base, np.nan),
        "peers_against": np.abs(observed.pop("peer_score") - table.labels), "escalated": escalated, **observed,
        "noted": unknown if table.notes is None else (table.notes != "").astype(np.float64),
        "label": table.labels.astype(np.float64), "threshold": held,
    }


def _measured_contrasts(table: ProbeTable, inside: Bools) -> list[float]:
    measured, wrong = _measured(table), table.errors
    codes = {name: np.unique(column, return_inverse=True)[1] for name, column in table.slices.items()
             if name in _COLUMNS and len(table)}
    groups: list[float] = []
    columns: list[float] = []
    for name in _MEASURES:
        values = measured[name]
        groups += [_welch(values[inside], values[~inside]), _welch(values[wrong & inside], values[wrong & ~inside]),
                   _welch(values[wrong], values[~wrong])]
        columns += [_widest(values, codes[column]) if column in codes else 0.0 for column in _COLUMNS]
    return [*groups, *columns]


def _welch(these: Floats, those: Floats) -> float:
    """Welch's t of two groups, as signed square root; 0 if either is small."""
    these, those = these[np.isfinite(these)], those[np.isfinite(those)]
    if len(these) < _LEAST or len(those) < _LEAST:
        return 0.0
    gap = float(these.mean() - those.mean())
    spread = these.var(ddof=1) / len(these) + those.var(ddof=1) / len(those)
    return _root(gap / float(np.sqrt(spread + 1e-9)))


def _widest(values: Floats, codes: npt.NDArray[np.intp]) -> float:
    """Largest Welch's t, either way, of one value's items against all others; of values with at least 30 items."""
    known = np.isfinite(values)
    if known.sum() < 60:
        return 0.0
    x, code = values[known] - values[known].mean(), codes[known]
    counts = np.bincount(code).astype(np.float64)
    sums, squares = np.bincount(code, x), np.bincount(code, x**2)
    rest = len(x) - counts
    usable = (counts >= 30) & (rest >= 30)
    if not usable.any():
        return 0.0
    counts, rest, sums, squares = counts[usable], rest[usable], sums[usable], squares[usable]
    other, total = -sums, float((x**2).sum())
    inner = squares / counts - (sums / counts) ** 2
    outer = (total - squares) / rest - (other / rest) ** 2
    t = (sums / counts - other / rest) / np.sqrt(np.maximum(inner, 0) / counts + np.maximum(outer, 0) / rest + 1e-9)
    return _root(float(t[np.argmax(np.abs(t))]))


def _root(value: float) -> float:
    return float(np.sign(value) * np.sqrt(abs(value)))
