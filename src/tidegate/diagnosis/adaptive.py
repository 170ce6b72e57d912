"""Which probes are run on which items: cheap ones first, until the cause is clear.

Enters: a ``ProbeTable`` and a ``Scorer``. Leaves: the table with the probes' scores filled in, and what they cost. Each
probe is run on the errors that are still unclear and on a sample of matched right items (without them a cure means
nothing).

Shape legend: E errors.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tidegate.diagnosis.classify import RulesConfig
from tidegate.diagnosis.signatures import control_pool
from tidegate.diagnosis.table import Floats, ProbeTable, Scorer
from tidegate.diagnosis.taxonomy import PROBES

__all__ = ["ProbingConfig", "Spent", "probe_run"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ProbingConfig:
    """Which probes are run on what, and when to stop."""

    max_controls: int = 200
    """Right items that each probe is run on for comparison."""
    max_errors: int | None = None
    """Errors that are probed, drawn at random; None: all."""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Model calls, in calls of the large stage with its usual input."""

    calls: float = 0.0
    by_probe: dict[str, float] = field(default_factory=dict)


def controls_of(table: ProbeTable, number: int, seed: int) -> Ints:
    """Rows of right items near the threshold, as many of each label as the errors ask for."""
    rng, pool, errors = np.random.default_rng(seed), control_pool(table), table.errors
    chosen = []
    for label in (0, 1):
        rows = np.flatnonzero(pool & (table.labels == label))
        share = (errors & (table.labels == label)).sum() / max(1, errors.sum())
        wanted = min(len(rows), round(number * (0.25 + 0.5 * float(share))))
        chosen.append(rng.choice(rows, wanted, replace=False))
    return np.sort(np.concatenate(chosen))


def probe_run(table: ProbeTable, scorer: Scorer | None, config: ProbingConfig, *, rules: RulesConfig,
              seed: int = 0) -> tuple[ProbeTable, Spent]:
    """The table with every probe that the scorer can run, and what that cost."""
    if scorer is None:
        return table, Spent()
    errors = np.flatnonzero(table.errors)
    if config.max_errors is not None and len(errors) > config.max_errors:
        errors = np.sort(np.random.default_rng(seed).choice(errors, config.max_errors, replace=False))
    rows = np.union1d(errors, controls_of(table, config.max_controls, seed))
    probes, spent = dict(table.probes), {}
    for name in sorted(scorer.probes & set(PROBES), key=lambda probe: (PROBES[probe].relative_cost, probe)):
        missing = rows if name not in probes else rows[np.isnan(probes[name][rows])]
        probes[name], ran = _filled(probes.get(name), len(table), missing, scorer, name)
        spent[name] = ran * PROBES[name].relative_cost
    return dataclasses.replace(table, probes=probes), Spent(calls=sum(spent.values()), by_probe=spent)


def _filled(known: Floats | None, length: int, rows: Ints, scorer: Scorer, probe: str) -> tuple[Floats, int]:
    scores = np.full(length, np.nan) if known is None else known.copy()
    if len(rows):
        scores[rows] = scorer.score(rows, probe)
    return scores, int(np.isfinite(scores[rows]).sum())
