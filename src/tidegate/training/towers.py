"""Training of the audio tower alone, and the transplant of warmed-up towers into an AVLM.

Enters: ``Examples`` of soundtracks. Leaves: a tower whose weights have the same names in ``MultiTower`` and in
``Avlm``: both build it from the same configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from tidegate.errors import CheckpointError
from tidegate.models.avlm import Avlm
from tidegate.models.configs import AvlmConfig, MultiTowerConfig, ProcessorConfig
from tidegate.models.multitower import MultiTower
from tidegate.models.processor import ClipProcessor
from tidegate.training.augment import AugmentConfig, augment
from tidegate.training.loop import Examples, FitResult, fit
from tidegate.training.recipes import OptimiserConfig

__all__ = ["held_out", "train_audio_tower", "transplant", "transplant_base"]

OnEpoch = Callable[[dict[str, float]], None]


def held_out(examples: Examples, count: int) -> tuple[Examples, Examples]:
    """All but the last ``count`` items, and those."""

    def part(chosen: slice) -> Examples:
        auxiliary = {name: column[chosen] for name, column in examples.auxiliary.items()}
        return replace(examples, rows=examples.rows[chosen], labels=examples.labels[chosen], auxiliary=auxiliary)

    return part(slice(None, -count)), part(slice(-count, None))


def train_audio_tower(
    avlm: AvlmConfig,
    processor: ProcessorConfig,
    examples: Examples,
    config: OptimiserConfig,
    *,
    seed: int = 0,
    on_epoch: OnEpoch | None = None,
) -> tuple[MultiTower, FitResult]:
    """The AVLM's audio tower, trained to name phrases and sounds."""
    torch.manual_seed(seed)
    model = MultiTower(MultiTowerConfig(issue=avlm.issue, audio=avlm.audio))
    settings = AugmentConfig(modality_dropout=0.0, shift_mel_frames=20)
    alone = ClipProcessor(replace(processor, modalities=("audio",), video_tokens_per_frame=0), None)
    train, validation = held_out(examples, min(400, len(examples) // 5))
    result = fit(
        model,
        alone,
        train,
        replace(validation, auxiliary={}),
        config,
        change=lambda item, rng: augment(item, settings, rng),
        seed=seed,
        on_epoch=on_epoch,
    )
    return model, result


def transplant(model: Avlm, *, vision: Mapping[str, Tensor], audio: MultiTower) -> None:
    """Copy towers trained alone into an AVLM: the vision tower's state and a ``MultiTower`` that listens."""
    model.vision_language.vision_tower.load_state_dict(vision)
    if model.audio is not None:
        model.audio.load_state_dict(audio.towers.get_submodule("audio").state_dict())


def transplant_base(model: MultiTower, *, vision: Mapping[str, Tensor], audio: MultiTower) -> None:
    """The same towers into a base stage; what pools the patches there (SigLIP's attention head) stays new."""
    if "vision" in model.towers:
        encoder = model.towers.get_submodule("vision.encoder")
        found = encoder.load_state_dict(vision, strict=False)
        strange = [name for name in found.missing_keys if not name.startswith("head.")] + found.unexpected_keys
        if strange:
            raise CheckpointError(f"expected a vision tower like the AVLM's, found other tensors: {strange[:3]}")
    if "audio" in model.towers:
        hearing = model.towers.get_submodule("audio")
        hearing.load_state_dict(audio.towers.get_submodule("audio").state_dict())
