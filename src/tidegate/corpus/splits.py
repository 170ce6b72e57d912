"""Splits that keep a source on one side.

Enters: entries and shares. Leaves: the same entries with ``split`` set. ``hash_split`` decides by a hash of the
source id: a source keeps its side when the data set grows. ``grouped_split`` balances labels for small sets: sources
are dealt, largest first, to the side that lacks their labels most. Clips whose source is ``unlisted`` may share a
source with anything, so they go to training only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from tidegate.corpus.manifest import SPLITS, Entry, Split
from tidegate.errors import ConfigError

__all__ = ["DEFAULT_SHARES", "UNLISTED", "grouped_split", "hash_split", "side_of"]

DEFAULT_SHARES: dict[Split, float] = {"train": 0.7, "validation": 0.15, "test": 0.15}
UNLISTED = "unlisted"
"""Source id of a clip whose source is not known."""


def _checked(shares: Mapping[Split, float]) -> Mapping[Split, float]:
    if set(shares) - set(SPLITS) or any(share < 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-9:
        raise ConfigError(f"shares: expected parts of 1 for {', '.join(SPLITS)}, got {dict(shares)}")
    return shares


def side_of(source_id: str, shares: Mapping[Split, float] = DEFAULT_SHARES) -> Split:
    """The side of one source, by its hash."""
    point = int.from_bytes(hashlib.sha256(f"split/{source_id}".encode()).digest()[:8]) / 2**64
    edge = 0.0
    chosen: Split = "train"
    for name, share in shares.items():
        edge, chosen = edge + share, name
        if point < edge:
            break
    return chosen


def hash_split(entries: Iterable[Entry], shares: Mapping[Split, float] = DEFAULT_SHARES) -> tuple[Entry, ...]:
    """Every entry on the side of its source's hash (of its own id where it has no source)."""
    shares = _checked(shares)
    return tuple(
        replace(
            entry, split="train" if entry.source_id == UNLISTED else side_of(entry.source_id or entry.video_id, shares)
        )
        for entry in entries
    )


def grouped_split(
    entries: Iterable[Entry], issue: str, shares: Mapping[Split, float] = DEFAULT_SHARES, *, seed: int = 0
) -> tuple[Entry, ...]:
    """Source-disjoint split in which every side has about its share of both labels of ``issue``."""
    shares, entries = _checked(shares), tuple(entries)
    groups: dict[str, np.ndarray] = {}
    for entry in entries:
        counts = groups.setdefault(entry.source_id or entry.video_id, np.zeros(2))
        counts[entry.labels[issue]] += 1
    total = np.array(sum(groups.values()), dtype=float)
    lacking = {name: share * total for name, share in shares.items() if share > 0}
    sides: dict[str, Split] = {UNLISTED: "train"}
    if UNLISTED in groups and "train" in lacking:
        lacking["train"] = lacking["train"] - groups.pop(UNLISTED)
    order = np.random.default_rng(seed).permutation(sorted(groups))
    for source in sorted(order, key=lambda name: -groups[name].sum()):
        side = max(lacking, key=lambda name: float(np.dot(lacking[name] / np.maximum(total, 1), groups[source])))
        sides[source] = side
        lacking[side] = lacking[side] - groups[source]
    return tuple(replace(entry, split=sides[entry.source_id or entry.video_id]) for entry in entries)
