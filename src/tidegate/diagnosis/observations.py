"""Observations: what can be said of each error, as yes, no or not known, beside how often chance alone says yes.

Enters: a ``ProbeTable``. Leaves: ``Observations``: for each of E errors a row of values in {0, 1, NaN} and the rate at
which an error without that cause would show the same. The rate comes from right items of the same verdict at the same
margin (a probe that takes evidence away turns every flagged item, and so "cures" any false alarm; one that adds some
turns every item that was let pass), plus what the null probe cures.

Names: ``cure:PROBE``, ``still:PROBE`` (nothing but noise happened), and features of their own (``note``, ``far``,
``noisy``, ``perceived``, ``peers``, ``confident``, ``locale``, ``clause``, ``stopped``, ``duplicate``, ``threshold``,
``translation``).

Shape legend: N items, E errors, O observations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from tidegate.diagnosis.signatures import (
    Effect,
    control_pool,
    effect_of,
    log_odds,
    margins,
    matched_cells,
    matched_rate,
    null_noise,
)
from tidegate.diagnosis.table import Floats, ProbeTable, Strings
from tidegate.diagnosis.thresholds import best_slice_thresholds

__all__ = ["Observations", "concentrated", "observe"]

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
STILL = ("audio_swap", "vision_swap", "text_swap", "frames_shuffled")
LOCALES = ("language", "region")
NEAR_DUPLICATE = 0.95
_LOW, _HIGH = 0.01, 0.95


@dataclass(frozen=True, kw_only=True, eq=False)
class Observations:
    """What was seen of E errors."""

    rows: Ints
    """Row of each error in the table."""
    names: tuple[str, ...]
    values_EO: Floats
    """1 yes, 0 no, NaN not known."""
    chance_EO: Floats
    """Rate of yes in an error without the cause in question."""
    together: tuple[tuple[str, str, int, float], ...] = ()
    """(probe, probe, errors that only the two together cure, as many by chance), where it is clearly more."""
    threshold_column: str = ""
    """Metadata column of the slice thresholds behind ``threshold``; empty: one threshold for all."""

    def column(self, name: str) -> Floats:
        """Values of one observation; NaN everywhere if it was not made."""
        if name not in self.names:
            return np.full(len(self.rows), np.nan)
        values: Floats = self.values_EO[:, self.names.index(name)]
        return values


@dataclass(frozen=True, kw_only=True, eq=False)
class _Column:
    values: Floats
    chance: Floats


def observe(table: ProbeTable, *, thresholds: tuple[str, Floats] | None = None) -> Observations:
    """All observations that the table allows; ``thresholds`` are cross-fitted here unless given."""
    rows = np.flatnonzero(table.errors)
    name, fitted = best_slice_thresholds(table) if thresholds is None else thresholds
    cures, together = _cures(table, fitted)
    columns = {**cures, **_still(table), **_features(table)}
    names = tuple(columns)
    parts = [[column.values[rows], column.chance[rows]] for column in columns.values()]
    stacked = np.asarray(parts).reshape(len(names), 2, len(rows)).transpose(1, 2, 0)
    return Observations(rows=rows, names=names, values_EO=stacked[0], chance_EO=np.clip(stacked[1], _LOW, _HIGH),
                        together=together, threshold_column=name)


def _cures(table: ProbeTable, fitted: Floats
           ) -> tuple[dict[str, _Column], tuple[tuple[str, str, int, float], ...]]:
    cells, pool = matched_cells(table), control_pool(table)
    sides = _side_cells(table, cells)
    effects = {name: effect_of(table, scores) for name, scores in table.probes.items()}
    null = effects.get("null")
    noise = np.zeros(len(table))
    if null is not None:
        lucky = matched_rate(null.cured, table.errors & null.ran, cells[:3])
        noise = np.maximum(0.0, lucky - matched_rate(null.broken, pool & null.ran, cells[:3]))
    columns = {}
    effects["threshold"] = effect_of(table, table.scores, fitted)
    for name, effect in effects.items():
        if name != "null":
            columns["threshold" if name == "threshold" else f"cure:{name}"] = _Column(
                values=np.where(effect.ran, effect.cured.astype(float), np.nan),
                chance=matched_rate(effect.broken, pool & effect.ran, sides) + (noise if name != "threshold" else 0.0),
            )
    columns |= _only_translated(table, effects)
    return columns, _credit_pairs(table, effects, columns)


def _credit_pairs(table: ProbeTable, effects: Mapping[str, Effect], columns: dict[str, _Column]
                  ) -> tuple[tuple[str, str, int, float], ...]:
    """What only two probes together cure (``a+b``) counts as cured by both, where that is more than chance."""
    sides, pool = _side_cells(table, matched_cells(table)), control_pool(table)
    found = []
    for name in [key for key in effects if "+" in key]:
        column = columns.pop(f"cure:{name}")
        singles = [part for part in name.split("+") if part in effects]
        alone = np.any([effects[part].cured for part in singles], axis=0)
        upset = np.any([effects[part].broken for part in singles], axis=0)
        new = effects[name].cured & ~alone
        chance = matched_rate(effects[name].broken & ~upset, pool & effects[name].ran, sides)
        expected = float(chance[table.errors & effects[name].ran].sum())
        if new.sum() >= 5 and new.sum() - expected > 3.0 * np.sqrt(expected + 1.0):
            first, second = name.split("+")
            found.append((first, second, int(new.sum()), expected))
            for part in singles:
                values = columns[f"cure:{part}"].values
                columns[f"cure:{part}"] = _Column(values=np.where(new, 1.0, values),
                                                  chance=np.maximum(columns[f"cure:{part}"].chance, column.chance))
    return tuple(sorted(found, key=lambda pair: pair[3] - pair[2]))


def _only_translated(table: ProbeTable, effects: Mapping[str, Effect]) -> dict[str, _Column]:
    """Cured by the translated truth and not by the truth itself: understood sound, not understood language."""
    if "translated_gold" not in effects:
        return {}
    ran, cured = effects["translated_gold"].ran, effects["translated_gold"].cured.copy()
    broken = effects["translated_gold"].broken.copy()
    for name in ("transcript_gold", "text_gold"):
        if name in effects:
            cured &= ~effects[name].cured
            broken &= ~effects[name].broken
    cells = matched_cells(table)
    chance = matched_rate(broken, control_pool(table) & ran, _side_cells(table, cells))
    return {"translation": _Column(values=np.where(ran, cured.astype(float), np.nan), chance=chance)}


def _side_cells(table: ProbeTable, cells: Sequence[Ints]) -> list[Ints]:
    """Nested cells by verdict instead of label: all, verdict, verdict and margin decile of the errors."""
    decile, side = cells[2] % 10, table.flagged.astype(np.int64)
    return [cells[0], side, side * 10 + decile]


def _still(table: ProbeTable) -> dict[str, _Column]:
    """Whether a change left the score where it was, but for noise."""
    noise = null_noise(table)
    reach = 2.0 * noise if np.isfinite(noise) else 0.1
    cells, right = matched_cells(table)[:3], ~table.errors
    columns = {}
    for name in STILL:
        if name in table.probes:
            move = effect_of(table, table.probes[name]).move
            known, still = np.isfinite(move), np.abs(np.nan_to_num(move, nan=np.inf)) <= reach
            columns[f"still:{name}"] = _Column(
                values=np.where(known, still.astype(float), np.nan),
                chance=matched_rate(still, right & known, cells),
            )
    return columns


def _features(table: ProbeTable) -> dict[str, _Column]:
    cells, right = matched_cells(table)[:2], ~table.errors
    columns: dict[str, _Column] = {}

    def add(name: str, yes: Bools, known: Bools, chance: Floats | None = None) -> None:
        rate = matched_rate(yes, right & known, cells) if chance is None else chance
        columns[name] = _Column(values=np.where(known, yes.astype(float), np.nan), chance=rate)

    everywhere = np.ones(len(table), dtype=np.bool_)
    if table.notes is not None:
        add("note", table.notes != "", everywhere)
    if table.escalated is not None:
        add("stopped", ~table.escalated, everywhere)
    for name, feature, level in (("far", "knn_distance", 0.95), ("noisy", "noise_level", 0.9)):
        if feature in table.features:
            values = table.features[feature]
            known = np.isfinite(values)
            if (known & right).sum() >= 10:
                add(name, np.nan_to_num(values, nan=-np.inf) > np.quantile(values[known & right], level), known)
    if "duplicate_similarity" in table.features:
        values = table.features["duplicate_similarity"]
        add("duplicate", np.nan_to_num(values, nan=-1.0) >= NEAR_DUPLICATE, np.isfinite(values))
    if "perceived" in table.features:
        values = table.features["perceived"]
        add("perceived", np.nan_to_num(values, nan=0.0) >= 0.5, np.isfinite(values) & (table.labels == 1))
    if "peer_score" in table.features:
        columns["peers"] = _peers(table, cells)
    columns["confident"] = _confident(table)
    columns["locale"] = _located(table, LOCALES, _unperceived(table))
    columns["clause"] = _located(table, ("clause",), everywhere)
    return {name: column for name, column in columns.items() if np.isfinite(column.values).any()}


def _peers(table: ProbeTable, cells: list[Ints]) -> _Column:
    """Independent models speak against the label. Hard items are hard for peers too: chance is widened."""
    values = table.features["peer_score"]
    known = np.isfinite(values)
    against = known & ((np.nan_to_num(values, nan=0.5) >= 0.5) != (table.labels == 1))
    chance = np.clip(0.05 + 2.5 * matched_rate(against, ~table.errors & known, cells), 0.05, 0.6)
    return _Column(values=np.where(known, against.astype(float), np.nan), chance=chance)


def _confident(table: ProbeTable) -> _Column:
    """Farther from the threshold than half of the right items that were judged alike."""
    margin, flagged = margins(table), table.flagged
    yes = np.zeros(len(table), dtype=np.bool_)
    for side in (True, False):
        right = margin[(flagged == side) & ~table.errors & np.isfinite(margin)]
        if len(right):
            yes |= (flagged == side) & (np.nan_to_num(margin, nan=-1.0) > np.median(right))
    known = np.isfinite(margin)
    return _Column(values=np.where(known, yes.astype(float), np.nan), chance=np.full(len(table), 0.3))


def _unperceived(table: ProbeTable) -> Bools:
    """Items that the true transcript or text does not put right: what is left after perception is accounted for."""
    counted = np.ones(len(table), dtype=np.bool_)
    for name in ("transcript_gold", "text_gold"):
        if name in table.probes:
            counted &= ~effect_of(table, table.probes[name]).cured
    return counted


def concentrated(events: Bools, counted: Bools, column: Strings, *, level: float = 0.05) -> dict[str, float]:
    """Values of a column in which events are more frequent than elsewhere, with their p-values (Holm-corrected)."""
    names, codes = np.unique(column, return_inverse=True)
    total, hits = int(counted.sum()), int((events & counted).sum())
    found = []
    for code, name in enumerate(names.tolist()):
        inside = counted & (codes == code)
        n, k = int(inside.sum()), int((events & inside).sum())
        rest = (hits - k) / (total - n) if total > n else 1.0
        if name and n >= 5 and k >= 3 and k / n > 1.3 * rest:
            found.append((float(stats.binom.sf(k - 1, n, min(0.99, max(rest, 1.0 / max(total, 1))))), name))
    tested = sum(1 for name in names.tolist() if name)
    kept: dict[str, float] = {}
    for place, (p, name) in enumerate(sorted(found)):
        if p * (tested - place) > level:
            break
        kept[name] = p * (tested - place)
    return kept


def _located(table: ProbeTable, columns: tuple[str, ...], counted: Bools) -> _Column:
    """The item lies in a value of the column where errors gather; by chance: as often as errors lie there anyway."""
    yes, known = np.zeros(len(table), dtype=np.bool_), np.zeros(len(table), dtype=np.bool_)
    for name in columns:
        column = table.slices.get(name)
        if column is not None:
            places = concentrated(table.errors, counted, column)
            yes |= np.isin(column, list(places))
            known |= column != ""
    share = float(yes[table.errors & known].mean()) if (table.errors & known).any() else 0.0
    return _Column(values=np.where(known, yes.astype(float), np.nan), chance=np.full(len(table), share))


def scale_of(table: ProbeTable) -> float:
    """Spread of the run's scores in log-odds; 1 when it has none."""
    values = log_odds(table, table.scores)
    spread = float(np.nanstd(values)) if np.isfinite(values).any() else 1.0
    return spread if spread > 0 else 1.0
