"""Scores as they arrive, and so many large-model calls per second → who is escalated now, who waits, who does not.

Two loops. A token bucket is the hard limit: it keeps less than one call from one second to the next, so no second
sees more than B calls. Dual ascent is the slow loop: the price (a rank of the score) rises when more is admitted
than the budget pays for and falls otherwise, so that over the long run the best-worth items get the calls (Agrawal
& Devanur, 2014). Bursts wait in a queue, most worth first, up to ``max_wait_seconds``.

A certificate goes before the budget: items at or above the certified tau always enter and are served first. If even
they cannot be served in time, they come back as ``suspended``: the promise does not hold for them, and the caller
can say so.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tidegate.errors import ConfigError, UsageError
from tidegate.evaluation.arrays import checked_scores

__all__ = ["BudgetConfig", "BudgetController", "Tick"]

LESS_THAN_ONE = 1.0 - 1e-6


@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """The budget."""

    calls_per_second: float
    """No second sees more calls than this."""
    certified_tau: float = math.inf
    """Items at or above it must be escalated; ``inf`` when there is no promise."""
    max_wait_seconds: float = 60.0
    """An item that waited longer is final without the large model (or suspended, if it was promised)."""
    burst_calls: float = 0.0
    """Calls beyond the rate that may come at once after a quiet time; 0 keeps every second within the budget."""
    step: float = 0.02
    """Speed of dual ascent, per second."""
    overbooking: float = 1.25
    """Calls that are admitted per call that is paid for, on average; the queue picks the best of them. 1 keeps waiting
    shortest, more loses less of the worth when traffic comes in bursts."""
    start_share: float = 0.05
    """Share of items admitted until the first correction."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.calls_per_second) and self.calls_per_second > 0):
            raise ConfigError(f"calls_per_second: expected > 0, got {self.calls_per_second}")
        if not self.burst_calls >= 0 or not 0 < self.start_share <= 1 or not 0 < self.step < 1 or self.overbooking < 1:
            raise ConfigError("expected burst_calls >= 0, start_share in (0, 1], step in (0, 1), overbooking >= 1")
        if self.max_wait_seconds < 0 or math.isnan(self.certified_tau):
            raise ConfigError("expected max_wait_seconds >= 0 and a certified_tau")

    @property
    def depth(self) -> float:
        """What an unused second leaves over: less than one call, unless bursts are allowed or calls are rarer."""
        return max(self.burst_calls, 1.0 if self.calls_per_second < 1.0 else LESS_THAN_ONE)


@dataclass(frozen=True, kw_only=True)
class Tick:
    """What happens in one tick."""

    escalate: tuple[Hashable, ...]
    """Call the large model for these now, in this order."""
    final: tuple[Hashable, ...]
    """Not worth a call at the present price, or waited too long: final at the base stage."""
    suspended: tuple[Hashable, ...]
    """Promised an escalation and not given one in time: the certificate does not cover them."""
    waiting: int
    price: float
    """Rank of the lowest score that is admitted, in [0, 1]."""
    promise_held: bool


class BudgetController:
    """Feed it every item once, in ticks of any length."""

    def __init__(self, config: BudgetConfig, reference: npt.ArrayLike) -> None:
        """``reference``: recent base scores; only their ranks are used."""
        self.config = config
        self._reference = np.sort(checked_scores(reference, name="reference", probability=True))
        if not len(self._reference):
            raise UsageError("reference: expected at least one score, got none")
        self._log_share = math.log(config.start_share)
        self._tokens = config.depth
        self._now: float | None = None
        self._queue: list[tuple[bool, float, int, float, Hashable]] = []
        self._sequence = 0

    @property
    def price(self) -> float:
        """Rank from which items are admitted."""
        return 1.0 - math.exp(self._log_share)

    def tick(self, now_seconds: float, ids: Sequence[Hashable], scores: npt.ArrayLike) -> Tick:
        """Take the items that arrived since the last tick; tell what to do until the next one."""
        values = checked_scores(scores, probability=True)
        if len(ids) != len(values):
            raise UsageError(f"ids: expected {len(values)} values, got {len(ids)}")
        passed = 1.0 if self._now is None else now_seconds - self._now
        if passed <= 0:
            raise UsageError(f"now_seconds: expected later than {self._now}, got {now_seconds}")
        self._now = now_seconds
        refused = self._admit(ids, values, now_seconds)
        self._tokens += self.config.calls_per_second * passed
        served = self._serve()
        self._tokens = min(self._tokens, self.config.depth)
        expired, suspended = self._expire(now_seconds)
        self._ascend(len(values) - len(refused), passed)
        return Tick(
            escalate=tuple(served),
            final=(*refused, *expired),
            suspended=tuple(suspended),
            waiting=len(self._queue),
            price=self.price,
            promise_held=not suspended,
        )

    def _admit(self, ids: Sequence[Hashable], values: npt.NDArray[np.float64], now: float) -> list[Hashable]:
        middle = np.searchsorted(self._reference, values, "left") + np.searchsorted(self._reference, values, "right")
        ranks = middle / (2.0 * len(self._reference))
        promised = values >= self.config.certified_tau
        admitted = promised | (ranks >= self.price)
        for i in np.flatnonzero(admitted).tolist():
            entry = (not bool(promised[i]), -float(values[i]), self._sequence, now, ids[i])
            heapq.heappush(self._queue, entry)
            self._sequence += 1
        return [ids[i] for i in np.flatnonzero(~admitted).tolist()]

    def _serve(self) -> list[Hashable]:
        served: list[Hashable] = []
        while self._queue and self._tokens >= 1.0 - 1e-9:
            served.append(heapq.heappop(self._queue)[-1])
            self._tokens -= 1.0
        return served

    def _expire(self, now: float) -> tuple[list[Hashable], list[Hashable]]:
        latest = now - self.config.max_wait_seconds
        if not any(entry[3] < latest for entry in self._queue):
            return [], []
        late = [entry for entry in self._queue if entry[3] < latest]
        self._queue = [entry for entry in self._queue if entry[3] >= latest]
        heapq.heapify(self._queue)
        return [entry[-1] for entry in late if entry[0]], [entry[-1] for entry in late if not entry[0]]

    def _ascend(self, admitted: int, passed: float) -> None:
        """Dual ascent on the log of the admitted share, towards ``overbooking`` times what the budget pays for."""
        pressure = min(4.0, admitted / (self.config.calls_per_second * passed)) - self.config.overbooking
        self._log_share = min(0.0, max(-12.0, self._log_share - self.config.step * passed * pressure))
