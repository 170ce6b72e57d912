"""Training: recipes, data, losses, loop, thresholds, evaluation of checkpoints.

Enters: manifests. Leaves: checkpoint folders with their card and thresholds. Names are resolved on first use, so that
importing this package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "EvaluationReport": "evaluate",
    "FeatureTable": "features",
    "RECIPES": "recipes",
    "PublishedParts": "start",
    "TrainRecipe": "recipes",
    "TrainingDiverged": "loop",
    "choose_thresholds": "thresholds",
    "distilled": "distill",
    "evaluate_cascade": "evaluate",
    "evaluate_scores": "evaluate",
    "fit": "loop",
    "load_features": "features",
    "recipe": "recipes",
    "score_manifest": "evaluate",
    "teacher_log_odds": "distill",
    "train_stage": "stage",
}

__all__ = [
    "RECIPES",
    "EvaluationReport",
    "FeatureTable",
    "PublishedParts",
    "TrainRecipe",
    "TrainingDiverged",
    "choose_thresholds",
    "distilled",
    "evaluate_cascade",
    "evaluate_scores",
    "fit",
    "load_features",
    "recipe",
    "score_manifest",
    "teacher_log_odds",
    "train_stage",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
