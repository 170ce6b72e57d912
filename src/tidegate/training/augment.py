"""Augmentation of cached features: what a re-upload, another camera or another microphone would change.

Enters: ``ClipFeatures``. Leaves: changed ``ClipFeatures``; the cached arrays are never written to. Audio is changed
on the log-mel spectrogram: a gain is an added constant, a later start is a shift (SpecAugment: Park et al. 2019).

Shape legend: T frames, H height, W width, C colours, M mel bins, F mel frames.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tidegate.errors import ConfigError
from tidegate.models.batch import ClipFeatures
from tidegate.training.corruption import corrupted
from tidegate.types import Modality

__all__ = ["AugmentConfig", "augment"]


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How strongly training clips are changed. All zeros: not at all."""

    modality_dropout: float = 0.1
    """Probability that a modality of a clip is taken away (never the last one)."""
    flip: float = 0.5
    """Probability of mirroring all frames; 0 where mirroring is itself evidence (``ucc``)."""
    shift_pixels: int = 6
    """Frames are moved by up to this many pixels; edges are repeated."""
    brightness: float = 0.2
    """Largest relative change of brightness."""
    gain_db: float = 6.0
    """Largest change of loudness."""
    shift_mel_frames: int = 40
    """Audio starts up to this many 10 ms frames later or earlier."""
    mel_masks: int = 2
    """Masks over time and over mel bins, each."""
    token_dropout: float = 0.05
    """Probability that a text token is left out."""
    corruption: float = 0.0
    """Probability that a clip is corrupted: grain, blur, coarse blocks, noise, lost high frequencies."""
    corruption_strength: float = 0.5
    """The worst that is drawn, in (0, 1]; 1 is hardly to be seen or heard through."""

    def __post_init__(self) -> None:
        for name in ("modality_dropout", "flip", "token_dropout", "corruption"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"expected a probability in [0, 1] of {name}, got {getattr(self, name)}")
        if not 0.0 < self.corruption_strength <= 1.0:
            raise ConfigError(f"expected a corruption strength in (0, 1], got {self.corruption_strength}")


def augment(item: ClipFeatures, config: AugmentConfig, rng: np.random.Generator) -> ClipFeatures:
    """One clip, changed at random."""
    if config.corruption and rng.random() < config.corruption:
        item = corrupted(item, config.corruption_strength, rng)
    item = _drop_modalities(item, config, rng)
    frames, mel, tokens = item.frames_THWC, item.mel_MF, item.token_ids
    if config.token_dropout:
        tokens = tokens[rng.random(len(tokens)) >= config.token_dropout]
    return dataclasses.replace(
        item,
        frames_THWC=None if frames is None else _frames(frames, config, rng),
        mel_MF=None if mel is None else _mel(mel, item.num_mel_frames, config, rng),
        token_ids=tokens,
    )


def _drop_modalities(item: ClipFeatures, config: AugmentConfig, rng: np.random.Generator) -> ClipFeatures:
    present: dict[Modality, bool] = {
        "vision": item.frames_THWC is not None,
        "audio": item.mel_MF is not None,
        "text": len(item.token_ids) > 0,
    }
    have = [name for name, there in present.items() if there]
    lost = [name for name in have if rng.random() < config.modality_dropout]
    if len(lost) == len(have):
        lost = lost[1:]
    return dataclasses.replace(
        item,
        frames_THWC=None if "vision" in lost else item.frames_THWC,
        mel_MF=None if "audio" in lost else item.mel_MF,
        num_mel_frames=0 if "audio" in lost else item.num_mel_frames,
        token_ids=item.token_ids[:0] if "text" in lost else item.token_ids,
    )


def _frames(
    frames_THWC: npt.NDArray[np.uint8], config: AugmentConfig, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    side = frames_THWC.shape[1]
    down, right = rng.integers(-config.shift_pixels, config.shift_pixels + 1, size=2)
    rows = np.clip(np.arange(side) + down, 0, side - 1)
    columns = np.clip(np.arange(side) + right, 0, side - 1)
    if rng.random() < config.flip:
        columns = columns[::-1]
    moved = frames_THWC[:, rows][:, :, columns]
    factor = 1.0 + rng.uniform(-config.brightness, config.brightness)
    table = np.clip(np.arange(256) * factor, 0, 255).astype(np.uint8)
    changed: npt.NDArray[np.uint8] = table[moved]
    return changed


def _mel(
    mel_MF: npt.NDArray[np.float32], real_frames: int, config: AugmentConfig, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    gain = np.float32(rng.uniform(-config.gain_db, config.gain_db) / 10 / 4)
    floor = mel_MF.min()
    out: npt.NDArray[np.float32] = np.maximum(mel_MF + gain, floor)
    shift = int(rng.integers(-config.shift_mel_frames, config.shift_mel_frames + 1))
    out = np.roll(out, shift, axis=1)
    if shift > 0:
        out[:, :shift] = floor
    elif shift < 0:
        out[:, shift:] = floor
    for _ in range(config.mel_masks):
        start, width = rng.integers(0, max(1, real_frames)), rng.integers(0, 30)
        out[:, start : start + width] = floor
        low, height = rng.integers(0, len(out)), rng.integers(0, max(1, len(out) // 8))
        out[low : low + height] = floor
    return out
