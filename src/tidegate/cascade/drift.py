"""Audits for ever below the threshold → an alarm when the promise no longer holds, a fallback, and a fresh
certificate.

Who is audited is decided by a keyed hash of the video id: uniform, reproducible, and out of an uploader's reach.
The null hypothesis is "the large model flags at most a share theta0 of the items below tau". A gambler bets that it
flags r times as many: wealth *= r at a flag, *= (1 - r theta0)/(1 - theta0) otherwise (a likelihood ratio, so an
e-process). Bets on several r and several starting times are averaged, which is again an e-process, and Ville's
inequality bounds the probability of *ever* raising a false alarm by alpha, however often one looks (Ville, 1939;
Shin, Ramdas & Rinaldo, 2022).

Most of the stake lies on a change that is there from the start (a certificate that never held); the rest is spread
over later starts, which must pay for not knowing when. Recursion over starting times: S_r <- S_r * factor + next
stake.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from tidegate.cascade import bounds
from tidegate.cascade.certificates import Certificate, certify_recall, read_audit
from tidegate.errors import ConfigError, UsageError

__all__ = ["AlarmConfig", "DriftAlarm", "DriftEvent", "DriftGuard", "audit_value", "expected_delay", "is_audited"]


def audit_value(video_id: str, key: bytes) -> float:
    """Uniform number in [0, 1) that depends on the id and the secret key only."""
    digest = hashlib.blake2b(video_id.encode("utf-8", "surrogateescape"), digest_size=8, key=key).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2.0**53


def is_audited(video_id: str, *, rate: float, key: bytes) -> bool:
    """Whether this video belongs to the permanent audit; raising the rate keeps whoever was in it."""
    if not 0.0 <= rate <= 1.0:
        raise ConfigError(f"audit rate: expected a value in [0, 1], got {rate}")
    return audit_value(video_id, key) < rate


def _divergence(rate: float, null: float) -> float:
    return rate * math.log(rate / null) + (1 - rate) * math.log((1 - rate) / (1 - null))


def expected_delay(*, rate: float, theta0: float, alpha: float) -> float:
    """ln(1/alpha) / KL(rate, theta0): audits that the best informed test needs on average."""
    bounds.checked_probability(rate=rate, theta0=theta0, alpha=alpha)
    if rate <= theta0:
        raise UsageError(f"rate: expected more than theta0 {theta0}, got {rate}")
    return math.log(1 / alpha) / _divergence(rate, theta0)


@dataclass(frozen=True, kw_only=True)
class AlarmConfig:
    """What the alarm tests and how it stakes."""

    theta0: float
    """Highest share of audited items below tau that the large model may flag: eps * prevalence / share below tau."""
    alpha: float = 0.05
    """Probability of ever raising a false alarm."""
    multiples: tuple[float, ...] = (2.0, 4.0, 8.0)
    """Rates bet on, as multiples of theta0."""
    stakes: tuple[float, ...] = (0.3, 0.5, 0.2)
    """Share of the wealth on each of them."""
    first_stake: float = 0.75
    """Share staked at the start; the rest is spread over later starts."""
    restart_every: int = 50
    """Audits between later starts."""

    def __post_init__(self) -> None:
        bounds.checked_probability(theta0=self.theta0, alpha=self.alpha, first_stake=self.first_stake)
        if len(self.multiples) != len(self.stakes) or abs(sum(self.stakes) - 1.0) > 1e-9 or min(self.stakes) <= 0:
            raise ConfigError(f"stakes: expected one positive stake a multiple, summing to 1, got {self.stakes}")
        if min(self.multiples) <= 1.0:
            raise ConfigError(f"multiples: expected values above 1, got {self.multiples}")
        if self.restart_every < 1:
            raise ConfigError(f"restart_every: expected >= 1, got {self.restart_every}")

    @property
    def rates(self) -> npt.NDArray[np.float64]:
        """Rates bet on, kept below 1."""
        return np.minimum(np.array(self.multiples) * self.theta0, (1.0 + self.theta0) / 2.0)


class DriftAlarm:
    """The e-process. Constant memory."""

    def __init__(self, config: AlarmConfig) -> None:
        self.config = config
        rates = config.rates
        self._on_flag = rates / config.theta0
        self._on_clean = (1.0 - rates) / (1.0 - config.theta0)
        self._wealth = config.first_stake * np.array(config.stakes)
        self._reserve = 1.0 - config.first_stake
        self.n_audit = 0
        self.n_flagged = 0
        self.highest = 1.0
        self.alarmed_at: int | None = None

    @property
    def wealth(self) -> float:
        """The e-value: evidence against the promise; unspent stakes count as they are."""
        return float(self._wealth.sum() + self._reserve)

    @property
    def alarmed(self) -> bool:
        return self.alarmed_at is not None

    def _stake(self) -> None:
        """Stake the next part of the reserve: after the j-th restart 1/(j + 1) of it is left."""
        j = self.n_audit // self.config.restart_every
        left = (1.0 - self.config.first_stake) / (j + 1)
        self._wealth += (self._reserve - left) * np.array(self.config.stakes)
        self._reserve = left

    def update(self, flagged: bool) -> bool:
        """Take one audit; True while the alarm is up."""
        self._wealth *= self._on_flag if flagged else self._on_clean
        self.n_audit += 1
        self.n_flagged += flagged
        if self.n_audit % self.config.restart_every == 0:
            self._stake()
        self.highest = max(self.highest, self.wealth)
        if self.alarmed_at is None and self.wealth >= 1.0 / self.config.alpha:
            self.alarmed_at = self.n_audit
        return self.alarmed

    def update_many(self, flagged: npt.ArrayLike) -> bool:
        """Take audits in order."""
        for value in np.asarray(flagged, dtype=bool):
            self.update(bool(value))
        return self.alarmed


@dataclass(frozen=True, kw_only=True)
class DriftEvent:
    """Something that the guard did, for the log."""

    kind: Literal["alarm", "refreshed"]
    n_audit: int
    tau_before: float
    tau_after: float
    reason: str


@dataclass
class DriftGuard:
    """Keeps a certificate true: audits, alarms, falls back, certifies anew from audits that came after the alarm."""

    certificate: Certificate
    theta0: float
    """See ``AlarmConfig``; recomputed at each refresh in proportion to the rate of positives in the fresh audits."""
    fallback_tau: float = -math.inf
    """Threshold while the promise is not certified; ``-inf`` keeps every promise of recall."""
    alpha: float = 0.05
    refresh_every: int = 200
    """Fresh audits between attempts to certify again; each attempt spends its own part of delta."""
    events: list[DriftEvent] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.certificate.certified or self.certificate.target_recall is None:
            raise UsageError("certificate: expected a certified recall promise")
        self.alarm = DriftAlarm(AlarmConfig(theta0=self.theta0, alpha=self.alpha))
        self._fresh: list[tuple[float, float]] = []
        self._attempts = 0

    @property
    def held(self) -> bool:
        """Whether a certified threshold is in force."""
        return not self.alarm.alarmed

    @property
    def tau(self) -> float:
        """The threshold to route by now."""
        return self.certificate.tau if self.held else min(self.fallback_tau, self.certificate.tau)

    def observe(self, base: float, large: float) -> DriftEvent | None:
        """Take one hash-selected item with its large-model score, whether it was escalated or not."""
        if self.held:
            return self._watch(base, large)
        self._fresh.append((base, large))
        if len(self._fresh) % self.refresh_every:
            return None
        return self._refresh()

    def _watch(self, base: float, large: float) -> DriftEvent | None:
        if base >= self.certificate.tau:
            return None
        if not self.alarm.update(large >= self.certificate.lam):
            return None
        event = DriftEvent(
            kind="alarm",
            n_audit=self.alarm.n_audit,
            tau_before=self.certificate.tau,
            tau_after=self.tau,
            reason=f"{self.alarm.n_flagged} of {self.alarm.n_audit} audits below tau were flagged, evidence "
            f"{self.alarm.wealth:.0f} ≥ {1 / self.alpha:.0f}: the promise is suspended, fallback in force",
        )
        self.events.append(event)
        return event

    def _refresh(self) -> DriftEvent | None:
        old, recall = self.certificate, self.certificate.target_recall
        assert recall is not None
        self._attempts += 1
        delta = old.delta / (self._attempts * (self._attempts + 1))  # attempts share delta: the sum is delta
        base, large = np.array(self._fresh).T
        audit = read_audit(base, large)
        fresh = certify_recall(audit, lam=old.lam, target_recall=recall, delta=delta)
        if not fresh.certified:
            return None
        below = 1.0 - fresh.share_escalated
        rate = fresh.n_positives / len(audit)
        before = self.tau
        self.certificate = fresh
        self.theta0 = min(0.5, max((1.0 - recall) * rate / max(below, 1e-9), 1e-9))
        self.alarm = DriftAlarm(AlarmConfig(theta0=self.theta0, alpha=self.alpha))
        self._fresh, self._attempts = [], 0
        event = DriftEvent(
            kind="refreshed",
            n_audit=len(audit),
            tau_before=before,
            tau_after=fresh.tau,
            reason=f"certified again from {len(audit)} audits after the alarm: {fresh.reason}",
        )
        self.events.append(event)
        return event


def alarm_times(
    flags: Sequence[int] | npt.NDArray[np.int64], config: AlarmConfig, *, horizon: int
) -> tuple[int | None, float]:
    """First alarm and highest e-value for audits 1..horizon of which those at positions ``flags`` were flagged.

    The same process as ``DriftAlarm``, by jumps from one flag or restart to the next: simulations of 10^6 audits.
    """
    rates = config.rates
    up, down = rates / config.theta0, np.log1p(-rates) - math.log1p(-config.theta0)
    stakes, wealth = np.array(config.stakes), config.first_stake * np.array(config.stakes)
    reserve, highest, now = 1.0 - config.first_stake, 1.0, 0
    marked = {int(position) for position in flags}
    restarts = range(config.restart_every, horizon + 1, config.restart_every)
    for position in heapq.merge(sorted(marked), restarts):
        if position == now:  # a flag at a restart: both were done
            continue
        wealth = wealth * np.exp(down * (position - now - (position in marked)))
        if position in marked:
            wealth = wealth * up
        now = position
        if position % config.restart_every == 0:
            left = (1.0 - config.first_stake) / (position // config.restart_every + 1)
            wealth, reserve = wealth + (reserve - left) * stakes, left
        value = float(wealth.sum() + reserve)
        highest = max(highest, value)
        if value >= 1.0 / config.alpha:
            return position, highest
    return None, highest
