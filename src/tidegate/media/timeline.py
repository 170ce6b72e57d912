"""The table of a video's frames: when each is shown, and where decoding may start.

Enters: packet times in ticks of the stream's time base, or frame times when packets have none. Leaves: ``Timeline``.
Why this method: integers in the stream's own time base compare exactly; seconds are made once, by one division.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise

import numpy as np
import numpy.typing as npt

__all__ = ["Timeline", "VideoPackets", "ordered_timeline", "packet_timeline"]

_Ticks = npt.NDArray[np.int64]
_FALLBACK_RATE = Fraction(25)


@dataclass
class VideoPackets:
    """Times of the video packets in the order of the file, in ticks; grows while the file is read."""

    pts: list[int] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)
    key_pts: list[int] = field(default_factory=list)
    """Keyframes, also those that an edit list hides: decoding may start there."""
    key_dts: list[int] = field(default_factory=list)
    hidden: set[int] = field(default_factory=set)
    """Keyframes that are decoded but not shown."""
    unusable: bool = False
    """Some packet had no presentation time, or the decoder's parameters change on the way."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Timeline:
    """When each frame of a video is shown."""

    time_base: Fraction
    """Seconds in a tick."""
    pts: _Ticks
    """Ascending presentation times of the shown frames."""
    end: int
    """End of the last frame, in ticks."""
    key_pts: _Ticks
    """Ascending presentation times of the keyframes, hidden ones too."""
    key_dts: _Ticks
    shown_key_pts: _Ticks
    average_rate: Fraction
    is_variable_rate: bool
    by_order: bool = False
    """True when packets have no usable times: a frame is then found by its number in a decoding of the whole stream."""

    def seconds(self, ticks: _Ticks) -> npt.NDArray[np.float64]:
        numerators: npt.NDArray[np.float64] = ticks.astype(np.float64) * self.time_base.numerator
        return numerators / self.time_base.denominator

    def on_screen(self, instants_seconds: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
        """Number of the frame on screen at each instant: the last with pts <= t, the first one before that."""
        at = np.searchsorted(self.seconds(self.pts), instants_seconds, side="right") - 1
        return np.maximum(at, 0)

    def keyframes_before(self, numbers: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Number of the last shown keyframe at or before each frame; the frame itself where there is none."""
        keys = np.searchsorted(self.pts, self.shown_key_pts)
        row = np.searchsorted(keys, numbers, side="right") - 1
        return np.where(row >= 0, keys[np.maximum(row, 0)], numbers) if len(keys) else numbers


def packet_timeline(packets: VideoPackets, time_base: Fraction, header_rate: Fraction | None) -> Timeline | None:
    """The table from packet times; None when they cannot be trusted (missing, repeated)."""
    order = np.argsort(np.asarray(packets.pts, np.int64), kind="stable")
    pts = np.asarray(packets.pts, np.int64)[order]
    if packets.unusable or not len(pts) or bool(np.any(np.diff(pts) == 0)) or not packets.key_pts:
        return None
    rate, is_variable = _rate(pts, packets.durations[order[-1]], time_base, header_rate)
    key_order = np.argsort(np.asarray(packets.key_pts, np.int64), kind="stable")
    key_pts = np.asarray(packets.key_pts, np.int64)[key_order]
    return Timeline(
        time_base=time_base,
        pts=pts,
        end=_end(int(pts[-1]), packets.durations[order[-1]], rate, time_base),
        key_pts=key_pts,
        key_dts=np.asarray(packets.key_dts, np.int64)[key_order],
        shown_key_pts=key_pts[[int(key) not in packets.hidden for key in key_pts]],
        average_rate=rate,
        is_variable_rate=is_variable,
    )


def ordered_timeline(
    times: list[int | None], key_numbers: list[int], time_base: Fraction, header_rate: Fraction | None
) -> Timeline:
    """The table from frames in decoding's output order.

    A frame without a time follows the one before it by the header's frame interval; when times go back, all frames lie
    on an even grid from the first known time.
    """
    step = max(1, round(1 / (header_rate or _FALLBACK_RATE) / time_base))
    first = next((time - number * step for number, time in enumerate(times) if time is not None), 0)
    filled: list[int] = []
    for time in times:
        filled.append(time if time is not None else filled[-1] + step if filled else first)
    if not all(before < after for before, after in pairwise(filled)):
        filled = [first + number * step for number in range(len(times))]
    pts = np.asarray(filled, np.int64)
    rate, is_variable = _rate(pts, 0, time_base, header_rate)
    keys = pts[key_numbers]
    return Timeline(
        time_base=time_base,
        pts=pts,
        end=_end(int(pts[-1]), 0, rate, time_base),
        key_pts=keys,
        key_dts=keys,
        shown_key_pts=keys,
        average_rate=rate,
        is_variable_rate=is_variable,
        by_order=True,
    )


def _rate(pts: _Ticks, last_duration: int, time_base: Fraction, header: Fraction | None) -> tuple[Fraction, bool]:
    """Average rate, and whether the frames leave an even grid by more than a tick; a header rate that fits is exact."""
    count = len(pts) - 1
    if count < 1:
        return (1 / (last_duration * time_base) if last_duration > 0 else header or Fraction(0)), False
    ticks = int(pts[-1] - pts[0])
    grid = pts[0] + np.arange(count + 1) * (ticks / count)
    is_variable = bool(np.max(np.abs(pts - grid)) > 1.0)
    if header and abs(count / header / time_base - ticks) <= 1:
        return header, is_variable
    return count / (ticks * time_base), is_variable


def _end(last: int, duration: int, rate: Fraction, time_base: Fraction) -> int:
    if duration > 0:
        return last + duration
    return last + (max(1, round(1 / rate / time_base)) if rate > 0 else 0)
