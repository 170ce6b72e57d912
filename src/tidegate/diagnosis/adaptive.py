"""Which probes are run on which items: the most telling for its cost first, until the cause is clear.

Enters: a ``ProbeTable`` and a ``Scorer``. Leaves: the table with the probes' scores filled in, and what they cost. In
rounds: each error that is still unclear asks for the probe with the largest expected information about its cause per
model call; probes that enough errors ask for are run, the first time also on a sample of right items (without which a
cure means nothing). What one error teaches about the shares of the causes steers the next round. Errors that no single
probe cures get pairs of probes at the end, for causes that only together explain a failure. Last, the probes behind the
interventions of the likeliest classes are completed, so that gains are computed and not guessed.

Shape legend: E errors, H hypotheses (and none).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt

from tidegate.diagnosis.classify import RulesConfig, log_ratios, rank, shares_of
from tidegate.diagnosis.hypotheses import HYPOTHESES
from tidegate.diagnosis.observations import Observations, observe
from tidegate.diagnosis.signatures import control_pool, effect_of
from tidegate.diagnosis.table import Floats, ProbeTable, Scorer
from tidegate.diagnosis.taxonomy import PROBES, FailureClass
from tidegate.diagnosis.thresholds import best_slice_thresholds

__all__ = ["PROBES_OF_CLASS", "ProbingConfig", "Spent", "probe_run"]

Ints = npt.NDArray[np.int64]
_C = FailureClass
PROBES_OF_CLASS: dict[FailureClass, tuple[str, ...]] = {
    _C.SERVING: ("retry",), _C.CASCADE_DROP: ("force_full",),
    _C.MODALITY_PERCEPTION: ("transcript_recognised", "text_gold"),
    _C.TEMPORAL: ("frames_window", "frames_more"), _C.SPATIAL: ("resolution_up", "crops"),
    _C.CORRUPTION: ("clean",), _C.LOCALE: ("translated_recognised",), _C.POLICY: ("policy_other",),
}  # fmt: skip
"""Probes whose scores are what an intervention of the class would give."""


_FAMILY = {
    "frames_more": "time", "frames_window": "time", "resolution_up": "detail", "crops": "detail", "clean": "clean",
    "transcript_gold": "speech", "text_gold": "writing", "translated_gold": "language", "policy_other": "policy",
    "audio_mute": "less audio", "text_drop": "less text", "force_full": "stage", "retry": "serving",
}  # fmt: skip
"""What a probe gives; pairs are made across families."""


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


class _Probing:
    """The state of a run under probing."""

    def __init__(self, table: ProbeTable, scorer: Scorer, config: ProbingConfig, seed: int) -> None:
        self.table, self.scorer, self.config = table, scorer, config
        errors, rng = np.flatnonzero(table.errors), np.random.default_rng(seed)
        if config.max_errors is not None and len(errors) > config.max_errors:
            errors = np.sort(rng.choice(errors, config.max_errors, replace=False))
        self.errors: Ints = errors
        self.controls = _controls(table, config.max_controls, rng)
        self.thresholds = best_slice_thresholds(table)
        """Of no probe, so they are fitted once."""
        self.by_probe: dict[str, float] = {}
        self.on_controls = 0.0
        self.refused: dict[str, set[int]] = {}
        """Rows that a probe does not apply to."""

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


def probe_run(table: ProbeTable, scorer: Scorer | None, config: ProbingConfig, *, rules: RulesConfig,
              seed: int = 0) -> tuple[ProbeTable, Spent]:
    """The table with the probes that were worth their cost, and what they cost."""
    if scorer is None or not table.errors.any():
        return table, Spent()
    state = _Probing(table, scorer, config, seed)
    if config.order == "all":
        for name in state.available:
            state.run(name, state.errors)
    else:
        _in_rounds(state, rules, seed)
        _complete(state, rules)
    if getattr(scorer, "combines", False) and config.max_pairs:
        _pairs(state)
    return state.table, state.spent


def _in_rounds(state: _Probing, rules: RulesConfig, seed: int) -> None:
    """Ask each unclear error's best probe until none is worth its cost."""
    config = state.config
    if "null" in state.available:
        state.run("null", state.errors[:: max(1, len(state.errors) // 100)])
    pilot = np.sort(np.random.default_rng(seed).permutation(state.errors)[: config.pilot])
    for name in state.available if config.pilot else ():
        state.run(name, pilot)
    budget = config.calls_per_error * len(state.errors)
    for _ in range(3 * len(PROBES)):
        wanted = _wanted(state, rules)
        if not wanted:
            return
        best_first = sorted(wanted, key=lambda name: -wanted[name][0])[: config.probes_a_round]
        for probe in best_first:
            if wanted[probe][0] >= 0.5 * wanted[best_first[0]][0]:
                state.run(probe, wanted[probe][1])
            if state.spent.calls - state.on_controls >= budget:
                return


def _wanted(state: _Probing, rules: RulesConfig) -> dict[str, tuple[float, Ints]]:
    """Probe → (information it promises over all errors that want it most, their rows)."""
    seen = observe(state.table, thresholds=state.thresholds)
    place = np.flatnonzero(np.isin(seen.rows, state.errors))
    ratios = log_ratios(seen, config=rules, untold=0.0)
    _, given = shares_of(ratios, pseudo=0.0, floor=0.01)
    unclear = place[given[place].max(axis=1) < state.config.clear] if len(place) else place
    found = {}
    for name in state.available:
        if name == "null":
            continue
        scores = state.table.probes.get(name)
        missing = unclear if scores is None else unclear[np.isnan(scores[seen.rows[unclear]])]
        missing = missing[~np.isin(seen.rows[missing], list(state.refused.get(name, ())))]
        if len(missing):
            worth = _information(seen, given[missing], missing, name) / cost_of(name)
            worthy = worth >= state.config.min_information
            if worthy.any():
                found[name] = (float(worth[worthy].sum()), seen.rows[missing[worthy]])
    return found


def _information(seen: Observations, given: Floats, place: Ints, probe: str) -> Floats:
    """Expected fall of the entropy over causes, in nats, of each error if the probe is run."""
    name = f"cure:{probe}"
    chance = (seen.chance_EO[place, seen.names.index(name)] if name in seen.names else np.full(len(place), 0.08))
    yes = np.tile(chance[:, None], (1, given.shape[1]))
    for h, hypothesis in enumerate(HYPOTHESES):
        if name in hypothesis.expects:
            yes[:, h] = hypothesis.expects[name]
        elif probe == "translated_gold" and "translation" in hypothesis.expects:
            yes[:, h] = hypothesis.expects["translation"]
    overall = (given * yes).sum(axis=1)
    after = overall * _entropy(given * yes) + (1 - overall) * _entropy(given * (1 - yes))
    gained: Floats = _entropy(given) - after
    return gained


def _entropy(weights: Floats) -> Floats:
    shares = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
    entropy: Floats = -(shares * np.log(np.maximum(shares, 1e-12))).sum(axis=1)
    return entropy


def _complete(state: _Probing, rules: RulesConfig) -> None:
    """Run the probes behind the likeliest classes' interventions on all errors."""
    seen = observe(state.table, thresholds=state.thresholds)
    ranking = [name for name, probability in rank(seen, config=rules) if probability > 0.05]
    likely = [name for name in ranking if name in {c.value for c in FailureClass}][: state.config.complete]
    for name in likely:
        for probe in PROBES_OF_CLASS.get(FailureClass(name), ()):
            if probe in state.available:
                state.run(probe, state.errors)


def _pairs(state: _Probing) -> None:
    """Run the pairs of those probes that move the uncured errors most, on these errors."""
    cured = np.zeros(len(state.table), dtype=np.bool_)
    for scores in state.table.probes.values():
        cured |= effect_of(state.table, scores).cured
    left = state.errors[~cured[state.errors]]
    if len(left) < 5:
        return
    strength = {}
    for name in state.available:
        if name != "null" and name in state.table.probes:
            move = effect_of(state.table, state.table.probes[name]).move
            ours, theirs = move[left][np.isfinite(move[left])], move[state.controls][np.isfinite(move[state.controls])]
            if len(ours) >= 5 and len(theirs) >= 5:
                spread = np.sqrt(ours.var() / len(ours) + theirs.var() / len(theirs)) + 1e-9
                strength[name] = float((ours.mean() - theirs.mean()) / spread)
    best: dict[str, str] = {}
    for name in sorted(strength, key=lambda key: -strength[key]):
        if name in _FAMILY and strength[name] > 1.0:
            best.setdefault(_FAMILY[name], name)
    pairs = sorted(combinations(sorted(best.values()), 2), key=lambda pair: -(strength[pair[0]] + strength[pair[1]]))
    for first, second in pairs[: state.config.max_pairs]:
        state.run(f"{first}+{second}", left)
