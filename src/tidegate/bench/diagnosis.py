"""``tidegate bench diagnosis``: faults with a known cause are planted; is it named, and does the advice work?

Enters: how much to run and a folder. Leaves: a ``DiagnosisReport``; ``render`` makes Markdown of it. Rows are written
to the folder as they come, so that a run that was stopped goes on where it was. Test worlds have seeds that no fit has
seen; the held-out injectors are mechanisms that no fit has seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tidegate.bench.diagnosis_runs import RunConfig, key_of, run_fault
from tidegate.bench.diagnosis_score import score
from tidegate.bench.kept_rows import append_row, read_rows
from tidegate.bench.processes import shared
from tidegate.diagnosis.learned import shipped_classifier
from tidegate.diagnosis.planted.cases import doubles, faultless, singles
from tidegate.diagnosis.planted.fault import Fault
from tidegate.diagnosis.taxonomy import TAXONOMY
from tidegate.diagnosis.transfer import TransferRatios, shipped_ratios
from tidegate.evaluation import markdown_table

__all__ = ["DiagnosisReport", "Planned", "plan", "render", "run_diagnosis_benchmark"]


FIRST_SCORED_WORLD = 4000
"""Worlds from 1000 on are for the score; those before this one were looked at while the classifier was made."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A run to come."""

    fault: Fault
    with_gains: bool
    with_curve: bool
    with_full: bool = True


@dataclass(frozen=True, kw_only=True)
class DiagnosisReport:
    """Scores and the rows behind them."""

    scores: dict[str, Any]
    seconds: float
    classifier: str
    """What judged: the notes of the classifier, or ``rules``."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: the figures by name at the top, details below."""
        return {**self.scores, "seconds": self.seconds, "classifier": self.classifier}


def plan(*, seeds: int, full: bool, first_seed: int = FIRST_SCORED_WORLD) -> Iterator[Planned]:
    """World after world, in each every class once by both mechanisms, severities going round; then none and doubles.

    The order within a world is random, so that an unfinished benchmark is still a fair sample. Then
    twice as many further worlds without a fault or with a decoy, for false alarms are rare. Every intervention is
    carried out in every third (quick: every fourth) single fault; the curve is read in every second world of three.
    """
    for number in range(seeds):
        world = first_seed + number
        planned: list[Planned] = []
        for mechanism, family in enumerate(("held_out", "fitting")):
            for place, fault in enumerate(singles([world], family)):
                if (place % len(TAXONOMY) + number + mechanism) % 3 == fault.severity - 1:
                    gains = (len(planned) + number) % (3 if full else 4) == 0
                    planned.append(Planned(fault=fault, with_gains=gains, with_curve=full and number % 3 == 1))
        for fault in [*faultless([world]), *doubles([world])]:
            planned.append(Planned(fault=fault, with_gains=False, with_curve=False))
        for place in np.random.default_rng(world).permutation(len(planned)):
            yield planned[place]
    for world in range(first_seed + seeds, first_seed + 3 * seeds):
        for fault in faultless([world]):
            yield Planned(fault=fault, with_gains=False, with_curve=False)


def _run_all(
    planned: Sequence[Planned], path: Path, ratios: TransferRatios, progress: Callable[[str], None],
    *, max_seconds: float | None, workers: int,
) -> tuple[list[dict[str, Any]], str]:
    """(rows of the plan so far as there are, what judged)."""
    classifier = shipped_classifier()
    known, started = {row["key"]: row for row in read_rows(path)}, time.perf_counter()
    missing = [one for one in planned if key_of(one.fault) not in known]
    told = [(one.fault, RunConfig(classifier=classifier, ratios=ratios, with_gains=one.with_gains,
                                  with_curve=one.with_curve, with_full=one.with_full)) for one in missing]
    with closing(shared(_run, told, workers)) as rows:
        for number, row in enumerate(rows):
            known[row["key"]] = row
            append_row(path, row)
            progress(f"{number + 1}/{len(missing)} {row['key']}: {row['ranking'][0][0]} ({row['seconds']:.0f} s)")
            if max_seconds is not None and time.perf_counter() - started > max_seconds and number + 1 < len(missing):
                progress(f"stopped after {max_seconds:.0f} s: {number + 1} of {len(missing)} runs")
                break
    keys = [key_of(one.fault) for one in planned]
    return [known[key] for key in keys if key in known], "rules" if classifier is None else classifier.notes


def _run(told: tuple[Fault, RunConfig]) -> dict[str, Any]:
    return run_fault(*told)


def run_diagnosis_benchmark(
    folder: Path, *, full: bool = False, seeds: int | None = None, ratios: TransferRatios | None = None,
    max_seconds: float | None = None, progress: Callable[[str], None] = lambda message: None, workers: int = 1,
) -> DiagnosisReport:
    """Run what is not yet in ``folder`` and score all of it; ``max_seconds``: stop and score what there is."""
    started = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    planned = list(plan(seeds=seeds or (4 if full else 1), full=full))
    path = folder / ("full.jsonl" if full else "quick.jsonl")
    rows, judge = _run_all(planned, path, ratios or shipped_ratios(), progress, max_seconds=max_seconds,
                           workers=workers)
    return DiagnosisReport(scores=score(rows), seconds=time.perf_counter() - started, classifier=judge)


GOALS = {
    "top1": ("single faults, mechanisms seen in the fit: named first", "≥ .85"),
    "top3": ("the same: among the first three", "≥ .95"),
    "heldout_top1": ("single faults, mechanisms never seen: named first", "≥ .65"),
    "heldout_top3": ("the same: among the first three", ""),
    "top1_small_ones_too": ("named first, faults of next to no harm included", ""),
    "heldout_top1_small_ones_too": ("the same, mechanisms never seen", ""),
    "full_top1": ("the seen mechanisms, every probe on every error: named first", "≥ .85"),
    "full_top3": ("the same: among the first three", "≥ .95"),
    "full_heldout_top1": ("mechanisms never seen, every probe on every error: named first", "≥ .65"),
    "full_false_alarm": ("false alarms, every probe on every error", "≤ .05"),
    "false_alarm": ("false alarms (no fault, and decoys)", "≤ .05"),
    "median_regret": ("gain regret of the intervention with the highest predicted gain, median", "≤ .10"),
    "median_regret_in_class": ("the same, among the interventions of the named class", ""),
    "median_regret_of_class": ("gain regret of the first intervention listed for the named class, median", ""),
    "interval_coverage": ("predicted gains: coverage of 90 % intervals", "≥ .85"),
    "rank_correlation": ("rank correlation of predicted and realised gains, median", ""),
    "items_found": ("items harmed by the fault that get its class", ""),
    "calls_per_error": ("model calls a diagnosed error", ""),
    "and_both_in_top3": ("AND faults: both classes among the first three", "≥ .50"),
    "and_one_is_top1": ("AND faults: one of them first", ""),
    "or_both_in_top3": ("OR faults: both among the first three", ""),
    "or_one_is_top1": ("OR faults: one of them first", ""),
}  # fmt: skip
"""Figure → (words, goal)."""


def render(report: DiagnosisReport) -> str:
    """Markdown of all figures."""
    found = report.scores
    rows = [
        {"figure": words, "value": found[name]["value"] if found[name]["n"] else "n/a",
         "95 % interval": _between(found[name]), "runs": found[name]["n"], "goal": goal}
        for name, (words, goal) in GOALS.items()
    ]  # fmt: skip
    ours = {"top1": found["top1"]["value"], "heldout_top1": found["heldout_top1"]["value"],
            "false_alarm": found["false_alarm"]["value"], "median_regret": found["median_regret"]["value"]}  # fmt: skip
    rivals = [{"method": name, **values} for name, values in {"diagnosis": ours, **found["rivals"]}.items()]
    by_class = [{"class": name, **values} for name, values in found["by_class"].items()]
    curve = ["Accuracy against model calls:", markdown_table(found["curve"])] if found["curve"] else []
    return "\n\n".join([
        f"{found['runs']} runs ({found['runs_too_small_to_count']} planted faults were too small to count), judged by: "
        f"{report.classifier}; macro-F1 {found['macro_f1']:.3f}.",
        markdown_table(rows), "Beside simpler methods:", markdown_table(rivals), "By class (named first):",
        markdown_table(by_class), "By harm done (named first; among the first three):",
        markdown_table(found["by_harm"]), *curve,
        "Confusion (truth: named):", _confusion(found["confusion"]),
    ])  # fmt: skip


def _between(interval: dict[str, float]) -> str:
    return f"{interval['low']:.3f} to {interval['high']:.3f}" if interval["n"] else "n/a"


def _confusion(table: dict[str, dict[str, int]]) -> str:
    lines = []
    for truth, named in table.items():
        most_first = sorted(named.items(), key=lambda pair: -pair[1])
        lines.append(f"- {truth}: " + ", ".join(f"{name} {count}" for name, count in most_first))
    return "\n".join(lines)
