"""Interventions that show the model something else: their effect is a probe's score.

Enters: a ``ProbeTable`` with that probe. Leaves: ``Change``: the probe's scores for everything in scope, with a
threshold fitted anew, because more frames or another text move all scores, not only those of errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tidegate.diagnosis.interventions.base import Change, Context, command
from tidegate.diagnosis.table import Floats, ProbeTable
from tidegate.diagnosis.taxonomy import FailureClass

__all__ = ["Rescore"]


@dataclass(frozen=True, kw_only=True)
class Rescore:
    """The model is asked with another input."""

    name: str
    summary: str
    classes: tuple[FailureClass, ...]
    probes: tuple[str, ...]
    """Probes whose scores the change has, the first that was run counts (best: as if applied)."""
    cost: float = 3.0
    needs_training: bool = False
    noted_only: bool = False
    """Only items that serving has a note on."""

    def apply(self, table: ProbeTable, suspected: Floats) -> Change | None:
        """The probe's scores in scope; None if it was not run."""
        known = {**table.probes, **table.applied}
        found = next((name for name in self.probes if np.isfinite(known.get(name, np.zeros(0))).any()), None)
        if found is None:
            return None
        scores = known[found]
        if self.noted_only:
            noted = np.isnan(table.scores) if table.notes is None else (table.notes != "") | np.isnan(table.scores)
            scores = np.where(noted, scores, table.scores)
            return Change(scores=scores, thresholds=table.thresholds, detail=f"{int(noted.sum())} items again")
        return Change(scores=scores, thresholds=table.thresholds, refit=True, detail=f"as in the probe {found}")

    def command(self, context: Context) -> str:
        """The command that carries it out from a plan."""
        return command("tidegate", "intervene", context.plan, "--only", self.name)
