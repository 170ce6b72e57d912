"""What a planted fault is: a class, a mechanism, a severity, and the slice of the data that it befalls.

Enters: a seed. Leaves: ``Fault``s and ``Place``s. The mechanisms are in modules of their own: what
a classifier may be fitted on is listed in ``cases.FITTED``, the others are in ``held_out``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.diagnosis.planted.items import REGION_SHARES, SURFACE_SHARES, Items
from tidegate.diagnosis.planted.world import Setup

__all__ = ["DEPLOYED", "Fault", "Injector", "Place", "change_deployed", "draw_place", "hit", "resampled_train"]

Array = npt.NDArray[Any]
DEPLOYED = ("recent", "test")
"""Splits in which a fault of the deployed pipeline, or of the content that it meets, shows."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A slice: some values of one metadata column."""

    column: str
    values: tuple[int, ...]
    share: float
    """Share of the items that lie in it."""

    def rows(self, items: Items) -> Array:
        """Mask of the items in it."""
        return np.isin(getattr(items, self.column), self.values)

    @property
    def regions(self) -> tuple[int, ...]:
        """Its regions, if it is a slice of regions."""
        return self.values if self.column == "region" else ()

    @property
    def surfaces(self) -> tuple[int, ...]:
        """Its surfaces, if it is a slice of surfaces."""
        return self.values if self.column == "surface" else ()


Injector = Callable[[Setup, Place, int, np.random.Generator], None]
"""Plants a fault of some severity (1 to 3) in a set-up, in place."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One planted fault, or none."""

    truth: str
    """Class id, or ``none``."""
    injectors: tuple[Injector, ...]
    severity: int
    share: float
    """Wanted share of the slice."""
    seed: int
    family: str
    """A key of ``cases.FAMILIES``, or ``none``, ``decoy``, ``and``, ``or``."""
    also: str = ""
    """Second class of a double fault."""
    world: int = 0
    """Seed of the world."""


def _options() -> list[Place]:
    found = [Place(column="period", values=(value,), share=0.5) for value in (0, 1)]
    for column, shares, most in (("region", REGION_SHARES, 3), ("surface", SURFACE_SHARES, 2)):
        for number in range(1, most + 1):
            for values in combinations(range(len(shares)), number):
                found.append(Place(column=column, values=values, share=float(shares[list(values)].sum())))
    return found


def draw_place(
    rng: np.random.Generator, share: float, columns: tuple[str, ...] = ("region", "surface", "period")
) -> Place:
    """A random slice of about the wanted share."""
    options = [place for place in _options() if place.column in columns]
    near = [place for place in options if abs(place.share - share) <= 0.2 * share + 0.005]
    if not near:
        near = sorted(options, key=lambda place: abs(place.share - share))[:1]
    return near[int(rng.integers(len(near)))]


def hit(rng: np.random.Generator, place: Place, items: Items, chance: float = 1.0) -> Array:
    """Mask of the items in the slice that it happens to."""
    chosen: Array = place.rows(items) & (rng.random(len(items)) < chance)
    return chosen


def change_deployed(
    setup: Setup, place: Place, rng: np.random.Generator, *, chance: float = 1.0, **changes: object
) -> None:
    """Change the deployed pipeline in a slice."""
    for name in DEPLOYED:
        split = setup.splits[name]
        setup.change(name, pipeline=split.pipeline.with_(hit(rng, place, split.items, chance), **changes))


def resampled_train(setup: Setup, keep: Array, rng: np.random.Generator) -> None:
    """Drop training items; others are drawn again in their place, so that there are as many steps as before."""
    split = setup.splits["train"]
    kept = np.flatnonzero(keep)
    rows = np.sort(np.concatenate([kept, rng.choice(kept, len(split) - len(kept))]))
    first, second = (table.rows(rows) for table in split.noise)
    pipeline = split.pipeline.rows(rows)
    own = np.arange(len(rows))
    pipeline = pipeline.with_(audio_from=own, vision_from=own, text_from=own)
    setup.splits["train"] = replace(
        split, items=split.items.rows(rows), noise=(first, second), pipeline=pipeline, labels=split.labels[rows],
        rough_NR=split.rough_NR[rows],
    )  # fmt: skip
    setup.base_labels = setup.base_labels[rows]
