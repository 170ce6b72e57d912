"""Injectors that a classifier may be fitted on, three more a class: what is shown, said, heard and decoded.

Enters: a ``Setup``, a slice, a severity and a generator. Leaves: the set-up with the fault in it. They differ in where
the fault lies (uploads, decoding, training data, weights), in the modality and in whether it befalls a slice or
everything, so that a classifier finds what the mechanisms of a class share. Nothing of ``held_out`` is used here.
"""

from __future__ import annotations

import numpy as np
import torch

from tidegate.diagnosis.planted import items as content
from tidegate.diagnosis.planted.fault import DEPLOYED, Injector, Place, change_deployed, hit
from tidegate.diagnosis.planted.world import Deployed, Setup
from tidegate.diagnosis.taxonomy import FailureClass

__all__ = ["INJECTORS"]

Rng = np.random.Generator


def _everywhere(setup: Setup, rng: Rng, chance: float, **changes: object) -> None:
    """Change the deployed pipeline of items that have nothing in common."""
    for name in DEPLOYED:
        split = setup.splits[name]
        setup.change(name, pipeline=split.pipeline.with_(rng.random(len(split)) < chance, **changes))


def small_recognisers(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Speech and on-screen text are read by smaller recognisers, for every item."""
    rate = (0.25, 0.4, 0.6)[severity - 1]
    _everywhere(setup, rng, 1.0, hear_errors=rate, read_errors=rate)


def unread_scripts(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The reader of on-screen text and the recogniser hardly know two of the languages."""
    rate, unknown = (0.45, 0.7, 0.95)[severity - 1], rng.choice(len(content.LANGUAGES), 2, replace=False)
    for name in DEPLOYED:
        split = setup.splits[name]
        rows = np.isin(split.items.language, unknown)
        setup.change(name, pipeline=split.pipeline.with_(rows, read_errors=rate, hear_errors=0.8 * rate))


def damaged_vision(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Weights of the vision tower were converted badly: objects are mistaken, everywhere."""
    noise, seed = (0.12, 0.2, 0.3)[severity - 1], int(rng.integers(2**31))

    def damage(system: Deployed) -> None:
        weight = system.large.frame.weight.data
        weight += noise * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))

    setup.damage.append(damage)


def bunched_frames(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Frames are taken around one or two moments in place of evenly."""
    change_deployed(setup, place, rng, bunched=(2, 1, 1)[severity - 1], frames=(6, 4, 2)[severity - 1])


def frames_out_of_order(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Frames of a part of all items come in the order in which parallel decoders finish, and fewer of them."""
    _everywhere(setup, rng, (0.3, 0.5, 0.8)[severity - 1], shuffled=True, frames=5)


def brief_training(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The large stage was trained on single frames of most items: what takes place between frames was never learnt."""
    split = setup.splits["train"]
    rows = rng.random(len(split)) < (0.9, 0.97, 1.0)[severity - 1]
    setup.change("train", pipeline=split.pipeline.with_(rows, frames=1))
    setup.retrain_large = True


def picture_in_picture(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Uploads are screen recordings: everything is shown in a window, what filled the picture too."""
    for name in DEPLOYED:
        items = setup.splits[name].items.copy()
        items.size[hit(rng, place, items, 0.9)] *= (0.5, 0.36, 0.25)[severity - 1]
        setup.change(name, items=items)


def adaptive_rate(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """The noisiest uploads of all surfaces are served at a low resolution, to save bandwidth."""
    share = (0.2, 0.35, 0.6)[severity - 1]
    for name in DEPLOYED:
        split = setup.splits[name]
        rank = np.argsort(np.argsort(split.items.noise + 1e-6 * rng.random(len(split)))) / len(split)
        setup.change(name, pipeline=split.pipeline.with_(rank >= 1 - share, resolution=0.3))


def distant_cameras(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """A part of all items is filmed from afar and decoded at a reduced resolution."""
    chance = (0.25, 0.45, 0.7)[severity - 1]
    for name in DEPLOYED:
        split = setup.splits[name]
        items, met = split.items.copy(), rng.random(len(split)) < chance
        items.size[met & (items.size < 1.0)] *= 0.75
        setup.change(name, items=items, pipeline=split.pipeline.with_(met, resolution=0.55))


def lost_blocks(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Packets are lost on the way: blocks of frames and pieces of sound are missing."""
    change_deployed(setup, place, rng, dropped=(0.35, 0.5, 0.7)[severity - 1])


def saturated(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Overexposed and overdriven: peaks of sights and sounds are cut off."""
    change_deployed(setup, place, rng, clipped=(0.32, 0.22, 0.13)[severity - 1])


def bad_devices(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """A part of all uploads comes from devices with poor lenses and microphones."""
    for name in DEPLOYED:
        items = setup.splits[name].items.copy()
        met = rng.random(len(items)) < (0.15, 0.3, 0.5)[severity - 1]
        items.noise[met] += rng.uniform(0.6, 1.6, int(met.sum()))
        setup.change(name, items=items)


def dialect(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """One language's new users pronounce and spell it otherwise than the training data."""
    language, part = int(rng.integers(len(content.LANGUAGES))), (0.45, 0.65, 0.9)[severity - 1]
    for name in DEPLOYED:
        split = setup.splits[name]
        setup.change(name, pipeline=split.pipeline.with_(split.items.language == language, accent=part))


def translated_training(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Training data of two languages was translated and dubbed: the model never met the languages themselves."""
    split, languages = setup.splits["train"], rng.choice(np.arange(1, len(content.LANGUAGES)), 2, replace=False)
    items = split.items.copy()
    rows = np.isin(items.language, languages) & (rng.random(len(items)) < (0.9, 0.96, 1.0)[severity - 1])
    items.language[rows] = 0
    setup.change("train", items=items)
    setup.retrain_large = setup.retrain_base = True


def lost_regions(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Adapters of two neighbouring regions were lost in a merge; both speak one language."""
    language, size = int(rng.integers(len(content.LANGUAGES))), (0.45, 0.65, 0.9)[severity - 1]
    signs = rng.choice([-1.0, 0.5], 3, p=[0.7, 0.3])

    def damage(system: Deployed) -> None:
        system.large.by_region.data[2 * language : 2 * language + 2] += torch.tensor(size * signs).float()

    setup.damage.append(damage)


def new_sounds(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Alarming sounds everywhere are of a kind that the training data does not hold."""
    chance = (0.4, 0.7, 1.0)[severity - 1]
    for name in DEPLOYED:
        items = setup.splits[name].items.copy()
        heard = (items.tone_NA[:, content.ALARM] > 0) & (rng.random(len(items)) < chance)
        items.tone_NA[heard, content.ALARM], items.tone_NA[heard, content.NEW_SOUND] = 0, 1
        setup.change(name, items=items)


def new_models(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Weapons and goods of the slice come in new models: half like the known ones, half like nothing known."""
    left = (0.5, 0.3, 0.1)[severity - 1]
    for name in DEPLOYED:
        items = setup.splits[name].items.copy()
        met = hit(rng, place, items, 0.95)
        for old in (content.WEAPON, content.GOODS):
            seen = met & (items.sight_NC[:, old] > 0)
            items.start_NC[seen, content.NEW_SIGHT] = items.start_NC[seen, old]
            items.end_NC[seen, content.NEW_SIGHT] = items.end_NC[seen, old]
            items.sight_NC[seen, old] *= left
            items.sight_NC[seen, content.NEW_SIGHT] = 1 - left / 2
        setup.change(name, items=items)


def new_acts(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Fights and dangerous acts everywhere take a form that the training data does not hold."""
    chance = (0.35, 0.6, 0.9)[severity - 1]
    for name in DEPLOYED:
        items = setup.splits[name].items.copy()
        met = rng.random(len(items)) < chance
        for old in (content.FIGHT, content.ACT_A):
            seen = met & (items.sight_NC[:, old] > 0) & (items.label == 1)
            items.start_NC[seen, content.NEW_SIGHT] = items.start_NC[seen, old]
            items.end_NC[seen, content.NEW_SIGHT] = items.end_NC[seen, old]
            items.sight_NC[seen, old], items.sight_NC[seen, content.NEW_SIGHT] = 0, 1
        setup.change(name, items=items)


_C = FailureClass
INJECTORS: dict[FailureClass, tuple[Injector, Injector, Injector]] = {
    _C.MODALITY_PERCEPTION: (small_recognisers, unread_scripts, damaged_vision),
    _C.TEMPORAL: (bunched_frames, frames_out_of_order, brief_training),
    _C.SPATIAL: (picture_in_picture, adaptive_rate, distant_cameras),
    _C.CORRUPTION: (lost_blocks, saturated, bad_devices),
    _C.LOCALE: (dialect, translated_training, lost_regions),
    _C.NOVELTY: (new_sounds, new_models, new_acts),
}  # fmt: skip
"""Class → three more mechanisms."""
