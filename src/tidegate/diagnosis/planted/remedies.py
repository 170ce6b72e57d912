"""Interventions that need no training, really carried out on a planted world.

Enters: a ``Deployed`` system. Leaves: a changed copy. What an intervention must learn (a threshold, a column, which
labels to look at) it learns on the recent sample; what it changes it changes for all items, right ones too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from tidegate.diagnosis.planted.fault import DEPLOYED
from tidegate.diagnosis.planted.items import Items
from tidegate.diagnosis.planted.nets import fingerprint
from tidegate.diagnosis.planted.observe import Pipeline
from tidegate.diagnosis.planted.probing import more_frames, peer_scores, restored
from tidegate.diagnosis.planted.world import (
    Deployed,
    Outcome,
    Split,
    best_threshold,
    column_of,
    f1_of,
    noise_level,
    observed,
    outcome,
    select_threshold,
    view,
)

__all__ = ["PLAIN", "Remedy", "logit"]

Array = npt.NDArray[Any]
Remedy = Callable[[Deployed, np.random.Generator], Deployed]
COLUMNS = ("region", "language", "surface", "period", "clause")


def logit(scores: Array) -> Array:
    """Log-odds of probabilities, kept finite."""
    inside = np.clip(scores, 1e-5, 1 - 1e-5)
    odds: Array = np.log(inside) - np.log1p(-inside)
    return odds


def _pipelines(change: Callable[[Pipeline], Pipeline]) -> Remedy:
    """An intervention that changes how deployed items are observed; thresholds stay."""

    def remedy(system: Deployed, rng: np.random.Generator) -> Deployed:
        changed = system.copy()
        for name in DEPLOYED:
            changed.setup.change(name, pipeline=change(changed.setup.splits[name].pipeline))
        return changed

    return remedy


def _lower_tau(system: Deployed, rng: np.random.Generator) -> Deployed:
    """One tau for all that lets nearly all of what the large stage flags through."""
    changed = system.copy()
    wanted, base = _wanted(system)
    tau = float(np.quantile(base[wanted], 0.005)) if wanted.any() else 0.0
    changed.tau = min(system.tau, tau)
    changed.tau_of = {key: min(value, tau) for key, value in system.tau_of.items()}
    return changed


def _wanted(system: Deployed) -> tuple[Array, Array]:
    """Recent items that the large stage rightly flags, and the base stage's scores."""
    found, labels = outcome(system, "recent"), system.setup.splits["recent"].labels
    return (np.nan_to_num(found.large) >= found.thresholds) & (labels == 1), np.nan_to_num(found.base)


def _lower_tau_slice(system: Deployed, rng: np.random.Generator) -> Deployed:
    """Lower taus in those values of one column that lose more than they should."""
    changed, split, found = system.copy(), system.setup.splits["recent"], outcome(system, "recent")
    wanted, base = _wanted(system)
    lost = wanted & ~found.escalated
    options: dict[str, dict[tuple[str, int], float]] = {}
    regained = {}
    for column in COLUMNS:
        values = column_of(split, column)
        low = [int(v) for v in np.unique(values) if lost[values == v].sum() > 0.06 * wanted[values == v].sum() + 1]
        options[column] = {(column, v): float(np.quantile(base[wanted & (values == v)], 0.005)) for v in low}
        regained[column] = sum(int(lost[values == v].sum()) for v in low) - 0.02 * len(low)
    changed.tau_of |= options[max(regained, key=lambda name: regained[name])]
    return changed


def _sliced(system: Deployed, columns: tuple[str, ...], bins: Array | None = None) -> dict[tuple[str, int], float]:
    """Thresholds by value of the column that does best when half of the sources judge the other half."""
    split, found = system.setup.splits["recent"], outcome(system, "recent")
    half = split.items.source % 2 == 0
    best: tuple[float, dict[tuple[str, int], float]] = (f1_of(found.flagged, split.labels) + 0.002, {})
    for column in columns:
        values = column_of(split, column, bins)
        flagged = found.flagged.copy()
        for fitted, judged in ((half, ~half), (~half, half)):
            for value, threshold in _fitted(found, split, values, fitted).items():
                rows = judged & (values == value)
                flagged[rows] = found.escalated[rows] & (np.nan_to_num(found.large[rows]) >= threshold)
        if (score := f1_of(flagged, split.labels)) > best[0]:
            all_rows = np.ones(len(split), bool)
            found_here = _fitted(found, split, values, all_rows)
            best = (score, {(column, value): threshold for value, threshold in found_here.items()})
    return best[1]


def _fitted(found: Outcome, split: Split, values: Array, rows: Array) -> dict[int, float]:
    """Threshold of each value with 20 items of each label or more, drawn towards the present one when few."""
    fitted = {}
    for value in np.unique(values[rows]):
        inside = rows & (values == value) & found.escalated & np.isfinite(found.large)
        positives = int(split.labels[inside].sum())
        if min(positives, inside.sum() - positives) >= 20:
            own, now = best_threshold(found.large[inside], split.labels[inside]), found.thresholds[inside].mean()
            weight = positives / (positives + 15)
            odds = weight * logit(np.array(own)) + (1 - weight) * logit(np.array(now))
            fitted[int(value)] = float(special.expit(odds))
    return fitted


def _thresholds(*columns: str) -> Remedy:
    def remedy(system: Deployed, rng: np.random.Generator) -> Deployed:
        changed = system.copy()
        changed.threshold_of |= _sliced(system, columns)
        return changed

    return remedy


def _quality_gate(system: Deployed, rng: np.random.Generator) -> Deployed:
    """Noisy items have a threshold of their own."""
    changed = system.copy()
    level = noise_level(observed(system.setup, "recent"))
    changed.noise_edges = np.quantile(level, [0.5, 0.8, 0.93])
    changed.threshold_of |= _sliced(system, ("noise_bin",), np.digitize(level, changed.noise_edges))
    return changed


def _design(scores: Array, items: Items) -> Array:
    regions, surfaces = np.eye(8)[items.region], np.eye(5)[items.surface]
    return np.column_stack([logit(scores), np.ones(len(scores)), regions, surfaces, np.eye(2)[items.period]])


def _calibrate(system: Deployed, rng: np.random.Generator) -> Deployed:
    """Platt scaling with an offset for each region, surface and period; one threshold afterwards."""
    changed, split, found = system.copy(), system.setup.splits["recent"], outcome(system, "recent")
    ran = np.isfinite(found.large) & found.escalated
    held = logit(found.thresholds) - logit(np.array(system.threshold))
    design, labels = _design(found.large[ran], split.items.rows(ran)), split.labels[ran]
    weights = np.zeros(design.shape[1])
    for _ in range(12):
        p = special.expit(design @ weights)
        ridge = np.diag([0.01, 0.01, *[2.0] * (design.shape[1] - 2)])
        hessian = design.T @ (design * (p * (1 - p))[:, None]) + ridge
        weights = weights + np.linalg.solve(hessian, design.T @ (labels - p) - ridge @ weights)
    before = system.calibration
    changed.calibration = lambda scores, items: special.expit(
        _design(scores if before is None else before(scores, items), items) @ weights
    )
    if held.any():
        changed.threshold_of = {}
    select_threshold(changed, "recent")
    return changed


def _relabel(system: Deployed, rng: np.random.Generator) -> Deployed:
    """The tenth of the labels that the model and an independent one speak against most is looked at again."""
    changed = system.copy()
    for name in DEPLOYED:
        split = changed.setup.splits[name]
        model, peer = np.nan_to_num(outcome(system, name).large, nan=0.5), peer_scores(system.setup, split)
        against = np.minimum(np.abs(model - split.labels), np.abs(peer - split.labels))
        looked = (against >= 0.5) & (against >= np.quantile(against, 0.9))
        changed.setup.change(name, labels=np.where(looked, split.items.label, split.labels))
    return changed


def _similarity_memory(system: Deployed, rng: np.random.Generator) -> Deployed:
    """A labelled memory of recent items: what lies among violating ones counts as violating."""
    changed, recent = system.copy(), system.setup.splits["recent"]
    known_NF, setup = fingerprint(observed(system.setup, "recent")).astype(np.float32), system.setup

    def memory(split: Split, rows: Array) -> Array:
        seen_NF = fingerprint(view(setup, split, rows)).astype(np.float32)
        nearest_NK = np.argpartition(-seen_NF @ known_NF.T, 8, axis=1)[:, 1 if split.name == "recent" else 0 : 8]
        share: Array = recent.labels[nearest_NK].mean(axis=1)
        return np.where(share >= 0.85, share, 0.0)

    changed.memory = memory
    return changed


PLAIN: dict[str, Remedy] = {
    "retry_serving": _pipelines(restored),
    "lower_tau": _lower_tau,
    "lower_tau_slice": _lower_tau_slice,
    "slice_threshold": _thresholds("surface", "region", "period", "language"),
    "locale_threshold": _thresholds("region", "language"),
    "clause_threshold": _thresholds("clause"),
    "calibrate": _calibrate,
    "quality_gate": _quality_gate,
    "more_frames": _pipelines(more_frames),
    "frame_window": _pipelines(lambda pipeline: pipeline.with_(window=True)),
    "resolution": _pipelines(lambda pipeline: pipeline.with_(resolution=2 * pipeline.resolution)),
    "tiling": _pipelines(lambda pipeline: pipeline.with_(tiles=True)),
    "enhancement": _pipelines(lambda pipeline: pipeline.with_(cleaned=True)),
    "translate": _pipelines(lambda pipeline: pipeline.with_(transcript=1, translated=True)),
    "feed_text": _pipelines(lambda pipeline: pipeline.with_(transcript=1, sticker_true=True)),
    "policy_text": _pipelines(lambda pipeline: pipeline.with_(policy=1)),
    "relabel": _relabel,
    "similarity_memory": _similarity_memory,
}
"""Intervention → what it does."""
