"""Runs with planted faults that the shipped classifier is fitted on, kept on disk, and the fit itself.

Enters: a folder and how many worlds. Leaves: one ``.npz`` a run (its table with every probe on all items; nothing in it
runs code), and the classifier. Only the families of ``FITTED`` and worlds below ``FIRST_TEST_WORLD`` are used. Kept
tables can be diagnosed again without their worlds, so that another classifier is fitted in minutes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.bench.diagnosis_across import across_mechanisms, counts
from tidegate.bench.processes import shared
from tidegate.diagnosis.adaptive import ProbingConfig, probe_run
from tidegate.diagnosis.classify import NONE, RulesConfig
from tidegate.diagnosis.learned import SHIPPED, LearnedClassifier, PlantedRun, PreparedRun, fit, prepare
from tidegate.diagnosis.planted.cases import Case, faultless, plant, singles
from tidegate.diagnosis.planted.fault import Fault
from tidegate.diagnosis.table import Floats, ProbeTable
from tidegate.errors import UsageError
from tidegate.evaluation import markdown_table

__all__ = ["StoredRun", "StoredScorer", "collect", "fit_and_save", "load_run", "name_of", "out_of_fold",
           "prepared_runs", "prepared_versions", "save_run"]

Array = npt.NDArray[Any]
PROBING = {"adaptive": ProbingConfig(), "all": ProbingConfig(order="all")}
"""The ways of probing that a classifier is fitted on and scored with; the first is the default of the program."""
SMALLER = 600
"""Items of the part of every run that is fitted on beside the whole, so that small runs are known too."""
MOST_ERRORS = 15
"""Errors of each table that the model of errors is fitted on."""
QUIET = 3
"""Worlds without a single fault for each full one."""
MOST_WORLDS = 150
"""Full worlds, at most: with the quiet ones they stay below those that transfer ratios are fitted on."""
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
    """Full worlds 1 to ``worlds``, then ``QUIET`` times as many quiet ones."""
    if worlds > MOST_WORLDS:
        raise UsageError(f"expected at most {MOST_WORLDS} worlds for fitting, got {worlds}")
    for world in range(1, (1 + QUIET) * worlds + 1):
        yield from fitting_faults_of(world, quiet=world > worlds)


def fitting_faults_of(world: int, *, quiet: bool = False) -> Iterator[Fault]:
    """One world: no fault, every decoy at two severities, and a part of the single faults of every mechanism.

    Of the first two families half of all (class, severity), the other half follows in the next world; of the varied
    ones a third each, so that every (class, severity) has one of them in every world, and so of the independent ones in
    every other world. A quiet world has none: how often
    ``none`` is mistaken is learnt from worlds, not from runs, for the runs of one world share its ordinary errors.
    """
    nothing, _ = faultless([world])
    yield nothing
    for further in (0, 1, 2, 3):
        _, decoy = faultless([world + further])
        for severity in (1 + world % 2, 3):
            yield replace(decoy, world=world, severity=severity)
    for family in () if quiet else ("fitting", "further"):
        for number, fault in enumerate(singles([world], family)):
            if (number + number // 14 + world) % 2 == 0:
                yield fault
    for place in () if quiet else (0, 1, 2):
        for name in ("varied", "independent") if world % 2 else ("varied",):
            for number, fault in enumerate(singles([world], f"{name}{place}")):
                if (number + number // 13 + world) % 3 == place:
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
    told = [(folder, world, world > worlds) for world in missing]
    for number, world in enumerate(shared(_collect_world, told, workers)):
        progress(f"world {world} planted: {number + 1} of {len(missing)}")
    return [folder / name_of(fault) for fault in faults]


def _collect_world(told: tuple[Path, int, bool]) -> int:
    folder, world, quiet = told
    for fault in fitting_faults_of(world, quiet=quiet):
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
    """The run and a smaller part of it, both by both ways of probing; those whose fault can be seen."""
    small = part_of(stored, SMALLER)
    return [planted_run(one, probing) for one in (stored, small) for probing in PROBING.values()
            if one.truth in ("none", "M1") or one.extra_errors >= LEAST_EXTRA_ERRORS]


def planted_run(stored: StoredRun, probing: ProbingConfig) -> PlantedRun:
    """As a diagnosis would see it: with the probes that it would run."""
    table, _ = probe_run(stored.table, stored.scorer, probing, rules=RulesConfig())
    return PlantedRun(table=table, fault=stored.truth, caused=stored.harmed, group=stored.world,
                      extra_errors=stored.extra_errors, mechanism=stored.family)


def prepared_versions(path: Path) -> list[PreparedRun]:
    """Features of all versions of a kept run."""
    return [prepare(version, max_errors=MOST_ERRORS) for version in versions_of(load_run(path))]


def prepared_runs(paths: list[Path], *, progress: Callable[[str], None] = lambda message: None, workers: int = 1
                  ) -> list[PreparedRun]:
    """Features of all versions of kept runs."""
    runs: list[PreparedRun] = []
    for number, versions in enumerate(shared(prepared_versions, paths, workers)):
        runs += versions
        if number % 100 == 99:
            progress(f"{number + 1} of {len(paths)} runs probed")
    return runs


def out_of_fold(runs: Sequence[PreparedRun], said: Sequence[dict[str, float]]) -> list[dict[str, Any]]:
    """By size and probing: faults named first and among three (those that count), false alarms, calibration.

    ``sure``: share of the runs whose first class has .9 or more; ``sure and right``: of these, those that are right.
    """
    found = []
    for items in sorted({run.items for run in runs}, reverse=True):
        for fully in (True, False):
            own = [(run, sorted(one, key=one.__getitem__, reverse=True), max(one.values()))
                   for run, one in zip(runs, said, strict=True) if run.items == items and run.fully == fully]
            faults = [(run, names) for run, names, _ in own if counts(run)]
            quiet = [names[0] != NONE for run, names, _ in own if run.fault == NONE]
            sure = [names[0] == run.fault for run, names, best in own if best >= 0.9]
            found.append({
                "items": items, "probed": "fully" if fully else "adaptively", "faults": len(faults),
                "first": _mean([names[0] == run.fault for run, names in faults]),
                "in three": _mean([run.fault in names[:3] for run, names in faults]),
                "without a fault": len(quiet), "false alarms": _mean(quiet), "sure": len(sure) / max(1, len(own)),
                "sure and right": _mean(sure),
            })  # fmt: skip
    return found


def _mean(values: Sequence[bool]) -> float:
    return float(np.mean(values)) if values else float("nan")


def fit_and_save(folder: Path, worlds: int, *, path: Path = SHIPPED, across: bool = False,
                 progress: Callable[[str], None] = lambda message: None, workers: int = 1) -> LearnedClassifier:
    """Plant what is missing in ``folder``, fit, and write the classifier where the package looks for it.

    ``across``: say first how well classes carry over between their fitting mechanisms, which takes two more fits.
    """
    planted = collect(folder, worlds, progress, workers=workers)
    runs = prepared_runs(planted, progress=progress, workers=workers)
    if across:
        progress("across mechanisms:\n" + markdown_table(across_mechanisms(runs)))
    all_worlds = len({run.group for run in runs})
    progress(f"fitting on {len(runs)} tables of {len(planted)} runs in {all_worlds} worlds")
    notes = (f"{len(planted)} planted runs in {all_worlds} worlds, whole and in part, each probed fully and "
             "adaptively; fitting injectors only")
    fitted, said = fit(runs, notes=notes)
    fitted.save(path)
    progress("out of fold:\n" + markdown_table(out_of_fold(runs, said)))
    return fitted
