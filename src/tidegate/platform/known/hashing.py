"""Perceptual hashes of a video's frames: Meta's PDQ, frame by frame as in vPDQ.

Enters: a video file, or frames. Leaves: 256-bit hashes with their times and PDQ's quality; frames of low quality (flat,
dark, blurred) match everything and are left out. PDQ survives re-encoding, resizing and light edits; not bars, so edges
of one colour that never change are cut off before, and not mirroring, so a query is hashed mirrored too. Files are
decoded in a process of their own.
Source: Meta, "The TMK+PDQF Video-Hashing Algorithm and the PDQ Image-Hashing Algorithm" (2019); vPDQ (2022).

Legend: N frames of the query, M frames of the bank, 4 words of 64 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tidegate.errors import ConfigError
from tidegate.media import DecoderPool
from tidegate.platform.stores.drivers import driver
from tidegate.types import ClipRequest, FrameBatch

__all__ = ["HASH_BYTES", "HashingConfig", "VideoHashes", "hash_frames", "hash_video"]

HASH_BYTES = 32
_LONG_EDGE_PIXELS = 512  # PDQ works on 64x64 luminance; this is what its authors scale to first
_BAR_LEVELS = 32  # of 255: what compression makes of one colour
_LEAST_SHARE = 0.3

Words = npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class HashingConfig:
    """Which frames of a video are hashed."""

    interval_seconds: float = 1.0
    """Between two hashed frames."""
    max_frames: int = 600
    """Of one video; longer ones are looked at less often."""
    min_quality: int = 50
    """PDQ's quality, 0 to 100, below which a frame says nothing."""

    def __post_init__(self) -> None:
        if self.interval_seconds <= 0 or self.max_frames < 1 or not 0 <= self.min_quality <= 100:
            raise ConfigError(f"expected interval > 0, max_frames >= 1 and a quality of 0 to 100, got {self}")


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoHashes:
    """Hashes of the frames that say something, by time."""

    words_N4: Words
    pts_seconds: npt.NDArray[np.float64]
    quality: npt.NDArray[np.uint8]
    step_seconds: float
    """Between two looks, before frames of low quality were left out."""
    mirrored_N4: Words | None = None
    """The same frames seen in a mirror."""

    def __len__(self) -> int:
        return len(self.words_N4)


def hash_frames(
    frames: FrameBatch, *, step_seconds: float, min_quality: int = 50, mirrored: bool = False
) -> VideoHashes:
    """Hashes of frames at hand."""
    frames = FrameBatch(_without_bars(frames.frames_THWC), frames.pts_seconds)
    straight = [_pdq(frame) for frame in frames.frames_THWC]
    good = [number for number, (_, quality) in enumerate(straight) if quality >= min_quality]
    turned = [np.ascontiguousarray(frames.frames_THWC[number][:, ::-1]) for number in good] if mirrored else []
    return VideoHashes(
        words_N4=_packed([straight[number][0] for number in good]),
        pts_seconds=frames.pts_seconds[good],
        quality=np.array([straight[number][1] for number in good], np.uint8),
        step_seconds=step_seconds,
        mirrored_N4=_packed([_pdq(frame)[0] for frame in turned]) if mirrored else None,
    )


def hash_video(path: Path, pool: DecoderPool, config: HashingConfig, *, mirrored: bool = False) -> VideoHashes:
    """Hashes of a file, a frame each interval; raises the media errors of ``DecoderPool``."""
    seconds = pool.probe(path).span.duration_seconds
    count = min(config.max_frames, max(1, round(seconds / config.interval_seconds)))
    request = ClipRequest(num_frames=count, audio=False, long_edge_pixels=_LONG_EDGE_PIXELS)
    _, clip = pool.read_clip(path, request, video_id="known")
    frames = clip.frames or FrameBatch(np.zeros((0, 1, 1, 3), np.uint8), np.zeros(0))
    return hash_frames(frames, step_seconds=seconds / count, min_quality=config.min_quality, mirrored=mirrored)


def _without_bars(frames_THWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The frames without edges that have one colour, the same in all frames."""
    if len(frames_THWC) == 0:
        return frames_THWC
    rows = _changing(frames_THWC, axis=1)
    columns = _changing(frames_THWC[:, rows], axis=2)
    return np.ascontiguousarray(frames_THWC[:, rows, columns])


def _changing(frames_THWC: npt.NDArray[np.uint8], axis: int) -> slice:
    """From the first to the last line along ``axis`` that is no bar; all of them if too little would remain."""
    lines = np.moveaxis(frames_THWC, axis, 0)
    flat = lines.reshape(len(lines), -1, 3)
    lively = np.flatnonzero((flat.max(axis=1).astype(int) - flat.min(axis=1)).max(axis=1) > _BAR_LEVELS)
    if len(lively) == 0 or lively[-1] + 1 - lively[0] < _LEAST_SHARE * len(lines):
        return slice(None)
    return slice(int(lively[0]), int(lively[-1]) + 1)


def _pdq(frame_HWC: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], int]:
    bits, quality = driver("pdqhash").compute(frame_HWC)
    return np.asarray(bits, np.uint8), int(quality)


def _packed(bits: list[npt.NDArray[np.uint8]]) -> Words:
    if not bits:
        return np.zeros((0, 4), np.uint64)
    return np.packbits(np.stack(bits), axis=1).view(np.uint64)
