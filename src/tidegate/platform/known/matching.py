"""Whether a video is a copy of known content, and which part of it is which part of the bank's.

Enters: a video's hashes and a bank. Leaves: matches, the best first. As in vPDQ, an entry matches if enough of the
video's frames are near one of the entry's frames (the video is a piece of the entry), or enough of the entry's frames
near one of the video's (the entry is a piece of the video). Frames are then paired in time: a span goes on as long as
both sides advance together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tidegate.errors import ConfigError
from tidegate.platform.contracts import KnownMatch
from tidegate.platform.known.bank import Bank, Near
from tidegate.platform.known.hashing import VideoHashes
from tidegate.types import Span

__all__ = ["MatchConfig", "find_matches"]

_DRIFT_STEPS = 1.5


@dataclass(frozen=True, kw_only=True)
class MatchConfig:
    """When a video counts as a copy."""

    max_bits: int = 31
    """Hamming distance of two hashes that count as near, of 256 bits; 31 is PDQ's usual choice."""
    min_video_share: float = 0.3
    """Of the video's hashed frames that must be near the entry's."""
    min_entry_share: float = 0.3
    """Or: of the entry's hashed frames that must be near the video's."""
    min_frames: int = 2
    """Near frames of the video, at least; one is enough only for a video with a single frame."""

    def __post_init__(self) -> None:
        shares = (self.min_video_share, self.min_entry_share)
        if not 0 <= self.max_bits <= 256 or not all(0 < share <= 1 for share in shares) or self.min_frames < 1:
            raise ConfigError(f"expected 0 <= max_bits <= 256, shares in (0, 1] and min_frames >= 1, got {self}")


def find_matches(hashes: VideoHashes, bank: Bank, config: MatchConfig) -> list[KnownMatch]:
    """Matches of one video, by the share of its frames, then by distance; mirrored frames count as well."""
    if len(hashes) == 0 or len(bank) == 0:
        return []
    views = [hashes.words_N4] + ([] if hashes.mirrored_N4 is None else [hashes.mirrored_N4])
    best: dict[str, KnownMatch] = {}
    for words in views:
        near = bank.near(words, config.max_bits)
        for number in np.unique(bank.entry_M[near.bank]):
            match = _match(hashes, bank, near, int(number), config)
            if match is not None and (match.entry not in best or _rank(match) < _rank(best[match.entry])):
                best[match.entry] = match
    return sorted(best.values(), key=_rank)


def _rank(match: KnownMatch) -> tuple[float, float, str]:
    return -match.matched_share, match.distance, match.entry


def _match(hashes: VideoHashes, bank: Bank, near: Near, number: int, config: MatchConfig) -> KnownMatch | None:
    mine = bank.entry_M[near.bank] == number
    query, rows, bits = near.query[mine], near.bank[mine], near.bits[mine]
    frames = len(np.unique(query))
    video_share = frames / len(hashes)
    entry_share = _covered_share(bank, rows, number, max(hashes.step_seconds, bank.interval_seconds))
    if frames < min(config.min_frames, len(hashes)):
        return None
    if video_share < config.min_video_share and entry_share < config.min_entry_share:
        return None
    least = np.full(len(hashes), 257)
    np.minimum.at(least, query, bits)
    return KnownMatch(
        bank=bank.name, entry=bank.entries[number], distance=float(least[least <= 256].mean()),
        matched_share=video_share, spans=_spans(hashes, bank, query, rows, bits), violates=bank.violates,
        issue=bank.issue,
    )


def _covered_share(bank: Bank, rows: npt.NDArray[np.intp], number: int, step_seconds: float) -> float:
    """Of the entry's time in steps as wide as the video's, the share in which a frame is near."""
    steps = np.floor(bank.pts_seconds / step_seconds)
    return len(np.unique(steps[rows])) / len(np.unique(steps[bank.entry_M == number]))


def _spans(
    hashes: VideoHashes, bank: Bank, query: npt.NDArray[np.intp], rows: npt.NDArray[np.intp],
    bits: npt.NDArray[np.intp],
) -> tuple[tuple[Span, Span], ...]:
    """Runs of pairs (time in the video, time in the entry) that advance together."""
    pairs: list[tuple[float, float]] = []
    for frame in np.unique(query):
        here = query == frame
        at = float(hashes.pts_seconds[frame])
        there = bank.pts_seconds[rows[here]]
        wanted = pairs[-1][1] + at - pairs[-1][0] if pairs else -np.inf
        drift = np.abs(there - wanted) if pairs else np.zeros(len(there))
        # A pair that goes on with the run comes first, then the nearest hash, then the earliest time.
        order = np.lexsort((there, bits[here], drift > _drift(hashes, bank)))
        pairs.append((at, float(there[order[0]])))
    return tuple(_span(run, hashes, bank) for run in _runs(pairs, hashes, bank))


def _drift(hashes: VideoHashes, bank: Bank) -> float:
    return _DRIFT_STEPS * max(hashes.step_seconds, bank.interval_seconds)


def _runs(
    pairs: Sequence[tuple[float, float]], hashes: VideoHashes, bank: Bank
) -> list[list[tuple[float, float]]]:
    limit = _drift(hashes, bank)
    runs: list[list[tuple[float, float]]] = []
    for at, there in pairs:
        if runs:
            last_at, last_there = runs[-1][-1]
            together = abs((there - last_there) - (at - last_at)) <= limit
            if together and at - last_at <= hashes.step_seconds + limit:
                runs[-1].append((at, there))
                continue
        runs.append([(at, there)])
    return runs


def _span(run: Sequence[tuple[float, float]], hashes: VideoHashes, bank: Bank) -> tuple[Span, Span]:
    first, last = run[0], run[-1]
    low, high = min(there for _, there in run), max(there for _, there in run)
    half_here, half_there = hashes.step_seconds / 2, bank.interval_seconds / 2
    return Span(first[0] - half_here, last[0] + half_here), Span(low - half_there, high + half_there)
