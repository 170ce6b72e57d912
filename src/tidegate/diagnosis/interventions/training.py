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
    switches: tuple[str, ...] = ()
    """Options of ``tidegate train`` that hold the idea; ``{p_base}`` and ``{locale}`` are those of the context, and
    switches that name one which the context does not have are left out."""
    by_hand: str = ""
    """What the command leaves to a person, in words; empty: nothing."""

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
        return command(*words, *self._filled(context))

    def _filled(self, context: Context) -> list[str]:
        known = {"p_base": context.p_base, "locale": context.locale}
        if any(f"{{{name}}}" in word for word in self.switches for name, value in known.items() if not value):
            return []
        return [word.format(**known) for word in self.switches]

    def left_over(self, context: Context) -> str:
        """What has to be done before the command, in words; empty: nothing."""
        idle = bool(self.switches) and not self._filled(context)
        missing = "the plan names no locale: add --emphasise-where column=value" if idle else ""
        needs = f"the manifest must hold {self.prepares}" if self.prepares else ""
        return "; ".join(words for words in (needs, self.by_hand, missing) if words)
