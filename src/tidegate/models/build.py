"""A model from its configuration."""

from __future__ import annotations

from tidegate.models.avlm import Avlm
from tidegate.models.configs import AvlmConfig, ModelConfig
from tidegate.models.multitower import MultiTower

__all__ = ["Model", "build_model"]

Model = Avlm | MultiTower


def build_model(config: ModelConfig) -> Model:
    """A model with new weights."""
    return Avlm(config) if isinstance(config, AvlmConfig) else MultiTower(config)
