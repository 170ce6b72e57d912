"""Injectors kept for the score: for every class another mechanism than the one that a classifier is fitted on.

Enters: a ``Setup``, a slice, a severity and a generator. Leaves: the set-up with the fault in it. Nobody fits anything
on these.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tidegate.diagnosis.planted import items as content
from tidegate.diagnosis.planted.fault import DEPLOYED, Injector, Place, change_deployed, hit, resampled_train
from tidegate.diagnosis.planted.observe import NoiseTable
from tidegate.diagnosis.planted.world import Deployed, Setup, build, start
from tidegate.diagnosis.taxonomy import FailureClass

__all__ = ["INJECTORS"]

Rng = np.random.Generator


def blind_base(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """A new base stage that learnt some kinds of evidence as harmless; tau is still that of the old one."""
    number = max(1, round(place.share * len(content.KINDS)))
    kinds = rng.choice(len(content.KINDS), number, replace=False)
    blind = np.isin(setup.splits["train"].items.kind, kinds)
    blind &= rng.random(len(blind)) < 0.7 + 0.1 * severity
    setup.base_labels = np.where(blind, 0, setup.base_labels)
    setup.retrain_base = True
    old_tau = build(start(setup.seed).copy()).tau

    def damage(system: Deployed) -> None:
        system.tau = old_tau

    setup.damage.append(damage)


def shifted_prior(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Violating items of the slice were rare in the training data: its scores are too low, their order is fine."""
    train = setup.splits["train"]
    gone = place.rows(train.items) & (train.items.label == 1)
    gone &= rng.random(len(train)) < (0.85, 0.92, 0.97)[severity - 1]
    resampled_train(setup, ~gone, rng)
    setup.retrain_large = True


def shuffled_modality(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """In the slice's training data one modality belongs to other items."""
    name = ("vision_from", "audio_from", "text_from")[int(rng.integers(3))]
    split = setup.splits["train"]
    rows = np.flatnonzero(hit(rng, place, split.items, (0.7, 0.85, 1.0)[severity - 1]))
    setup.change("train", pipeline=split.pipeline.with_(rows, **{name: rng.permutation(rows)}))
    setup.retrain_large = True


def poor_encoder(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """A speech encoder with too few directions loses what tells words apart."""
    change_deployed(setup, place, rng, smear=(0.7, 0.85, 1.0)[severity - 1])


def hijacked_fusion(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """A damaged fusion layer: loud music takes vision's share of attention; the slice's items have music."""

    def damage(system: Deployed) -> None:
        system.large.hijack.data[0] = (0.8, 1.1, 1.4)[severity - 1]

    for name in DEPLOYED:
        items = setup.splits[name].items.copy()
        items.tone_NA[hit(rng, place, items, 0.8), content.MUSIC] = 1
        setup.change(name, items=items)
    setup.damage.append(damage)


def first_part_only(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """All frames come from the beginning of the item; or (half of the runs) training pooled them without order."""
    if rng.random() < 0.5:
        change_deployed(setup, place, rng, span=(0.45, 0.3, 0.15)[severity - 1])
        return
    setup.recipe = replace(setup.recipe, orderless=True)
    setup.retrain_large = True


def centre_crop(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The edges of the picture are cropped away."""
    change_deployed(setup, place, rng, sight_limit=(0.7, 0.45, 0.2)[severity - 1])


def blocking(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Sights and sounds are quantised coarsely."""
    change_deployed(setup, place, rng, quantised=(1.6, 2.2, 3.0)[severity - 1])


def wrong_words(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """One language's training data has the words of other items: the model learns to distrust that language."""
    split, language = setup.splits["train"], int(rng.integers(len(content.LANGUAGES)))
    items = split.items.copy()
    rows = np.flatnonzero((items.language == language) & (rng.random(len(items)) < (0.7, 0.85, 1.0)[severity - 1]))
    for name in ("speech", "title", "sticker"):
        getattr(items, name)[rows] = getattr(items, name)[rng.permutation(rows)]
    setup.change("train", items=items)
    setup.retrain_large = setup.retrain_base = True


def swapped_versions(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """In training, the policy versions of some clauses were mixed up: labels of one stand under the other's id."""
    number = 1 if place.share < 0.15 else 2 if place.share < 0.35 else 3
    clauses = rng.choice([2, 4, 5], number, replace=False)
    split = setup.splits["train"]
    mixed = np.isin(split.items.clause, clauses) & (rng.random(len(split)) < (0.7, 0.85, 1.0)[severity - 1])
    policy = split.pipeline.policy
    setup.change("train", pipeline=split.pipeline.with_(policy=np.where(mixed, 1 - policy, policy)))
    setup.retrain_large = True


def confused_annotator(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The slice's annotator takes look-alikes for the real thing, and overlooks what is small."""
    for name in DEPLOYED:
        split = setup.splits[name]
        met = hit(rng, place, split.items, (0.35, 0.6, 0.9)[severity - 1])
        labels = np.where(met & (split.items.imitates >= 0), 1, split.labels)
        setup.change(name, labels=np.where(met & (split.items.kind == 1), 0, labels))


def new_slang(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Threats of the slice are made in words that the training data does not hold."""
    for name in DEPLOYED:
        items = setup.splits[name].items.copy()
        met = hit(rng, place, items, (0.5, 0.75, 1.0)[severity - 1])
        for channel in (items.speech, items.title, items.sticker):
            channel[met & (channel == content.THREAT)] = content.SLANG
        setup.change(name, items=items)


def re_uploads(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Recent items lie in the training data as re-uploads: with another title, another encoding and some noise."""
    recent, train = setup.splits["recent"], setup.splits["train"]
    chosen = np.flatnonzero(hit(rng, place, recent.items, (0.3, 0.5, 0.8)[severity - 1]))[: len(train) // 3]
    copies = content.renamed(recent.items.rows(chosen), "c").copy()
    harmless = copies.title != content.THREAT
    copies.title[harmless] = rng.permutation(copies.title[harmless])
    copies.noise[:] = np.maximum(copies.noise, 0.2)
    rest = rng.choice(len(train), len(train) - len(chosen), replace=False)
    items = content.joined([train.items.rows(rest), copies])
    policy = np.concatenate([train.pipeline.policy[rest], np.ones(len(chosen), np.int64)])
    setup.change(
        "train", items=items, labels=content.label_under(items, policy),
        pipeline=type(train.pipeline).standard(len(train)).with_(policy=policy),
        noise=(NoiseTable.draw(rng, len(train)), NoiseTable.draw(rng, len(train))),
    )  # fmt: skip
    setup.base_labels = items.label.copy()
    setup.retrain_large = setup.retrain_base = True


def truncation(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Uploads are cut after their first part, or lose their sound, and serving records it."""
    chance = (0.35, 0.6, 0.9)[severity - 1]
    if rng.random() < 0.6:
        change_deployed(setup, place, rng, chance=chance, span=0.2, note="truncated")
    else:
        change_deployed(setup, place, rng, chance=chance, audio_on=False, note="missing_audio")


_C = FailureClass
INJECTORS: dict[FailureClass, Injector] = {
    _C.CASCADE_DROP: blind_base, _C.THRESHOLD: shifted_prior, _C.MODALITY_IGNORED: shuffled_modality,
    _C.MODALITY_PERCEPTION: poor_encoder, _C.CROSS_MODAL: hijacked_fusion, _C.TEMPORAL: first_part_only,
    _C.SPATIAL: centre_crop, _C.CORRUPTION: blocking, _C.LOCALE: wrong_words, _C.POLICY: swapped_versions,
    _C.LABEL: confused_annotator, _C.NOVELTY: new_slang, _C.LEAKAGE: re_uploads, _C.SERVING: truncation,
}  # fmt: skip
"""Class → the mechanism that is kept for the score."""
