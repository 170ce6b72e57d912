"""What passes between preprocessing and models: one clip's features (numpy) and a batch (torch).

Shape legend: B clips, N frames of all clips together, T frames of one clip, H height, W width, C colours, M mel bins,
F mel frames, L tokens.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tidegate.types import Modality

__all__ = ["Batch", "ClipFeatures"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipFeatures:
    """One clip after preprocessing. Small enough to be cached: pixels stay uint8 until they are batched."""

    frames_THWC: npt.NDArray[np.uint8] | None
    mel_MF: npt.NDArray[np.float32] | None
    num_mel_frames: int
    """Mel frames that hold real audio; the rest of ``mel_MF`` is padding."""
    token_ids: npt.NDArray[np.int64]
    """Text tokens, without prompt and video placeholders."""
    missing: tuple[Modality, ...] = ()
    """Modalities that the model uses and the clip lacks."""
    truncated_tokens: int = 0
    """Text tokens dropped from the left."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Tensors of B clips. A modality that no clip has, or that the model does not use, is None."""

    size: int
    pixels_NCHW: Tensor | None = None
    frames_per_clip_B: Tensor | None = None
    """Frames of each clip; 0 where vision is missing."""
    mel_BMF: Tensor | None = None
    audio_positions_B: Tensor | None = None
    """Encoder positions (two mel frames each) that hold real audio; 0 where audio is missing."""
    token_ids_BL: Tensor | None = None
    token_mask_BL: Tensor | None = None
    """1 for a token, 0 for padding; padding is on the left."""

    def to(self, device: str) -> Batch:
        """The same batch on another device."""
        moved: dict[str, Any] = {
            field.name: value.to(device)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return dataclasses.replace(self, **moved)
