"""Measurements of what keeps a promise true and affordable: drift alarm, budget controller, speed, better rankings."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tidegate.cascade import (
    AlarmConfig,
    BudgetConfig,
    BudgetController,
    EntropyRule,
    PrecisionRule,
    certify,
    expected_delay,
    fit_deferral,
    route_batch,
)
from tidegate.cascade.drift import alarm_times

__all__ = ["BudgetRow", "DriftRow", "RankingRow", "SpeedRow", "budget_rows", "drift_rows", "ranking_rows", "speed_rows"]

FloatArray = npt.NDArray[np.float64]
Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class DriftRow:
    """Alarms of one kind of traffic."""

    traffic: str
    theta0: float
    trials: int
    alarms: float
    """Share of trials with an alarm within the horizon."""
    mean_delay: float
    """Audits from the change to the alarm; NaN without a change."""
    theory: float
    """ln(1/alpha) / KL."""
    ratio: float


def _flag_positions(rng: np.random.Generator, rate: float, length: int, offset: int = 0) -> npt.NDArray[np.int64]:
    count = rng.binomial(length, rate)
    return offset + 1 + np.sort(rng.choice(length, size=count, replace=False))


def drift_rows(*, trials: int, seed: int, progress: Progress, alpha: float = 0.05) -> list[DriftRow]:
    """False alarms on the boundary of the null, and delays for changes at the start and later."""
    rows = []
    for theta0, horizon, runs in ((5e-4, 10_000, trials), (5e-4, 1_000_000, max(20, trials // 5))):
        progress(f"drift, no change, {horizon} audits")
        rng, config = np.random.default_rng([seed, horizon]), AlarmConfig(theta0=theta0, alpha=alpha)
        count = sum(
            alarm_times(_flag_positions(rng, theta0, horizon), config, horizon=horizon)[0] is not None
            for _ in range(runs)
        )
        rows.append(
            DriftRow(
                traffic=f"no change, {horizon:,} audits",
                theta0=theta0,
                trials=runs,
                alarms=count / runs,
                mean_delay=math.nan,
                theory=math.nan,
                ratio=math.nan,
            )
        )
    for theta0 in (5e-4, 5e-5):
        for multiple in (2.0, 4.0, 8.0):
            for onset in (0, 5_000):
                progress(f"drift, x{multiple:g} from audit {onset}, theta0 {theta0:g}")
                rows.append(_delays(theta0, multiple, onset, trials=trials, seed=seed, alpha=alpha))
    return rows


def _delays(theta0: float, multiple: float, onset: int, *, trials: int, seed: int, alpha: float) -> DriftRow:
    rng = np.random.default_rng([seed, round(multiple), onset, round(1 / theta0)])
    config = AlarmConfig(theta0=theta0, alpha=alpha)
    theory = expected_delay(rate=multiple * theta0, theta0=theta0, alpha=alpha)
    horizon = onset + round(20 * theory)
    delays = []
    for _ in range(trials):
        before = _flag_positions(rng, theta0, onset) if onset else np.zeros(0, dtype=np.int64)
        after = _flag_positions(rng, multiple * theta0, horizon - onset, onset)
        alarm, _ = alarm_times(np.concatenate([before, after]), config, horizon=horizon)
        if alarm is None or alarm > onset:
            delays.append((horizon if alarm is None else alarm) - onset)
    mean = float(np.mean(delays))
    return DriftRow(
        traffic=f"x{multiple:g} " + ("from the start" if onset == 0 else f"from audit {onset:,}"),
        theta0=theta0,
        trials=trials,
        alarms=float(np.mean(np.array(delays) < horizon - onset)),
        mean_delay=mean,
        theory=theory,
        ratio=mean / theory,
    )


@dataclass(frozen=True, kw_only=True)
class BudgetRow:
    """One bursty trace."""

    calls_per_second: float
    arrivals_per_second: float
    seconds: int
    violated: float
    """Share of seconds with more calls than the budget."""
    regret: float
    """1 - worth escalated / worth of the offline optimum under the same budget and waiting limit."""
    regret_to_mean_budget: float
    """The same against the best items of the whole trace at the mean budget."""
    suspended: int
    """Promised items that could not be served in time, with the certified tau at half the budget's share."""


def _offline_optimum(arrival: npt.NDArray[np.int64], worth: FloatArray, seconds: int, rate: float, wait: int) -> float:
    """Greedy over a matroid: accept by worth while a schedule exists (Hall's condition on every stretch of time)."""
    clock = rate * np.arange(seconds)
    opening, closing = clock.copy(), -clock
    full, total = np.zeros(seconds, dtype=bool), 0.0
    for i in np.argsort(-worth, kind="stable"):
        t = arrival[i]
        if full[t]:
            continue
        if opening[: t + 1].max() + closing[t:].max() - rate * (wait + 1) > -1.0:
            full[t] = True
            continue
        total += worth[i]
        opening[t + 1 :] -= 1.0
        closing[t:] += 1.0
    return float(total)


def _bursty(rng: np.random.Generator, base: float, seconds: int) -> list[FloatArray]:
    """A daily wave, and 20 seconds at five times the traffic in every 300."""
    waves = base * (1.0 + 0.3 * np.sin(np.arange(seconds) / 600.0))
    waves[np.arange(seconds) % 300 < 20] *= 5.0
    return [rng.beta(0.3, 3.0, rng.poisson(rate)) for rate in waves]


def budget_rows(*, seconds: int, seed: int, progress: Progress) -> list[BudgetRow]:
    """The controller on bursty traces against the offline optimum."""
    rows = []
    for rate, base in ((10.0, 100.0), (20.0, 40.0), (5.0, 200.0)):
        progress(f"budget, {rate:g} calls/s for {base:g} arrivals/s")
        rng = np.random.default_rng([seed, round(base)])
        reference, trace = rng.beta(0.3, 3.0, 20_000), _bursty(rng, base, seconds)
        worth = np.concatenate(trace)
        arrival = np.repeat(np.arange(seconds), [len(batch) for batch in trace])
        promised = float(np.quantile(reference, 1.0 - 0.25 * rate / base))
        config = BudgetConfig(calls_per_second=rate, start_share=min(1.0, rate / base), certified_tau=promised)
        control = BudgetController(config, reference)
        won, violated, suspended, first = 0.0, 0, 0, 0
        silence = [np.zeros(0)] * round(config.max_wait_seconds)  # what waits at the end may still be served
        for second, batch in enumerate([*trace, *silence]):
            tick = control.tick(second + 1.0, range(first, first + len(batch)), batch)
            first += len(batch)
            violated += len(tick.escalate) > rate
            suspended += len(tick.suspended)
            won += float(worth[np.array(tick.escalate, dtype=np.int64)].sum())
        best = _offline_optimum(arrival, worth, seconds, rate, round(config.max_wait_seconds))
        mean_best = float(np.sort(worth)[::-1][: int(rate * seconds)].sum())
        rows.append(
            BudgetRow(
                calls_per_second=rate,
                arrivals_per_second=len(worth) / seconds,
                seconds=seconds,
                violated=violated / seconds,
                regret=float(1.0 - won / best),
                regret_to_mean_budget=1.0 - won / mean_best,
                suspended=suspended,
            )
        )
    return rows


@dataclass(frozen=True, kw_only=True)
class SpeedRow:
    """One operation on many scores."""

    operation: str
    items: int
    wall_seconds: float
    cpu_seconds: float
    """Processor time of this process: what the operation takes on a machine with nothing else to do."""
    millions_per_cpu_second: float
    extra_megabytes: float
    """Growth of the process' peak memory during the operation, beyond its inputs."""


def speed_rows(*, items: int, seed: int, progress: Progress) -> list[SpeedRow]:
    """Certification and routing of ``items`` scores."""
    progress(f"speed, {items} scores")
    rng = np.random.default_rng(seed)
    label = (rng.random(items) < 0.05).astype(np.int64)
    base = 1.0 / (1.0 + np.exp(2.0 - rng.normal(size=items) - 2.5 * label))
    large = 1.0 / (1.0 + np.exp(2.0 - rng.normal(size=items) - 4.0 * label))
    views = rng.integers(0, 10_000, size=items)
    operations: dict[str, Callable[[], object]] = {
        "certify recall": lambda: certify(base, large, target_recall=0.9),
        "certify joint, lam given": lambda: certify(base, large, label, target_recall=0.9, precision=0.8, lam=0.5),
        "certify joint, lam chosen": lambda: certify(base, large, label, target_recall=0.9, precision=0.8),
        "route precision or views": lambda: route_batch(PrecisionRule(tau=0.4, view_limit=9000), base, views),
        "route entropy": lambda: route_batch(EntropyRule(max_entropy=0.5), base),
    }
    rows = []
    for name, operation in operations.items():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        wall, cpu = time.perf_counter(), time.process_time()
        operation()
        wall_seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        rows.append(
            SpeedRow(
                operation=name,
                items=items,
                wall_seconds=wall_seconds,
                cpu_seconds=cpu_seconds,
                millions_per_cpu_second=items / cpu_seconds / 1e6,
                extra_megabytes=grown / 1024,
            )
        )
    return rows


@dataclass(frozen=True, kw_only=True)
class RankingRow:
    """Share escalated at one promise, by what the items are ranked."""

    ranking: str
    share_escalated: float
    standard_error: float
    recall: float
    trials: int


def ranking_rows(
    base: FloatArray,
    features: FloatArray,
    large: FloatArray,
    *,
    recall: float,
    trials: int,
    seed: int,
    lam: float = 0.5,
) -> list[RankingRow]:
    """Base score alone against deferral learned on flags and on the large model's soft scores, certified alike.

    Each trial splits the items into fitting, audit and test thirds; the share and recall are the test third's.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, list[tuple[float, float]]] = {}
    inputs = np.column_stack([base, features])
    for _ in range(trials):
        part = rng.integers(0, 3, size=len(base))
        fit, audit, test = (part == k for k in range(3))
        flags = (large >= lam).astype(np.float64)
        rankings = {
            "base score": base,
            "learned deferral (flags)": fit_deferral(inputs[fit], flags[fit])(inputs),
            "distilled (soft scores)": fit_deferral(inputs[fit], large[fit])(inputs),
        }
        for name, scores in rankings.items():
            done = certify(scores[audit], large[audit], target_recall=recall, lam=lam)
            reached = scores[test] >= done.tau
            positive = flags[test] == 1
            found.setdefault(name, []).append((float(reached.mean()), float(reached[positive].mean())))
    return [
        RankingRow(
            ranking=name,
            share_escalated=float(np.mean([share for share, _ in values])),
            standard_error=float(np.std([share for share, _ in values]) / math.sqrt(trials)),
            recall=float(np.mean([caught for _, caught in values])),
            trials=trials,
        )
        for name, values in found.items()
    ]
