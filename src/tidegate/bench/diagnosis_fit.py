"""Runs with planted faults that the shipped classifier is fitted on, kept on disk, and the fit itself.

Enters: a folder and how many worlds. Leaves: one ``.npz`` a run (its table with every probe on all errors and a sample
of right items; nothing in it runs code), and the classifier. Only injectors of ``planted.fitting`` and worlds below
``FIRST_TEST_WORLD`` are used. Kept tables can be diagnosed again without their worlds, so that another classifier is
fitted in seconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.diagnosis.adaptive import ProbingConfig, probe_run
from tidegate.diagnosis.classify import RulesConfig
from tidegate.diagnosis.learned import SHIPPED, LearnedClassifier, PlantedRun, fit
from tidegate.diagnosis.planted.cases import FIRST_TEST_WORLD, Case, faultless, plant, singles
from tidegate.diagnosis.planted.fault import Fault
from tidegate.diagnosis.table import Floats, ProbeTable
from tidegate.errors import UsageError

__all__ = ["StoredRun", "StoredScorer", "collect", "fit_and_save", "fit_shipped", "load_run", "save_run"]

Array = npt.NDArray[Any]
PROBING = ProbingConfig(order="all")
"""Every probe on every error, in the fit and in the score alike: a classifier is judged on what it was fitted for."""
CONTROLS = 450
"""Right items of each run whose probes are kept."""
LEAST_EXTRA_ERRORS = 8
"""Faults that do less are left out of the fit: nothing can be seen of them, and no one could name them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredScorer:
    """Answers from scores that were kept; NaN where none was."""

    kept: dict[str, Floats]

    @property
    def probes(self) -> frozenset[str]:
        """Ids of the kept probes."""
        return frozenset(self.kept)

    def score(self, rows: npt.NDArray[np.int64], probe: str) -> Floats:
        """Kept scores."""
        return self.kept[probe][rows] if probe in self.kept else np.full(len(rows), np.nan)


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredRun:
    """One kept run."""

    truth: str
    world: int
    extra_errors: int
    table: ProbeTable
    """Without probes."""
    scorer: StoredScorer
    harmed: Array


def fitting_faults(worlds: int) -> Iterator[Fault]:
    """Half of all (class, severity) in every world, the other half in the next; and faultless runs."""
    if worlds >= FIRST_TEST_WORLD:
        raise UsageError(f"expected fewer than {FIRST_TEST_WORLD} worlds for fitting, got {worlds}")
    for world in range(1, worlds + 1):
        for number, fault in enumerate(singles([world], "fitting")):
            if (number + number // 14 + world) % 2 == 0:
                yield fault
        yield from faultless([world])
        _, decoy = faultless([world + 1])
        yield replace(decoy, world=world)


def _name(fault: Fault) -> str:
    injectors = "-".join(injector.__name__ for injector in fault.injectors) or "nothing"
    return f"{fault.world:03d}-{fault.family}-{fault.truth}-{injectors}-{fault.severity}-{fault.seed}.npz"


def save_run(path: Path, case: Case) -> None:
    """Score every probe and write the run, complete or not at all."""
    table = case.table
    right = np.flatnonzero(~table.errors)
    sample = np.random.default_rng(case.fault.seed).choice(right, min(CONTROLS, len(right)), replace=False)
    rows = np.sort(np.concatenate([np.flatnonzero(table.errors), sample]))
    arrays = {name: getattr(table, name) for name in ("ids", "labels", "scores", "thresholds", "sources", "base_scores",
                                                      "escalated", "notes")}  # fmt: skip
    arrays |= {f"slices.{name}": column for name, column in table.slices.items()}
    arrays |= {f"features.{name}": column for name, column in table.features.items()}
    for probe in sorted(case.scorer.probes):
        scores = np.full(len(table), np.nan)
        scores[rows] = case.scorer.score(rows, probe)
        arrays[f"probes.{probe}"] = scores
    said = {"truth": case.fault.truth, "world": case.fault.world, "extra_errors": case.extra_errors}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    np.savez_compressed(part, allow_pickle=False, harmed=case.harmed, said=np.array(json.dumps(said)), **arrays)
    part.replace(path)


def load_run(path: Path) -> StoredRun:
    """Read what ``save_run`` wrote."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    groups: dict[str, dict[str, Array]] = {"slices": {}, "features": {}, "probes": {}}
    for name in [name for name in arrays if "." in name]:
        group, _, column = name.partition(".")
        groups[group][column] = arrays.pop(name)
    said, harmed = json.loads(str(arrays.pop("said"))), arrays.pop("harmed")
    table = ProbeTable(**arrays, slices=groups["slices"], features=groups["features"])
    return StoredRun(**said, table=table, scorer=StoredScorer(kept=groups["probes"]), harmed=harmed)


def collect(folder: Path, worlds: int, progress: Callable[[str], None] = lambda message: None) -> list[Path]:
    """Plant all faults for fitting whose runs the folder does not hold yet."""
    faults = list(fitting_faults(worlds))
    for number, fault in enumerate(faults):
        path = folder / _name(fault)
        if not path.exists():
            progress(f"{number + 1}/{len(faults)} {path.stem}")
            save_run(path, plant(fault))
    return [folder / _name(fault) for fault in faults]


def planted_run(stored: StoredRun) -> PlantedRun:
    """As a diagnosis would see it: with the probes that it would run."""
    table, _ = probe_run(stored.table, stored.scorer, PROBING, rules=RulesConfig())
    return PlantedRun(table=table, fault=stored.truth, caused=stored.harmed, group=stored.world)


def fit_shipped(
    paths: list[Path], *, progress: Callable[[str], None] = lambda message: None
) -> LearnedClassifier:
    """Fit the classifier on kept runs."""
    stored = [load_run(path) for path in paths]
    visible = [run for run in stored if run.truth in ("none", "M1") or run.extra_errors >= LEAST_EXTRA_ERRORS]
    runs = [planted_run(run) for run in visible]
    worlds = len({run.world for run in stored})
    progress(f"fitting on {len(runs)} runs of {worlds} worlds")
    return fit(runs, max_errors=30, notes=f"{len(runs)} planted runs in {worlds} worlds, fitting injectors only")


def fit_and_save(
    folder: Path, worlds: int, *, path: Path = SHIPPED, progress: Callable[[str], None] = lambda message: None
) -> LearnedClassifier:
    """Plant what is missing in ``folder``, fit, and write the classifier where the package looks for it."""
    fitted = fit_shipped(collect(folder, worlds, progress), progress=progress)
    fitted.save(path)
    return fitted
