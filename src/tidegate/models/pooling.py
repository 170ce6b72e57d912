"""Average pooling over real positions only, and the stand-in of a modality that a clip lacks.

Shape legend: B clips, N frames, L positions, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["mean_of_frames", "mean_of_positions", "or_absent"]


def mean_of_positions(hidden_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """Mean over positions where the mask is 1; zeros where there is none."""
    weights_BL1 = mask_BL.to(hidden_BLD.dtype).unsqueeze(-1)
    return (hidden_BLD * weights_BL1).sum(dim=1) / weights_BL1.sum(dim=1).clamp(min=1.0)


def mean_of_frames(frames_ND: Tensor, frames_per_clip_B: Tensor) -> Tensor:
    """Mean over each clip's own frames; zeros for a clip without frames."""
    clip_N = torch.repeat_interleave(torch.arange(len(frames_per_clip_B), device=frames_ND.device), frames_per_clip_B)
    sums_BD = frames_ND.new_zeros(len(frames_per_clip_B), frames_ND.shape[1]).index_add(0, clip_N, frames_ND)
    return sums_BD / frames_per_clip_B.clamp(min=1).unsqueeze(-1)


def or_absent(pooled_BD: Tensor, present_B: Tensor, absent_D: Tensor) -> Tensor:
    """``pooled_BD`` where the modality is present, the learnt vector ``absent_D`` where it is not."""
    return torch.where(present_B.unsqueeze(-1), pooled_BD, absent_D)
