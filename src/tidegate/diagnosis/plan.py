"""Plans: which interventions to carry out, as a file that a person reads and edits.

Enters: the gains of a diagnosis, or a ``plan.toml``. Leaves: the file, or what carrying it out made: for a change
without training the run under it (``scores.parquet``), its settings (``settings.json``) and, where labels are in doubt,
the list to look at (``relabel.csv``), each in a folder of its own below ``out``; for one with training the command that
starts it.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import shlex
import subprocess
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tidegate.diagnosis.diagnose import Diagnosis, diagnose
from tidegate.diagnosis.gains import Gain, known_change, suspicion
from tidegate.diagnosis.interventions import REGISTRY, Change, Context, Intervention
from tidegate.diagnosis.interventions.training import Training
from tidegate.diagnosis.learned import judge_of
from tidegate.diagnosis.score_table import read_run, write_scores
from tidegate.diagnosis.table import ProbeTable
from tidegate.errors import ConfigError, UsageError

__all__ = ["CarriedOut", "Plan", "Step", "carry_out", "read_plan", "write_plan"]

_KEYS = {"run", "out", "data", "checkpoint", "base", "issue", "p_base", "locale", "intervention"}
_STEP_KEYS = {"name", "predicted_f1", "ceiling_f1"}


@dataclass(frozen=True, kw_only=True)
class Step:
    """One intervention of a plan."""

    name: str
    predicted_f1: tuple[float, float, float] | None = None
    """(expected, low, high); None: nothing was predicted."""
    ceiling_f1: float | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to carry out, on what."""

    run: Path
    """The diagnosed run: a score file or its folder."""
    out: Path
    """Folder below which each intervention writes."""
    steps: tuple[Step, ...]
    context: Context = field(default_factory=Context)


@dataclass(frozen=True, kw_only=True)
class CarriedOut:
    """What became of one step."""

    name: str
    needs_training: bool
    command: str
    """Of a training; empty otherwise."""
    folder: Path | None
    """Where results lie; None if nothing was made."""
    detail: str
    exit_code: int | None = None
    """Of a training that was started."""


def write_plan(path: Path, gains: Sequence[Gain], *, run: Path, out: Path, context: Context) -> None:
    """A plan of all interventions with something to gain, best first."""
    lines = ["# Carry out with: tidegate intervene " + shlex.quote(str(path)), f"run = {json.dumps(str(run))}",
             f"out = {json.dumps(str(out))}", f"data = {json.dumps(context.data)}",
             f"checkpoint = {json.dumps(context.checkpoint)}", f"base = {json.dumps(context.base)}",
             f"issue = {json.dumps(context.issue)}", f"p_base = {json.dumps(context.p_base)}",
             f"locale = {json.dumps(context.locale)}"]
    for gain in gains:
        if gain.f1.estimate > 0:
            triple = ", ".join(f"{value:.4f}" for value in (gain.f1.estimate, gain.f1.low, gain.f1.high))
            lines += ["", f"# {gain.summary}: {gain.detail}".replace("\n", " "), "[[intervention]]",
                      f"name = {json.dumps(gain.name)}", f"predicted_f1 = [{triple}]",
                      f"ceiling_f1 = {gain.ceiling_f1:.4f}"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_plan(path: Path) -> Plan:
    """Read and check a plan; paths in it are relative to where the command runs."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: expected a plan, found none that can be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    unknown = set(values) - _KEYS
    if unknown or not isinstance(values.get("run"), str) or not isinstance(values.get("out"), str):
        raise ConfigError(f"{path}: expected run and out, and nothing but {sorted(_KEYS)}; found {sorted(values)}")
    steps = values.get("intervention", [])
    if not isinstance(steps, list) or not steps:
        raise ConfigError(f"{path}: expected at least one [[intervention]], got none")
    known = {name: str(values[name]) for name in sorted(_KEYS - {"run", "out", "intervention"}) if name in values}
    return Plan(run=Path(values["run"]), out=Path(values["out"]), steps=tuple(_step(path, one) for one in steps),
                context=Context(out=values["out"], plan=str(path), **known))


def _step(path: Path, values: Mapping[str, Any]) -> Step:
    name = values.get("name")
    if name not in REGISTRY:
        raise ConfigError(f"{path}: expected an intervention among {', '.join(REGISTRY)}, got {name!r}")
    unknown = set(values) - _STEP_KEYS
    if unknown:
        raise ConfigError(f"{path}: {name}: unknown keys {sorted(unknown)}; expected {sorted(_STEP_KEYS)}")
    predicted = values.get("predicted_f1")
    if predicted is not None and (not isinstance(predicted, list) or len(predicted) != 3):
        raise ConfigError(f"{path}: {name}: predicted_f1: expected [expected, low, high], got {predicted!r}")
    triple = None if predicted is None else (float(predicted[0]), float(predicted[1]), float(predicted[2]))
    ceiling = values.get("ceiling_f1")
    return Step(name=str(name), predicted_f1=triple, ceiling_f1=None if ceiling is None else float(ceiling))


def carry_out(plan: Plan, *, only: Sequence[str] = (), start_training: bool = False,
              judge: str = "auto") -> tuple[CarriedOut, ...]:
    """Carry out the steps of a plan, or those named in ``only``."""
    missing = set(only) - {step.name for step in plan.steps}
    if missing:
        raise UsageError(f"expected steps of the plan, which has {[s.name for s in plan.steps]}; got {sorted(missing)}")
    wanted = [REGISTRY[step.name] for step in plan.steps if not only or step.name in only]
    diagnosis = None
    if any(not one.needs_training for one in wanted):
        table = read_run(plan.run)
        diagnosis = diagnose(table, classifier=judge_of(judge, table)[0])
    return tuple(_train(one, plan, start_training) if one.needs_training or diagnosis is None
                 else _change(one, plan, diagnosis) for one in wanted)


def _train(one: Intervention, plan: Plan, start: bool) -> CarriedOut:
    line, code = one.command(plan.context), None
    if start:
        code = subprocess.run(shlex.split(line), check=False).returncode  # noqa: S603 - words of our own, no shell
    left = one.left_over(plan.context) if isinstance(one, Training) else ""
    detail = f"{one.summary}; {left}" if left else one.summary
    return CarriedOut(name=one.name, needs_training=True, command=line, folder=None, detail=detail, exit_code=code)


def _change(one: Intervention, plan: Plan, diagnosis: Diagnosis) -> CarriedOut:
    table = diagnosis.table
    change = one.apply(table, suspicion(diagnosis, one.classes))
    if change is None:
        return CarriedOut(name=one.name, needs_training=False, command="", folder=None,
                          detail="nothing to do: the run lacks the probe, column or suspects that it needs")
    change, _ = known_change(table, change)
    folder = plan.out / one.name
    folder.mkdir(parents=True, exist_ok=True)
    write_scores(_after(table, change), folder / "scores.parquet")
    (folder / "settings.json").write_text(json.dumps(_settings(one, table, change), indent=1) + "\n", encoding="utf-8")
    if change.labels is not None:
        _write_relabel(folder / "relabel.csv", diagnosis, change)
    return CarriedOut(name=one.name, needs_training=False, command="", folder=folder, detail=change.detail)


def _after(table: ProbeTable, change: Change) -> ProbeTable:
    """The items whose score under the change is known, without those that it takes out of the run."""
    kept = np.isfinite(change.scores) | np.isnan(table.scores)
    if change.kept is not None:
        kept &= change.kept
    rows = np.flatnonzero(kept)
    labels = table.labels if change.labels is None else change.labels
    return dataclasses.replace(
        table, ids=table.ids[rows], labels=labels[rows], scores=change.scores[rows], thresholds=change.thresholds[rows],
        sources=table.sources[rows], slices={name: column[rows] for name, column in table.slices.items()}, probes={},
        applied={},
        base_scores=None if table.base_scores is None else table.base_scores[rows],
        escalated=None if table.escalated is None else table.escalated[rows],
        features={name: column[rows] for name, column in table.features.items()},
        embeddings_ND=None if table.embeddings_ND is None else table.embeddings_ND[rows],
        hashes=None if table.hashes is None else table.hashes[rows],
        notes=None if table.notes is None else table.notes[rows],
    )


def _settings(one: Intervention, table: ProbeTable, change: Change) -> dict[str, Any]:
    """What to set: thresholds that changed, by value of the column that they go with."""
    changed = change.thresholds != table.thresholds
    by_value: dict[str, dict[str, float]] = {}
    for name, column in table.slices.items() if changed.any() else ():
        values = {str(v): float(np.median(change.thresholds[column == v])) for v in np.unique(column[changed]) if v}
        spread = [float(np.ptp(change.thresholds[column == v])) for v in values]
        if values and max(spread) <= float(np.ptp(change.thresholds)) * 0.75 + 1e-12:
            by_value[name] = values
    return {"intervention": one.name, "detail": change.detail, "thresholds": by_value,
            "threshold_for_all": float(np.median(change.thresholds))}


def _write_relabel(path: Path, diagnosis: Diagnosis, change: Change) -> None:
    table = diagnosis.table
    assert change.labels is not None
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label", "suggested", "score", "posterior"])
        suspected = suspicion(diagnosis, REGISTRY["relabel"].classes)
        for row in np.flatnonzero(change.labels != table.labels):
            writer.writerow([table.ids[row], table.labels[row], change.labels[row], f"{table.scores[row]:.4f}",
                             f"{suspected[row]:.3f}"])
