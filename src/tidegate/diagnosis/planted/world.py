"""A world and the systems built in it: data of four splits, a cascade trained on it, its decisions and its quality.

Enters: a seed, and a ``Setup`` in which faults were planted. Leaves: a ``Deployed`` system, really trained on the
set-up's observations with thresholds selected on validation data, and its ``Outcome`` on any split. Faults of the
deployed pipeline show in the splits ``recent`` (a fresh labelled sample: it is diagnosed, and interventions may use
it) and ``test`` (which nothing but the measurement sees); ``train`` and ``validation`` are from before.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tidegate.diagnosis.planted import nets
from tidegate.diagnosis.planted.items import MUSIC, Items, draw_items, label_under
from tidegate.diagnosis.planted.nets import BaseNet, LargeNet, Recipe
from tidegate.diagnosis.planted.observe import Codebook, NoiseTable, Observation, Pipeline, observe

__all__ = ["SIZES", "Deployed", "Outcome", "Setup", "Split", "build", "f1_of", "outcome", "quality", "start", "view"]

Array = npt.NDArray[Any]
SIZES = {"train": 6144, "validation": 1500, "recent": 2400, "test": 2400}
RECALL_OF_BASE = 0.97
"""Share of what the large stage would flag that the base stage must let through, on validation data."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Items, their noise, how they are observed, and the labels that the team has for them."""

    name: str
    items: Items
    noise: tuple[NoiseTable, NoiseTable]
    pipeline: Pipeline
    labels: Array
    rough_NR: Array
    """Noise of the base stage's cheap look."""

    def __len__(self) -> int:
        return len(self.items)


@dataclass(kw_only=True, eq=False)
class Setup:
    """All that a system is made of, before training. Injectors change it in place."""

    seed: int
    book: Codebook
    splits: dict[str, Split]
    recipe: Recipe
    base_labels: Array
    """What the base stage is trained towards."""
    retrain_large: bool = False
    """Whether a fault touches the training of the large stage; if not, the fault-free model is the same one."""
    retrain_base: bool = False
    damage: list[Callable[[Deployed], None]] = field(default_factory=list)
    """Changes of the trained system: weights, thresholds."""

    def change(self, name: str, **changes: object) -> None:
        """Replace fields of one split."""
        self.splits[name] = replace(self.splits[name], **changes)  # type: ignore[arg-type]

    def copy(self) -> Setup:
        """A set-up that can be changed alone."""
        return replace(self, splits=dict(self.splits), damage=list(self.damage))


@dataclass(kw_only=True, eq=False)
class Deployed:
    """Models and what their scores are held against."""

    setup: Setup
    large: LargeNet
    base: BaseNet
    tau: float
    threshold: float
    tau_of: dict[tuple[str, int], float] = field(default_factory=dict)
    """(column, value) → another tau."""
    threshold_of: dict[tuple[str, int], float] = field(default_factory=dict)
    """(column, value) → another threshold."""
    calibration: Callable[[Array, Items], Array] | None = None
    """Applied to the large stage's scores."""
    memory: Callable[[Split, Array], Array] | None = None
    """Scores of the similarity memory at some rows; the higher of both counts."""
    noise_edges: Array | None = None
    """Edges of the noise bins that column ``noise_bin`` of ``threshold_of`` speaks of."""

    def copy(self) -> Deployed:
        """A system that can be trained on alone."""
        return replace(
            self, setup=self.setup.copy(), large=copy.deepcopy(self.large), base=copy.deepcopy(self.base),
            tau_of=dict(self.tau_of), threshold_of=dict(self.threshold_of),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """Scores of a split's items, NaN where serving failed."""

    scores: Array
    """That decided. Of an item stopped at the base stage: as far below the threshold as it was below tau."""
    thresholds: Array
    base: Array
    large: Array
    escalated: Array

    @property
    def flagged(self) -> Array:
        """Whether each item was flagged."""
        return np.nan_to_num(self.scores, nan=-1.0) >= self.thresholds


def view(setup: Setup, split: Split, rows: Array, pipeline: Pipeline | None = None) -> Observation:
    """Observe some items of a split, through its own pipeline unless another is given."""
    return observe(setup.book, split.items, split.pipeline if pipeline is None else pipeline, split.noise, rows)


def seen_by_large(setup: Setup, seen: Observation) -> dict[str, Tensor]:
    """Tensors of the large stage."""
    return nets.tensors(seen, setup.book.tone_AE[MUSIC])


@lru_cache(maxsize=4)
def start(seed: int, scale: float = 1.0) -> Setup:
    """The set-up of a world without a fault. Do not change it: ``copy`` it."""
    torch.set_num_threads(1)
    book, splits = Codebook.of_seed(seed), {}
    for place, (name, size) in enumerate(SIZES.items()):
        rng, count = np.random.default_rng([seed, 23, place]), int(size * scale)
        items = draw_items(rng, count, prefix=f"{place}{seed:03d}")
        items.source[:] += place * 1_000_000
        pipeline = Pipeline.standard(count)
        if name == "train":
            pipeline = pipeline.with_(policy=(rng.random(count) < 0.75).astype(np.int64))
            heard = rng.random(count) < 0.2
            pipeline = pipeline.with_(heard, transcript=1).with_(heard & (rng.random(count) < 0.5), translated=True)
        wrong = rng.random(count) < 0.008
        splits[name] = Split(
            name=name, items=items, noise=(NoiseTable.draw(rng, count), NoiseTable.draw(rng, count)), pipeline=pipeline,
            labels=np.where(wrong, 1 - items.label, items.label), rough_NR=rng.normal(size=(count, 122)),
        )  # fmt: skip
    items = splits["train"].items
    splits["train"] = replace(splits["train"], labels=label_under(items, splits["train"].pipeline.policy))
    return Setup(seed=seed, book=book, splits=splits, recipe=Recipe(seed=seed), base_labels=items.label.copy())


def observed(setup: Setup, name: str) -> Observation:
    """A whole split as its pipeline shows it."""
    return _observed(setup.book, setup.splits[name])


@lru_cache(maxsize=8)
def _observed(book: Codebook, split: Split) -> Observation:
    return observe(book, split.items, split.pipeline, split.noise, np.arange(len(split)))


def train_large(setup: Setup, net: LargeNet, recipe: Recipe) -> None:
    """Train on the set-up's training split."""
    net.has_early, net.has_order = recipe.early_fusion or net.has_early, not recipe.orderless
    nets.train(net, seen_by_large(setup, observed(setup, "train")), setup.splits["train"].labels, recipe)


def train_base(setup: Setup, net: BaseNet, recipe: Recipe, target: Array | None = None) -> None:
    """Train the base stage towards its labels, or towards ``target``."""
    split = setup.splits["train"]
    seen = nets.cheap_look(observed(setup, "train"), split.rough_NR)
    nets.train(net, seen, setup.base_labels if target is None else target, recipe)


def _fresh(setup: Setup) -> tuple[LargeNet, BaseNet]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setup.recipe.seed)
        return LargeNet(), BaseNet()


@lru_cache(maxsize=4)
def _clean_nets(seed: int, scale: float) -> tuple[LargeNet, BaseNet]:
    setup = start(seed, scale)
    large, base = _fresh(setup)
    train_large(setup, large, setup.recipe)
    train_base(setup, base, setup.recipe)
    return large, base


def build(setup: Setup, scale: float = 1.0) -> Deployed:
    """Train what the faults touch, select threshold and tau on validation data, then do the damage."""
    large, base = copy.deepcopy(_clean_nets(setup.seed, scale))
    fresh_large, fresh_base = _fresh(setup)
    if setup.retrain_large:
        train_large(setup, fresh_large, setup.recipe)
        large = fresh_large
    if setup.retrain_base:
        train_base(setup, fresh_base, setup.recipe)
        base = fresh_base
    system = Deployed(setup=setup, large=large, base=base, tau=0.0, threshold=0.5)
    select_threshold(system, "validation")
    select_tau(system, "validation")
    for damage in setup.damage:
        damage(system)
    return system


def select_threshold(system: Deployed, name: str) -> None:
    """The threshold with the best F1 of the large stage."""
    split = system.setup.splits[name]
    found = outcome(system, name)
    system.threshold = best_threshold(np.nan_to_num(found.large), split.labels)


def select_tau(system: Deployed, name: str, recall: float = RECALL_OF_BASE) -> None:
    """The highest tau that lets ``recall`` of what the large stage rightly flags through."""
    found, labels = outcome(system, name), system.setup.splits[name].labels
    wanted = (np.nan_to_num(found.large) >= found.thresholds) & (labels == 1)
    system.tau = float(np.quantile(found.base[wanted], 1 - recall)) if wanted.any() else 0.0


def best_threshold(scores: Array, labels: Array) -> float:
    """Threshold with the best F1; between two scores, so that equal scores elsewhere decide alike."""
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(labels[order])
    f1_N = 2 * hits / (np.arange(1, len(order) + 1) + labels.sum())
    place = int(f1_N.argmax())
    return float((ranked[place] + ranked[min(place + 1, len(ranked) - 1)]) / 2)


def column_of(split: Split, column: str, noise_bin: Array | None = None) -> Array:
    """Values of a metadata column; ``noise_bin`` is measured, not given."""
    return noise_bin if column == "noise_bin" and noise_bin is not None else getattr(split.items, column)  # type: ignore[no-any-return]


def noise_level(seen: Observation) -> Array:
    """Estimated from the frames alone: how much neighbouring frames differ where nothing moves, shape (N,)."""
    change = np.abs(np.diff(seen.frames_NTD, axis=1)) if seen.frames_NTD.shape[1] > 1 else np.abs(seen.frames_NTD)
    there = seen.there_NT[:, 1:] if seen.frames_NTD.shape[1] > 1 else seen.there_NT
    weights = there[:, :, None] * np.ones(change.shape[-1])
    level: Array = np.quantile(np.where(weights > 0, change, np.nan).reshape(len(seen), -1)[:, :140], 0.5, axis=1)
    return np.nan_to_num(level)


def outcome(
    system: Deployed, name: str, *, rows: Array | None = None, pipeline: Pipeline | None = None,
    force_large: bool = False,
) -> Outcome:
    """Decide the items of a split. ``force_large``: whatever the base stage says."""
    setup, split = system.setup, system.setup.splits[name]
    seen = observed(setup, name) if rows is None and pipeline is None else None
    rows = np.arange(len(split)) if rows is None else rows
    pipeline = split.pipeline if pipeline is None else pipeline
    seen = view(setup, split, rows, pipeline) if seen is None else seen
    large = nets.score(system.large, seen_by_large(setup, seen))
    items = split.items.rows(rows)
    large = large if system.calibration is None else system.calibration(large, items)
    if system.memory is not None:
        large = np.maximum(large, system.memory(split, rows))
    base = nets.score(system.base, nets.cheap_look(seen, split.rough_NR[rows]))
    bins = None if system.noise_edges is None else np.digitize(noise_level(seen), system.noise_edges)
    tau = _by_value(np.full(len(rows), system.tau), system.tau_of, replace(split, items=items), bins)
    thresholds = _by_value(np.full(len(rows), system.threshold), system.threshold_of, replace(split, items=items), bins)
    escalated = (base >= tau) | force_large
    stopped = thresholds * np.minimum(base / np.maximum(tau, 1e-9), 0.999)
    failed = pipeline.failed[rows]
    return Outcome(
        scores=np.where(failed, np.nan, np.where(escalated, large, stopped)), thresholds=thresholds,
        base=np.where(failed, np.nan, base), large=np.where(failed, np.nan, large), escalated=escalated,
    )  # fmt: skip


def _by_value(values: Array, others: dict[tuple[str, int], float], split: Split, bins: Array | None) -> Array:
    for (column, value), other in others.items():
        values = np.where(column_of(split, column, bins) == value, other, values)
    return values


def f1_of(flagged: Array, labels: Array) -> float:
    """F1 of decisions."""
    hits = float((flagged & (labels == 1)).sum())
    return 2 * hits / max(1.0, float(flagged.sum() + labels.sum()))


def quality(system: Deployed, name: str = "test") -> float:
    """F1 of the whole cascade on a split, held against the labels that the team has."""
    return f1_of(outcome(system, name).flagged, system.setup.splits[name].labels)
