"""One run of the planted-fault benchmark: plant, diagnose, let the rivals guess, carry out every intervention.

Enters: a ``Fault`` and the classifier. Leaves: a row, plain data for one line of JSON: the truth, what was named, what
was predicted for every intervention, and what each really brought on items that nobody had looked at.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.bench.diagnosis_fit import PROBING
from tidegate.bench.diagnosis_rivals import RIVALS
from tidegate.diagnosis.diagnose import Diagnosis, DiagnosisConfig, diagnose
from tidegate.diagnosis.gains import GainsConfig, gains
from tidegate.diagnosis.learned import LearnedClassifier
from tidegate.diagnosis.planted.cases import Case, plant
from tidegate.diagnosis.planted.fault import Fault
from tidegate.diagnosis.planted.retraining import realised_gains
from tidegate.diagnosis.planted.world import quality
from tidegate.diagnosis.table import Floats, Scorer
from tidegate.diagnosis.transfer import TransferRatios

__all__ = ["BUDGETS", "CachingScorer", "RunConfig", "key_of", "run_fault"]

BUDGETS = (3.0, 6.0, 10.0, 15.0)
"""Model calls for each error at which the curve is read; the last point is the unbounded diagnosis itself."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RunConfig:
    """What is done in a run."""

    classifier: LearnedClassifier | None
    """None: the rules judge."""
    ratios: TransferRatios = field(default_factory=TransferRatios)
    """Transfer ratios that predictions use."""
    with_gains: bool = True
    """Whether every intervention is carried out (about 7 s of one idle core)."""
    with_curve: bool = False
    """Whether the run is diagnosed again with fewer and fewer model calls."""
    with_full: bool = False
    """Whether the run is diagnosed again with every probe on every error."""
    diagnosis: DiagnosisConfig = field(
        default_factory=lambda: DiagnosisConfig(num_samples=20, probing=PROBING["adaptive"])
    )
    """How runs are diagnosed; few resamples, for the intervals of signatures are not scored."""


class CachingScorer:
    """Asks the other scorer once for each item and probe."""

    combines = True

    def __init__(self, scorer: Scorer, length: int) -> None:
        self._scorer, self._length = scorer, length
        self._kept: dict[str, tuple[Floats, npt.NDArray[np.bool_]]] = {}

    @property
    def probes(self) -> frozenset[str]:
        """Probes of the other scorer."""
        return self._scorer.probes

    def score(self, rows: npt.NDArray[np.int64], probe: str) -> Floats:
        """Scores, from before where they are known."""
        scores, asked = self._kept.setdefault(probe, (np.full(self._length, np.nan), np.zeros(self._length, bool)))
        if len(new := rows[~asked[rows]]):
            scores[new] = self._scorer.score(new, probe)
            asked[new] = True
        return scores[rows]


def key_of(fault: Fault) -> str:
    """Name of a run, for resuming."""
    injectors = "+".join(injector.__name__ for injector in fault.injectors) or "nothing"
    return f"{fault.family}/{fault.truth}{fault.also}/{injectors}/{fault.severity}/{fault.share}/{fault.seed}"


def run_fault(fault: Fault, config: RunConfig) -> dict[str, Any]:
    """Everything that is measured of one planted fault."""
    started = time.perf_counter()
    case = plant(fault)
    scorer = CachingScorer(case.scorer, len(case.table))
    found = diagnose(case.table, scorer, classifier=config.classifier, config=config.diagnosis)
    row = {
        "key": key_of(fault), "family": fault.family, "truth": fault.truth, "also": fault.also, "world": fault.world,
        "injectors": [injector.__name__ for injector in fault.injectors], "severity": fault.severity,
        "share": case.slice_share, "errors": int(case.table.errors.sum()), "extra_errors": case.extra_errors,
        "ranking": [[name, round(probability, 4)] for name, probability in found.ranking],
        "calls_per_error": found.calls_per_error, "items_found": _items_found(case, found),
        "rivals": {name: rival(found.table) for name, rival in RIVALS.items()},
    }  # fmt: skip
    if config.with_curve:
        row["curve"] = [_at_budget(case, scorer, budget, config) for budget in BUDGETS]
    if config.with_full:
        probing = replace(config.diagnosis, probing=replace(PROBING["all"], confirm=0), num_samples=2)
        full = diagnose(case.table, scorer, classifier=config.classifier, config=probing)
        row["full"] = {"ranking": [[name, round(p, 4)] for name, p in full.ranking], "calls": full.calls_per_error}
    if config.with_gains:
        row |= _gains(case, found, config)
    return row | {"seconds": round(time.perf_counter() - started, 2)}


def _items_found(case: Case, found: Diagnosis) -> float:
    """Share of the harmed items whose likeliest class is the fault's; NaN without harmed items."""
    harmed = case.harmed[found.classified.rows]
    named = np.array([failure.value == case.fault.truth for failure in found.likeliest], dtype=bool)
    return float(named[harmed].mean()) if harmed.any() else float("nan")


def _at_budget(case: Case, scorer: CachingScorer, budget: float, config: RunConfig) -> dict[str, Any]:
    probing = replace(config.diagnosis.probing, order="adaptive", calls_per_error=budget, max_pairs=0,
                      settled=0.0, confirm=0)
    bounded = replace(config.diagnosis, probing=probing, num_samples=2)
    less = diagnose(case.table, scorer, classifier=config.classifier, config=bounded)
    return {"budget": budget, "calls_per_error": less.calls_per_error, "top": less.top}


def _gains(case: Case, found: Diagnosis, config: RunConfig) -> dict[str, Any]:
    predicted = gains(found, config=GainsConfig(num_samples=100, order="gain", ratios=config.ratios))
    return {
        "f1": quality(case.system),
        "recommended": predicted[0].name,
        "predicted": {
            gain.name: [gain.f1.estimate, gain.f1.low, gain.f1.high, bool(gain.measured), gain.ceiling_f1]
            for gain in predicted
        },
        "realised": realised_gains(case.system, case.fault.seed),
    }
