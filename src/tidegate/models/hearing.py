"""The audio tower: a Whisper encoder, averaged over the positions that hold real audio.

``H_a = avg_pooling(a(X_a))`` of arXiv 2412.10435, section 2.1: one vector, or, resampled, a sequence of averages over
equal stretches in time. Padding after the end of the audio enters no mean, and a clip without audio gets a learnt
vector: silence is never fed in its place.

Shape legend: B clips, L encoder positions, K audio tokens, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from tidegate.models.batch import Batch
from tidegate.models.pooling import mean_of_positions, mean_of_stretches, or_absent

__all__ = ["AudioProjector", "AudioTower"]


class AudioTower(nn.Module):
    """Whisper encoder with masked average pooling. ``encoder``: one that is loaded already; None: new weights."""

    def __init__(self, config: Mapping[str, Any], *, encoder: nn.Module | None = None) -> None:
        super().__init__()
        whisper = WhisperConfig(**{key: value for key, value in config.items() if key != "model_type"})
        self.encoder: Any = WhisperEncoder(whisper) if encoder is None else encoder
        self.absent_D = nn.Parameter(torch.zeros(whisper.d_model))
        self.width: int = whisper.d_model

    def forward(self, batch: Batch) -> Tensor:
        """Pooled audio ``(B, D)``."""
        if batch.mel_BMF is None or batch.audio_positions_B is None:
            return self.absent_D.expand(batch.size, -1)
        hidden_BLD = self._states(batch.mel_BMF)
        positions_L = torch.arange(hidden_BLD.shape[1], device=hidden_BLD.device)
        mask_BL = positions_L < batch.audio_positions_B.unsqueeze(-1)
        return or_absent(mean_of_positions(hidden_BLD, mask_BL), batch.audio_positions_B > 0, self.absent_D)

    def tokens(self, batch: Batch, count: int) -> Tensor:
        """Audio resampled to ``count`` vectors in order of time ``(B, K, D)``; all learnt where audio is missing."""
        if count == 1:
            pooled_BD: Tensor = self(batch)
            return pooled_BD.unsqueeze(1)
        if batch.mel_BMF is None or batch.audio_positions_B is None:
            return self.absent_D.expand(batch.size, count, -1)
        stretches_BKD = mean_of_stretches(self._states(batch.mel_BMF), batch.audio_positions_B, count)
        return or_absent(stretches_BKD, (batch.audio_positions_B > 0).unsqueeze(-1), self.absent_D)

    def _states(self, mel_BMF: Tensor) -> Tensor:
        hidden_BLD: Tensor = self.encoder(mel_BMF.to(self.absent_D.dtype)).last_hidden_state
        return hidden_BLD


class AudioProjector(nn.Module):
    """Two linear layers from the audio tower's width to the language model's, as LLaVA projects its patches."""

    def __init__(self, audio_width: int, language_width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(audio_width, language_width)
        self.linear_2 = nn.Linear(language_width, language_width)

    def forward(self, tokens_BKD: Tensor) -> Tensor:
        """Tokens in the language model's input space ``(B, K, D)``."""
        projected_BKD: Tensor = self.linear_2(nn.functional.gelu(self.linear_1(tokens_BKD)))
        return projected_BKD
