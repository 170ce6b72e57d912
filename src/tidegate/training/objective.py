"""``Objective``: a model with all that is compared with its targets, as one module with one forward pass.

Enters: a batch, its targets, the totals of the whole step. Leaves: this batch's share of the step's loss. One module,
because wrappers that shard or synchronise (FSDP2, DeepSpeed) act on the forward pass of what they wrap.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tidegate.models.batch import Batch
from tidegate.models.build import Model
from tidegate.training.examples import Targets
from tidegate.training.losses import (
    AuxiliaryHeads,
    issue_axis,
    mean_over_present,
    soft_sums,
    soft_totals,
    verdict_sums,
    verdict_totals,
)
from tidegate.training.recipes import OptimiserConfig

__all__ = ["Objective"]


class Objective(nn.Module):
    """Model, auxiliary heads and loss."""

    weights_IK: Tensor

    def __init__(self, model: Model, heads: AuxiliaryHeads, weights_IK: Tensor, config: OptimiserConfig) -> None:
        super().__init__()
        self.model = model
        self.heads = heads
        self.config = config
        self.register_buffer("weights_IK", weights_IK, persistent=False)

    def totals(self, targets: Targets) -> list[Tensor]:
        """What this batch adds to the denominators: of verdicts, of the teacher's scores, of auxiliary tasks."""
        verdict_I = verdict_totals(targets.labels_BI, self.weights_IK)
        soft_I = torch.zeros_like(verdict_I) if targets.soft_BI is None else soft_totals(targets.soft_BI)
        tasks = self.heads.totals(targets.auxiliary) if self.heads.heads else verdict_I.new_zeros(0)
        return [verdict_I, soft_I, tasks]

    def forward(self, batch: Batch, targets: Targets, totals: list[Tensor]) -> Tensor:
        """This batch's share of the loss; the shares of a step add up to it."""
        model: Any = self.model
        embedding_BD = model.embed(batch)
        logits_BIK = issue_axis(model.head(embedding_BD)).float()
        config, (verdict_I, soft_I, tasks) = self.config, totals
        sums_I = verdict_sums(logits_BIK, targets.labels_BI, self.weights_IK, config.label_smoothing)
        loss = mean_over_present(sums_I, verdict_I)
        if targets.soft_BI is not None:
            apart = mean_over_present(soft_sums(logits_BIK, targets.soft_BI, config.temperature), soft_I)
            loss = (1.0 - config.soft_weight) * loss + config.soft_weight * apart
        if self.heads.heads:
            sums = self.heads.sums(embedding_BD.float(), targets.auxiliary)
            loss = loss + config.auxiliary_weight * (sums / tasks.clamp(min=1.0)).sum()
        return loss
