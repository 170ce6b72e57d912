"""Corruption: what bad cameras, bad microphones and low bit rates leave of a clip.

Enters: ``ClipFeatures`` and a strength. Leaves: the same clip, worse; the cached arrays are never written to. Frames
get grain, blur, or coarse quantisation of 8 by 8 blocks (JPEG of low quality, as at low bit rates); audio gets white
noise or loses its high frequencies, on the log-mel spectrogram: powers are added before the logarithm (Hendrycks and
Dietterich 2019 list the same families).

Shape legend: T frames, H height, W width, C colours, M mel bins, F mel frames.
"""

from __future__ import annotations

import dataclasses
import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from tidegate.models.batch import ClipFeatures
from tidegate.training.examples import Table

__all__ = ["CorruptedTable", "corrupted"]

_PIXELS = npt.NDArray[np.uint8]
_MEL = npt.NDArray[np.float32]
_KINDS = 3
_MOST_GRAIN = 40.0
"""Standard deviation, in steps of 8-bit pixels."""
_MOST_BLUR = 1 / 40
"""Radius over the frame's side."""
_JPEG_QUALITY = (40, 3)
_SNR_DB = (25.0, 0.0)
_LOST_BINS = 0.6


def corrupted(item: ClipFeatures, strength: float, rng: np.random.Generator) -> ClipFeatures:
    """One clip, corrupted in one to three ways; how strongly is drawn up to ``strength`` in (0, 1]."""
    severity = strength * rng.uniform(0.3, 1.0)
    kinds = _kinds(rng)
    frames, mel = item.frames_THWC, item.mel_MF
    return dataclasses.replace(
        item,
        frames_THWC=None if frames is None else _worse_frames(frames, severity, kinds, rng),
        mel_MF=None if mel is None else _worse_mel(mel, item.num_mel_frames, severity, kinds, rng),
    )


def _kinds(rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """At least one of grain and noise, blur and lost bins, coarse blocks."""
    chosen = rng.random(_KINDS) < 0.5
    chosen[int(rng.integers(_KINDS))] = True
    return chosen


def _worse_frames(
    frames_THWC: _PIXELS, severity: float, kinds: npt.NDArray[np.bool_], rng: np.random.Generator
) -> _PIXELS:
    if kinds[1]:
        blur = ImageFilter.GaussianBlur(severity * _MOST_BLUR * frames_THWC.shape[1])
        frames_THWC = np.stack([np.asarray(Image.fromarray(frame).filter(blur)) for frame in frames_THWC])
    if kinds[0]:
        grain = rng.normal(0.0, severity * _MOST_GRAIN, frames_THWC.shape)
        frames_THWC = np.clip(frames_THWC + grain, 0, 255).astype(np.uint8)
    if kinds[2]:
        best, worst = _JPEG_QUALITY
        quality = round(best + (worst - best) * severity)
        frames_THWC = np.stack([_coarse(frame, quality) for frame in frames_THWC])
    return frames_THWC


def _coarse(frame_HWC: _PIXELS, quality: int) -> _PIXELS:
    buffer = io.BytesIO()
    Image.fromarray(frame_HWC).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def _worse_mel(
    mel_MF: _MEL, real_frames: int, severity: float, kinds: npt.NDArray[np.bool_], rng: np.random.Generator
) -> _MEL:
    """Blocks have no counterpart in sound: a clip of that kind alone keeps its audio."""
    out: _MEL = mel_MF.copy()
    if kinds[1]:
        out[len(out) - int(len(out) * _LOST_BINS * severity) :] = out.min()
    if kinds[0] and real_frames:
        power = 10.0 ** (4.0 * out[:, :real_frames].astype(np.float64) - 4.0)
        snr_db = _SNR_DB[0] + (_SNR_DB[1] - _SNR_DB[0]) * severity
        noise = power.mean() * 10.0 ** (-snr_db / 10.0) * rng.standard_exponential(power.shape)
        out[:, :real_frames] = (np.log10(power + noise) + 4.0) / 4.0
    return out


@dataclass(frozen=True, kw_only=True, eq=False)
class CorruptedTable:
    """A table of which a share of the rows is corrupted, always the same rows in the same way: for towers run once."""

    table: Table
    share: float
    strength: float
    seed: int

    @property
    def video_ids(self) -> tuple[str, ...]:
        """Ids by row."""
        return self.table.video_ids

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> ClipFeatures:
        rng, item = np.random.default_rng([self.seed, row]), self.table[row]
        return corrupted(item, self.strength, rng) if rng.random() < self.share else item
