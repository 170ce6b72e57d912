"""``Intervention``: one change to a system, and ``Change``: what it makes of a run.

Enters: a ``ProbeTable`` and the posterior of its errors. Leaves: scores and thresholds of all items under the change,
NaN where they are not known (a probe that was run on a sample of the right items only): ``gains`` weighs them.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tidegate.diagnosis.table import Floats, ProbeTable
from tidegate.diagnosis.taxonomy import FailureClass

__all__ = ["Change", "Context", "Intervention", "command"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Change:
    """A run under a change; arrays have length N."""

    scores: Floats
    """NaN: not known under the change."""
    thresholds: Floats
    labels: npt.NDArray[np.int64] | None = None
    """None: as they were."""
    kept: npt.NDArray[np.bool_] | None = None
    """Items that are still decided by the model; the others go to a person. None: all."""
    detail: str = ""
    """What exactly, in words: ``region: DE .41, BR .77``."""
    refit: bool = False
    """Whether one new threshold is to be fitted to the new scores."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """Names that commands are written with."""

    data: str = "corpus/manifest.parquet"
    """Manifest of the run."""
    checkpoint: str = "large"
    """Checkpoint folder of the stage that failed."""
    base: str = "base"
    """Checkpoint folder of the base stage."""
    out: str = "after"
    """Folder that an intervention writes to."""
    issue: str = "icd"
    """Label to learn."""
    plan: str = "plan.toml"
    """Plan file."""
    p_base: str = "20"
    """Base precision in percent whose threshold the base stage was held to."""
    locale: str = ""
    """Where errors of language or region gather, as ``column=value``; empty: nowhere in particular."""


class Intervention(Protocol):
    """One change to a system."""

    @property
    def name(self) -> str:
        """Id, as in the taxonomy."""

    @property
    def summary(self) -> str:
        """What is done, in a sentence."""

    @property
    def cost(self) -> float:
        """Effort relative to a change of configuration (1); a training run with new data is about 20."""

    @property
    def needs_training(self) -> bool:
        """Whether weights change."""

    @property
    def classes(self) -> tuple[FailureClass, ...]:
        """Classes that it can cure."""

    def apply(self, table: ProbeTable, suspected: Floats) -> Change | None:
        """The run under the change; None if the table cannot tell. ``suspected`` (N,): posterior of its classes."""

    def command(self, context: Context) -> str:
        """The shell command that carries it out."""


def command(*words: str | Path) -> str:
    """Words as one line that a shell reads back as the same words."""
    return shlex.join([str(word) for word in words])
