"""``Avlm``: the audio-visual-language model, as at 8 B parameters, in any size.

Enters: a ``Batch``. Leaves: logits ``(B, 2)``. LLaVA-OneVision (SigLIP vision tower, 2-layer MLP projector, Qwen2)
reads the frames and the texts; H is the hidden state of the last token. A Whisper encoder, averaged, gives H_a. A
linear layer on ``[H; H_a]`` decides: late fusion of arXiv 2412.10435, section 2.1. All parts are ``transformers``'
own classes, so their published weights load by name. The language model's head is never computed and no cache is
kept: one forward pass, one verdict.

Shape legend: B clips, N frames of all clips, P pooled tokens of a frame, L tokens, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import LlavaOnevisionConfig, LlavaOnevisionModel

from tidegate.errors import ScoringError
from tidegate.models.batch import Batch
from tidegate.models.configs import AvlmConfig
from tidegate.models.hearing import AudioTower
from tidegate.models.hub import audio_encoder, vision_language_model

__all__ = ["Avlm", "llava_config"]


def llava_config(values: Mapping[str, Any]) -> LlavaOnevisionConfig:
    """The ``transformers`` configuration of a dictionary."""
    return LlavaOnevisionConfig(**{key: value for key, value in values.items() if key != "model_type"})


class Avlm(nn.Module):
    """LLaVA-OneVision and a Whisper encoder, fused late."""

    def __init__(self, config: AvlmConfig) -> None:
        super().__init__()
        self.config = config
        settings = llava_config(config.vision_language)
        self.vision_language = LlavaOnevisionModel(settings)
        self.audio = None if config.audio is None else AudioTower(config.audio)
        self.width: int = int(settings.get_text_config().hidden_size) + (0 if self.audio is None else self.audio.width)
        self.head = nn.Linear(self.width, 2)

    def video_tokens(self, batch: Batch) -> Tensor | None:
        """Projected and pooled tokens of all clips, each clip's frames followed by the newline, ``(tokens, D)``."""
        if batch.pixels_NCHW is None or batch.frames_per_clip_B is None:
            return None
        packed = self.vision_language.get_video_features(batch.pixels_NCHW[None], return_dict=True).pooler_output
        frames_NPD = packed[0, :-1].unflatten(0, (len(batch.pixels_NCHW), -1))
        newline_1D = self.vision_language.image_newline[None]
        clips = torch.split(frames_NPD, batch.frames_per_clip_B.tolist())
        return torch.cat([torch.cat([clip.flatten(0, 1), newline_1D]) for clip in clips if len(clip)])

    def hidden(self, batch: Batch) -> Tensor:
        """H: the hidden state of the last token ``(B, D)``."""
        ids_BL, mask_BL = batch.token_ids_BL, batch.token_mask_BL
        if ids_BL is None or mask_BL is None:
            raise ScoringError("expected a prompt for the language model, got a batch without tokens")
        embeds_BLD = self.vision_language.get_input_embeddings()(ids_BL)
        video_BL = ids_BL == self.vision_language.config.video_token_id
        tokens_D = self.video_tokens(batch)
        wanted, given = int(video_BL.sum()), 0 if tokens_D is None else len(tokens_D)
        if wanted != given:
            raise ScoringError(f"expected {wanted} video tokens as the prompt has, got {given} from the vision tower")
        if tokens_D is not None:
            embeds_BLD = embeds_BLD.masked_scatter(video_BL.unsqueeze(-1), tokens_D.to(embeds_BLD.dtype))
        output = self.vision_language.language_model(
            inputs_embeds=embeds_BLD,
            attention_mask=mask_BL,
            position_ids=(mask_BL.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=False,
        )
        hidden_BD: Tensor = output.last_hidden_state[:, -1]
        return hidden_BD

    def embed(self, batch: Batch) -> Tensor:
        """What the last layer reads: ``[H; H_a]``, ``(B, D)``."""
        hidden_BD = self.hidden(batch)
        return hidden_BD if self.audio is None else torch.cat([hidden_BD, self.audio(batch)], dim=-1)

    def forward(self, batch: Batch) -> Tensor:
        """Logits ``(B, 2)``; their softmax is the probability of (harmless, violating)."""
        logits_BK: Tensor = self.head(self.embed(batch))
        return logits_BK

    @classmethod
    def from_pretrained(cls, *, issue: str, vl: str, audio: str | None = None) -> Self:
        """Parts by hub id or local folder; the last layer is new and must be trained."""
        vision_language = vision_language_model(vl)
        encoder = None if audio is None else audio_encoder(audio)
        config = AvlmConfig(
            issue=issue,
            vision_language=vision_language.config.to_dict(),
            audio=None if encoder is None else encoder.config.to_dict(),
            fusion="none" if encoder is None else "late",
        )
        model = cls(config)
        model.vision_language.load_state_dict(vision_language.state_dict())
        if encoder is not None and model.audio is not None:
            model.audio.encoder.load_state_dict(encoder.state_dict())
        return model
