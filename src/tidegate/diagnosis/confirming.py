"""Gains are measured where they may be large: more probes for the interventions that promise most.

Enters: a probed ``ProbeTable`` and its ``Scorer``. Leaves: the table with ``applied`` scores: the probes behind the
most promising interventions, on every error and, where that leaves hope, on a sample of right items that is dense near
the threshold. Probing stops when a cause is clear; what its cure would win and break is another question, and a few
dozen right items, each standing for thirty, cannot answer it. What a cause is told by stays as it was.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tidegate.diagnosis.interventions import REGISTRY
from tidegate.diagnosis.interventions.rescoring import Rescore
from tidegate.diagnosis.probing import Probing, ProbingConfig, Spent
from tidegate.diagnosis.signatures import effect_of
from tidegate.diagnosis.table import Floats, ProbeTable, Scorer
from tidegate.diagnosis.weighting import item_weights, sample_by_strata

__all__ = ["confirm"]

_LEAST_SHARE = 0.02
"""Share of the errors that an intervention must promise to cure, at best, to be looked at."""


@dataclass(frozen=True, kw_only=True)
class _Promise:
    """Errors that fewer items would have under a probe."""

    probe: str
    net: float
    spread: float
    """Standard error."""


def confirm(table: ProbeTable, scorer: Scorer | None, config: ProbingConfig, *, seed: int = 0
            ) -> tuple[ProbeTable, Spent]:
    """The table with ``applied``, and what that cost; unchanged without a scorer or without errors."""
    if scorer is None or not config.confirm or not table.errors.any():
        return table, Spent()
    state = Probing(table, scorer, config, seed)
    state.controls = np.zeros(0, dtype=np.int64)
    for promise in _best(_promises(state), config, len(state.errors)):
        state.run(promise.probe, state.errors)
    hopeful = _best(_promises(state), config, len(state.errors))
    surest = max((promise.net - promise.spread for promise in hopeful), default=0.0)
    state.controls = sample_by_strata(table, np.random.default_rng(seed))
    confirmed = [promise.probe for promise in hopeful if promise.net + promise.spread >= surest]
    for probe in confirmed:
        state.run(probe, state.errors)
    applied = {probe: _applied(state, probe) for probe in confirmed}
    return replace(table, applied={**table.applied, **applied}), state.spent


def _applied(state: Probing, probe: str) -> Floats:
    """What a probe does not apply to keeps its score when the probe's change is deployed."""
    scores = state.table.probes[probe].copy()
    refused = list(state.refused.get(probe, ()))
    scores[refused] = state.table.scores[refused]
    return scores


def _best(promises: list[_Promise], config: ProbingConfig, errors: int) -> list[_Promise]:
    """The most promising, at best."""
    hopeful = [promise for promise in promises if promise.net + promise.spread >= _LEAST_SHARE * errors]
    return sorted(hopeful, key=lambda promise: -(promise.net + promise.spread))[: config.confirm]


def _promises(state: Probing) -> list[_Promise]:
    """Of each intervention that only shows the model something else, by the first of its probes that can be run."""
    found: dict[str, _Promise] = {}
    for one in REGISTRY.values():
        if isinstance(one, Rescore) and not one.noted_only:
            probe = next((name for name in one.probes if name in state.available), None)
            if probe is not None and probe in state.table.probes:
                found[probe] = _promise(state, probe)
    return list(found.values())


def _promise(state: Probing, probe: str) -> _Promise:
    """Errors that are not known are taken to be like those that are; right items by their strata."""
    errors, effect = state.errors, effect_of(state.table, state.table.probes[probe])
    asked = int(effect.ran[errors].sum()) + len(state.refused.get(probe, set()) & set(errors.tolist()))
    cured, unknown = float(effect.cured[errors].sum()), len(errors) - asked
    share = (cured + 0.5) / (asked + 1.0)
    weights, _ = item_weights(state.table, state.table.probes[probe])
    broken = weights * effect.broken
    variance = unknown**2 * share * (1 - share) / (asked + 1.0) + (broken * np.maximum(weights - 1.0, 0.0)).sum()
    return _Promise(probe=probe, net=cured + unknown * share - float(broken.sum()),
                    spread=float(np.sqrt(variance) + np.sqrt(len(errors)) / 4))
