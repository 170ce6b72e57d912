"""Injectors that a classifier may be fitted on, three more a class: thresholds, weights, routing, labels, serving.

Enters: a ``Setup``, a slice, a severity and a generator. Leaves: the set-up with the fault in it. As in
``varied_content``, mechanisms of a class differ in where the fault lies and whom it befalls; nothing of ``held_out`` is
used here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.diagnosis.planted import items as content
from tidegate.diagnosis.planted.fault import DEPLOYED, Injector, Place, change_deployed, hit
from tidegate.diagnosis.planted.items import Items
from tidegate.diagnosis.planted.nets import TOWER
from tidegate.diagnosis.planted.world import Deployed, Setup, outcome
from tidegate.diagnosis.taxonomy import FailureClass

__all__ = ["INJECTORS"]

Rng = np.random.Generator
Scores = npt.NDArray[Any]


def thrifty_tau(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """To save calls of the large stage, tau was put up for everything."""
    lost = (0.08, 0.16, 0.3)[severity - 1]

    def damage(system: Deployed) -> None:
        found, labels = outcome(system, "validation"), setup.splits["validation"].labels
        wanted = found.flagged & (labels == 1)
        if wanted.any():
            system.tau = max(system.tau, float(np.quantile(found.base[wanted], lost)))

    setup.damage.append(damage)


def deaf_base(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The base stage's cheap look lost its sounds or its texts, everywhere: what is only heard or read stops there."""
    noise = (2.5, 4.0, 8.0)[severity - 1]
    first = setup.splits["recent"].rough_NR.shape[1]
    columns = slice(first - 82, first - 48) if rng.random() < 0.5 else slice(first - 48, first)
    for name in DEPLOYED:
        rough_NR = setup.splits[name].rough_NR.copy()
        rough_NR[:, columns] *= noise
        setup.change(name, rough_NR=rough_NR)


def tau_of_languages(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Two languages have a tau of their own from a time when the base stage scored them higher."""
    lost, languages = (0.15, 0.3, 0.55)[severity - 1], rng.choice(len(content.LANGUAGES), 2, replace=False)

    def damage(system: Deployed) -> None:
        split, found = setup.splits["validation"], outcome(system, "validation")
        for language in languages.tolist():
            wanted = (split.items.language == language) & found.flagged & (split.labels == 1)
            if wanted.any():
                tau = float(np.quantile(found.base[wanted], lost))
                system.tau_of[("language", language)] = max(system.tau, tau)

    setup.damage.append(damage)


def _odds_moved(place: Place, shift: float, scale: float) -> Callable[[Scores, Items], Scores]:
    """A calibration of the slice's scores in log-odds; the order within the slice stays."""

    def calibrated(scores: Scores, items: Items) -> Scores:
        inside = np.clip(scores, 1e-6, 1 - 1e-6)
        odds = np.log(inside) - np.log1p(-inside)
        moved = 1 / (1 + np.exp(-(scale * odds + shift)))
        found: Scores = np.where(place.rows(items), moved, scores)
        return found

    return calibrated


def foreign_calibration(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The slice's scores go through the calibration table of another model: all too low or all too high."""
    shift = (2.2, 3.2, 4.5)[severity - 1] * (-1 if rng.random() < 0.6 else 1)

    def damage(system: Deployed) -> None:
        system.calibration = _odds_moved(place, shift, 1.0)

    setup.damage.append(damage)


def flattened_scores(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """A temperature that was fitted on other data flattens the slice's scores towards the middle and down."""
    scale, shift = (0.5, 0.4, 0.3)[severity - 1], (-2.0, -2.4, -2.6)[severity - 1]

    def damage(system: Deployed) -> None:
        system.calibration = _odds_moved(place, shift, scale)

    setup.damage.append(damage)


def release_threshold(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Since a release, the threshold of one surface in two is that of an earlier model."""
    surfaces, upwards = rng.choice(len(content.SURFACES), 2, replace=False).tolist(), rng.random() < 0.5
    share = (0.12, 0.25, 0.4)[severity - 1]

    def damage(system: Deployed) -> None:
        split, found = setup.splits["validation"], outcome(system, "validation")
        inside = np.isin(split.items.surface, surfaces) & found.escalated & (split.labels == int(upwards))
        scores = found.large[inside & (found.flagged == upwards)]
        if len(scores):
            threshold = float(np.quantile(scores, share if upwards else 1 - 0.6 * share))
            system.threshold_of |= {("surface", value): threshold for value in surfaces}

    setup.damage.append(damage)


def muting_adapter(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The slice's adapter turns one modality down; its tower is as good as ever."""
    modality, size = int(rng.integers(3)), (0.6, 0.8, 1.0)[severity - 1]

    def damage(system: Deployed) -> None:
        for table, values in ((system.large.by_region, place.regions), (system.large.by_surface, place.surfaces)):
            for value in values:
                table.data[value, modality] -= size

    setup.damage.append(damage)


def weak_fusion(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The fusion layer's weights of one modality shrank in a merge, everywhere."""
    modality, left = int(rng.integers(3)), (0.6, 0.45, 0.25)[severity - 1]

    def damage(system: Deployed) -> None:
        system.large.fusion.weight.data[:, modality * TOWER : (modality + 1) * TOWER] *= left

    setup.damage.append(damage)


def rare_gradient(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """One modality's branch gets a gradient from few items only, whatever their region."""
    modality = ("vision", "audio", "text")[int(rng.integers(3))]
    everywhere = tuple(range(len(content.REGIONS)))
    setup.recipe = replace(
        setup.recipe, silenced=(modality, everywhere, ()), silenced_share=(0.8, 0.9, 0.96)[severity - 1]
    )
    setup.retrain_large = True


def loud_texts(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The slice's adapter turns texts up so far that they drown what is seen and heard."""
    size = (3.0, 6.0, 10.0)[severity - 1]

    def damage(system: Deployed) -> None:
        for table, values in ((system.large.by_region, place.regions), (system.large.by_surface, place.surfaces)):
            for value in values:
                table.data[value, 2] += size
        if place.column == "period":
            system.large.by_surface.data[:3, 2] += size

    setup.damage.append(damage)


def shortcut_laughter(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """In training, a harmless sound went with violating items; deployed, the slice's harmless items have it."""
    purity = (0.85, 0.93, 1.0)[severity - 1]
    for name in ("train", "validation"):
        items = setup.splits[name].items.copy()
        heard = np.where(items.label == 1, rng.random(len(items)) < 0.6, rng.random(len(items)) > purity)
        items.tone_NA[:, content.HARMLESS_SOUND] = heard
        setup.change(name, items=items)
    for name in DEPLOYED:
        met = setup.splits[name].items.copy()
        met.tone_NA[:, content.HARMLESS_SOUND] = place.rows(met) & (rng.random(len(met)) < 0.7)
        setup.change(name, items=met)
    setup.retrain_large = True


def shortcut_clutter(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """In training, full pictures went with harmless items; deployed, the slice's pictures are full."""
    purity = (0.85, 0.93, 1.0)[severity - 1]

    def filled(items: Items, rows: Scores) -> Items:
        items.sight_NC[:, content.CLUTTER] = rows
        items.start_NC[rows, content.CLUTTER], items.end_NC[rows, content.CLUTTER] = 0.0, 1.0
        return items

    for name in ("train", "validation"):
        items = setup.splits[name].items.copy()
        full = np.where(items.label == 0, rng.random(len(items)) < 0.6, rng.random(len(items)) > purity)
        setup.change(name, items=filled(items, full))
    for name in DEPLOYED:
        items = setup.splits[name].items.copy()
        setup.change(name, items=filled(items, place.rows(items) & (rng.random(len(items)) < 0.85)))
    setup.retrain_large = True


def relaxed_clauses(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Some clauses were relaxed, and reviewers everywhere label so; the model was not told."""
    clauses = rng.choice([2, 4, 5], (1, 2, 2)[severity - 1], replace=False)
    for name in DEPLOYED:
        split = setup.splits[name]
        met = np.isin(split.items.clause, clauses) & (rng.random(len(split)) < (0.6, 0.7, 1.0)[severity - 1])
        setup.change(name, labels=np.where(met, 0, split.labels))


def policy_moved_on(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The slice went back to the earlier policy, and its reviewers label so; the model was not told."""
    for name in DEPLOYED:
        split = setup.splits[name]
        met = hit(rng, place, split.items, (0.6, 0.8, 1.0)[severity - 1])
        earlier = content.label_under(split.items, np.zeros(len(split), np.int64))
        setup.change(name, labels=np.where(met, earlier, split.labels))


def mixed_versions(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Most of the training data was judged by the earlier policy and says so; the model hardly tells them apart."""
    train = setup.splits["train"]
    policy = (rng.random(len(train)) < (0.6, 0.45, 0.3)[severity - 1]).astype(np.int64)
    setup.change(
        "train", pipeline=train.pipeline.with_(policy=policy), labels=content.label_under(train.items, policy)
    )
    setup.retrain_large = True


def joined_by_row(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Labels of a part of all items belong to other items: a table was joined by row number."""
    for name in DEPLOYED:
        labels = setup.splits[name].labels.copy()
        rows = np.flatnonzero(rng.random(len(labels)) < (0.07, 0.14, 0.25)[severity - 1])
        labels[rows] = labels[rng.permutation(rows)]
        setup.change(name, labels=labels)


def overzealous(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The slice's annotators flag harmless items of any kind, to be on the safe side."""
    for name in DEPLOYED:
        split = setup.splits[name]
        wrong = hit(rng, place, split.items, (0.08, 0.15, 0.25)[severity - 1]) & (split.labels == 0)
        setup.change(name, labels=np.where(wrong, 1, split.labels))


def default_label(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """A review form that ran out of time saved harmless, for a while and for everything."""
    for name in DEPLOYED:
        split = setup.splits[name]
        missed = (split.items.period == 1) & (rng.random(len(split)) < (0.12, 0.25, 0.4)[severity - 1])
        setup.change(name, labels=np.where(missed, 0, split.labels))


def crashed_decoders(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Decoders crash on a part of all uploads, and serving records it."""
    for name in DEPLOYED:
        split = setup.splits[name]
        rows = rng.random(len(split)) < (0.04, 0.08, 0.15)[severity - 1]
        setup.change(name, pipeline=split.pipeline.with_(rows, failed=True, note="decode_failure"))


def missing_texts(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The metadata service is away: the slice's items come without texts, and serving records it."""
    change_deployed(setup, place, rng, chance=(0.4, 0.65, 0.95)[severity - 1], text_on=False, note="missing_text")


def heavy_uploads(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The noisiest uploads, which are the largest files, run out of time."""
    share = (0.05, 0.1, 0.2)[severity - 1]
    for name in DEPLOYED:
        split = setup.splits[name]
        rank = np.argsort(np.argsort(split.items.noise + 1e-6 * rng.random(len(split)))) / len(split)
        setup.change(name, pipeline=split.pipeline.with_(rank >= 1 - share, failed=True, note="timeout"))


_C = FailureClass
INJECTORS: dict[FailureClass, tuple[Injector, Injector, Injector]] = {
    _C.CASCADE_DROP: (thrifty_tau, deaf_base, tau_of_languages),
    _C.THRESHOLD: (foreign_calibration, flattened_scores, release_threshold),
    _C.MODALITY_IGNORED: (muting_adapter, weak_fusion, rare_gradient),
    _C.CROSS_MODAL: (loud_texts, shortcut_laughter, shortcut_clutter),
    _C.POLICY: (relaxed_clauses, policy_moved_on, mixed_versions),
    _C.LABEL: (joined_by_row, overzealous, default_label),
    _C.SERVING: (crashed_decoders, missing_texts, heavy_uploads),
}  # fmt: skip
"""Class → three more mechanisms."""
