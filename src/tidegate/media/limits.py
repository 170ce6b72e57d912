"""Hard limits on one video, and the clock that enforces the wall time inside one process.

Enters: what a deployment allows. Leaves: ``LimitExceeded`` that names the limit and what came.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from tidegate.errors import LimitExceeded

__all__ = ["Deadline", "Limits"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one video may cost. Each is checked as early as it can be known; passing one raises ``LimitExceeded``."""

    max_duration_seconds: float = 4 * 3600.0
    """Seconds of content (not of the header's claim), video or audio."""
    max_pixels: int = 8192 * 4320
    """Pixels of one stored frame; checked on the stream's parameters before decoding and on decoded frames."""
    max_file_bytes: int = 8 * 2**30
    """Size of the file; checked before it is opened as media."""
    max_packets: int = 10_000_000
    """Packets of video and audio read while probing."""
    max_wall_seconds: float = 120.0
    """Seconds of wall time for one call on one video. ``DecoderPool`` kills the worker; calls in this process give up
    at the next packet or read."""
    max_memory_bytes: int = 4 * 2**30
    """Address space of one ``DecoderPool`` worker, and the most bytes of frames that one call returns."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise ValueError(f"expected {name} > 0, got {value!r}")


class Deadline:
    """Wall clock of one call; ``check`` raises ``LimitExceeded`` once the time is up."""

    def __init__(self, limits: Limits) -> None:
        self._seconds = limits.max_wall_seconds
        self._end = time.monotonic() + limits.max_wall_seconds

    def check(self) -> None:
        if time.monotonic() > self._end:
            raise LimitExceeded(f"expected an answer within max_wall_seconds={self._seconds:g}, got none")
