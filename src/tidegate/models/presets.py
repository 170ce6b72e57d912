"""Presets: which base and which large model make a cascade.

A stage of a preset is either a packaged checkpoint folder (``tiny``) or a composition of published parts by hub id,
whose last layer is new: it must be fine-tuned before its scores mean anything, and its ``notice`` says so. A
fine-tuned checkpoint folder replaces a composition through ``Preset.load_stage(..., folder=...)``. All stages are
``MultiTower`` or ``Avlm``: a preset is a configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tidegate.errors import CheckpointError, ConfigError
from tidegate.models.build import Model
from tidegate.models.card import Card
from tidegate.models.compose import compose_avlm, compose_towers
from tidegate.models.processor import ClipProcessor
from tidegate.models.scoring import ClassifierStage, load_stage

__all__ = ["PRESETS", "AvlmParts", "Packaged", "Preset", "TowerParts", "preset"]

_WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True, kw_only=True)
class Packaged:
    """A checkpoint folder inside the package."""

    folder: Path

    def load(self, name: str, issue: str, device: str, batch_size: int) -> ClassifierStage:
        """The stage; its checkpoint must be of the preset's issue."""
        stage = load_stage(self.folder, name=name, device=device, batch_size=batch_size)
        if stage.issue != issue:
            raise CheckpointError(f"expected a checkpoint of issue {issue!r} in {self.folder}, found {stage.issue!r}")
        return stage


@dataclass(frozen=True, kw_only=True)
class TowerParts:
    """A ``MultiTower`` of published encoders."""

    vision: str | None = None
    text: str | None = None
    audio: str | None = None
    num_frames: int = 8

    def load(self, name: str, issue: str, device: str, batch_size: int) -> ClassifierStage:
        """The stage, with a new last layer."""
        composed = compose_towers(
            issue=issue, num_frames=self.num_frames, vision=self.vision, text=self.text, audio=self.audio
        )
        return _composed(name, *composed, device=device, batch_size=batch_size)


@dataclass(frozen=True, kw_only=True)
class AvlmParts:
    """An ``Avlm`` of published parts."""

    vl: str
    audio: str | None = None
    num_frames: int = 8

    def load(self, name: str, issue: str, device: str, batch_size: int) -> ClassifierStage:
        """The stage, with a new last layer."""
        composed = compose_avlm(issue=issue, vl=self.vl, audio=self.audio, num_frames=self.num_frames)
        return _composed(name, *composed, device=device, batch_size=batch_size)


def _composed(
    name: str, model: Model, processor: ClipProcessor, card: Card, *, device: str, batch_size: int
) -> ClassifierStage:
    return ClassifierStage(
        name=name,
        issue=card.issue,
        model=model.to(device).eval(),
        processor=processor,
        card=card,
        identity=f"{card.name}@untrained-head",
        device=device,
        batch_size=batch_size,
    )


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A cascade's two models."""

    name: str
    issue: str
    description: str
    base: Packaged | TowerParts
    large: Packaged | AvlmParts

    def load_stage(
        self,
        which: Literal["base", "large"],
        *,
        folder: Path | str | None = None,
        device: str = "cpu",
        batch_size: int = 8,
    ) -> ClassifierStage:
        """The base or the large stage; ``folder`` names a fine-tuned checkpoint to use instead."""
        source = self.base if which == "base" else self.large
        if folder is not None:
            source = Packaged(folder=Path(folder))
        return source.load(which, self.issue, device, batch_size)


_SMALL_AVLM = AvlmParts(vl="llava-hf/llava-onevision-qwen2-0.5b-ov-hf", audio="openai/whisper-small")
_ALL = (
    Preset(
        name="tiny",
        issue="icd",
        description="small vision, text and audio towers, then a small AVLM; embedded default, CI, teaching",
        base=Packaged(folder=_WEIGHTS / "tiny" / "base"),
        large=Packaged(folder=_WEIGHTS / "tiny" / "large"),
    ),
    Preset(
        name="compact",
        issue="icd",
        description="SigLIP-base, then LLaVA-OneVision-0.5B + Whisper-small; one small GPU",
        base=TowerParts(vision="google/siglip-base-patch16-224"),
        large=_SMALL_AVLM,
    ),
    Preset(
        name="paper-icd",
        issue="icd",
        description="the paper's inappropriate-content task: ResNet-50, then LLaVA-OneVision-7B, no audio, 8 frames",
        base=TowerParts(vision="microsoft/resnet-50"),
        large=AvlmParts(vl="llava-hf/llava-onevision-qwen2-7b-ov-hf"),
    ),
    Preset(
        name="paper-ucc",
        issue="ucc",
        description="the paper's unoriginal-content task: Swin + XLM-R + Whisper-base towers, then LLaVA-OneVision-7B "
        "+ Whisper-small with late fusion, 16 frames",
        base=TowerParts(
            vision="microsoft/swin-base-patch4-window7-224",
            text="FacebookAI/xlm-roberta-base",
            audio="openai/whisper-base",
            num_frames=16,
        ),
        large=AvlmParts(vl="llava-hf/llava-onevision-qwen2-7b-ov-hf", audio="openai/whisper-small", num_frames=16),
    ),
)
PRESETS: dict[str, Preset] = {item.name: item for item in _ALL}


def preset(name: str) -> Preset:
    """The preset of that name."""
    if name not in PRESETS:
        raise ConfigError(f"expected a preset among {sorted(PRESETS)}, got {name!r}")
    return PRESETS[name]
