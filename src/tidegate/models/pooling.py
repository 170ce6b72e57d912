"""Average pooling over real positions only, and the stand-in of a modality that a clip lacks.

Shape legend: B clips, N frames, L positions, K stretches, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["mean_of_frames", "mean_of_positions", "mean_of_stretches", "or_absent"]


def mean_of_positions(hidden_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """Mean over positions where the mask is 1; zeros where there is none."""
    weights_BL1 = mask_BL.to(hidden_BLD.dtype).unsqueeze(-1)
    return (hidden_BLD * weights_BL1).sum(dim=1) / weights_BL1.sum(dim=1).clamp(min=1.0)


def mean_of_stretches(hidden_BLD: Tensor, lengths_B: Tensor, count: int) -> Tensor:
    """Means ``(B, K, D)`` over ``count`` equal stretches of each row's first ``lengths_B`` positions.

    Stretch k covers positions floor(k n / K) to ceil((k + 1) n / K), as ``adaptive_avg_pool1d`` divides a row of n:
    neighbours may share a position, and none is empty, however short the row. A row of length 0 gives zeros.
    """
    lengths_B1 = lengths_B.unsqueeze(-1)
    steps_K = torch.arange(count, device=hidden_BLD.device)
    starts_BK1 = (steps_K * lengths_B1 // count).unsqueeze(-1)
    ends_BK1 = (((steps_K + 1) * lengths_B1 + count - 1) // count).unsqueeze(-1)
    positions_L = torch.arange(hidden_BLD.shape[1], device=hidden_BLD.device)
    weights_BKL = ((positions_L >= starts_BK1) & (positions_L < ends_BK1)).to(hidden_BLD.dtype)
    return (weights_BKL @ hidden_BLD) / weights_BKL.sum(dim=-1, keepdim=True).clamp(min=1.0)


def mean_of_frames(frames_ND: Tensor, frames_per_clip_B: Tensor) -> Tensor:
    """Mean over each clip's own frames; zeros for a clip without frames."""
    clip_N = torch.repeat_interleave(torch.arange(len(frames_per_clip_B), device=frames_ND.device), frames_per_clip_B)
    sums_BD = frames_ND.new_zeros(len(frames_per_clip_B), frames_ND.shape[1]).index_add(0, clip_N, frames_ND)
    return sums_BD / frames_per_clip_B.clamp(min=1).unsqueeze(-1)


def or_absent(pooled: Tensor, present: Tensor, absent_D: Tensor) -> Tensor:
    """``pooled`` ``(..., D)`` where ``present`` ``(...)``, the learnt vector ``absent_D`` where the modality is not."""
    return torch.where(present.unsqueeze(-1), pooled, absent_D)
