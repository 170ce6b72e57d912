"""A decoded frame as upright RGB pixels.

Enters: a frame in any pixel format. Leaves: uint8 (H, W, 3), upright, at the wanted size, in place.
Why this method: swscale converts and scales in one pass, on one thread, so that the result does not depend on the
machine's load; at native size the conversion is PyAV's own, so frames equal ``frame.to_ndarray(format="rgb24")``; area
averaging is used for shrinking because it does not alias.
"""

from __future__ import annotations

from dataclasses import dataclass

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from tidegate.errors import LimitExceeded
from tidegate.media.limits import Limits
from tidegate.media.orientation import Orientation

__all__ = ["Canvas"]


@dataclass(frozen=True)
class Canvas:
    """Size and orientation of the pictures to make."""

    width: int
    """Of the picture before it is turned upright."""
    height: int
    orientation: Orientation

    @classmethod
    def fit(cls, width: int, height: int, long_edge_pixels: int | None, orientation: Orientation) -> Canvas:
        """The stored size, shrunk (never enlarged) so that its long edge is ``long_edge_pixels``."""
        long_edge = max(width, height)
        if long_edge_pixels is None or long_edge_pixels >= long_edge:
            return cls(width, height, orientation)
        scale = long_edge_pixels / long_edge
        return cls(max(1, round(width * scale)), max(1, round(height * scale)), orientation)

    def blank(self, count: int, limits: Limits) -> npt.NDArray[np.uint8]:
        """Room for ``count`` upright pictures (T, H, W, 3)."""
        width, height = self.orientation.size(self.width, self.height)
        if count * height * width * 3 > limits.max_memory_bytes:
            came = f"{count} frames of {width}x{height}"
            raise LimitExceeded(f"expected frames within max_memory_bytes={limits.max_memory_bytes}, got {came}")
        return np.empty((count, height, width, 3), np.uint8)

    def paint(self, frame: av.VideoFrame, onto_HWC: npt.NDArray[np.uint8], reformatter: VideoReformatter) -> None:
        """Convert, scale and turn ``frame`` into ``onto_HWC``."""
        shrinks = (self.width, self.height) != (frame.width, frame.height)
        rgb = reformatter.reformat(
            frame,
            self.width,
            self.height,
            "rgb24",
            interpolation="AREA" if shrinks else None,
            threads=1,
        )
        onto_HWC[:] = self.orientation.apply(np.asarray(rgb.to_ndarray(), np.uint8))
