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

from itertools import combinations

import numpy as np
import numpy.typing as npt

from tidegate.diagnosis.classify import RulesConfig, log_ratios, rank, shares_of
from tidegate.diagnosis.hypotheses import HYPOTHESES
from tidegate.diagnosis.observations import Observations, observe
from tidegate.diagnosis.probing import Probing, ProbingConfig, Spent, cost_of
from tidegate.diagnosis.signatures import effect_of
from tidegate.diagnosis.table import Floats, ProbeTable, Scorer
from tidegate.diagnosis.taxonomy import PROBES, FailureClass

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


def probe_run(table: ProbeTable, scorer: Scorer | None, config: ProbingConfig, *, rules: RulesConfig,
              seed: int = 0) -> tuple[ProbeTable, Spent]:
    """The table with the probes that were worth their cost, and what they cost."""
    if scorer is None or not table.errors.any():
        return table, Spent()
    state = Probing(table, scorer, config, seed)
    if config.order == "all":
        for name in state.available:
            state.run(name, state.errors)
    else:
        _in_rounds(state, rules, seed)
        _complete(state, rules)
    if getattr(scorer, "combines", False) and config.max_pairs:
        _pairs(state)
    return state.table, state.spent


def _in_rounds(state: Probing, rules: RulesConfig, seed: int) -> None:
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


def _wanted(state: Probing, rules: RulesConfig) -> dict[str, tuple[float, Ints]]:
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


def _complete(state: Probing, rules: RulesConfig) -> None:
    """Run the probes behind the likeliest classes' interventions on all errors."""
    seen = observe(state.table, thresholds=state.thresholds)
    ranking = [name for name, probability in rank(seen, config=rules) if probability > 0.05]
    likely = [name for name in ranking if name in {c.value for c in FailureClass}][: state.config.complete]
    for name in likely:
        for probe in PROBES_OF_CLASS.get(FailureClass(name), ()):
            if probe in state.available:
                state.run(probe, state.errors)


def _pairs(state: Probing) -> None:
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
