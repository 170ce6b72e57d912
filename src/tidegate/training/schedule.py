"""Optimiser, learning-rate schedule and averaged weights of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tidegate.errors import ConfigError
from tidegate.training.recipes import OptimiserConfig

__all__ = ["AveragedWeights", "make_optimiser", "rate_factor"]

_TOWERS = ("vision_language.vision_tower.", "audio.", "towers.vision.", "towers.audio.")


def make_optimiser(module: nn.Module, config: OptimiserConfig) -> torch.optim.AdamW:
    """AdamW over what requires a gradient, in four groups: towers or not, decayed (matrices) or not."""
    tower_rate = config.learning_rate if config.tower_learning_rate is None else config.tower_learning_rate
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = tower_rate if name.removeprefix("model.").startswith(_TOWERS) else config.learning_rate
        decay = config.weight_decay if parameter.ndim > 1 and "embed" not in name else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    if not groups:
        raise ConfigError("expected at least one parameter to train, got a model that is frozen throughout")
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": rate, "peak": rate, "weight_decay": decay}
            for (rate, decay), parameters in groups.items()
        ],
        betas=(0.9, 0.98),
    )


def rate_factor(step: int, total_steps: int, warmup_fraction: float) -> float:
    """Share of the peak rate at a step: linear warm-up, then cosine down to a hundredth."""
    warmup = max(1, int(total_steps * warmup_fraction))
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * progress))


class AveragedWeights:
    """Exponential moving average of trained weights; with decay 0 it is the weights themselves."""

    def __init__(self, state: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.step = 0
        self.state = {name: tensor.detach().clone() for name, tensor in state.items()}

    def update(self, state: Mapping[str, Tensor]) -> None:
        """Move towards the weights; early steps count more."""
        self.step += 1
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        for name, tensor in state.items():
            mine: Tensor = self.state[name]
            if self.decay and tensor.is_floating_point():
                mine.lerp_(tensor.detach(), 1.0 - decay)
            else:
                mine.copy_(tensor.detach())
