"""One run of the benchmark on clips: plant, diagnose, let the rivals guess, carry out what needs no training.

Enters: a ``Bench`` and a ``ClipFault``. Leaves: a row as in the world of features, so that the same code scores both.
Interventions are carried out on the measured half: its items are of other sources and were not diagnosed; probes behind
an intervention are run on all of them, thresholds are fitted on other sources than the item's own, and what people
would look at again gets its true label.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tidegate.bench.diagnosis_clips.faults import Bench, ClipCase, ClipFault, plant
from tidegate.bench.diagnosis_clips.system import Bools, Deployed
from tidegate.bench.diagnosis_rivals import RIVALS
from tidegate.diagnosis.adaptive import ProbingConfig
from tidegate.diagnosis.diagnose import Diagnosis, DiagnosisConfig, diagnose
from tidegate.diagnosis.gains import Gain, GainsConfig, gains, known_change, suspicion
from tidegate.diagnosis.interventions import REGISTRY, Change, Intervention
from tidegate.diagnosis.learned import LearnedClassifier
from tidegate.diagnosis.planted.world import f1_of
from tidegate.diagnosis.reference import with_reference
from tidegate.diagnosis.table import Floats, ProbeTable
from tidegate.diagnosis.transfer import TransferRatios

__all__ = ["ClipRunConfig", "realised_gains", "run_clip_fault"]

PROBES_OF_GAINS = ("force_full", "retry", "transcript_gold", "translated_gold", "frames_more", "frames_window",
                   "resolution_up", "crops", "clean")  # fmt: skip
"""Probes whose scores are what an intervention gives."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipRunConfig:
    """What is done in a run."""

    max_errors: int = 16
    """Errors that are probed."""
    max_controls: int = 12
    """Right items that each probe is run on."""
    with_gains: bool = False
    """Whether interventions are carried out."""
    second: LearnedClassifier | None = None
    """Judges the same probes again, beside the rules."""
    ratios: TransferRatios = field(default_factory=TransferRatios)
    """Transfer ratios that predictions use."""

    @property
    def diagnosis(self) -> DiagnosisConfig:
        """How runs are diagnosed; few resamples, for the intervals of signatures are not scored."""
        probing = ProbingConfig(max_errors=self.max_errors, max_controls=self.max_controls,
                                pilot=min(self.max_errors, 24))
        return DiagnosisConfig(num_samples=20, probing=probing)


def run_clip_fault(bench: Bench, fault: ClipFault, config: ClipRunConfig) -> dict[str, Any]:
    """Everything that is measured of one planted fault."""
    started, calls = time.perf_counter(), bench.diagnosed.system.calls
    case = plant(bench, fault)
    found = diagnose(case.table, case.deployed, train=case.reference, config=config.diagnosis)
    row = {
        "key": fault.key, "family": fault.family, "truth": fault.truth, "also": "", "mechanism": fault.mechanism,
        "severity": fault.severity, "world": fault.seed, "least_extra_errors": bench.least_extra_errors,
        "column": "" if case.place is None else case.place.column,
        "share": 0.0 if case.place is None else round(case.place.share, 3),
        "items": len(case.table), "errors": int(case.table.errors.sum()), "extra_errors": case.extra_errors,
        "ranking": [[name, round(probability, 4)] for name, probability in found.ranking],
        "calls_per_error": found.spent.calls / max(1, min(config.max_errors, int(case.table.errors.sum()))),
        "items_found": _items_found(case, found),
        "rivals": {name: rival(found.table) for name, rival in RIVALS.items()},
    }  # fmt: skip
    if config.second is not None:
        again = diagnose(found.table, classifier=config.second, config=config.diagnosis)
        row["learned"] = [[name, round(probability, 4)] for name, probability in again.ranking]
    if config.with_gains:
        row |= _gains(case, found, config)
    seconds = round(time.perf_counter() - started, 2)
    return row | {"clips_scored": bench.diagnosed.system.calls - calls, "seconds": seconds}


def _items_found(case: ClipCase, found: Diagnosis) -> float:
    """Share of the harmed items that were probed whose likeliest class is the fault's; NaN without such items."""
    probed = np.zeros(len(case.table), dtype=np.bool_)
    for scores in found.table.probes.values():
        probed |= np.isfinite(scores)
    harmed = (case.harmed & (probed | np.isnan(case.table.scores)))[found.classified.rows]
    named = np.asarray([failure.value == case.fault.truth for failure in found.likeliest], dtype=bool)
    return float(named[harmed].mean()) if harmed.any() else float("nan")


def _gains(case: ClipCase, found: Diagnosis, config: ClipRunConfig) -> dict[str, Any]:
    """Predictions for what was carried out, and what it brought."""
    predicted = gains(found, config=GainsConfig(num_samples=100, order="gain", ratios=config.ratios))
    before, realised = realised_gains(case.measured, case.clean, case, config)
    done: list[Gain] = [gain for gain in predicted if gain.name in realised]
    return {
        "f1": before,
        "recommended": done[0].name if done else None,
        "predicted": {gain.name: [gain.f1.estimate, gain.f1.low, gain.f1.high, bool(gain.measured), gain.ceiling_f1]
                      for gain in done},
        "realised": realised,
    }  # fmt: skip


def realised_gains(measured: Deployed, clean: Deployed, case: ClipCase, config: ClipRunConfig
                   ) -> tuple[float, Mapping[str, float]]:
    """(F1 before, intervention → F1 after minus before) on the measured half; what cannot be applied is absent."""
    table = measured.table()
    everything = np.arange(len(table))
    probes = {name: measured.score(everything, name) for name in PROBES_OF_GAINS if name in measured.probes}
    table = replace(table, probes={name: scores for name, scores in probes.items() if np.isfinite(scores).any()})
    if case.reference is not None:
        table = with_reference(table, case.reference)
    seen = diagnose(table, config=config.diagnosis)
    before, realised = f1_of(table.flagged, table.labels), {}
    for name, one in REGISTRY.items():
        change = _applied(one, table, suspicion(seen, one.classes))
        if change is not None:
            flagged, labels, kept = _under(change, table, clean)
            realised[name] = f1_of(flagged[kept], labels[kept]) - before
    return before, realised


def _applied(one: Intervention, table: ProbeTable, suspected: Floats) -> Change | None:
    """The run under an intervention, thresholds fitted; one that changes nothing is done all the same."""
    change = None if one.needs_training else one.apply(table, suspected)
    return None if change is None else known_change(table, change)[0]


def _under(change: Change, table: ProbeTable, clean: Deployed) -> tuple[Bools, Any, Bools]:
    """(verdicts, labels, items that are still decided) under a change."""
    flagged = np.nan_to_num(change.scores, nan=-np.inf) >= change.thresholds
    labels = table.labels
    if change.labels is not None:
        labels = np.where(change.labels != table.labels, clean.labels, table.labels)
    kept = np.ones(len(table), dtype=np.bool_) if change.kept is None else change.kept
    return flagged, labels, kept
