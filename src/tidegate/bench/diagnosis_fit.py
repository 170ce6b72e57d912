"""Runs with planted faults that the shipped classifier is fitted on, kept on disk, and the fit itself.

Enters: a folder and how many worlds. Leaves: one ``.npz`` a run (its table with every probe on all items; nothing in it
runs code), and the classifier. Only injectors of ``planted.fitting`` and ``planted.further`` and worlds below
``FIRST_TEST_WORLD`` are used. Kept tables can be diagnosed again without their worlds, so that another classifier is
fitted in seconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
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

__all__ = ["StoredRun", "StoredScorer", "collect", "fit_and_save", "fit_shipped", "load_run", "name_of", "save_run"]

Array = npt.NDArray[Any]
PROBING = {"adaptive": ProbingConfig(), "all": ProbingConfig(order="all")}
"""The ways of probing that a classifier is fitted on and scored with; the first is the default of the program."""
SMALLER = 600
"""Items of the part of every run that is fitted on beside the whole, so that small runs are known too."""
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
    family: str
    world: int
    extra_errors: int
    table: ProbeTable
    """Without probes."""
    scorer: StoredScorer
    harmed: Array


def fitting_faults(worlds: int) -> Iterator[Fault]:
    """Half of all (class, severity) in every world, the other half in the next; no fault, and every decoy."""
    if worlds >= FIRST_TEST_WORLD:
        raise UsageError(f"expected fewer than {FIRST_TEST_WORLD} worlds for fitting, got {worlds}")
    for world in range(1, worlds + 1):
        yield from fitting_faults_of(world)


def fitting_faults_of(world: int) -> Iterator[Fault]:
    """One world: no fault, every decoy at two severities, and half of the single faults of both mechanisms."""
    nothing, _ = faultless([world])
    yield nothing
    for further in (0, 1, 2, 3):
        _, decoy = faultless([world + further])
        for severity in (1 + world % 2, 3):
            yield replace(decoy, world=world, severity=severity)
    for family in ("fitting", "further"):
        for number, fault in enumerate(singles([world], family)):
            if (number + number // 14 + world) % 2 == 0:
                yield fault


def name_of(fault: Fault) -> str:
    """File name of a run."""
    injectors = "-".join(injector.__name__ for injector in fault.injectors) or "nothing"
    return f"{fault.world:03d}-{fault.family}-{fault.truth}-{injectors}-{fault.severity}-{fault.seed}.npz"


def save_run(path: Path, case: Case) -> None:
    """Score every probe and write the run, complete or not at all."""
    table, rows = case.table, np.arange(len(case.table))
    arrays = {name: getattr(table, name) for name in ("ids", "labels", "scores", "thresholds", "sources", "base_scores",
                                                      "escalated", "notes")}  # fmt: skip
    arrays |= {f"slices.{name}": column for name, column in table.slices.items()}
    arrays |= {f"features.{name}": column for name, column in table.features.items()}
    for probe in sorted(case.scorer.probes):
        arrays[f"probes.{probe}"] = case.scorer.score(rows, probe).astype(np.float32)
    said = {"truth": case.fault.truth, "family": case.fault.family, "world": case.fault.world,
            "extra_errors": case.extra_errors}
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
        values = arrays.pop(name)
        groups[group][column] = values.astype(np.float64) if group == "probes" else values
    said, harmed = json.loads(str(arrays.pop("said"))), arrays.pop("harmed")
    table = ProbeTable(**arrays, slices=groups["slices"], features=groups["features"])
    return StoredRun(**said, table=table, scorer=StoredScorer(kept=groups["probes"]), harmed=harmed)


def collect(folder: Path, worlds: int, progress: Callable[[str], None] = lambda message: None, *, workers: int = 1
            ) -> list[Path]:
    """Plant all faults for fitting whose runs the folder does not hold yet; worlds are shared between processes."""
    faults = list(fitting_faults(worlds))
    missing = sorted({fault.world for fault in faults if not (folder / name_of(fault)).exists()})
    if workers == 1 or len(missing) < 2:
        for world in missing:
            progress(f"world {_collect_world(folder, world)} of {worlds}")
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for world in pool.map(_collect_world, [folder] * len(missing), missing):
                progress(f"world {world} of {worlds}")
    return [folder / name_of(fault) for fault in faults]


def _collect_world(folder: Path, world: int) -> int:
    for fault in fitting_faults_of(world):
        path = folder / name_of(fault)
        if not path.exists():
            save_run(path, plant(fault))
    return world


def part_of(stored: StoredRun, items: int) -> StoredRun:
    """The run as if only some of its items, drawn at random, had been evaluated."""
    table, size = stored.table, len(stored.table)
    rows = np.sort(np.random.default_rng([stored.world, items]).permutation(size)[:items])
    columns: dict[str, Any] = {name: None if getattr(table, name) is None else getattr(table, name)[rows]
                               for name in ("ids", "labels", "scores", "thresholds", "sources", "base_scores",
                                            "escalated", "notes")}
    part = ProbeTable(**columns, slices={name: column[rows] for name, column in table.slices.items()},
                   features={name: column[rows] for name, column in table.features.items()})
    harmed = stored.harmed[rows]
    kept = {name: scores[rows] for name, scores in stored.scorer.kept.items()}
    extra = round(stored.extra_errors * float(harmed.sum()) / max(1.0, float(stored.harmed.sum())))
    return replace(stored, table=part, scorer=StoredScorer(kept=kept), harmed=harmed, extra_errors=extra)


def versions_of(stored: StoredRun) -> list[PlantedRun]:
    """The run by both ways of probing, and a smaller part of it by the adaptive one; those whose fault can be seen."""
    small = part_of(stored, SMALLER)
    pairs = [(stored, PROBING["all"]), (stored, PROBING["adaptive"]), (small, PROBING["adaptive"])]
    return [planted_run(one, probing) for one, probing in pairs
            if one.truth in ("none", "M1") or one.extra_errors >= LEAST_EXTRA_ERRORS]


def planted_run(stored: StoredRun, probing: ProbingConfig) -> PlantedRun:
    """As a diagnosis would see it: with the probes that it would run."""
    table, _ = probe_run(stored.table, stored.scorer, probing, rules=RulesConfig())
    return PlantedRun(table=table, fault=stored.truth, caused=stored.harmed, group=stored.world)


def fit_shipped(
    paths: list[Path], *, progress: Callable[[str], None] = lambda message: None
) -> LearnedClassifier:
    """Fit the classifier on kept runs."""
    stored = [load_run(path) for path in paths]
    runs = [version for run in stored for version in versions_of(run)]
    worlds = len({run.world for run in stored})
    progress(f"fitting on {len(runs)} tables of {len(stored)} runs in {worlds} worlds")
    notes = (f"{len(stored)} planted runs in {worlds} worlds, each probed fully, adaptively and in part; fitting "
             "injectors only")
    return fit(runs, max_errors=15, notes=notes, num_trees=150, min_leaf=3)


def fit_and_save(
    folder: Path, worlds: int, *, path: Path = SHIPPED, progress: Callable[[str], None] = lambda message: None
) -> LearnedClassifier:
    """Plant what is missing in ``folder``, fit, and write the classifier where the package looks for it."""
    fitted = fit_shipped(collect(folder, worlds, progress), progress=progress)
    fitted.save(path)
    return fitted
