"""Trials of promises: how often each method's promise fails, and what it costs, per family and audit size.

A promise that is not certified cannot fail and escalates everything; both are counted. "Valid" in a cell means a
failure rate of at most delta + 2 standard errors at delta. Methods share a cell's population and number of oracle
calls, not their draws: each samples as its own design says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tidegate.bench.cascade_families import FAMILIES, Population, make_population
from tidegate.bench.cascade_rivals import RIVALS
from tidegate.cascade import certify
from tidegate.cascade.bounds import finite_index, hypergeometric_upper, wilks_index

__all__ = ["CostCell", "PromiseCell", "cost_cells", "cost_summary", "promise_cells"]

DELTA = 0.05
RECALL = 0.9
PRECISION = 0.8
IntArray = npt.NDArray[np.int64]
Method = Callable[[Population, int, float, float, np.random.Generator], tuple[float, IntArray]]


@dataclass(frozen=True, kw_only=True)
class CostCell:
    """One method in one cell of the recall promise."""

    family: str
    n_audit: int
    method: str
    failure_rate: float
    share_escalated: float
    trials: int

    @property
    def valid(self) -> bool:
        return self.failure_rate <= limit(self.trials)


@dataclass(frozen=True, kw_only=True)
class PromiseCell:
    """Our own promises in one cell."""

    family: str
    n_audit: int
    promise: str
    failure_rate: float
    certified: float
    """Share of trials in which the promise was certified."""
    share_escalated: float
    trials: int

    @property
    def valid(self) -> bool:
        return self.failure_rate <= limit(self.trials)


def limit(trials: int) -> float:
    """delta + 2 standard errors."""
    return DELTA + 2.0 * math.sqrt(DELTA * (1.0 - DELTA) / trials)


def ours_stream(
    population: Population, calls: int, recall: float, delta: float, rng: np.random.Generator
) -> tuple[float, IntArray]:
    """Wilks on a uniform audit: the promise for a stream."""
    chosen = rng.integers(0, len(population), size=calls)
    scores = population.base[chosen[population.label[chosen] == 1]]
    k = int(wilks_index(len(scores), recall, delta))
    return (float(np.partition(scores, k)[k]) if k >= 0 else -math.inf), np.zeros(0, dtype=np.int64)


def ours_finite(
    population: Population, calls: int, recall: float, delta: float, rng: np.random.Generator
) -> tuple[float, IntArray]:
    """The promise for the collection itself, audited without replacement."""
    chosen = rng.choice(len(population), size=calls, replace=False, shuffle=False)
    found = chosen[population.label[chosen] == 1]
    k = finite_index(len(found), calls, len(population), recall, delta)
    return (float(population.base[np.partition(found, k)[k]]) if k >= 0 else -math.inf), found


def ours_reuse(
    population: Population, calls: int, recall: float, delta: float, rng: np.random.Generator
) -> tuple[float, IntArray]:
    """Production escalates the top 30 %; the audit looks below only (``certify_window``)."""
    cut = int(np.searchsorted(population.base, population.base[round(0.7 * len(population))], side="left"))
    above = population.base[cut:][population.label[cut:] == 1]
    drawn = rng.choice(cut, size=min(calls, cut), replace=False, shuffle=False)
    found = drawn[population.label[drawn] == 1]
    upper = hypergeometric_upper(len(found), len(drawn), cut, delta)
    allowed = math.floor((1.0 - recall) * (len(above) + upper) - upper + 1e-9)
    return (float(above[allowed]) if 0 <= allowed < len(above) else -math.inf), np.zeros(0, dtype=np.int64)


METHODS: dict[str, Method] = {
    **RIVALS,
    "ours (stream)": ours_stream,
    "ours (collection)": ours_finite,
    "ours (reuse of escalations)": ours_reuse,
}
COMPARED = tuple(name for name in METHODS if name != "ours (reuse of escalations)")


def _recall_with(population: Population, tau: float, found: IntArray) -> float:
    """Recall of what a method returns: everything at or above tau, and what its audit found."""
    start = int(np.searchsorted(population.base, tau, side="left"))
    extra = len(np.unique(found[found < start]))
    total = max(1, len(population.positive_scores))
    return population.recall(tau) + extra / total


def cost_cells(
    *,
    families: Sequence[str],
    audits: Sequence[int],
    trials: int,
    size: int,
    seed: int,
    progress: Callable[[str], None],
) -> list[CostCell]:
    """Failure rate and share escalated of every method in every cell, recall promise."""
    cells = []
    for family in families:
        population = make_population(family, size=size, seed=seed)
        for n_audit in audits:
            progress(f"recall, {family}, {n_audit} calls")
            for index, (name, method) in enumerate(METHODS.items()):
                rng = np.random.default_rng([seed, sorted(FAMILIES).index(family), n_audit, index])
                failures, share = 0, 0.0
                for _ in range(trials):
                    tau, found = method(population, n_audit, RECALL, DELTA, rng)
                    failures += _recall_with(population, tau, found) < RECALL - 1e-12
                    share += population.share(tau)
                cells.append(
                    CostCell(
                        family=family,
                        n_audit=n_audit,
                        method=name,
                        failure_rate=failures / trials,
                        share_escalated=share / trials,
                        trials=trials,
                    )
                )
    return cells


def cost_summary(cells: Sequence[CostCell]) -> dict[str, object]:
    """In how many cells the best of ours is the cheapest valid method (within half a percent of the cheapest)."""
    keys = sorted({(cell.family, cell.n_audit) for cell in cells})
    stream = best = decided = hopeless = 0
    lost: list[str] = []
    for key in keys:
        here = [c for c in cells if (c.family, c.n_audit) == key and c.method in COMPARED and c.valid]
        rivals = [c.share_escalated for c in here if not c.method.startswith("ours")]
        ours = {c.method: c.share_escalated for c in here if c.method.startswith("ours")}
        cheapest = min(rivals, default=math.inf) * 1.005
        decided += 1
        hopeless += min([*rivals, *ours.values()], default=1.0) >= 1.0
        stream += ours.get("ours (stream)", math.inf) <= cheapest
        won = min(ours.values(), default=math.inf) <= cheapest
        best += won
        if not won:
            winner = min((c for c in here if not c.method.startswith("ours")), key=lambda c: c.share_escalated)
            lost.append(f"{key[0]}, n={key[1]}: {winner.method} {winner.share_escalated:.3f}")
    return {
        "cells": decided,
        "ours (stream) is the cheapest valid": stream / max(1, decided),
        "ours (either) is the cheapest valid": best / max(1, decided),
        "cells where every valid method escalates everything (counted as ties)": hopeless,
        "lost to": lost,
    }


def _promise_fails(population: Population, promise: str, tau: float, lam: float) -> bool:
    flagged = population.large >= lam
    right = flagged & (population.label == 1)
    start = int(np.searchsorted(population.base, tau, side="left"))
    total = int(right.sum())
    lost = int(right[:start].sum()) / max(1, total)
    inside = int(flagged[start:].sum())
    precision = int(right[start:].sum()) / inside if inside else 1.0
    too_low = lost > 1.0 - RECALL + 1e-12
    if promise == "recall":
        return too_low
    return precision < PRECISION - 1e-12 if promise == "precision" else too_low or precision < PRECISION - 1e-12


def promise_cells(
    *,
    families: Sequence[str],
    audits: Sequence[int],
    trials: int,
    size: int,
    seed: int,
    progress: Callable[[str], None],
) -> list[PromiseCell]:
    """Our recall, precision and joint promises through the public ``certify``, small audits included."""
    wanted: dict[str, dict[str, float]] = {
        "recall": {"target_recall": RECALL},
        "precision": {"precision": PRECISION},
        "joint": {"target_recall": RECALL, "precision": PRECISION},
    }
    cells = []
    for family in families:
        population = make_population(family, size=size, seed=seed)
        for n_audit in audits:
            progress(f"promises, {family}, {n_audit} audits")
            for index, (promise, targets) in enumerate(wanted.items()):
                rng = np.random.default_rng([seed, 7, sorted(FAMILIES).index(family), n_audit, index])
                failures, certified, share = 0, 0, 0.0
                for trial in range(trials):
                    chosen = rng.integers(0, size, size=n_audit)
                    done = certify(
                        population.base[chosen],
                        population.large[chosen],
                        population.label[chosen],
                        delta=DELTA,
                        seed=trial,
                        **targets,  # type: ignore[arg-type]
                    )
                    certified += done.certified
                    failures += done.certified and _promise_fails(population, promise, done.tau, done.lam)
                    share += population.share(done.tau)
                cells.append(
                    PromiseCell(
                        family=family,
                        n_audit=n_audit,
                        promise=promise,
                        failure_rate=failures / trials,
                        certified=certified / trials,
                        share_escalated=share / trials,
                        trials=trials,
                    )
                )
    return cells
