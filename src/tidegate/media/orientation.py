"""Turn stored pictures upright.

Enters: a decoded frame's display matrix. Leaves: a transpose and two flips, which are exact on pixels.
Why this method: phones store pictures sideways with a matrix that says how to show them; the eight right-angled
cases are all that occur, and an oblique matrix is taken as the nearest of them.
Source: ISO/IEC 14496-12, track header ``matrix``; FFmpeg ``AV_FRAME_DATA_DISPLAYMATRIX`` (x' = a x + c y, y' = b x
+ d y).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import av
import numpy as np
import numpy.typing as npt

__all__ = ["Orientation", "orientation_of"]

_TURNS = {(False, False, False): 0, (True, True, False): 90, (False, True, True): 180, (True, False, True): 270}


@dataclass(frozen=True)
class Orientation:
    """How a stored picture becomes the displayed one: transpose, then flip columns (x), then rows (y)."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @property
    def is_mirrored(self) -> bool:
        return self.transpose ^ self.flip_x ^ self.flip_y

    @property
    def rotation_degrees(self) -> int:
        """Clockwise turn; of a mirrored picture, the turn after mirroring left and right."""
        if not self.is_mirrored:
            return _TURNS[self.transpose, self.flip_x, self.flip_y]
        if self.transpose:
            return _TURNS[True, self.flip_x, not self.flip_y]
        return _TURNS[False, not self.flip_x, self.flip_y]

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Displayed width and height of a stored width and height."""
        return (height, width) if self.transpose else (width, height)

    def apply(self, pixels_HWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The displayed picture, as a view."""
        if self.transpose:
            pixels_HWC = pixels_HWC.transpose(1, 0, 2)
        return pixels_HWC[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """The orientation that a frame's display matrix asks for; upright without one."""
    side_data = cast(Mapping[str, Any], frame.side_data)
    if "DISPLAYMATRIX" not in side_data:
        return Orientation()
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(side_data["DISPLAYMATRIX"])[:36])
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(transpose=True, flip_x=c < 0, flip_y=b < 0)
    return Orientation(flip_x=a < 0, flip_y=d < 0)
