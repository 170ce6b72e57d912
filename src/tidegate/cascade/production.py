"""Stratified audits of production → how much of what violates is caught, with intervals that hold.

Among rare violations a normal interval on a thousand labels is fiction (it covers 12 % at 0.1 % prevalence). Here:

- ``pooled_recall``: caught / (caught + what the audits find, weighted up), with a beta Monte-Carlo interval: every
  stratum's rate is drawn from Beta(x, n - x + 1) for the lower and Beta(x + 1, n - x) for the upper end, the exact
  one-stratum bounds, pooled by simulation ("melding"; Fay, Proschan & Brittain, 2015).
- ``certified_missed``: an upper bound on the missed positives that holds exactly: hypergeometric bounds per stratum
  with delta split over those that were not audited in full.
- ``neyman``: where to audit next, in proportion to size times standard deviation (Neyman, 1934).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from tidegate.cascade import bounds
from tidegate.errors import UsageError
from tidegate.evaluation.intervals import Interval

__all__ = ["ProductionRecall", "Stratum", "certified_missed", "neyman", "pooled_recall"]


@dataclass(frozen=True, kw_only=True)
class Stratum:
    """A part of the items that were *not* caught, such as a band of base scores, and its audit."""

    name: str
    size: int
    """Items of the stratum in the period."""
    audited: int
    """Drawn from it uniformly without replacement."""
    positives: int
    """Audited ones that violate (or that the large model flags)."""

    def __post_init__(self) -> None:
        if not 0 <= self.positives <= self.audited <= self.size:
            raise UsageError(f"stratum {self.name}: expected 0 <= positives <= audited <= size, got {self}")


@dataclass(frozen=True, kw_only=True)
class ProductionRecall:
    """Recall in production."""

    caught: int
    missed: float
    """Estimated positives that were not caught."""
    recall: Interval
    """Pooled recall: against all that the audits can find."""
    certified_recall: float
    """Recall that holds with probability 1 - delta, exactly."""
    certified_missed: int
    delta: float


def neyman(sizes: Sequence[int], rates: Sequence[float], budget: int, *, floor: int = 1) -> npt.NDArray[np.int64]:
    """How many of ``budget`` audits each stratum gets: ~ size * sqrt(rate (1 - rate)), at least ``floor`` each.

    ``rates`` are guesses, for example (x + 1) / (n + 2) of an earlier audit; never 0, or nothing would be looked at.
    """
    size, rate = np.asarray(sizes, dtype=np.int64), np.asarray(rates, dtype=np.float64)
    if len(size) != len(rate) or not len(size) or (rate <= 0).any() or (rate >= 1).any() or (size < 0).any():
        raise UsageError("expected a size >= 0 and a rate in (0, 1) for every stratum")
    least = np.minimum(size, floor)
    if budget < least.sum():
        raise UsageError(f"budget: expected at least {least.sum()} audits, got {budget}")
    given, weight = least.copy(), size * np.sqrt(rate * (1.0 - rate))
    while (left := min(budget, int(size.sum())) - int(given.sum())) > 0:
        room = given < size
        shares = np.where(room, weight, 0.0)
        extra = np.floor(left * shares / shares.sum()).astype(np.int64)
        if not extra.any():
            ranked = np.argsort(-np.where(room, weight / (given + 1.0), -1.0), kind="stable")[:left]
            extra[ranked[room[ranked]]] = 1
        given = np.minimum(size, given + extra)
    return given


def _check(strata: Sequence[Stratum], caught: int) -> None:
    if not strata:
        raise UsageError("expected at least one stratum, got none")
    if caught < 0:
        raise UsageError(f"caught: expected >= 0, got {caught}")


def certified_missed(strata: Sequence[Stratum], delta: float) -> int:
    """Upper bound at level 1 - delta on the positives in all strata, exact for sampling without replacement."""
    bounds.checked_probability(delta=delta)
    _check(strata, 0)
    open_strata = [stratum for stratum in strata if stratum.audited < stratum.size]
    known = sum(stratum.positives for stratum in strata if stratum.audited == stratum.size)
    if not open_strata:
        return known
    part = delta / len(open_strata)
    return known + sum(bounds.hypergeometric_upper(s.positives, s.audited, s.size, part) for s in open_strata)


def pooled_recall(
    strata: Sequence[Stratum], *, caught: int, delta: float = 0.05, draws: int = 20_000, seed: int = 0
) -> ProductionRecall:
    """Recall of the period: ``caught`` positives are known, the missed ones are estimated from the strata's audits."""
    bounds.checked_probability(delta=delta)
    _check(strata, caught)
    rng = np.random.default_rng(seed)
    size = np.array([s.size for s in strata], dtype=np.float64)
    audited = np.array([s.audited for s in strata], dtype=np.float64)
    found = np.array([s.positives for s in strata], dtype=np.float64)
    unseen = size - audited
    with np.errstate(invalid="ignore", divide="ignore"):
        missed = float(np.sum(found + np.where(audited > 0, unseen * found / np.maximum(audited, 1), 0.0)))
    high_rate = stats.beta.rvs(found + 1, np.maximum(audited - found, 1e-9), size=(draws, len(size)), random_state=rng)
    low_rate = stats.beta.rvs(np.maximum(found, 1e-9), audited - found + 1, size=(draws, len(size)), random_state=rng)
    most = np.quantile((found + unseen * high_rate).sum(axis=1), 1 - delta / 2)
    least = np.quantile((found + unseen * np.where(found > 0, low_rate, 0.0)).sum(axis=1), delta / 2)
    bound = certified_missed(strata, delta)
    recall = Interval(
        estimate=caught / (caught + missed) if caught + missed else math.nan,
        low=caught / (caught + float(most)) if caught else 0.0,
        high=caught / (caught + float(least)) if caught + least else 1.0,
        level=1 - delta,
        method="beta Monte Carlo",
        n_clusters=int(audited.sum()),
    )
    return ProductionRecall(
        caught=caught,
        missed=missed,
        recall=recall,
        certified_recall=caught / (caught + bound) if caught + bound else 1.0,
        certified_missed=bound,
        delta=delta,
    )
