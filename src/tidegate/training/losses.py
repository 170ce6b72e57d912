"""Losses: weighted cross-entropy of verdicts, distance to a teacher's soft scores, cross-entropy of auxiliary targets.

All are sums; what they are divided by is counted apart (``*_totals``) over a whole optimiser step: all of its
micro-batches and all processes. So a step split in any way has the loss and the gradient of the unsplit one, and not,
as with means of means, almost that. Labels may be missing (``MISSING_LABEL``): each issue's loss is a mean over the
labels that are there.

Shape legend: B clips, I issues, K = 2 classes, D features.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "IGNORED",
    "MISSING_LABEL",
    "AuxiliaryHeads",
    "class_weights",
    "issue_axis",
    "mean_over_present",
    "soft_sums",
    "soft_totals",
    "verdict_loss",
    "verdict_sums",
    "verdict_totals",
]

IGNORED = -100
"""Target of an item that an auxiliary task says nothing about."""
MISSING_LABEL = -1
"""Label of a clip that nobody judged under that issue."""


def class_weights(labels: npt.NDArray[np.int64], positive_weight: float | None) -> Tensor:
    """Weights of (harmless, violating); None balances the classes: n / (2 * count). Missing labels do not count."""
    if positive_weight is not None:
        return torch.tensor([1.0, positive_weight])
    known = labels[labels != MISSING_LABEL]
    counts = np.maximum(np.bincount(known, minlength=2), 1)
    return torch.from_numpy((len(known) / (2.0 * counts)).astype(np.float32))


def issue_axis(logits: Tensor) -> Tensor:
    """Logits as ``(B, I, 2)``; a model of one issue gives ``(B, 2)``."""
    return logits.unsqueeze(1) if logits.dim() == 2 else logits


def verdict_loss(logits_BK: Tensor, labels_B: Tensor, weights_K: Tensor, smoothing: float) -> Tensor:
    """Weighted cross-entropy of one issue with label smoothing: what sums over totals come to on a whole batch."""
    return functional.cross_entropy(logits_BK, labels_B, weight=weights_K, label_smoothing=smoothing)


def verdict_sums(logits_BIK: Tensor, labels_BI: Tensor, weights_IK: Tensor, smoothing: float) -> Tensor:
    """Summed weighted cross-entropy of each issue ``(I,)``; missing labels add nothing."""
    return torch.stack(
        [
            functional.cross_entropy(
                logits_BIK[:, issue],
                labels_BI[:, issue],
                weight=weights_IK[issue],
                label_smoothing=smoothing,
                ignore_index=MISSING_LABEL,
                reduction="sum",
            )
            for issue in range(labels_BI.shape[1])
        ]
    )


def verdict_totals(labels_BI: Tensor, weights_IK: Tensor) -> Tensor:
    """What ``verdict_sums`` are divided by: the weights of the labels that are there ``(I,)``."""
    issues_I = torch.arange(labels_BI.shape[1], device=labels_BI.device)
    weights_BI = weights_IK[issues_I, labels_BI.clamp(min=0)]
    return torch.where(labels_BI == MISSING_LABEL, 0.0, weights_BI).sum(dim=0)


def soft_sums(logits_BIK: Tensor, soft_BI: Tensor, temperature: float) -> Tensor:
    """Summed distance of each issue to a teacher ``(I,)``: T^2 KL(teacher || student), both at temperature T.

    ``soft_BI``: the teacher's log-odds of a violation, NaN where it has none. 0 where the student agrees. Hinton et
    al. 2015: T^2 keeps the gradient's size when T changes.
    """
    given_BI = ~soft_BI.isnan()
    teacher_BI = torch.where(given_BI, soft_BI, 0.0).to(logits_BIK.dtype) / temperature
    student_BI = (logits_BIK[..., 1] - logits_BIK[..., 0]) / temperature
    probability_BI = teacher_BI.sigmoid()
    crossed_BI = functional.binary_cross_entropy_with_logits(student_BI, probability_BI, reduction="none")
    entropy_BI = functional.binary_cross_entropy_with_logits(teacher_BI, probability_BI, reduction="none")
    return temperature**2 * torch.where(given_BI, crossed_BI - entropy_BI, 0.0).sum(dim=0)


def soft_totals(soft_BI: Tensor) -> Tensor:
    """What ``soft_sums`` are divided by: clips that the teacher scored ``(I,)``."""
    return (~soft_BI.isnan()).sum(dim=0).to(torch.float32)


def mean_over_present(sums_I: Tensor, totals_I: Tensor) -> Tensor:
    """Each issue's mean, then the mean over the issues that have anything; 0 where none has."""
    present_I = totals_I > 0
    means_I = torch.where(present_I, sums_I / totals_I.clamp(min=1e-12), 0.0)
    return means_I.sum() / present_I.sum().clamp(min=1)


class AuxiliaryHeads(nn.Module):
    """Linear heads on what the model's last layer reads; used in training only, never saved."""

    def __init__(self, width: int, classes: Mapping[str, int]) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(width, count) for name, count in classes.items()})

    def sums(self, embedding_BD: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Each task's summed loss over the items that have a target ``(tasks,)``."""
        return torch.stack(
            [
                functional.cross_entropy(head(embedding_BD), targets[name], ignore_index=IGNORED, reduction="sum")
                for name, head in self.heads.items()
            ]
        )

    def totals(self, targets: Mapping[str, Tensor]) -> Tensor:
        """Items that have a target, by task ``(tasks,)``."""
        return torch.stack([(targets[name] != IGNORED).sum() for name in self.heads]).to(torch.float32)

    def forward(self, embedding_BD: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Sum of the tasks' mean losses over the items that have a target."""
        if not self.heads:
            return embedding_BD.new_zeros(())
        return (self.sums(embedding_BD, targets) / self.totals(targets).clamp(min=1.0)).sum()
