"""Models: towers, the audio-visual-language model, preprocessing, checkpoints, presets.

Enters: clips (``tidegate.types.Clip``). Leaves: scores. No video file is opened here; the only files are checkpoints.
Names are resolved on first use, so that importing this package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "Avlm": "avlm",
    "AvlmConfig": "configs",
    "Batch": "batch",
    "Card": "card",
    "ClassifierStage": "scoring",
    "ClipFeatures": "batch",
    "ClipProcessor": "processor",
    "IssueHeads": "heads",
    "LanguageInputs": "avlm",
    "MISSING_LABEL": "heads",
    "ModelConfig": "configs",
    "MultiTower": "multitower",
    "MultiTowerConfig": "configs",
    "PRESETS": "presets",
    "Preset": "presets",
    "ProcessorConfig": "configs",
    "ZeroShotConfig": "zeroshot",
    "ZeroShotStage": "zeroshot",
    "build_model": "build",
    "build_tokenizer": "tokens",
    "checkpoint_hash": "checkpoint",
    "load_checkpoint": "checkpoint",
    "load_stage": "scoring",
    "load_thresholds": "checkpoint",
    "load_zero_shot": "zeroshot",
    "masked_cross_entropy": "heads",
    "preset": "presets",
    "save_checkpoint": "checkpoint",
    "save_thresholds": "checkpoint",
}

__all__ = [
    "MISSING_LABEL",
    "PRESETS",
    "Avlm",
    "AvlmConfig",
    "Batch",
    "Card",
    "ClassifierStage",
    "ClipFeatures",
    "ClipProcessor",
    "IssueHeads",
    "LanguageInputs",
    "ModelConfig",
    "MultiTower",
    "MultiTowerConfig",
    "Preset",
    "ProcessorConfig",
    "ZeroShotConfig",
    "ZeroShotStage",
    "build_model",
    "build_tokenizer",
    "checkpoint_hash",
    "load_checkpoint",
    "load_stage",
    "load_thresholds",
    "load_zero_shot",
    "masked_cross_entropy",
    "preset",
    "save_checkpoint",
    "save_thresholds",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
