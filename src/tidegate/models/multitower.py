"""``MultiTower``: the base stage. Up to three towers, pooled, concatenated, one linear layer.

Enters: a ``Batch``. Leaves: logits ``(B, 2)``, or ``(B, I, 2)`` of several issues. ResNet-50 alone is the paper's base
for inappropriate content; Swin + XLM-R + Whisper-base its base for unoriginal content (arXiv 2412.10435, section
3.1.2); SigLIP and the tiny model are further configurations. Frames are encoded one by one and averaged.

Shape legend: B clips, I issues, N frames of all clips, L tokens, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, SiglipTextModel

from tidegate.models.batch import Batch
from tidegate.models.configs import MultiTowerConfig
from tidegate.models.heads import IssueHeads
from tidegate.models.hearing import AudioTower
from tidegate.models.hub import audio_encoder, tower_model
from tidegate.models.pooling import mean_of_frames, mean_of_positions, or_absent
from tidegate.types import Modality

__all__ = ["MultiTower"]


def _transformers_config(values: Mapping[str, Any]) -> PretrainedConfig:
    rest = {key: value for key, value in values.items() if key != "model_type"}
    return AutoConfig.for_model(values["model_type"], **rest)


class VisionTower(nn.Module):
    """An image model of ``transformers``: its pooled output (else its tokens' mean), averaged over a clip's frames."""

    def __init__(self, config: Mapping[str, Any], *, encoder: nn.Module | None = None) -> None:
        super().__init__()
        settings = _transformers_config(config)
        self.encoder: Any = AutoModel.from_config(settings) if encoder is None else encoder
        widths = getattr(settings, "hidden_sizes", None)
        self.width: int = widths[-1] if widths else settings.hidden_size
        self.absent_D = nn.Parameter(torch.zeros(self.width))

    def forward(self, batch: Batch) -> Tensor:
        """Pooled frames ``(B, D)``."""
        if batch.pixels_NCHW is None or batch.frames_per_clip_B is None:
            return self.absent_D.expand(batch.size, -1)
        output = self.encoder(batch.pixels_NCHW.to(self.absent_D.dtype))
        pooled = output.pooler_output
        frames_ND = output.last_hidden_state.mean(dim=1) if pooled is None else pooled.flatten(1)
        pooled_BD = mean_of_frames(frames_ND, batch.frames_per_clip_B)
        return or_absent(pooled_BD, batch.frames_per_clip_B > 0, self.absent_D)


class SiglipTextTower(nn.Module):
    """SigLIP's text tower: rows padded on the right to its full length, without a mask; its pooled last position."""

    def __init__(self, config: Mapping[str, Any], *, encoder: nn.Module | None = None) -> None:
        super().__init__()
        settings: Any = _transformers_config(config)
        self.encoder: Any = SiglipTextModel(settings) if encoder is None else encoder
        self.width: int = settings.projection_size
        self.length: int = settings.max_position_embeddings
        self.pad_id: int = settings.pad_token_id
        self.absent_D = nn.Parameter(torch.zeros(self.width))

    def forward(self, batch: Batch) -> Tensor:
        """Pooled text ``(B, D)``."""
        if batch.token_ids_BL is None or batch.token_mask_BL is None or batch.token_ids_BL.shape[1] == 0:
            return self.absent_D.expand(batch.size, -1)
        pooled_BD = self.encoder(input_ids=self.rows(batch)).pooler_output
        return or_absent(pooled_BD, batch.token_mask_BL.any(dim=1), self.absent_D)

    def rows(self, batch: Batch) -> Tensor:
        """Token ids ``(B, length)`` as SigLIP was trained on them."""
        assert batch.token_ids_BL is not None
        assert batch.token_mask_BL is not None
        rows_BL = batch.token_ids_BL.new_full((batch.size, self.length), self.pad_id)
        for row, ids, mask in zip(rows_BL, batch.token_ids_BL, batch.token_mask_BL, strict=True):
            kept = ids[mask.bool()][: self.length]
            row[: len(kept)] = kept
        return rows_BL


class TextTower(nn.Module):
    """A bidirectional encoder, averaged over the tokens."""

    def __init__(self, config: Mapping[str, Any], *, encoder: nn.Module | None = None) -> None:
        super().__init__()
        settings = _transformers_config(config)
        self.encoder: Any = AutoModel.from_config(settings, add_pooling_layer=False) if encoder is None else encoder
        self.width: int = settings.hidden_size
        self.absent_D = nn.Parameter(torch.zeros(self.width))

    def forward(self, batch: Batch) -> Tensor:
        """Pooled text ``(B, D)``."""
        if batch.token_ids_BL is None or batch.token_mask_BL is None or batch.token_ids_BL.shape[1] == 0:
            return self.absent_D.expand(batch.size, -1)
        present_B = batch.token_mask_BL.any(dim=1)
        hidden_BLD = self.encoder(input_ids=batch.token_ids_BL, attention_mask=batch.token_mask_BL).last_hidden_state
        return or_absent(mean_of_positions(hidden_BLD, batch.token_mask_BL), present_B, self.absent_D)


class MultiTower(nn.Module):
    """Late fusion of vision, audio and text towers.

    ``encoders``: encoders by modality that are there already, such as exported ones; without one: new weights.
    """

    def __init__(self, config: MultiTowerConfig, *, encoders: Mapping[str, nn.Module] | None = None) -> None:
        super().__init__()
        given = encoders or {}
        self.exported_parameters = 0
        """Parameters inside encoders that are not torch modules."""
        self.config = config
        towers: dict[Modality, VisionTower | AudioTower | TextTower | SiglipTextTower] = {}
        if config.vision is not None:
            towers["vision"] = VisionTower(config.vision, encoder=given.get("vision"))
        if config.audio is not None:
            towers["audio"] = AudioTower(config.audio, encoder=given.get("audio"))
        if config.text is not None:
            siglip = config.text["model_type"] == "siglip_text_model"
            kind = SiglipTextTower if siglip else TextTower
            towers["text"] = kind(config.text, encoder=given.get("text"))
        self.towers = nn.ModuleDict({str(name): tower for name, tower in towers.items()})
        self.width = sum(tower.width for tower in towers.values())
        self.head = IssueHeads(self.width, len(config.issues))

    def pooled(self, batch: Batch) -> dict[Modality, Tensor]:
        """Each tower's vector ``(B, D)``."""
        return {name: self.towers[name](batch) for name in self.config.modalities}

    def embed(self, batch: Batch) -> Tensor:
        """What the last layer reads ``(B, D)``."""
        return torch.cat(list(self.pooled(batch).values()), dim=-1)

    def forward(self, batch: Batch) -> Tensor:
        """Logits ``(B, 2)`` or ``(B, I, 2)``; their softmax is the probability of (harmless, violating)."""
        logits: Tensor = self.head(self.embed(batch))
        return logits

    @classmethod
    def from_pretrained(
        cls,
        *,
        issue: str = "icd",
        more_issues: tuple[str, ...] = (),
        vision: str | None = None,
        text: str | None = None,
        audio: str | None = None,
    ) -> Self:
        """Towers by hub id or local folder; the last layer is new and must be trained."""
        towers: dict[str, Any] = {
            "vision": None if vision is None else tower_model(vision, "pixel_values"),
            "text": None if text is None else tower_model(text, "input_ids"),
            "audio": None if audio is None else audio_encoder(audio),
        }
        if text is not None and getattr(towers["text"], "pooler", None) is not None:
            towers["text"].pooler = None  # a layer that masked-language models never trained
        configs = {name: None if tower is None else tower.config.to_dict() for name, tower in towers.items()}
        given = {name: tower for name, tower in towers.items() if tower is not None}
        return cls(MultiTowerConfig(issue=issue, more_issues=tuple(more_issues), **configs), encoders=given)
