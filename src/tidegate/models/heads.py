"""Last layers, a linear head per issue, and the loss that allows labels to be missing.

Enters: what the trunk gives for B clips. Leaves: logits of (harmless, violating) for each issue. One model for several
issues is the future work of arXiv 2412.10435, section 6: the trunk is shared, each issue has a linear head of its
own. The heads are the rows of one matrix, two an issue, so that a checkpoint of one issue is what it always was.

Shape legend: B clips, I issues, K = 2 classes, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tidegate.errors import ConfigError

__all__ = ["MISSING_LABEL", "IssueHeads", "masked_cross_entropy"]

MISSING_LABEL = -1
"""Label of a clip that nobody judged under that issue; it takes no part in the loss."""


class IssueHeads(nn.Linear):
    """One linear head per issue on a shared trunk."""

    def __init__(self, width: int, num_issues: int) -> None:
        super().__init__(width, 2 * num_issues)
        self.num_issues = num_issues

    def forward(self, embedding_BD: Tensor) -> Tensor:
        """Logits ``(B, 2)`` of the only issue, or ``(B, I, 2)`` of several."""
        logits = super().forward(embedding_BD)
        return logits if self.num_issues == 1 else logits.unflatten(-1, (self.num_issues, 2))


def _issue_axis(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    logits_BIK = logits.unsqueeze(-2) if logits.dim() == 2 else logits
    labels_BI = labels.unsqueeze(-1) if labels.dim() == 1 else labels
    if logits_BIK.shape[:-1] != labels_BI.shape:
        raise ConfigError(
            f"expected a label for each clip and issue {tuple(logits_BIK.shape[:-1])}, got {tuple(labels_BI.shape)}"
        )
    return logits_BIK, labels_BI


def masked_cross_entropy(
    logits: Tensor, labels: Tensor, weights_IK: Tensor | None = None, *, smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy over the labels that are there: the mean of each issue, then the mean of the issues.

    ``logits``: ``(B, I, 2)``, or ``(B, 2)`` of one issue. ``labels``: ``(B, I)`` or ``(B,)`` int64; 1 violating, 0
    harmless, ``MISSING_LABEL`` unknown. ``weights_IK``: class weights per issue, applied as ``torch`` applies them
    (a weighted mean). ``smoothing``: label smoothing. With one issue and no missing label this is
    ``torch.nn.functional.cross_entropy``; a batch without any label gives 0, with a gradient of 0.
    """
    logits_BIK, labels_BI = _issue_axis(logits, labels)
    losses = [
        functional.cross_entropy(
            logits_BIK[:, issue],
            labels_BI[:, issue],
            weight=None if weights_IK is None else weights_IK[issue],
            ignore_index=MISSING_LABEL,
            label_smoothing=smoothing,
        )
        for issue in range(labels_BI.shape[1])
        if bool((labels_BI[:, issue] != MISSING_LABEL).any())
    ]
    return torch.stack(losses).mean() if losses else logits.sum() * 0.0
