"""``tidegate bench cascade``: do the promises hold, what do they cost, do the alarms and the budget work, how fast is
it.

Enters: how much to run. Leaves: a ``CascadeReport`` of rows, and ``render`` makes Markdown of it. Everything is
simulated from seeds; nothing is read from disk. The full run takes some ten minutes on one core, ``quick`` under a
minute.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tidegate.bench.cascade_control import (
    BudgetRow,
    DriftRow,
    RankingRow,
    SpeedRow,
    budget_rows,
    drift_rows,
    ranking_rows,
    speed_rows,
)
from tidegate.bench.cascade_families import FAMILIES
from tidegate.bench.cascade_trials import (
    CostCell,
    PromiseCell,
    cost_cells,
    cost_summary,
    promise_cells,
)
from tidegate.cascade.score_file import read_features, read_score_file
from tidegate.evaluation import markdown_table

__all__ = ["CascadeReport", "render", "run_cascade_benchmark"]

SECTIONS = ("cost", "promises", "drift", "budget", "speed", "ranking")


@dataclass(frozen=True, kw_only=True)
class CascadeReport:
    """All rows of one run; sections that were not asked for are empty."""

    trials: int
    seed: int
    cost: tuple[CostCell, ...] = ()
    promises: tuple[PromiseCell, ...] = ()
    drift: tuple[DriftRow, ...] = ()
    budget: tuple[BudgetRow, ...] = ()
    speed: tuple[SpeedRow, ...] = ()
    ranking: tuple[RankingRow, ...] = ()
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**asdict(self), "cost_summary": cost_summary(self.cost)}


def _two_view_world(seed: int, items: int) -> tuple[Any, Any, Any]:
    """A base model that looks at one modality, and two cheap features that it ignores; the large model sees all."""
    rng = np.random.default_rng(seed)
    label = rng.random(items) < 0.05
    heard = label & (rng.random(items) < 0.3)  # evidence in the sound only
    sight = rng.normal(size=items) + 3.0 * (label & ~heard)
    sound, motion = rng.normal(size=items) + 2.5 * heard, rng.normal(size=items) + 0.8 * label
    large = 1 / (1 + np.exp(2.5 - 5.0 * label - rng.normal(size=items)))
    return 1 / (1 + np.exp(2.0 - sight)), np.column_stack([sound, motion]), large


def _real_scores(path: Path) -> tuple[Any, Any, Any]:
    file = read_score_file(path)
    return file.base, read_features(path), file.large


def run_cascade_benchmark(
    *,
    quick: bool = False,
    trials: int = 500,
    seed: int = 0,
    only: Sequence[str] = SECTIONS,
    scores: Path | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> CascadeReport:
    """Run the sections named in ``only``. ``quick``: few families and trials, to see that all works.

    ``scores``: a score file with ``feature_...`` columns, which the section ``ranking`` then uses instead of a
    simulated world.
    """
    started = time.perf_counter()
    families = ["beta(.01, 1)", "gauss d'=2.5, 1.0%", "blind spot 5%"] if quick else list(FAMILIES)
    trials = min(trials, 50) if quick else trials
    population = 50_000 if quick else 200_000
    common: dict[str, Any] = {"trials": trials, "seed": seed, "progress": progress}
    cells: dict[str, Any] = {}
    if "cost" in only:
        audits = [5_000] if quick else [5_000, 20_000]
        cells["cost"] = tuple(cost_cells(families=families, audits=audits, size=population, **common))
    if "promises" in only:
        audits = [0, 20, 200, 5_000] if quick else [0, 1, 5, 20, 200, 5_000, 20_000]
        cells["promises"] = tuple(promise_cells(families=families, audits=audits, size=population, **common))
    if "drift" in only:
        cells["drift"] = tuple(drift_rows(**common))
    if "budget" in only:
        cells["budget"] = tuple(budget_rows(seconds=600 if quick else 1_800, seed=seed, progress=progress))
    if "speed" in only:
        items = 1_000_000 if quick else 10_000_000
        cells["speed"] = tuple(speed_rows(items=items, seed=seed, progress=progress))
    if "ranking" in only:
        progress("ranking")
        world = _two_view_world(seed, 20_000 if quick else 100_000) if scores is None else _real_scores(scores)
        base, features, large = world
        rounds = 5 if quick else 30
        cells["ranking"] = tuple(ranking_rows(base, features, large, recall=0.9, trials=rounds, seed=seed))
    return CascadeReport(trials=trials, seed=seed, seconds=time.perf_counter() - started, **cells)


def _cost_table(cells: Sequence[CostCell]) -> str:
    rows = []
    for family, n_audit in dict.fromkeys((cell.family, cell.n_audit) for cell in cells):
        row: dict[str, object] = {"family": family, "calls": n_audit}
        for cell in cells:
            if (cell.family, cell.n_audit) == (family, n_audit):
                rate = f"{cell.failure_rate:.3f}"
                row[cell.method] = f"{rate if cell.valid else f'**{rate}**'} / {cell.share_escalated:.3f}"
        rows.append(row)
    return markdown_table(rows)


def _promise_table(cells: Sequence[PromiseCell]) -> str:
    rows = []
    for promise, n_audit in dict.fromkeys((cell.promise, cell.n_audit) for cell in cells):
        here = [cell for cell in cells if (cell.promise, cell.n_audit) == (promise, n_audit)]
        worst = max(here, key=lambda cell: cell.failure_rate)
        rows.append(
            {
                "promise": promise,
                "audits": n_audit,
                "cells": len(here),
                "cells that hold": sum(cell.valid for cell in here),
                "highest failure rate": worst.failure_rate,
                "in": worst.family if worst.failure_rate > 0 else "–",
                "certified (mean)": float(np.mean([cell.certified for cell in here])),
                "escalated (mean)": float(np.mean([cell.share_escalated for cell in here])),
            }
        )
    return markdown_table(rows)


def _plain(rows: Sequence[Any], digits: int = 4) -> str:
    def shown(value: object) -> object:
        return f"{value:.{digits}g}" if isinstance(value, float) and not math.isnan(value) else value

    return markdown_table([{key: shown(value) for key, value in asdict(row).items()} for row in rows])


def render(report: CascadeReport) -> str:
    """Markdown of all sections that were run."""
    parts = [f"{report.trials} trials a cell, seed {report.seed}, {report.seconds:.0f} s in all."]
    if report.cost:
        summary = cost_summary(report.cost)
        lost = summary.pop("lost to")
        parts += [
            "## Recall 0.9, delta 0.05: failure rate / share escalated (bold: the promise is broken)",
            _cost_table(report.cost),
            "\n".join(f"- {key}: {value}" for key, value in summary.items()),
            f"- cells where a rival is cheaper and valid: {lost}",
        ]
    if report.promises:
        valid = sum(cell.valid for cell in report.promises)
        parts += [
            "## Our promises: recall 0.9, precision 0.8, joint; delta 0.05",
            _promise_table(report.promises),
            f"{valid} of {len(report.promises)} cells hold.",
        ]
    for title, rows in (
        ("Drift alarm, alpha 0.05", report.drift),
        ("Budget on bursty traffic", report.budget),
        ("Speed", report.speed),
        ("Better rankings at the same promise (recall 0.9)", report.ranking),
    ):
        if rows:
            parts += [f"## {title}", _plain(rows)]
    return "\n\n".join(parts)
