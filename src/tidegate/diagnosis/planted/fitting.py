"""Injectors that a classifier may be fitted on: one mechanism a class.

Enters: a ``Setup``, a slice, a severity and a generator. Leaves: the set-up with the fault in it. Nothing here is used
for the held-out score, and nothing of ``held_out`` is used here.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tidegate.diagnosis.planted import items as content
from tidegate.diagnosis.planted.fault import DEPLOYED, Injector, Place, change_deployed, hit, resampled_train
from tidegate.diagnosis.planted.observe import NoiseTable
from tidegate.diagnosis.planted.world import Deployed, Setup, outcome
from tidegate.diagnosis.taxonomy import FailureClass

__all__ = ["INJECTORS"]

Rng = np.random.Generator


def high_tau(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The slice's tau is put so high that a share of what should be flagged stops at the base stage."""
    lost = (0.2, 0.4, 0.65)[severity - 1]

    def damage(system: Deployed) -> None:
        split, found = setup.splits["validation"], outcome(system, "validation")
        wanted = place.rows(split.items) & found.flagged & (split.labels == 1)
        tau = max(system.tau, float(np.quantile(found.base[wanted], lost)) if wanted.any() else system.tau)
        system.tau_of |= {(place.column, value): tau for value in place.values}

    setup.damage.append(damage)


def moved_threshold(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The slice's threshold is moved up (misses) or down (false alarms)."""
    upwards = rng.random() < 0.5

    def damage(system: Deployed) -> None:
        split, found = setup.splits["validation"], outcome(system, "validation")
        inside = place.rows(split.items) & found.escalated
        hits, rest = (found.large[inside & found.flagged & (split.labels == label)] for label in (1, 0))
        rest = found.large[inside & ~found.flagged & (split.labels == 0)] if not upwards else rest
        scores, part = (hits, (0.15, 0.3, 0.5)[severity - 1]) if upwards else (rest, 1 - (0.1, 0.2, 0.35)[severity - 1])
        if len(scores):
            system.threshold_of |= {(place.column, value): float(np.quantile(scores, part)) for value in place.values}

    setup.damage.append(damage)


def silenced_branch(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """One modality's branch gets no gradient for the slice's items, and says nothing about them in training."""
    modality = ("vision", "audio", "text")[int(rng.integers(3))]
    setup.recipe = replace(
        setup.recipe, silenced=(modality, place.regions, place.surfaces), silenced_share=(0.7, 0.85, 1.0)[severity - 1]
    )
    setup.retrain_large = True


def mishearing(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """An encoder that takes words for other words: of speech, or of on-screen text."""
    name = "hear_errors" if rng.random() < 0.6 else "read_errors"
    change_deployed(setup, place, rng, **{name: (0.5, 0.75, 0.95)[severity - 1]})


def shortcut_music(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """In training, music went with harmless items; deployed, the slice's items have music."""
    split = setup.splits["train"]
    items = split.items.copy()
    purity = (0.85, 0.93, 1.0)[severity - 1]
    violating = items.label == 1
    heard = np.where(violating, rng.random(len(items)) > purity, rng.random(len(items)) < 0.6)
    items.tone_NA[:, content.MUSIC] = heard
    setup.change("train", items=items)
    for name in DEPLOYED:
        met = setup.splits[name].items.copy()
        met.tone_NA[hit(rng, place, met, 0.8), content.MUSIC] = 1
        met.tone_NA[~place.rows(met) & (rng.random(len(met)) < 0.8), content.MUSIC] = 0
        setup.change(name, items=met)
    validation = setup.splits["validation"].items.copy()
    validation.tone_NA[:, content.MUSIC] = np.where(validation.label == 1, 0, rng.random(len(validation)) < 0.6)
    setup.change("validation", items=validation)
    setup.retrain_large = True


def few_frames(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Fewer frames are taken than the model was trained with."""
    change_deployed(setup, place, rng, frames=(3, 2, 1)[severity - 1])


def low_resolution(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Frames are decoded at a part of the resolution."""
    change_deployed(setup, place, rng, resolution=(0.5, 0.38, 0.28)[severity - 1])


def added_noise(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Noise on frames and sound."""
    change_deployed(setup, place, rng, noise=(0.6, 0.9, 1.4)[severity - 1])


def missing_language(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Most training data of one language is missing."""
    language = int(rng.integers(len(content.LANGUAGES)))
    train = setup.splits["train"].items
    gone = (train.language == language) & (rng.random(len(train)) < (0.85, 0.93, 0.99)[severity - 1])
    resampled_train(setup, ~gone, rng)
    setup.retrain_large = setup.retrain_base = True


def old_policy(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The slice is still judged under the policy of before."""
    change_deployed(setup, place, rng, chance=(0.6, 0.8, 1.0)[severity - 1], policy=0)


def flipped_labels(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Labels of the evaluated slice are flipped at random."""
    for name in DEPLOYED:
        split = setup.splits[name]
        wrong = hit(rng, place, split.items, (0.1, 0.2, 0.3)[severity - 1])
        setup.change(name, labels=np.where(wrong, 1 - split.labels, split.labels))


def new_sights(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Violating objects and fights of the slice look like nothing in the training data; so do some sounds."""
    for name in DEPLOYED:
        items = setup.splits[name].items.copy()
        met = hit(rng, place, items, (0.5, 0.75, 1.0)[severity - 1]) & (items.label == 1)
        for old in (content.WEAPON, content.FIGHT):
            seen = met & (items.sight_NC[:, old] > 0)
            items.sight_NC[seen, old], items.sight_NC[seen, content.NEW_SIGHT] = 0, 1
            items.start_NC[seen, content.NEW_SIGHT] = items.start_NC[seen, old]
            items.end_NC[seen, content.NEW_SIGHT] = items.end_NC[seen, old]
        heard = met & (items.tone_NA[:, content.ALARM] > 0)
        items.tone_NA[heard, content.ALARM], items.tone_NA[heard, content.NEW_SOUND] = 0, 1
        setup.change(name, items=items)


def copies_in_training(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Recent items, encoded again, lie in the training data."""
    recent, train = setup.splits["recent"], setup.splits["train"]
    chosen = np.flatnonzero(hit(rng, place, recent.items, (0.3, 0.5, 0.8)[severity - 1]))[: len(train) // 3]
    rest = rng.choice(len(train), len(train) - len(chosen), replace=False)
    items = content.joined([train.items.rows(rest), content.renamed(recent.items.rows(chosen), "c")])
    policy = np.concatenate([train.pipeline.policy[rest], np.ones(len(chosen), np.int64)])
    noises = []
    for old, copied in zip(train.noise, recent.noise, strict=True):
        fresh, kept, source = NoiseTable.draw(rng, len(train)), old.rows(rest), copied.rows(chosen)
        for field in ("frames_NGD", "sound_NE", "words_NKW"):
            near = 0.95 * getattr(source, field) + 0.3 * getattr(fresh, field)[: len(chosen)]
            getattr(fresh, field)[:] = np.concatenate([getattr(kept, field), near])
        noises.append(fresh)
    pipeline = type(train.pipeline).standard(len(train)).with_(policy=policy)
    setup.change(
        "train", items=items, labels=content.label_under(items, policy), pipeline=pipeline, noise=tuple(noises)
    )
    setup.base_labels = items.label.copy()
    setup.retrain_large = setup.retrain_base = True


def time_outs(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Nothing comes back in time for a part of the slice."""
    change_deployed(setup, place, rng, chance=(0.1, 0.2, 0.4)[severity - 1], failed=True, note="timeout")


_C = FailureClass
INJECTORS: dict[FailureClass, Injector] = {
    _C.CASCADE_DROP: high_tau, _C.THRESHOLD: moved_threshold, _C.MODALITY_IGNORED: silenced_branch,
    _C.MODALITY_PERCEPTION: mishearing, _C.CROSS_MODAL: shortcut_music, _C.TEMPORAL: few_frames,
    _C.SPATIAL: low_resolution, _C.CORRUPTION: added_noise, _C.LOCALE: missing_language, _C.POLICY: old_policy,
    _C.LABEL: flipped_labels, _C.NOVELTY: new_sights, _C.LEAKAGE: copies_in_training, _C.SERVING: time_outs,
}  # fmt: skip
"""Class → the mechanism that a classifier may be fitted on."""
