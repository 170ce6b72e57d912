"""Regions: quality of 100 and more at a glance, without taking the luck of small ones for skill.

Enters: a ``ProbeTable`` with a ``region`` (or another) column, and a diagnosis where there is one. Leaves: per region
an estimate shrunk towards the others, an interval that is honest about the shrinking, the gap to the best, the main
class of failure, and what to collect. A beta-binomial model over the regions; its two hyperparameters are integrated
over a grid instead of being plugged in, because plug-in intervals are too narrow when regions are few.

Shape legend: R regions, D posterior draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import betaln

from tidegate.diagnosis.classify import CLASSES
from tidegate.diagnosis.diagnose import Diagnosis
from tidegate.diagnosis.table import Floats, ProbeTable
from tidegate.diagnosis.taxonomy import TAXONOMY, FailureClass
from tidegate.errors import UsageError
from tidegate.evaluation import Interval

__all__ = ["RegionQuality", "Regions", "posterior_draws", "regions_of"]

Ints = npt.NDArray[np.int64]
Metric = Literal["recall", "error_rate", "false_alarm_rate"]
_MIN_ERRORS = 5


@dataclass(frozen=True, kw_only=True)
class RegionQuality:
    """One region."""

    region: str
    n: int
    """Items that the metric is about."""
    events: int
    """Caught positives, errors, or false alarms."""
    raw: float
    """events / n; NaN without items."""
    shrunken: Interval
    gap_to_best: Interval
    """How much worse than the best region, in the metric; 0 is the best."""
    errors: int
    main_class: FailureClass | None
    """None: too few errors to name one."""
    main_share: float
    """Share of the region's errors that the class explains."""
    collect: str
    """What to collect, in words."""


@dataclass(frozen=True, kw_only=True)
class Regions:
    """All regions, worst first."""

    metric: Metric
    rows: tuple[RegionQuality, ...]
    mean: float
    """Mean of the fitted distribution of regions."""
    spread: float
    """Its standard deviation: what differs between regions beyond luck."""


def posterior_draws(events_R: Ints, totals_R: Ints, *, num_draws: int = 2000, seed: int = 0) -> tuple[Floats, Floats]:
    """(draws (D, R) of the regions' rates, draws (D, 2) of mean and standard deviation over regions)."""
    means, sizes = np.linspace(0.005, 0.995, 100), np.geomspace(1.0, 2000.0, 60)
    a = (means[:, None] * sizes[None, :])[..., None]
    b = ((1 - means)[:, None] * sizes[None, :])[..., None]
    log = (betaln(a + events_R, b + totals_R - events_R) - betaln(a, b)).sum(axis=-1) - 0.5 * np.log(sizes)[None, :]
    weight = np.exp(log - log.max()).ravel()
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(weight), num_draws, p=weight / weight.sum())
    alpha, beta = a.reshape(-1)[chosen][:, None], b.reshape(-1)[chosen][:, None]
    draws = rng.beta(alpha + events_R, beta + totals_R - events_R)
    total = alpha + beta
    mean = alpha / total
    spread = np.sqrt(mean * (1 - mean) / (total + 1))
    return draws, np.column_stack([mean[:, 0], spread[:, 0]])


def _counted(table: ProbeTable, metric: Metric) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    everything = np.ones(len(table), dtype=np.bool_)
    if metric == "recall":
        return table.labels == 1, ~table.errors
    return (everything, table.errors) if metric == "error_rate" else (table.labels == 0, table.errors)


def regions_of(
    table: ProbeTable, diagnosis: Diagnosis | None = None, *, column: str = "region", metric: Metric = "recall",
    level: float = 0.95, target_half_width: float = 0.05, seed: int = 0,
) -> Regions:
    """Quality of every value of ``column``; a table without it is a ``UsageError``."""
    values = table.slices.get(column)
    if values is None or set(values.tolist()) <= {""}:
        raise UsageError(f"expected a column {column!r} in the run, found {sorted(table.slices) or 'none'}")
    pool, event = _counted(table, metric)
    names = sorted(set(values.tolist()) - {""})
    codes = np.searchsorted(names, values)
    inside = (values != "") & pool
    totals = np.bincount(codes[inside], minlength=len(names))[: len(names)]
    events = np.bincount(codes[inside & event], minlength=len(names))[: len(names)]
    draws, hyper = posterior_draws(events, totals, seed=seed)
    best = draws.max(axis=1, keepdims=True) if metric == "recall" else draws.min(axis=1, keepdims=True)
    gaps = np.abs(best - draws)
    rows = [
        _row(table, diagnosis, name, values == name, counts=(int(totals[r]), int(events[r])), draws=draws[:, r],
             gaps=gaps[:, r], level=level, target=target_half_width)
        for r, name in enumerate(names)
    ]
    worst_first = sorted(rows, key=lambda row: row.shrunken.estimate, reverse=metric != "recall")
    mean, spread = hyper.mean(axis=0)
    return Regions(metric=metric, rows=tuple(worst_first), mean=float(mean), spread=float(spread))


def _row(table: ProbeTable, diagnosis: Diagnosis | None, name: str, inside: npt.NDArray[np.bool_], *,
         counts: tuple[int, int], draws: Floats, gaps: Floats, level: float, target: float) -> RegionQuality:
    n, events = counts
    errors = int((table.errors & inside).sum())
    main, share = _main_class(diagnosis, inside) if errors >= _MIN_ERRORS else (None, float("nan"))
    shrunken = _interval(draws, level)
    return RegionQuality(
        region=name, n=n, events=events, raw=events / n if n else float("nan"), shrunken=shrunken,
        gap_to_best=_interval(gaps, level), errors=errors, main_class=main, main_share=share,
        collect=_collect(shrunken, n, main, name, target),
    )


def _interval(draws: Floats, level: float) -> Interval:
    tail = (1 - level) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(estimate=float(draws.mean()), low=float(low), high=float(high), level=level,
                    method="beta-binomial, hyperparameters integrated", n_clusters=len(draws))


def _main_class(diagnosis: Diagnosis | None, inside: npt.NDArray[np.bool_]) -> tuple[FailureClass | None, float]:
    if diagnosis is None:
        return None, float("nan")
    mine = inside[diagnosis.classified.rows]
    if not mine.any():
        return None, float("nan")
    shares = diagnosis.classified.posterior_EC[mine].mean(axis=0)[:-1]
    best = int(shares.argmax())
    return (CLASSES[best], float(shares[best])) if shares[best] >= 0.2 else (None, float(shares[best]))


def _collect(shrunken: Interval, n: int, main: FailureClass | None, region: str, target: float) -> str:
    """How many labels halve the doubt, and of what kind."""
    half = (shrunken.high - shrunken.low) / 2
    rate = min(0.95, max(0.05, shrunken.estimate))
    wanted = max(0, round(1.96**2 * rate * (1 - rate) / target**2) - n) if half > target else 0
    kind = "" if main is None else f"; training items of {region} for {TAXONOMY[main].name} ({main.value})"
    if wanted:
        return f"{wanted} more labelled items to know it within ±{target:g}{kind}"
    return "known well enough" + kind
