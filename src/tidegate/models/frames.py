"""Decoded frames to the vision tower's pixels.

Enters: uint8 frames of any size. Leaves: uint8 frames of the tower's size, and their normalised float form. Pillow
resizes (anti-aliased, rounded to uint8), as the published image processors do when torchvision is absent; so the
result equals theirs to float rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from tidegate.models.configs import ProcessorConfig

__all__ = ["normalise", "resize_frames"]

_RESAMPLE = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def _resize_frame(frame_HWC: npt.NDArray[np.uint8], config: ProcessorConfig) -> npt.NDArray[np.uint8]:
    image, side, resample = Image.fromarray(frame_HWC), config.image_size, _RESAMPLE[config.resample]
    if config.resize == "squash":
        return np.asarray(image if image.size == (side, side) else image.resize((side, side), resample))
    shorter = int(side / config.crop_fraction)
    width, height = image.size
    if width <= height:
        width, height = shorter, int(shorter * height / width)
    else:
        width, height = int(shorter * width / height), shorter
    left, top = (width - side) // 2, (height - side) // 2
    return np.asarray(image.resize((width, height), resample))[top : top + side, left : left + side]


def resize_frames(frames_THWC: npt.NDArray[np.uint8], config: ProcessorConfig) -> npt.NDArray[np.uint8]:
    """Frames as uint8 ``(T, image_size, image_size, 3)``."""
    return np.stack([_resize_frame(frame, config) for frame in frames_THWC])


def normalise(clips_THWC: Sequence[npt.NDArray[np.uint8]], config: ProcessorConfig) -> Tensor:
    """All frames of all clips as one float tensor ``(N, C, H, W)``: rescaled by 1/255, minus mean, over deviation."""
    pixels_NHWC = torch.from_numpy(np.concatenate(clips_THWC))
    mean, std = torch.tensor(config.image_mean), torch.tensor(config.image_std)
    scaled_NHWC = pixels_NHWC.to(torch.float32) * (1.0 / (255.0 * std)) - mean / std
    return scaled_NHWC.permute(0, 3, 1, 2).contiguous()
