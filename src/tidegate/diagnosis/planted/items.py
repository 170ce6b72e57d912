"""Items of the planted world: what each video shows, says and carries, before anything is observed.

Enters: a generator and what to draw. Leaves: ``Items``, arrays of one length. It is the synthetic corpus without
pixels (same kinds of evidence, look-alikes, spans in time, sizes, languages), so that a world is built in a second
and hundreds of faults can be planted. Every channel is filled alike in both classes; a violating item then gets one
piece of evidence, a conjunction two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "CLAUSES",
    "KINDS",
    "LANGUAGES",
    "MODALITY_OF_KIND",
    "REGIONS",
    "SURFACES",
    "Items",
    "draw_items",
    "joined",
    "label_under",
    "renamed",
]

Array = npt.NDArray[Any]

KINDS = ("object", "small_object", "violence", "order", "sticker", "title", "speech", "sound", "conjunction")
CLAUSES = ("weapons", "violence", "dangerous_acts", "threats", "alarming_sounds", "illegal_goods")
CLAUSE_OF_KIND = np.array([0, 0, 1, 2, 3, 3, 3, 4, 5])
MODALITY_OF_KIND = np.array(["vision"] * 4 + ["text"] * 2 + ["audio"] * 2 + ["several"])
LANGUAGES = ("en", "es", "hi", "ar")
REGIONS = ("GB", "US", "ES", "MX", "IN", "NP", "EG", "MA")
"""Two regions speak each language."""
REGION_SHARES = np.array([0.24, 0.16, 0.16, 0.1, 0.12, 0.08, 0.09, 0.05])
SURFACES = ("feed", "live", "stories", "ads", "clips")
SURFACE_SHARES = np.array([0.45, 0.25, 0.15, 0.1, 0.05])

WEAPON, TOY, FIGHT, PLAY, GOODS, ACT_A, ACT_B, CLUTTER, NEW_SIGHT = range(9)
"""Concepts that a picture may hold."""
SIGHTS = 9
ALARM, HARMLESS_SOUND, MUSIC, NEW_SOUND = range(4)
"""Concepts that a sound may hold."""
TONES = 4
TALK, CHAT, NEWS, THREAT, THREAT_OK, OFFER, SLANG = range(7)
"""Themes of words; ``SLANG`` is a threat in words that the training data does not hold."""
THEMES = 7
SCENE_WIDTH = 11


@dataclass(frozen=True, kw_only=True, eq=False)
class Items:
    """N items. Themes, kinds and look-alikes are -1 where there is none."""

    ids: Array
    label: Array
    """Truth under the current policy (version 1 of 0 and 1)."""
    kind: Array
    imitates: Array
    """Kind that a harmless item imitates."""
    clause: Array
    """Clause that the item is reviewed under."""
    region: Array
    language: Array
    surface: Array
    period: Array
    source: Array
    sight_NC: Array
    """Strength of every visual concept."""
    start_NC: Array
    end_NC: Array
    """When it is there, over the item's duration."""
    size: Array
    """Size of what is shown; 1 for what fills the picture."""
    place: Array
    """Distance from the centre of the picture, 0 to 1."""
    tone_NA: Array
    speech: Array
    title: Array
    sticker: Array
    noise: Array
    """Disturbance that it was uploaded with."""
    wind: Array
    """Disturbance of its sound alone."""
    print_size: Array
    """Size of on-screen text; 1 for what is read at any resolution."""
    tags: Array
    """How much of the title is a heap of popular words that say nothing."""
    script: Array
    """How far its texts are from how the language was written so far, 0 to 1."""
    dialect: Array
    """How far its speech is from how the language was spoken so far, 0 to 1."""
    scene_ND: Array

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, rows: Array) -> Items:
        """Some of the items, in that order."""
        return Items(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def copy(self) -> Items:
        """Arrays that may be written to."""
        return Items(**{field.name: getattr(self, field.name).copy() for field in fields(self)})


def joined(parts: Sequence[Items]) -> Items:
    """One after the other."""
    names = [field.name for field in fields(Items)]
    return Items(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def label_under(items: Items, version: Array) -> Array:
    """Labels under each item's policy version: version 0 allows three clauses and forbids toy weapons."""
    allowed = np.isin(items.clause, (2, 4, 5))
    old = (items.label == 1) & ~allowed | (items.label == 0) & (items.sight_NC[:, TOY] > 0)
    return np.where(version == 1, items.label, old.astype(np.int64))


def _spans(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """The whole item in half of the cases, else a tenth to a third of it."""
    length = np.where(rng.random(shape) < 0.5, 1.0, rng.uniform(0.1, 0.33, shape))
    start = rng.random(shape) * (1 - length)
    return start, start + length


def _channels(rng: np.random.Generator, count: int, prefix: str) -> dict[str, Array]:
    """Every channel with harmless content."""
    region = rng.choice(len(REGIONS), count, p=REGION_SHARES)
    sight_NC = np.zeros((count, SIGHTS))
    sight_NC[:, CLUTTER] = rng.random(count) < 0.5
    sight_NC[:, TOY] = rng.random(count) < 0.06
    start_NC, end_NC = _spans(rng, (count, SIGHTS))
    tone_NA = np.zeros((count, TONES))
    tone_NA[:, HARMLESS_SOUND] = rng.random(count) < 0.3
    tone_NA[:, MUSIC] = rng.random(count) < 0.35
    source = np.arange(count) // 3
    scene_of_source = rng.normal(size=(source[-1] + 1, SCENE_WIDTH))[source]

    def words(presence: float) -> Array:
        theme = rng.choice([TALK, CHAT, NEWS, THREAT_OK, OFFER], count, p=[0.3, 0.3, 0.25, 0.08, 0.07])
        return np.where(rng.random(count) < presence, theme, -1)

    return {
        "ids": np.array([f"{prefix}{number:06d}" for number in range(count)]), "region": region,
        "language": region // 2, "surface": rng.choice(len(SURFACES), count, p=SURFACE_SHARES),
        "period": (rng.random(count) < 0.5).astype(np.int64), "source": source, "sight_NC": sight_NC,
        "start_NC": start_NC, "end_NC": end_NC, "size": rng.uniform(0.38, 1.0, count), "place": rng.random(count),
        "tone_NA": tone_NA, "speech": words(0.65), "title": words(1.0), "sticker": words(0.5),
        "noise": np.where(rng.random(count) < 0.2, rng.uniform(0.2, 0.6, count), 0.0),
        "wind": np.zeros(count), "print_size": np.ones(count), "tags": np.zeros(count), "script": np.zeros(count),
        "dialect": np.zeros(count),
        "scene_ND": 0.5 * scene_of_source + 0.5 * rng.normal(size=(count, SCENE_WIDTH)),
        "clause": rng.integers(len(CLAUSES), size=count), "imitates": np.full(count, -1),
    }  # fmt: skip


def draw_items(
    rng: np.random.Generator, count: int, *, prefix: str, prevalence: float = 0.4, kinds: Sequence[int] | None = None
) -> Items:
    """``count`` items; ``kinds``: evidence only of these kinds. Ids say nothing but a number."""
    fields_of = _channels(rng, count, prefix)
    label = (rng.random(count) < prevalence).astype(np.int64)
    kind = rng.choice(np.arange(len(KINDS)) if kinds is None else np.asarray(kinds), count)
    imitates = np.where((label == 0) & (rng.random(count) < 0.45), kind, -1)
    kind = np.where(label == 1, kind, -1)
    shown = np.maximum(kind, imitates)
    fields_of |= {"label": label, "kind": kind, "imitates": imitates}
    fields_of["clause"] = np.where(shown >= 0, CLAUSE_OF_KIND[shown], fields_of["clause"])
    items = Items(**fields_of)
    _show(rng, items)
    _say(rng, items)
    return items


def _show(rng: np.random.Generator, items: Items) -> None:
    """Evidence and look-alikes of the picture."""
    for kind, evidence, double in ((0, WEAPON, TOY), (1, WEAPON, TOY), (2, FIGHT, PLAY)):
        items.sight_NC[items.kind == kind, evidence] = 1
        items.sight_NC[items.imitates == kind, double] = 1
    small = (items.kind == 1) | (items.imitates == 1)
    items.size[small] = rng.uniform(0.2, 0.36, int(small.sum()))
    items.size[(items.kind == 2) | (items.imitates == 2)] = 1.0
    acts = (items.kind == 3) | (items.imitates == 3)
    forwards = items.kind[acts] == 3
    items.sight_NC[np.ix_(acts, [ACT_A, ACT_B])] = 1
    items.size[acts] = 1.0
    first = rng.uniform(0.0, 0.25, int(acts.sum()))
    second = rng.uniform(0.5, 0.75, int(acts.sum()))
    items.start_NC[acts, ACT_A], items.start_NC[acts, ACT_B] = (
        np.where(forwards, first, second), np.where(forwards, second, first),
    )  # fmt: skip
    items.end_NC[acts, ACT_A] = items.start_NC[acts, ACT_A] + 0.25
    items.end_NC[acts, ACT_B] = items.start_NC[acts, ACT_B] + 0.25


def _say(rng: np.random.Generator, items: Items) -> None:
    """Evidence and look-alikes of words and sounds, and conjunctions of something shown with something said."""
    for kind, channel in ((4, items.sticker), (5, items.title), (6, items.speech)):
        channel[items.kind == kind] = THREAT
        channel[items.imitates == kind] = THREAT_OK
    for sounds, tone in ((items.kind == 7, ALARM), (items.imitates == 7, HARMLESS_SOUND)):
        items.tone_NA[sounds] *= np.eye(TONES)[MUSIC]
        items.tone_NA[sounds, tone] = 1
    both, half = items.kind == 8, items.imitates == 8
    offers = np.column_stack([items.speech, items.title, items.sticker])
    offers[(both | half)[:, None] & (offers == OFFER)] = CHAT
    channel = rng.choice(3, len(items), p=[0.5, 0.3, 0.2])
    said = both | half & (rng.random(len(items)) < 0.5)
    offers[said, channel[said]] = OFFER
    items.sight_NC[both | half & ~said, GOODS] = 1
    items.speech[:], items.title[:], items.sticker[:] = offers.T


def renamed(items: Items, prefix: str) -> Items:
    """The same items as uploads of other people: other ids and sources."""
    ids = np.array([f"{prefix}{number:06d}" for number in range(len(items))])
    return replace(items, ids=ids, source=items.source + 10_000_000)
