"""What a clip is like, without any model: a small embedding, a noise level, a perceptual hash.

Enters: a decoded clip. Leaves: numbers that distances, near-duplicates and peers are made of. The embedding holds
colour on a grid, change over time and the spectrum of the sound; the noise level is Immerkaer's (1996) estimate of the
grain together with what blur and coarse coding leave of detail; the hash is PDQ's of the middle frame (extra
``known``).

Shape legend: N items, D embedding size, T frames, H height, W width, C colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.diagnosis.table import Floats, Strings
from tidegate.types import Clip

__all__ = ["Content", "content_of", "frame_hash"]

_GRID, _BANDS = 4, 16
EMBEDDING_SIZE = _GRID * _GRID * 3 * 2 + 2 * _BANDS


@dataclass(frozen=True, kw_only=True, eq=False)
class Content:
    """Of N clips."""

    embeddings_ND: Floats
    noise_N: Floats
    hashes_N: Strings | None

    @classmethod
    def stacked(cls, parts: Sequence[dict[str, Any]]) -> Content:
        """Of many clips; one that did not decode has zeros, no noise level and no hash."""
        rows = [part.get("embedding") or [0.0] * EMBEDDING_SIZE for part in parts]
        noise = [part.get("noise") for part in parts]
        hashes = np.asarray([part.get("hash") or "" for part in parts], dtype=np.str_)
        return cls(embeddings_ND=np.asarray(rows, dtype=np.float64), hashes_N=hashes if (hashes != "").any() else None,
                   noise_N=np.asarray([np.nan if value is None else value for value in noise], dtype=np.float64))


def content_of(clip: Clip) -> dict[str, Any]:
    """Embedding, noise level and hash, JSON-able."""
    pixels = None if clip.frames is None or not len(clip.frames) else clip.frames.frames_THWC
    return {
        "embedding": [round(float(value), 5) for value in (*_colours(pixels), *_spectrum(clip))],
        "noise": None if pixels is None else round(_noise(pixels[len(pixels) // 2]), 4),
        "hash": None if pixels is None else frame_hash(pixels[len(pixels) // 2]),
    }


def _colours(pixels: npt.NDArray[np.uint8] | None) -> Floats:
    if pixels is None:
        return np.zeros(_GRID * _GRID * 3 * 2)
    height, width = (pixels.shape[1] // _GRID) * _GRID, (pixels.shape[2] // _GRID) * _GRID
    blocks = pixels[:, :height, :width].reshape(len(pixels), _GRID, height // _GRID, _GRID, width // _GRID, 3) / 255.0
    means = blocks.mean(axis=(2, 4)).reshape(len(pixels), -1)
    colours: Floats = np.concatenate([means.mean(axis=0), means.std(axis=0)])
    return colours


def _spectrum(clip: Clip) -> Floats:
    """Mean and deviation of the log energy of ``_BANDS`` bands; zeros without audio."""
    if clip.audio is None or len(clip.audio.samples) < 1024:
        return np.zeros(2 * _BANDS)
    count = len(clip.audio.samples) // 512
    power = np.abs(np.fft.rfft(clip.audio.samples[: count * 512].reshape(count, 512), axis=1))[:, 1:] ** 2
    edges = np.unique(np.geomspace(1, 256, _BANDS + 1).astype(int))
    bands = np.log10(np.add.reduceat(power, edges[:-1] - 1, axis=1) + 1e-8)
    padded = np.zeros((count, _BANDS))
    padded[:, : bands.shape[1]] = bands
    spectrum: Floats = np.concatenate([padded.mean(axis=0), padded.std(axis=0)]) / 4.0
    return spectrum


def _noise(frame_HWC: npt.NDArray[np.uint8]) -> float:
    """Grain, plus what is missing of fine detail: both rise with corruption."""
    grey = frame_HWC.astype(np.float64).mean(axis=2)
    laplace = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    mask = (grey[:-2, :-2] + grey[:-2, 2:] + grey[2:, :-2] + grey[2:, 2:]
            - 2 * (grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]) + 4 * grey[1:-1, 1:-1])
    grain = float(np.sqrt(np.pi / 2) * np.abs(mask).mean() / 6.0)
    contrast = float(grey.std()) + 1.0
    return grain + 4.0 * float(np.exp(-6.0 * np.abs(laplace).mean() / contrast))


def frame_hash(frame_HWC: npt.NDArray[np.uint8]) -> str | None:
    """PDQ hash as 64 hexadecimal digits; None if ``pdqhash`` is not installed or the frame says nothing."""
    try:
        import pdqhash
    except ImportError:
        return None
    bits, quality = pdqhash.compute(np.ascontiguousarray(frame_HWC))
    return None if quality < 50 else np.packbits(np.asarray(bits, dtype=np.uint8)).tobytes().hex()
