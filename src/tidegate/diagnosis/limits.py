"""What can and cannot be concluded from a run, in sentences.

Enters: a ``ProbeTable``. Leaves: one sentence for each thing that limits the diagnosis: too few errors, one class of
labels, scores without probes, no null probe, a modality that never occurs, items that failed. A diagnosis is never
refused for them, but nobody may read more out of it than is in it.
"""

from __future__ import annotations

import numpy as np

from tidegate.diagnosis.table import ProbeTable
from tidegate.diagnosis.taxonomy import PROBES

__all__ = ["MIN_ERRORS", "conclusions"]

MIN_ERRORS = 20
"""Below this number of errors no share is worth a percentage."""


def conclusions(table: ProbeTable) -> tuple[str, ...]:
    """Sentences on what limits the diagnosis; empty when nothing does."""
    errors, failed = int(table.errors.sum()), int(np.isnan(table.scores).sum())
    said = []
    if not len(table):
        said.append("The run holds no items: nothing can be concluded.")
    elif len(set(table.labels.tolist())) == 1:
        present, absent = ("violating", "harmless") if table.labels[0] == 1 else ("harmless", "violating")
        kind = "false alarms" if table.labels[0] == 1 else "misses"
        said.append(f"All labels are {present}: nothing can be concluded about {kind}, for there are no {absent} "
                    "items, and no threshold can be judged.")
    if not errors:
        said.append("The run has no errors: there is nothing to diagnose.")
    elif errors < MIN_ERRORS:
        said.append(f"Only {errors} errors: single errors can be looked at, but shares of classes cannot be told "
                    "from chance.")
    if failed:
        said.append(f"{failed} items have no score (failed): they count as wrong, and no probe of theirs is compared.")
    return (*said, *_about_probes(table))


def _about_probes(table: ProbeTable) -> tuple[str, ...]:
    made = {name for name, scores in table.probes.items() if np.isfinite(scores).any()}
    if not made:
        return ("Scores only, no probes: threshold, locale, clause, label and novelty can be looked at (where the "
                "columns are there); causes inside the model cannot be told apart.",)
    said = []
    if "null" not in made:
        said.append("No null probe: what plain noise cures is not known and is counted as a cure.")
    for modality in ("audio", "vision", "text"):
        own = [name for name, probe in PROBES.items() if probe.modality == modality and name in table.probes]
        if own and not made & set(own):
            said.append(f"No item has {modality}, or no probe of it ran: nothing can be concluded about it.")
    if table.escalated is None:
        said.append("A single stage: cascade drop (C1) does not apply.")
    return tuple(said)
