"""Instants at which to look at a video.

Enters: a probe's facts. Leaves: ascending instants in seconds on the file's own timeline.
Why this method: instants are times, not frame numbers, so variable rates and non-zero starts need no special case; the
centres of equal parts never fall on the very first or last frame, which are often black.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tidegate.media.info import MediaInfo
from tidegate.types import Span

__all__ = ["keyframe_instants", "uniform_instants", "windowed_instants"]

Instants = npt.NDArray[np.float64]


def uniform_instants(info: MediaInfo, n: int) -> Instants:
    """Centres of ``n`` equal parts of the video's span."""
    return _centres(info.span, n)


def keyframe_instants(info: MediaInfo, n: int) -> Instants:
    """At most ``n`` keyframe times, spread evenly over the list of keyframes: frames that decode alone."""
    keys = info.keyframe_pts_seconds
    if len(keys) <= n:
        return keys.copy()
    rows: npt.NDArray[np.intp] = ((np.arange(n) + 0.5) * len(keys) / n).astype(np.intp)
    return keys[rows]


def windowed_instants(info: MediaInfo, window: Span, n: int) -> Instants:
    """Centres of ``n`` equal parts of ``window`` cut to the video's span. A window outside it is a ``ValueError``."""
    start = max(window.start_seconds, info.span.start_seconds)
    end = min(window.end_seconds, info.span.end_seconds)
    if start >= end:
        raise ValueError(f"expected a window that overlaps {info.span}, got {window}")
    return _centres(Span(start, end), n)


def _centres(span: Span, n: int) -> Instants:
    if n < 0:
        raise ValueError(f"expected n >= 0, got {n}")
    middles = np.arange(0.5, n, dtype=np.float64)
    return np.asarray(span.start_seconds + middles * (span.duration_seconds / max(n, 1)), np.float64)
