"""Interventions that need training: what they would bring is a ceiling times what past ones of their kind brought.

Enters: nothing but names. Leaves: the command that starts the recipe. The run under the change is not known before it
is trained, so ``apply`` never answers.
"""

from __future__ import annotations

from dataclasses import dataclass

from tidegate.diagnosis.interventions.base import Change, Context, command
from tidegate.diagnosis.table import Floats, ProbeTable
from tidegate.diagnosis.taxonomy import FailureClass

__all__ = ["Training"]


@dataclass(frozen=True, kw_only=True)
class Training:
    """Weights are trained again, with other data or another recipe."""

    name: str
    summary: str
    classes: tuple[FailureClass, ...]
    cost: float = 10.0
    needs_training: bool = True
    stage: str = "avlm"
    """``base`` or ``avlm``."""
    prepares: str = ""
    """What must be in the manifest before training, in words; empty: nothing."""
    follows_large: bool = False
    """The base stage is taught by the large one's soft scores."""

    def apply(self, table: ProbeTable, suspected: Floats) -> Change | None:
        """None: nothing is known before it is trained."""
        return None

    def command(self, context: Context) -> str:
        """The command that starts the training."""
        start = context.base if self.stage == "base" else context.checkpoint
        words = ["tidegate", "train", self.stage, "--data", context.data, "--issue", context.issue,
                 "--out", f"{context.out}/{self.name}", "--init", start]
        if self.follows_large:
            words += ["--teacher", context.checkpoint]
        return command(*words)
