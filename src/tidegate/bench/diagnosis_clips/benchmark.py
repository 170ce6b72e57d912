"""``tidegate bench diagnosis --clips`` and ``--fights``: run what is not yet in the folder, and score all of it.

Enters: a configuration. Leaves: a ``ClipReport``: the same figures as in the world of features, and the rows behind
them. Rows are written as they come; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tidegate.bench.diagnosis_clips.faults import Bench, ClipFault, planned_faults
from tidegate.bench.diagnosis_clips.fights import fight_bench
from tidegate.bench.diagnosis_clips.rendered import rendered_bench
from tidegate.bench.diagnosis_clips.runs import ClipRunConfig, run_clip_fault
from tidegate.bench.diagnosis_clips.table import ClipReport, clip_report
from tidegate.bench.kept_rows import append_row, read_rows
from tidegate.diagnosis.learned import shipped_classifier
from tidegate.diagnosis.transfer import shipped_ratios

__all__ = ["ClipBenchConfig", "run_clip_benchmark", "run_fight_benchmark"]

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ClipBenchConfig:
    """How much is run, and where it is kept."""

    folder: Path
    """Where decoded clips (of rendered ones only), raw scores and rows are kept."""
    seeds: int = 1
    """How often every mechanism is planted, each time with another severity and slice."""
    items: int = 240
    """Most items of each half: the diagnosed one and the measured one."""
    reference_items: int = 200
    """Training videos that are looked at for novelty and copies; 0: leakage is not planted."""
    max_errors: int = 16
    """Errors of a run that are probed."""
    max_controls: int = 12
    """Right items that each probe is run on."""
    gains_every: int = 4
    """Interventions are carried out in every so many runs; 0: in none."""
    sounds: Path | None = None
    """ESC-10's folder; None: sounds of other clips."""
    max_seconds: float | None = None
    """Stop then and score what there is."""
    seed: int = 0
    """Seed of halves, slices and whatever is struck by a fault."""


def run_clip_benchmark(manifest: Path, models: str, config: ClipBenchConfig, progress: Progress = lambda message: None
                       ) -> ClipReport:
    """The benchmark on the videos of a manifest."""
    with rendered_bench(manifest, models, config.folder, items=config.items, sounds=config.sounds, seed=config.seed,
                        reference_items=config.reference_items) as bench:
        return _scored(bench, config, progress, {"judge": models})


def run_fight_benchmark(fights: Path, config: ClipBenchConfig, progress: Progress = lambda message: None
                        ) -> ClipReport:
    """The benchmark on real surveillance clips, of which no picture is written.

    They are too few for a second half, so no intervention is carried out.
    """
    config = replace(config, gains_every=0)
    with fight_bench(fights, config.folder, sounds=config.sounds, seed=config.seed) as (bench, quality):
        return _scored(bench, config, progress, quality)


def _scored(bench: Bench, config: ClipBenchConfig, progress: Progress, about: dict[str, Any]) -> ClipReport:
    started = time.perf_counter()
    faults = list(planned_faults(bench, range(config.seed, config.seed + config.seeds)))
    rows = _run_all(bench, faults, config, progress)
    return clip_report(rows, bench, about, len(faults), time.perf_counter() - started)


def _run_all(bench: Bench, faults: Sequence[ClipFault], config: ClipBenchConfig, progress: Progress
             ) -> list[dict[str, Any]]:
    name = f"rows-{len(bench.diagnosed.rows)}-{config.max_errors}-{config.max_controls}.jsonl"
    path, started, rows = bench.diagnosed.system.folder / name, time.perf_counter(), []
    known, second, ratios = {row["key"]: row for row in read_rows(path)}, shipped_classifier(), shipped_ratios()
    for number, fault in enumerate(faults):
        if fault.key not in known:
            if config.max_seconds is not None and time.perf_counter() - started > config.max_seconds:
                progress(f"stopped after {config.max_seconds:.0f} s: {number} of {len(faults)} runs")
                break
            with_gains = config.gains_every > 0 and number % config.gains_every == 0
            run = ClipRunConfig(max_errors=config.max_errors, max_controls=config.max_controls, second=second,
                                ratios=ratios, with_gains=with_gains)
            known[fault.key] = run_clip_fault(bench, fault, run)
            append_row(path, known[fault.key])
            row = known[fault.key]
            progress(f"{number + 1}/{len(faults)} {fault.key}: {row['ranking'][0][0]}, {row['extra_errors']:+d} errors "
                     f"({row['clips_scored']} clips scored, {row['seconds']:.0f} s)")
        rows.append(known[fault.key])
    return rows
