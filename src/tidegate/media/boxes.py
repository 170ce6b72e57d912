"""What an MP4's movie header claims.

Enters: a file that FFmpeg opened as MP4/QuickTime. Leaves: the duration in its ``mvhd`` box.
Why this method: FFmpeg replaces that claim by its own sum over the sample tables, so a lying header would go unseen.
Source: ISO/IEC 14496-12, 4.2 (boxes) and 8.2.2 (movie header).
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

from tidegate.media.container import PathArg

__all__ = ["movie_header_seconds"]

_MAX_BOXES = 10_000
_UNKNOWN = {0, 2**32 - 1, 2**64 - 1}


def movie_header_seconds(path: PathArg, container: str) -> float | None:
    """The claim in seconds; None for other containers and for headers that make none."""
    if "mp4" not in container.split(","):
        return None
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        moov = _find(file, b"moov", 0, size)
        mvhd = None if moov is None else _find(file, b"mvhd", *moov)
        if mvhd is None:
            return None
        file.seek(mvhd[0])
        body = file.read(32)
    try:
        layout, at = (">IQ", 20) if body[:1] == b"\x01" else (">II", 12)
        ticks_per_second, ticks = struct.unpack_from(layout, body, at)
    except struct.error:
        return None
    return ticks / ticks_per_second if ticks_per_second and ticks not in _UNKNOWN else None


def _find(file: BinaryIO, name: bytes, start: int, end: int) -> tuple[int, int] | None:
    """Start and end of the content of the first box of that name between two positions."""
    for _ in range(_MAX_BOXES):
        file.seek(start)
        head = file.read(16)
        if start >= end or len(head) < 8:
            return None
        size, kind, header = int.from_bytes(head[:4]), head[4:8], 8
        if size == 1:
            size, header = int.from_bytes(head[8:16]), 16
        size = size or end - start
        if kind == name:
            return start + header, min(start + size, end)
        start += max(size, header)
    return None
