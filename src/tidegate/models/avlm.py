"""``Avlm``: the audio-visual-language model, as at 8 B parameters, in any size.

Enters: a ``Batch``. Leaves: logits ``(B, 2)``, or ``(B, I, 2)`` of several issues. LLaVA-OneVision (SigLIP vision
tower, 2-layer MLP projector, Qwen2) reads the frames and the texts; H is the hidden state of the last token; a Whisper
encoder hears. Late fusion concatenates the averaged audio, ``[H; H_a]``, in front of a linear layer (arXiv 2412.10435,
section 2.1). Early fusion projects the audio into the language model's input as its last tokens, and H alone decides
(section 3.3). All parts are ``transformers``' own classes, so their published weights load by name. No cache is kept:
one forward pass, one verdict; the language model's head is there only for those who ask for its next token.

Shape legend: B clips, I issues, N frames of all clips, P pooled tokens of a frame, L tokens, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import LlavaOnevisionConfig, LlavaOnevisionModel

from tidegate.errors import ConfigError, ScoringError
from tidegate.models.batch import Batch
from tidegate.models.configs import AvlmConfig, Fusion
from tidegate.models.heads import IssueHeads
from tidegate.models.hearing import AudioProjector, AudioTower
from tidegate.models.hub import audio_encoder, vision_language_model

__all__ = ["Avlm", "LanguageInputs", "llava_config"]


def llava_config(values: Mapping[str, Any]) -> LlavaOnevisionConfig:
    """The ``transformers`` configuration of a dictionary."""
    return LlavaOnevisionConfig(**{key: value for key, value in values.items() if key != "model_type"})


@dataclass(frozen=True, kw_only=True, eq=False)
class LanguageInputs:
    """What the language model reads: prompts with frames, and audio where it is fused early, in its input space."""

    embeds_BLD: Tensor
    mask_BL: Tensor
    """1 for a token, 0 for a position that no token attends to. The last position of every row is a token."""

    def positions(self) -> Tensor:
        """Positions of the tokens ``(B, L)``, counted without what is masked."""
        return (self.mask_BL.cumsum(dim=1) - 1).clamp(min=0)


class Avlm(nn.Module):
    """LLaVA-OneVision and a Whisper encoder, fused late or early.

    ``vision_language``, ``encoder`` and ``language_head`` are parts that are loaded already; None: new weights.
    """

    def __init__(
        self,
        config: AvlmConfig,
        *,
        vision_language: nn.Module | None = None,
        encoder: nn.Module | None = None,
        language_head: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        settings = llava_config(config.vision_language)
        text: Any = settings.get_text_config()
        self.vision_language: Any = LlavaOnevisionModel(settings) if vision_language is None else vision_language
        self.audio = None if config.audio is None else AudioTower(config.audio, encoder=encoder)
        early = self.audio is not None and config.fusion == "early"
        self.audio_projector = AudioProjector(self.audio.width, text.hidden_size) if early and self.audio else None
        self.tied: bool = bool(settings.tie_word_embeddings)
        self.language_head = language_head
        if config.language_head and language_head is None and not self.tied:
            self.language_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        beside = self.audio.width if self.audio is not None and config.fusion == "late" else 0
        self.width: int = int(text.hidden_size) + beside
        self.head = IssueHeads(self.width, len(config.issues))

    def cast(self, dtype: str) -> Self:
        """Weights in another precision, in place. Buffers stay: rotary frequencies lose positions in 16 bits."""
        for parameter in self.parameters():
            parameter.data = parameter.data.to(getattr(torch, dtype))
        return self

    def gradient_checkpointing(self, enabled: bool) -> None:
        """Compute activations again in the backward pass instead of keeping them: less memory, slower steps."""
        for part in (self.vision_language, None if self.audio is None else self.audio.encoder):
            if part is None:
                continue
            if enabled:
                part.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
            else:
                part.activation_checkpointing_disable()

    def video_tokens(self, batch: Batch) -> Tensor | None:
        """Projected and pooled tokens of all clips, each clip's frames followed by the newline, ``(tokens, D)``."""
        if batch.pixels_NCHW is None or batch.frames_per_clip_B is None:
            return None
        packed = self.vision_language.get_video_features(batch.pixels_NCHW[None], return_dict=True).pooler_output
        frames_NPD = packed[0, :-1].unflatten(0, (len(batch.pixels_NCHW), -1))
        newline_1D = self.vision_language.image_newline[None]
        clips = torch.split(frames_NPD, batch.frames_per_clip_B.tolist())
        return torch.cat([torch.cat([clip.flatten(0, 1), newline_1D]) for clip in clips if len(clip)])

    def inputs(self, batch: Batch) -> LanguageInputs:
        """Prompts with their frames in place; with early fusion the audio's tokens stand last."""
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
        inputs = LanguageInputs(embeds_BLD=embeds_BLD, mask_BL=mask_BL)
        return inputs if self.audio_projector is None else self._with_audio(inputs, batch)

    def _with_audio(self, inputs: LanguageInputs, batch: Batch) -> LanguageInputs:
        """Audio tokens after the prompt. Of a clip without audio all are masked but the last, which is learnt."""
        assert self.audio is not None
        assert self.audio_projector is not None
        heard_BKD = self.audio_projector(self.audio.tokens(batch, self.config.audio_tokens))
        mask_BK = inputs.mask_BL.new_ones(heard_BKD.shape[:2])
        if batch.audio_positions_B is None:
            mask_BK[:, :-1] = 0
        else:
            mask_BK[:, :-1] = (batch.audio_positions_B > 0).unsqueeze(-1).to(mask_BK.dtype)
        return LanguageInputs(
            embeds_BLD=torch.cat([inputs.embeds_BLD, heard_BKD.to(inputs.embeds_BLD.dtype)], dim=1),
            mask_BL=torch.cat([inputs.mask_BL, mask_BK], dim=1),
        )

    def states(self, inputs: LanguageInputs) -> Tensor:
        """Hidden states of all positions after the language model's last layer ``(B, L, D)``."""
        output = self.vision_language.language_model(
            inputs_embeds=inputs.embeds_BLD,
            attention_mask=inputs.mask_BL,
            position_ids=inputs.positions(),
            use_cache=False,
        )
        hidden_BLD: Tensor = output.last_hidden_state
        return hidden_BLD

    def hidden(self, batch: Batch) -> Tensor:
        """H: the hidden state of the last token ``(B, D)``."""
        return self.states(self.inputs(batch))[:, -1]

    def token_logits(self, hidden: Tensor) -> Tensor:
        """Logits of the token that follows each position: ``(..., D)`` to ``(..., vocabulary)``."""
        if not self.config.language_head:
            raise ConfigError("expected an AVLM with language_head=True, got one that keeps no head for next tokens")
        if self.language_head is None:
            return nn.functional.linear(hidden, self.vision_language.get_input_embeddings().weight)
        logits: Tensor = self.language_head(hidden)
        return logits

    def embed(self, batch: Batch) -> Tensor:
        """What the last layer reads: H, with late fusion ``[H; H_a]``, ``(B, D)``."""
        hidden_BD = self.hidden(batch)
        if self.audio is None or self.config.fusion != "late":
            return hidden_BD
        heard_BD: Tensor = self.audio(batch)
        return torch.cat([hidden_BD, heard_BD.to(hidden_BD.dtype)], dim=-1)

    def forward(self, batch: Batch) -> Tensor:
        """Logits ``(B, 2)`` or ``(B, I, 2)``; their softmax is the probability of (harmless, violating)."""
        logits: Tensor = self.head(self.embed(batch))
        return logits

    @classmethod
    def from_pretrained(
        cls,
        *,
        vl: str,
        audio: str | None = None,
        issue: str = "icd",
        more_issues: tuple[str, ...] = (),
        fusion: Fusion | None = None,
        audio_tokens: int = 1,
        language_head: bool = False,
        dtype: str = "float32",
    ) -> Self:
        """Parts by hub id or local folder; the last layer is new and must be trained.

        ``vl``: LLaVA-OneVision. ``audio``: Whisper, or None. ``fusion``: None means late with audio, none without.
        ``dtype``: of the loaded parts, ``float32``, ``bfloat16`` or ``float16``. Only safetensors are read. What does
        not load is a ``CheckpointError``.
        """
        vision_language, head = vision_language_model(vl, language_head=language_head, dtype=dtype)
        encoder = None if audio is None else audio_encoder(audio, dtype=dtype)
        config = AvlmConfig(
            issue=issue,
            vision_language=vision_language.config.to_dict(),
            audio=None if encoder is None else encoder.config.to_dict(),
            fusion=fusion or ("none" if encoder is None else "late"),
            audio_tokens=audio_tokens,
            more_issues=tuple(more_issues),
            language_head=language_head,
        )
        model = cls(config, vision_language=vision_language, encoder=encoder, language_head=head)
        return model.cast(dtype)
