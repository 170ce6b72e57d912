"""Audit results one by one → a certificate as soon as the answer is clear, valid however often one looks.

For a threshold t, let b = 1 when a positive's base score lies below t. "Recall < g" says P(b = 1) > eps = 1 - g.
The wealth of a gambler against it is the likelihood of the b's under a Beta mixture over rates below eps, divided
by their likelihood at eps: an e-process, so by Ville's inequality it ever reaches 1/delta with probability at most
delta when recall is too low. Walking t upwards (fixed sequence) makes this a certificate for a chosen threshold:
the k-th smallest score with the largest k whose wealth reaches 1/delta. What was certified once stays certified.

The joint promise asks the same of the precision at each step, at full delta (see ``joint``). The opposite wealth,
against "recall >= g at tau", stops an audit whose threshold is clearly too high.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import special

from tidegate.cascade import bounds
from tidegate.errors import UsageError

__all__ = ["SequentialAudit", "SequentialState", "log_wealth_above", "log_wealth_below", "sequential_index"]

PRIOR = (0.5, 0.5)  # Jeffreys' weights of the mixture over rates


def _log_mixture(
    hits: npt.NDArray[np.float64], n: npt.NDArray[np.float64], low: float, high: float
) -> npt.NDArray[np.float64]:
    """log of the mean likelihood of ``hits`` in n over Beta(1/2, 1/2) rates between low and high."""
    a, b = hits + PRIOR[0], n - hits + PRIOR[1]
    inside = special.betainc(a, b, high) - special.betainc(a, b, low)
    prior = special.betainc(*PRIOR, high) - special.betainc(*PRIOR, low)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(inside) + special.betaln(a, b) - math.log(prior) - special.betaln(*PRIOR))


def log_wealth_below(hits: npt.ArrayLike, n: npt.ArrayLike, rate: float) -> npt.NDArray[np.float64]:
    """log wealth against "P(hit) >= rate": grows when hits are rare."""
    count, total = np.asarray(hits, dtype=np.float64), np.asarray(n, dtype=np.float64)
    null = count * math.log(rate) + (total - count) * math.log1p(-rate)
    return _log_mixture(count, total, 0.0, rate) - null


def log_wealth_above(hits: npt.ArrayLike, n: npt.ArrayLike, rate: float) -> npt.NDArray[np.float64]:
    """log wealth against "P(hit) <= rate": grows when hits are frequent."""
    count, total = np.asarray(hits, dtype=np.float64), np.asarray(n, dtype=np.float64)
    return log_wealth_below(total - count, total, 1.0 - rate)


def sequential_index(m: int, recall: float, delta: float) -> int:
    """Largest k whose wealth reaches 1/delta with k of m positives below; -1 when there is none."""
    k = np.arange(m + 1)
    reaching = np.flatnonzero(log_wealth_below(k, m, 1.0 - recall) >= -math.log(delta))
    return int(min(reaching[-1], m - 1)) if len(reaching) else -1


@dataclass(frozen=True, kw_only=True)
class SequentialState:
    """What is known after the audits so far."""

    verdict: Literal["certified", "refuted", "undecided"]
    tau: float
    """Highest threshold certified so far; ``-inf`` when none."""
    n_audit: int
    n_positives: int
    reason: str


@dataclass
class SequentialAudit:
    """Feed it audits in the order in which they were drawn; stop when ``verdict`` is no longer undecided.

    With ``tau``, the question is whether that threshold keeps the promise (certified or refuted). Without, the highest
    threshold that can be certified so far is given, and rises as audits come in.
    """

    target_recall: float
    delta: float
    lam: float = 0.5
    tau: float | None = None
    precision: float | None = None
    """With it, labels are needed and the promise is joint; only for a given ``tau``."""
    n_audit: int = 0
    best: float = -math.inf
    recall_shown: bool = False
    precision_shown: bool = False
    refuted: bool = False
    right: int = 0
    flagged: int = 0
    scores: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        bounds.checked_probability(target_recall=self.target_recall, delta=self.delta)
        if self.precision is not None and self.tau is None:
            raise UsageError("precision: expected a given tau with it, got none")

    def update(self, base: float, large: float, label: int | None = None) -> SequentialState:
        """Take one audit."""
        if not (0.0 <= base <= 1.0 and 0.0 <= large <= 1.0):
            raise UsageError(f"expected scores in [0, 1], got base {base} and large {large}")
        if label not in (None, 0, 1) or (self.precision is not None and large >= self.lam and label is None):
            raise UsageError(f"label: expected 0 or 1 for a flagged item, got {label!r}")
        self.n_audit += 1
        if large >= self.lam:
            self._flagged(base, label)
        return self.state()

    def _flagged(self, base: float, label: int | None) -> None:
        if self.tau is not None and base >= self.tau and label is not None:
            self.flagged += 1
            self.right += label
            self._test_precision()
        if label == 0:
            return
        self.scores.append(base)
        if self.tau is None:
            k = sequential_index(len(self.scores), self.target_recall, self.delta)
            if k >= 0:
                self.best = max(self.best, float(np.partition(np.array(self.scores), k)[k]))
            return
        below, limit = sum(score < self.tau for score in self.scores), -math.log(self.delta)
        m, eps = len(self.scores), 1.0 - self.target_recall
        self.recall_shown |= bool(log_wealth_below(below, m, eps) >= limit)
        self.refuted |= bool(log_wealth_above(below, m, eps) >= limit)

    def _test_precision(self) -> None:
        if self.precision is not None:
            limit = -math.log(self.delta)
            wrong = self.flagged - self.right
            self.precision_shown |= bool(log_wealth_below(wrong, self.flagged, 1.0 - self.precision) >= limit)
            self.refuted |= bool(log_wealth_above(wrong, self.flagged, 1.0 - self.precision) >= limit)

    def state(self) -> SequentialState:
        """What is known now."""
        m = len(self.scores)
        if self.tau is None:
            shown, tau = self.best > -math.inf, self.best
        else:
            shown = self.recall_shown and (self.precision is None or self.precision_shown)
            tau = self.tau if shown else -math.inf
        verdict: Literal["certified", "refuted", "undecided"] = (
            "refuted" if self.refuted else "certified" if shown else "undecided"
        )
        reason = f"{m} positives in {self.n_audit} audits: recall ≥ {self.target_recall:g} is {verdict}"
        return SequentialState(verdict=verdict, tau=tau, n_audit=self.n_audit, n_positives=m, reason=reason)
