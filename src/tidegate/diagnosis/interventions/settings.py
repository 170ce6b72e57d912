"""Interventions that change thresholds, routing, labels or what is decided at all: no model is asked again.

Enters: a ``ProbeTable``. Leaves: ``Change``. Thresholds are fitted on other sources than the item's own.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from tidegate.diagnosis.interventions.base import Change, Context, command
from tidegate.diagnosis.table import Floats, ProbeTable, Strings
from tidegate.diagnosis.taxonomy import FailureClass
from tidegate.diagnosis.thresholds import best_slice_thresholds, cross_fitted, folds_of

__all__ = ["Calibrate", "Deduplicate", "LowerTau", "QualityGate", "Relabel", "SimilarityMemory", "SliceThreshold"]

_C = FailureClass


def _plan_command(name: str, context: Context) -> str:
    return command("tidegate", "intervene", context.plan, "--only", name)


@dataclass(frozen=True, kw_only=True)
class _Setting:
    """What all of them share."""

    name: str
    summary: str
    classes: tuple[FailureClass, ...]
    cost: float = 1.0
    needs_training: bool = False

    def command(self, context: Context) -> str:
        """The command that carries it out from a plan."""
        return _plan_command(self.name, context)


@dataclass(frozen=True, kw_only=True)
class SliceThreshold(_Setting):
    """A threshold for each value of a metadata column."""

    columns: tuple[str, ...] = ()
    """Columns to choose from; empty: all of the table."""

    def apply(self, table: ProbeTable, suspected: Floats) -> Change | None:
        """Cross-fitted thresholds of the column that saves most; None if the table has no such column."""
        chosen = {name: column for name, column in table.slices.items() if not self.columns or name in self.columns}
        if not chosen:
            return None
        narrowed = dataclasses.replace(table, slices=chosen)
        name, thresholds = best_slice_thresholds(narrowed, with_global=not self.columns)
        return Change(scores=table.scores, thresholds=thresholds, detail=_described(name, table, thresholds))


def _described(name: str, table: ProbeTable, thresholds: Floats) -> str:
    changed = thresholds != table.thresholds
    if not changed.any():
        return "no other threshold pays"
    column = table.slices.get(name, np.full(len(table), "all"))
    parts = [f"{value} {float(np.median(thresholds[changed & (column == value)])):.3g}"
             for value in sorted(set(column[changed].tolist()))]
    return f"{name or 'one threshold'}: {', '.join(parts[:8])}{' ...' if len(parts) > 8 else ''}"


@dataclass(frozen=True, kw_only=True)
class Calibrate(_Setting):
    """Isotonic calibration of the scores in each slice, towards one scale."""

    min_items: int = 100
    """Smallest slice that gets a calibration of its own; the others share one."""

    def apply(self, table: ProbeTable, suspected: Floats) -> Change | None:
        """Cross-fitted isotonic scores of the best column, with one threshold fitted to them."""
        name, _ = best_slice_thresholds(table)
        column = table.slices.get(name, np.full(len(table), "all"))
        folds, known = folds_of(table.sources), np.isfinite(table.scores)
        scores = np.full(len(table), np.nan)
        for fold in np.unique(folds):
            mine, others = (folds == fold) & known, (folds != fold) & known
            if len(set(table.labels[others].tolist())) < 2:
                return None
            scores[mine] = _isotonic(table, others, np.full(len(table), "all"), mine)
            for value in np.unique(column[mine]):
                inside = others & (column == value)
                if inside.sum() >= self.min_items and len(set(table.labels[inside].tolist())) == 2:
                    part = mine & (column == value)
                    scores[part] = _isotonic(table, inside, column, part)
        start = np.full(len(table), 0.5)
        shifted = dataclasses.replace(table, scores=scores, thresholds=start)
        said = f"isotonic by {name}" if name else "isotonic, one scale for all"
        return Change(scores=scores, thresholds=cross_fitted(shifted, None), detail=said)


def _isotonic(table: ProbeTable, fitted_on: np.ndarray, column: Strings, rows: np.ndarray) -> Floats:
    from scipy.optimize import isotonic_regression

    order = np.argsort(table.scores[fitted_on], kind="stable")
    xs = table.scores[fitted_on][order]
    ys = isotonic_regression(table.labels[fitted_on][order].astype(np.float64)).x
    values: Floats = np.interp(table.scores[rows], xs, ys) + 1e-6 * table.scores[rows]
    return values


@dataclass(frozen=True, kw_only=True)
class LowerTau(_Setting):
    """Escalate more: the base stage's threshold goes down, everywhere or where drops gather."""

    by_slice: bool = False
    """Only in the values of a column where the suspected drops gather."""
    share: float = 0.9
    """Share of the suspected drops that the new tau lets through."""

    def apply(self, table: ProbeTable, suspected: Floats) -> Change | None:
        """Scores of the large stage for what the lower tau escalates; None without a cascade or its forced run."""
        forced = table.probes.get("force_full")
        if table.escalated is None or table.base_scores is None or forced is None:
            return None
        drops = table.errors & ~table.escalated & (suspected >= 0.3) & np.isfinite(forced)
        if not drops.any():
            return None
        tau = float(np.quantile(table.base_scores[drops], 1.0 - self.share))
        column, values = _where(table, drops) if self.by_slice else ("", [])
        scope = np.isin(table.slices[column], values) if column else np.ones(len(table), dtype=np.bool_)
        newly = scope & ~table.escalated & (table.base_scores >= tau)
        where = f" where {column} is {', '.join(values)}" if column else ""
        return Change(
            scores=np.where(newly, forced, table.scores), thresholds=table.thresholds,
            detail=f"tau {tau:.3g}{where}: {int(newly.sum())} items more go to the large stage",
        )


def _where(table: ProbeTable, drops: np.ndarray) -> tuple[str, list[str]]:
    """(column, values) that hold most drops in the fewest items; ("", []) without columns.

    A value that only violating items have is known after the verdict, not before: it cannot steer one.
    """
    best: tuple[float, str, list[str]] = (0.0, "", [])
    for name, column in table.slices.items():
        values, codes = np.unique(column, return_inverse=True)
        hits = np.bincount(codes, drops, minlength=len(values))
        rates = hits / np.bincount(codes, minlength=len(values))
        positives = np.bincount(codes, table.labels, minlength=len(values))
        both = np.minimum(positives, np.bincount(codes, minlength=len(values)) - positives) >= 5
        dense = (hits >= 3) & (rates > 1.5 * drops.mean()) & (values != "") & both
        chosen = [str(value) for value in values[dense]]
        inside = np.isin(column, chosen)
        gain = float(drops[inside].sum() / max(1, drops.sum()) - inside.mean()) if chosen else 0.0
        best = max(best, (gain, name, chosen))
    return best[1], best[2]


@dataclass(frozen=True, kw_only=True)
class Relabel(_Setting):
    """People look again at labels that all evidence speaks against."""

    def apply(self, table: ProbeTable, suspected: Floats) -> Change | None:
        """Suspected labels are turned; what a second look would leave alone is what the posterior says."""
        turned = table.errors & (suspected >= 0.5) & np.isfinite(table.scores)
        if not turned.any():
            return None
        labels = np.where(turned, 1 - table.labels, table.labels)
        return Change(scores=table.scores, thresholds=table.thresholds, labels=labels,
                      detail=f"{int(turned.sum())} labels to look at again")


@dataclass(frozen=True, kw_only=True)
class QualityGate(_Setting):
    """Items too corrupt to judge go to a person instead of being decided."""

    level: float = 0.95
    """Quantile of the noise of right items above which an item is not decided."""

    def apply(self, table: ProbeTable, suspected: Floats) -> Change | None:
        """The run without the items above the noise level; None if noise was not measured."""
        noise = table.features.get("noise_level")
        if noise is None or not np.isfinite(noise).any():
            return None
        limit = float(np.nanquantile(noise[~table.errors], self.level)) if (~table.errors).any() else np.inf
        kept = ~(np.nan_to_num(noise, nan=-np.inf) > limit)
        return Change(scores=table.scores, thresholds=table.thresholds, kept=kept,
                      detail=f"noise over {limit:.3g}: {int((~kept).sum())} items to people")


@dataclass(frozen=True, kw_only=True)
class Deduplicate(_Setting):
    """Near-duplicates of other splits leave the run: figures become honest, the model does not change."""

    def apply(self, table: ProbeTable, suspected: Floats) -> Change | None:
        """The run without duplicates; None if likeness was not measured."""
        alike = table.features.get("duplicate_similarity")
        if alike is None:
            return None
        kept = ~(np.nan_to_num(alike) >= 0.95)
        return Change(scores=table.scores, thresholds=table.thresholds, kept=kept,
                      detail=f"{int((~kept).sum())} items are near-duplicates of another split's")


@dataclass(frozen=True, kw_only=True)
class SimilarityMemory(_Setting):
    """Labelled errors are remembered; an item close to one of them takes its label."""

    neighbours: int = 3
    """Remembered items that must agree."""
    closeness: float = 0.9
    """Least cosine similarity of a memory that counts."""

    def apply(self, table: ProbeTable, suspected: Floats) -> Change | None:
        """Scores corrected by memories of other sources; None without embeddings."""
        if table.embeddings_ND is None or not table.errors.any():
            return None
        unit = table.embeddings_ND / np.maximum(np.linalg.norm(table.embeddings_ND, axis=1, keepdims=True), 1e-12)
        scores, folds = table.scores.copy(), folds_of(table.sources)
        for fold in np.unique(folds):
            mine, memory = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
            count = min(self.neighbours, len(memory))
            if not count:
                continue
            alike = unit[mine] @ unit[memory].T
            best = np.argpartition(-alike, count - 1, axis=1)[:, :count]
            close = np.take_along_axis(alike, best, axis=1).min(axis=1) >= self.closeness
            known = table.labels[memory][best].mean(axis=1)
            sure = close & ((known == 0) | (known == 1)) & (table.errors[memory][best].any(axis=1))
            scores[mine[sure]] = known[sure]
        changed = int((scores != table.scores).sum())
        return Change(scores=scores, thresholds=table.thresholds, detail=f"{changed} items take a remembered label")
