"""What probing is set to, what it has scored, and what that cost.

Enters: a ``ProbeTable`` and a ``Scorer``. Leaves: a ``Probing``, which scores rows under a probe once, and the table
with those scores. Which probes are run on what is decided elsewhere (``adaptive``, ``confirming``).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from tidegate.diagnosis.signatures import control_pool
from tidegate.diagnosis.table import Floats, ProbeTable, Scorer
from tidegate.diagnosis.taxonomy import PROBES
from tidegate.diagnosis.thresholds import best_slice_thresholds

__all__ = ["Probing", "ProbingConfig", "Spent", "cost_of"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ProbingConfig:
    """Which probes are run on what, and when to stop."""

    order: Literal["adaptive", "all"] = "adaptive"
    """``adaptive``: the most telling probe of each error first; ``all``: every probe on every error."""
    pilot: int = 24
    """Errors, drawn at random, on which every probe is run first, so that no cause stays unthought of."""
    max_controls: int = 100
    """Right items that each probe is run on for comparison."""
    max_errors: int | None = None
    """Errors that are probed, drawn at random; None: all."""
    clear: float = 0.9
    """Posterior of a cause at which an error is asked no more."""
    probes_a_round: int = 3
    """Most probes that are run before beliefs are brought up to date; those far less telling than the best wait."""
    min_information: float = 0.02
    """Expected information in nats a model call under which no probe is run."""
    calls_per_error: float = 30.0
    """Model calls for each error, controls not counted, after which probing stops."""
    max_pairs: int = 3
    """Pairs of probes run on errors that no single one cures, if the scorer can combine them; 0: none."""
    complete: int = 2
    """Classes, likeliest first, whose interventions' probes are run on all errors."""
    confirm: int = 3
    """Interventions that only show the model something else, most promising first, whose probes are run on every error
    and, where that leaves hope, on right items near the threshold: their gains are measured then. 0: none."""
    settled: float = 0.9
    """Probability of the run's likeliest class, by a fitted classifier, under which adaptive probing is followed by
    every probe on every error: a run that is unclear after the cheap look deserves the dear one. 0: never."""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Model calls, in calls of the large stage with its usual input."""

    calls: float = 0.0
    by_probe: dict[str, float] = field(default_factory=dict)
    """Calls of each probe, controls included."""
    on_controls: float = 0.0
    """Of all calls, those on right items."""

    def __add__(self, other: Spent) -> Spent:
        """Both together."""
        names = {**self.by_probe, **other.by_probe}
        by_probe = {name: self.by_probe.get(name, 0.0) + other.by_probe.get(name, 0.0) for name in names}
        return Spent(calls=self.calls + other.calls, by_probe=by_probe,
                     on_controls=self.on_controls + other.on_controls)


class Probing:
    """The state of a run under probing."""

    def __init__(self, table: ProbeTable, scorer: Scorer, config: ProbingConfig, seed: int) -> None:
        self.table, self.scorer, self.config = table, scorer, config
        errors, rng = np.flatnonzero(table.errors), np.random.default_rng(seed)
        if config.max_errors is not None and len(errors) > config.max_errors:
            errors = np.sort(rng.choice(errors, config.max_errors, replace=False))
        self.errors: Ints = errors
        self.controls = _controls(table, config.max_controls, rng)
        self.by_probe: dict[str, float] = {}
        self.on_controls = 0.0
        self.refused: dict[str, set[int]] = {}
        """Rows that a probe does not apply to."""

    @cached_property
    def thresholds(self) -> tuple[str, Floats]:
        """Of no probe, so they are fitted once."""
        return best_slice_thresholds(self.table)

    @property
    def available(self) -> list[str]:
        """Probes that can be run, cheap ones first."""
        return sorted(self.scorer.probes & set(PROBES), key=lambda name: (PROBES[name].relative_cost, name))

    def run(self, probe: str, errors: Ints) -> None:
        """Score these errors, and the controls if they were not."""
        ran = self._score(probe, errors)
        on_controls = self._score(probe, self.controls)
        cost = cost_of(probe)
        self.by_probe[probe] = self.by_probe.get(probe, 0.0) + (ran + on_controls) * cost
        self.on_controls += on_controls * cost

    def _score(self, probe: str, rows: Ints) -> int:
        known = self.table.probes.get(probe)
        scores = np.full(len(self.table), np.nan) if known is None else known.copy()
        rows = rows[np.isnan(scores[rows])]
        rows = rows[~np.isin(rows, list(self.refused.get(probe, ())))]
        if len(rows):
            scores[rows] = self.scorer.score(rows, probe)
            self.refused.setdefault(probe, set()).update(rows[np.isnan(scores[rows])].tolist())
        self.table = dataclasses.replace(self.table, probes={**self.table.probes, probe: scores})
        return int(np.isfinite(scores[rows]).sum())

    @property
    def spent(self) -> Spent:
        """Calls so far."""
        return Spent(calls=sum(self.by_probe.values()), by_probe=dict(self.by_probe), on_controls=self.on_controls)


def cost_of(probe: str) -> float:
    """Model calls of one item under a probe or a pair of probes."""
    return float(max(PROBES[part].relative_cost for part in probe.split("+")))


def _controls(table: ProbeTable, number: int, rng: np.random.Generator) -> Ints:
    """Rows of right items near the threshold, more of the label that errs more."""
    pool, errors = control_pool(table), table.errors
    chosen = []
    for label in (0, 1):
        rows = np.flatnonzero(pool & (table.labels == label))
        share = (errors & (table.labels == label)).sum() / max(1, errors.sum())
        chosen.append(rng.choice(rows, min(len(rows), round(number * (0.25 + 0.5 * float(share)))), replace=False))
    return np.sort(np.concatenate(chosen))
