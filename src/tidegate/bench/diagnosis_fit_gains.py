"""What interventions bring in planted worlds: transfer ratios, the placebo's gain, and how far predictions miss.

Enters: a folder and a number of runs. Leaves: the transfer ratios that come with the package. The runs are of fitting
injectors in worlds that neither the classifier was fitted on nor a test uses, so that the ceilings are those of a
diagnosis that has not seen the answer. Every intervention is really carried out once a run and kept as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from tidegate.bench.diagnosis_fit import LEAST_EXTRA_ERRORS, load_run, name_of, save_run
from tidegate.bench.processes import shared
from tidegate.diagnosis.adaptive import ProbingConfig
from tidegate.diagnosis.diagnose import DiagnosisConfig, diagnose
from tidegate.diagnosis.gains import Gain, GainsConfig, gains
from tidegate.diagnosis.interventions import REGISTRY
from tidegate.diagnosis.learned import shipped_classifier
from tidegate.diagnosis.planted.cases import plant, singles
from tidegate.diagnosis.planted.fault import Fault
from tidegate.diagnosis.planted.retraining import realised_gains
from tidegate.diagnosis.transfer import SHIPPED_RATIOS, TransferRatios

__all__ = ["PastRun", "coverage_out_of_fold", "fit_gains_and_save", "fit_ratios", "past_run", "widening_of"]

FIRST_WORLD, LAST_WORLD = 700, 999
LEAST_CEILING = 0.005
"""F1 under which a ceiling teaches nothing of its ratio."""
LEVEL = 0.9


@dataclass(frozen=True, kw_only=True)
class PastRun:
    """Predictions from the bare prior, and what was really gained."""

    world: int
    predicted: tuple[Gain, ...]
    realised: dict[str, float]


def _faults() -> Iterator[Fault]:
    """About five a world, all classes in turn."""
    for world in range(FIRST_WORLD, LAST_WORLD):
        for place, fault in enumerate(singles([world], "fitting")):
            if (place * 5 + world) % 9 == 0 and fault.truth != "M1":
                yield fault


def carry_out(folder: Path, runs: int, progress: Callable[[str], None], workers: int = 1) -> list[Path]:
    """Plant runs and carry out every intervention, except where the folder has them."""
    told = [(folder, fault) for fault in islice(_faults(), 3 * runs)]  # some do too little harm to be carried on with
    done: list[Path] = []
    for path in shared(_carry_out, told, workers):
        if path is not None:
            done.append(path)
            progress(f"{len(done)}/{runs} {path.stem}")
        if len(done) == runs:
            break
    return done


def _carry_out(told: tuple[Path, Fault]) -> Path | None:
    folder, fault = told
    path = folder / name_of(fault)
    if not path.with_suffix(".json").exists():
        case = plant(fault)
        if case.extra_errors < LEAST_EXTRA_ERRORS:
            return None
        save_run(path, case)
        realised = realised_gains(case.system, fault.seed)
        path.with_suffix(".json").write_text(json.dumps(realised), encoding="utf-8")
    return path


def past_run(path: Path) -> PastRun:
    """Diagnose a kept run adaptively and predict from the bare prior."""
    stored = load_run(path)
    config = DiagnosisConfig(num_samples=2, probing=ProbingConfig())
    found = diagnose(stored.table, stored.scorer, classifier=shipped_classifier(), config=config)
    realised = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return PastRun(world=stored.world, predicted=gains(found, config=GainsConfig(num_samples=100)), realised=realised)


def fit_ratios(runs: Sequence[PastRun], *, widening: float = 1.0) -> TransferRatios:
    """Placebo: the mean. Ratios: of what is left. Misses: quantiles of realised minus predicted, times ``widening``."""
    ratios = TransferRatios(placebo_f1=float(np.mean([run.realised["placebo"] for run in runs])))
    for run in runs:
        for gain in run.predicted:
            if gain.name in run.realised and not gain.measured and gain.ceiling_f1 >= LEAST_CEILING:
                trained = ratios.placebo_f1 if REGISTRY[gain.name].needs_training else 0.0
                net = run.realised[gain.name] - trained
                ratios = ratios.updated(gain.name, realised=net, ceiling=gain.ceiling_f1)
    misses: dict[str, list[float]] = {}
    for run in runs:
        for gain in run.predicted:
            if gain.name in run.realised:
                miss = run.realised[gain.name] - expected(gain, ratios)
                misses.setdefault(gain.name, []).append(miss)
    return replace(ratios, misses_f1={name: _quantiles(values, widening) for name, values in misses.items()})


def _quantiles(values: Sequence[float], widening: float) -> tuple[float, float]:
    """So that one more value lies between them with 90 % probability, as far as so many values can say."""
    tail = (1 - LEVEL) / 2
    rank = min(1.0, (1 - tail) * (len(values) + 1) / len(values))
    low, high = np.quantile(values, [1 - rank, rank])
    more = (widening - 1.0) * (high - low) / 2
    return float(low - more), float(high + more)


def expected(gain: Gain, ratios: TransferRatios) -> float:
    """The gain that is predicted with these ratios."""
    if gain.measured:
        return gain.f1.estimate
    trained = ratios.placebo_f1 if REGISTRY[gain.name].needs_training else 0.0
    return gain.ceiling_f1 * ratios.ratio(gain.name).estimate + trained


def widening_of(runs: Sequence[PastRun]) -> float:
    """The least widening with which past misses of other worlds cover a new world's gains as often as promised."""
    for widening in (1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.75, 2.0, 2.5):
        if coverage_out_of_fold(runs, widening=widening) >= LEVEL:
            return widening
    return 3.0


def coverage_out_of_fold(runs: Sequence[PastRun], *, widening: float = 1.0) -> float:
    """Share of realised gains within the past misses of other worlds."""
    hits: list[bool] = []
    for world in sorted({run.world for run in runs}):
        ratios = fit_ratios([run for run in runs if run.world != world], widening=widening)
        for run in (run for run in runs if run.world == world):
            for gain in run.predicted:
                if gain.name in run.realised and gain.name in ratios.misses_f1:
                    low, high = ratios.misses_f1[gain.name]
                    hits.append(low <= run.realised[gain.name] - expected(gain, ratios) <= high)
    return float(np.mean(hits))


def fit_gains_and_save(folder: Path, runs: int, *, path: Path = SHIPPED_RATIOS,
                       progress: Callable[[str], None] = lambda message: None, workers: int = 1) -> TransferRatios:
    """Carry out what is missing in ``folder``, fit, and write the ratios where the package looks for them."""
    past = [past_run(one) for one in carry_out(folder, runs, progress, workers)]
    widening = widening_of(past)
    ratios = fit_ratios(past, widening=widening)
    ratios.save(path)
    covered = coverage_out_of_fold(past, widening=widening)
    progress(f"{len(past)} runs; intervals widened by {widening}; coverage out of fold {covered:.3f}")
    return ratios
