"""Losses: weighted cross-entropy for the verdict, and cross-entropy of auxiliary targets.

Shape legend: B clips, K classes, D features.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["IGNORED", "AuxiliaryHeads", "class_weights", "verdict_loss"]

IGNORED = -100
"""Target of an item that an auxiliary task says nothing about."""


def class_weights(labels: npt.NDArray[np.int64], positive_weight: float | None) -> Tensor:
    """Weights of (harmless, violating); None balances the classes: n / (2 * count)."""
    if positive_weight is not None:
        return torch.tensor([1.0, positive_weight])
    counts = np.maximum(np.bincount(labels, minlength=2), 1)
    return torch.from_numpy((len(labels) / (2.0 * counts)).astype(np.float32))


def verdict_loss(logits_BK: Tensor, labels_B: Tensor, weights_K: Tensor, smoothing: float) -> Tensor:
    """Weighted cross-entropy with label smoothing."""
    return functional.cross_entropy(logits_BK, labels_B, weight=weights_K, label_smoothing=smoothing)


class AuxiliaryHeads(nn.Module):
    """Linear heads on what the model's last layer reads; used in training only, never saved."""

    def __init__(self, width: int, classes: Mapping[str, int]) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(width, count) for name, count in classes.items()})

    def forward(self, embedding_BD: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Sum of the tasks' mean losses over the items that have a target."""
        total = embedding_BD.new_zeros(())
        for name, head in self.heads.items():
            if bool((targets[name] != IGNORED).any()):
                total = total + functional.cross_entropy(head(embedding_BD), targets[name], ignore_index=IGNORED)
        return total
