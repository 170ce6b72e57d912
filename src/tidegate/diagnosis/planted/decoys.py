"""Decoys: oddities that harm nothing, or nothing that an intervention of the taxonomy would be right for.

Enters: a ``Setup`` and a generator. Leaves: the set-up with the oddity. A diagnosis that names a class for one of these
gives a false alarm.
"""

from __future__ import annotations

import numpy as np

from tidegate.diagnosis.planted import items as content
from tidegate.diagnosis.planted.fault import DEPLOYED, Injector, Place, change_deployed
from tidegate.diagnosis.planted.world import Setup

__all__ = ["DECOYS"]

Rng = np.random.Generator


def harmless_notes(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Serving records a cut of the last few frames, which nothing depends on."""
    change_deployed(setup, place, rng, chance=0.2 * severity, note="truncated", span=0.97)


def more_music(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """Music comes into fashion, in both classes alike."""
    for name in DEPLOYED:
        items = setup.splits[name].items.copy()
        items.tone_NA[place.rows(items) & (rng.random(len(items)) < 0.25 * severity), content.MUSIC] = 1
        setup.change(name, items=items)


def more_clutter(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """A slice shows more things in the picture, none of them evidence."""
    for name in DEPLOYED:
        items = setup.splits[name].items.copy()
        items.sight_NC[place.rows(items) & (rng.random(len(items)) < 0.3 * severity), content.CLUTTER] = 1
        setup.change(name, items=items)


def sharper_uploads(setup: Setup, place: Place, severity: int, rng: Rng) -> None:
    """A slice's uploads get clearer than anything in the training data."""
    for name in DEPLOYED:
        items = setup.splits[name].items.copy()
        items.noise[place.rows(items)] = 0.0
        setup.change(name, items=items)


DECOYS: tuple[Injector, ...] = (harmless_notes, more_music, more_clutter, sharper_uploads)
"""All oddities."""
