"""Further injectors that a classifier may be fitted on: a second mechanism a class, so that it learns classes.

Enters: a ``Setup``, a slice, a severity and a generator. Leaves: the set-up with the fault in it. A classifier that has
seen one mechanism of each class learns mechanisms; with two it has to find what they share. How well a class carries
over to a mechanism that was not seen is read by fitting on one of the two and testing on the other, without a look at
``held_out``, of which nothing is used here.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from tidegate.diagnosis.planted import items as content
from tidegate.diagnosis.planted.fault import DEPLOYED, Injector, Place, change_deployed, hit, resampled_train
from tidegate.diagnosis.planted.items import Items
from tidegate.diagnosis.planted.observe import WORD_WIDTH
from tidegate.diagnosis.planted.world import Deployed, Setup, outcome
from tidegate.diagnosis.taxonomy import FailureClass

__all__ = ["INJECTORS"]

Rng = np.random.Generator


def rough_look(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The base stage gets poor thumbnails of the slice; the large stage sees the slice as it always did."""
    for name in DEPLOYED:
        split = setup.splits[name]
        rough_NR = split.rough_NR.copy()
        rough_NR[place.rows(split.items)] *= (3.0, 4.5, 7.0)[severity - 1]
        setup.change(name, rough_NR=rough_NR)


def global_threshold(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The threshold of everything is off: it was copied from another model's scale."""
    upwards, share = rng.random() < 0.5, (0.08, 0.15, 0.25)[severity - 1]

    def damage(system: Deployed) -> None:
        split, found = setup.splits["validation"], outcome(system, "validation")
        label = 1 if upwards else 0
        scores = found.large[(split.labels == label) & (found.flagged == upwards) & found.escalated]
        if len(scores):
            system.threshold = float(np.quantile(scores, share if upwards else 1 - share))

    setup.damage.append(damage)


def absent_in_training(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The slice's training clips came without one modality, so that it was never learnt there."""
    split = setup.splits["train"]
    rows = np.flatnonzero(hit(rng, place, split.items, (0.8, 0.9, 1.0)[severity - 1]))
    if rng.random() < 0.5:
        pipeline = split.pipeline.with_(rows, audio_on=False)
    else:
        pipeline = split.pipeline.with_(rows, text_on=False)
    setup.change("train", pipeline=pipeline)
    setup.retrain_large = True


def damaged_tower(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Weights of the audio or text tower that read words were converted badly: words are mistaken, everywhere."""
    tower, noise = ("audio", "text")[int(rng.integers(2))], (0.12, 0.2, 0.35)[severity - 1]
    seed = int(rng.integers(2**31))

    def damage(system: Deployed) -> None:
        weight = getattr(system.large, tower).weight.data
        words = weight[:, -WORD_WIDTH:]
        words += noise * torch.randn(words.shape, generator=torch.Generator().manual_seed(seed))

    setup.damage.append(damage)


def shortcut_title(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """In training, titles about the news went with harmless items; deployed, the slice's titles are about the news."""
    purity = (0.85, 0.93, 1.0)[severity - 1]

    def retitled(items: Items, chosen: npt.NDArray[np.bool_], chance: float) -> Items:
        free = (items.title != content.THREAT) & (items.title != content.OFFER) & (items.title != content.THREAT_OK)
        items.title[chosen & free & (rng.random(len(items)) < chance)] = content.NEWS
        items.title[~chosen & free & (items.title == content.NEWS) & (rng.random(len(items)) < chance)] = content.CHAT
        return items

    for name in ("train", "validation"):
        items = setup.splits[name].items.copy()
        setup.change(name, items=retitled(items, items.label == 0, purity))
    for name in DEPLOYED:
        met = setup.splits[name].items.copy()
        setup.change(name, items=retitled(met, place.rows(met), 0.9))
    setup.retrain_large = True


def shorter_events(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """What the slice's items show gets shorter, so that it falls between the frames."""
    factor = (0.35, 0.2, 0.1)[severity - 1]
    for name in DEPLOYED:
        items = setup.splits[name].items.copy()
        met, length = place.rows(items), items.end_NC - items.start_NC
        shown = np.arange(content.SIGHTS) != content.CLUTTER
        short_NC = met[:, None] & shown
        middle = items.start_NC + rng.random(length.shape) * length * (1 - factor)
        brief = np.minimum(length * factor, 0.3 * factor)
        items.start_NC[short_NC], items.end_NC[short_NC] = middle[short_NC], (middle + brief)[short_NC]
        setup.change(name, items=items)


def smaller_things(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The slice is filmed from farther away: what it shows is smaller in the picture."""
    for name in DEPLOYED:
        items = setup.splits[name].items.copy()
        met = place.rows(items) & (items.size < 1.0)
        items.size[met] *= (0.6, 0.45, 0.3)[severity - 1]
        setup.change(name, items=items)


def noisy_uploads(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """A part of the slice's uploads is badly recorded."""
    for name in DEPLOYED:
        items = setup.splits[name].items.copy()
        met = hit(rng, place, items, 0.6)
        items.noise[met] += rng.uniform(0.5, 1.0, int(met.sum())) * (1.0, 1.4, 2.0)[severity - 1]
        setup.change(name, items=items)


def moved_traffic(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The large stage's training data held little of two languages whose share of the traffic then grew."""
    languages = rng.choice(len(content.LANGUAGES), 2, replace=False)
    train = setup.splits["train"].items
    gone = np.isin(train.language, languages) & (rng.random(len(train)) < (0.8, 0.9, 0.97)[severity - 1])
    resampled_train(setup, ~gone, rng)
    setup.retrain_large = True


def new_policy(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The policy is new: the large stage's training data of the slice was judged under the old one."""
    split = setup.splits["train"]
    old = hit(rng, place, split.items, (0.8, 0.9, 1.0)[severity - 1])
    labels = np.where(old, content.label_under(split.items, np.zeros(len(split), np.int64)), split.labels)
    setup.change("train", labels=labels)
    setup.retrain_large = True


def overlooked(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The slice's annotators are in a hurry: violating items pass as harmless."""
    for name in DEPLOYED:
        split = setup.splits[name]
        missed = hit(rng, place, split.items, (0.2, 0.35, 0.55)[severity - 1]) & (split.labels == 1)
        setup.change(name, labels=np.where(missed, 0, split.labels))


def new_sounds_and_looks(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Harmless items of the slice show and sound like nothing in the training data, and some violating ones do."""
    for name in DEPLOYED:
        items = setup.splits[name].items.copy()
        met = hit(rng, place, items, (0.4, 0.7, 1.0)[severity - 1])
        for old in (content.TOY, content.GOODS, content.WEAPON):
            seen = met & (items.sight_NC[:, old] > 0)
            items.sight_NC[seen, old] = 0
            items.sight_NC[seen, content.NEW_SIGHT] = 1
            items.start_NC[seen, content.NEW_SIGHT] = items.start_NC[seen, old]
            items.end_NC[seen, content.NEW_SIGHT] = items.end_NC[seen, old]
        setup.change(name, items=items)


def stuck_decoder(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The decoder gives up after the first frame of some uploads, and serving records it."""
    chance = (0.3, 0.5, 0.8)[severity - 1]
    change_deployed(setup, place, rng, chance=chance, span=0.05, frames=1, note="decode_failure")


_C = FailureClass
INJECTORS: dict[FailureClass, Injector] = {
    _C.CASCADE_DROP: rough_look, _C.THRESHOLD: global_threshold, _C.MODALITY_IGNORED: absent_in_training,
    _C.MODALITY_PERCEPTION: damaged_tower, _C.CROSS_MODAL: shortcut_title, _C.TEMPORAL: shorter_events,
    _C.SPATIAL: smaller_things, _C.CORRUPTION: noisy_uploads, _C.LOCALE: moved_traffic, _C.POLICY: new_policy,
    _C.LABEL: overlooked, _C.NOVELTY: new_sounds_and_looks, _C.SERVING: stuck_decoder,
}  # fmt: skip
"""Class → its second mechanism; leakage has none, for a record proves it."""
