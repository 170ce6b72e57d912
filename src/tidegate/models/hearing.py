"""The audio tower: a Whisper encoder, averaged over the positions that hold real audio.

``H_a = avg_pooling(a(X_a))`` of arXiv 2412.10435, section 2.1. Padding after the end of the audio does not enter
the mean, and a clip without audio gets a learnt vector: silence is never fed in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from tidegate.models.batch import Batch
from tidegate.models.pooling import mean_of_positions, or_absent

__all__ = ["AudioTower"]


class AudioTower(nn.Module):
    """Whisper encoder with masked average pooling."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        whisper = WhisperConfig(**{key: value for key, value in config.items() if key != "model_type"})
        self.encoder = WhisperEncoder(whisper)
        self.absent_D = nn.Parameter(torch.zeros(whisper.d_model))
        self.width: int = whisper.d_model

    def forward(self, batch: Batch) -> Tensor:
        """Pooled audio ``(B, D)``."""
        if batch.mel_BMF is None or batch.audio_positions_B is None:
            return self.absent_D.expand(batch.size, -1)
        hidden_BLD = self.encoder(batch.mel_BMF).last_hidden_state
        positions_L = torch.arange(hidden_BLD.shape[1], device=hidden_BLD.device)
        mask_BL = positions_L < batch.audio_positions_B.unsqueeze(-1)
        return or_absent(mean_of_positions(hidden_BLD, mask_BL), batch.audio_positions_B > 0, self.absent_D)
