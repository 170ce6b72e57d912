"""Permanent audit, drift alarm, fallback and refresh; score monitors; the tuner."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tidegate.cascade import (
    AlarmConfig,
    DriftAlarm,
    DriftGuard,
    DynamicTuner,
    ScoreMonitor,
    TunerConfig,
    certify,
    expected_delay,
    is_audited,
)
from tidegate.cascade.drift import alarm_times, audit_value
from tidegate.cascade.monitors import kolmogorov_smirnov, population_stability
from tidegate.errors import ConfigError, UsageError

KEY = b"secret"


def test_the_audit_is_uniform_reproducible_and_grows_with_its_rate() -> None:
    ids = [f"video-{i}" for i in range(20_000)]
    values = np.array([audit_value(video, KEY) for video in ids])
    assert stats.kstest(values, "uniform").pvalue > 0.001
    few = {video for video in ids if is_audited(video, rate=0.01, key=KEY)}
    many = {video for video in ids if is_audited(video, rate=0.05, key=KEY)}
    assert few < many
    assert len(many) / len(ids) == pytest.approx(0.05, abs=0.006)
    assert few != {video for video in ids if is_audited(video, rate=0.01, key=b"another")}
    with pytest.raises(ConfigError, match="audit rate"):
        is_audited("a", rate=2.0, key=KEY)


def test_wealth_is_a_fair_game_by_enumeration_of_all_sequences() -> None:
    config = AlarmConfig(theta0=0.2, multiples=(2.0, 3.0), stakes=(0.4, 0.6), restart_every=2)
    mean = 0.0
    for sequence in range(2**8):
        flags = [bool(sequence >> i & 1) for i in range(8)]
        alarm = DriftAlarm(config)
        alarm.update_many(flags)
        mean += alarm.wealth * 0.2 ** sum(flags) * 0.8 ** (8 - sum(flags))
    assert mean == pytest.approx(1.0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.005, 0.1))
def test_jumping_over_clean_audits_is_the_same_process(seed: int, rate: float) -> None:
    flags = np.random.default_rng(seed).random(600) < rate
    config = AlarmConfig(theta0=0.01)
    alarm = DriftAlarm(config)
    alarm.update_many(flags)
    when, _ = alarm_times(np.flatnonzero(flags) + 1, config, horizon=600)
    assert when == alarm.alarmed_at


def test_false_alarms_stay_within_alpha_on_the_boundary_of_the_null() -> None:
    rng = np.random.default_rng(0)
    config = AlarmConfig(theta0=0.01, alpha=0.1)
    alarms = 0
    for _ in range(200):
        flags = np.flatnonzero(rng.random(5000) < 0.01) + 1
        alarms += alarm_times(flags, config, horizon=5000)[0] is not None
    assert alarms / 200 <= 0.1 + 2 * math.sqrt(0.09 / 200)


def test_alarm_delay_is_near_the_best_possible() -> None:
    rng = np.random.default_rng(1)
    config = AlarmConfig(theta0=0.005)
    delays = []
    for _ in range(100):
        when, _ = alarm_times(np.flatnonzero(rng.random(5000) < 0.02) + 1, config, horizon=5000)
        delays.append(when or 5000)
    assert np.mean(delays) <= 1.5 * expected_delay(rate=0.02, theta0=0.005, alpha=0.05)


def test_expected_delay_of_the_design_note() -> None:
    assert expected_delay(rate=0.002, theta0=0.0005, alpha=0.05) == pytest.approx(2400, rel=0.03)
    assert expected_delay(rate=0.0002, theta0=0.00005, alpha=0.05) == pytest.approx(23_500, rel=0.01)
    with pytest.raises(UsageError, match="expected more than theta0"):
        expected_delay(rate=0.001, theta0=0.002, alpha=0.05)


def test_impossible_alarms_are_refused() -> None:
    with pytest.raises(UsageError, match="theta0"):
        AlarmConfig(theta0=0.0)
    with pytest.raises(ConfigError, match="stakes"):
        AlarmConfig(theta0=0.1, stakes=(0.5, 0.5))
    with pytest.raises(ConfigError, match="multiples"):
        AlarmConfig(theta0=0.1, multiples=(0.5, 2.0, 3.0))
    with pytest.raises(ConfigError, match="restart_every"):
        AlarmConfig(theta0=0.1, restart_every=0)


def traffic(rng: np.random.Generator, n: int, blind: float) -> tuple[np.ndarray, np.ndarray]:
    positive = rng.random(n) < 0.1
    z = rng.normal(size=n) + 3.0 * (positive & (rng.random(n) >= blind))
    return 1 / (1 + np.exp(2 - z)), positive.astype(float)


def test_guard_alarms_falls_back_and_certifies_again_from_fresh_audits_only() -> None:
    rng = np.random.default_rng(2)
    certificate = certify(*traffic(rng, 4000, 0.0), target_recall=0.9)
    guard = DriftGuard(certificate=certificate, theta0=0.1 * 0.1 / (1 - certificate.share_escalated))
    for base, large in zip(*traffic(rng, 2000, 0.0), strict=True):
        assert guard.observe(base, large) is None
    assert guard.tau == certificate.tau
    events = [
        event for base, large in zip(*traffic(rng, 6000, 0.4), strict=True) if (event := guard.observe(base, large))
    ]
    assert [event.kind for event in events[:2]] == ["alarm", "refreshed"]
    assert (events[0].tau_before, events[0].tau_after) == (certificate.tau, -math.inf)
    assert "suspended" in events[0].reason
    assert events[1].tau_after < certificate.tau
    base, large = traffic(rng, 100_000, 0.4)
    assert (base[large == 1] >= guard.tau).mean() >= 0.9
    assert guard.events == events


def test_guard_needs_a_certified_recall_promise() -> None:
    with pytest.raises(UsageError, match="certified recall promise"):
        DriftGuard(certificate=certify([], [], target_recall=0.9), theta0=0.01)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=40), st.lists(st.floats(0, 1), min_size=2, max_size=40))
def test_kolmogorov_smirnov_statistic_is_scipys(first: list[float], second: list[float]) -> None:
    assert kolmogorov_smirnov(first, second)[0] == pytest.approx(
        stats.ks_2samp(first, second, method="asymp").statistic
    )


def test_population_stability_is_the_textbook_sum() -> None:
    assert population_stability([0.5, 0.5], [30, 10]) == pytest.approx(0.25 * math.log(1.5) - 0.25 * math.log(0.5))
    assert population_stability([0.5, 0.5], [20, 20]) == 0.0
    assert math.isfinite(population_stability([0.5, 0.5], [40, 0]))
    with pytest.raises(UsageError, match="at least one item"):
        population_stability([0.5, 0.5], [0, 0])


def test_score_monitor_tells_a_shift_from_noise() -> None:
    rng = np.random.default_rng(3)
    monitor = ScoreMonitor(rng.beta(0.5, 3, 20_000))
    levels = [monitor.check(rng.beta(0.5, 3, 2000)).level for _ in range(100)]
    assert levels.count("stable") >= 97
    assert monitor.check(rng.beta(0.6, 3, 2000)).level in ("watch", "moved")
    assert monitor.check(rng.beta(1.5, 3, 2000)).level == "moved"
    assert ScoreMonitor(np.zeros(100)).check(np.zeros(50)).level == "stable"
    with pytest.raises(UsageError, match="at least 10"):
        ScoreMonitor([0.1, 0.2])


def labelled(rng: np.random.Generator, shift: float, n: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    scores = rng.random(n)
    return (rng.random(n) < np.clip(scores - shift, 0, 1)).astype(int), scores


def test_tuner_moves_in_limited_steps_and_then_rests() -> None:
    rng = np.random.default_rng(4)
    tuner = DynamicTuner(TunerConfig(base_precision=0.5, max_step=0.05, hysteresis=0.04), tau=0.6)
    steps = [tuner.step(*labelled(rng, 0.0)) for _ in range(25)]
    assert all(abs(step.after - step.before) <= 0.05 + 1e-12 for step in steps)
    assert tuner.tau < 0.2  # half precision over all scores above a low threshold
    assert sum(step.after != step.before for step in steps[-8:]) <= 2
    assert all(step.reason for step in steps)
    assert tuner.history == steps


def test_tuner_in_shadow_mode_reports_and_changes_nothing() -> None:
    tuner = DynamicTuner(TunerConfig(base_precision=0.5, shadow=True), tau=0.6)
    step = tuner.step(*labelled(np.random.default_rng(5), 0.0))
    assert (step.proposed, step.after, tuner.tau) == (pytest.approx(0.55), 0.6, 0.6)
    assert "shadow mode, nothing changes" in step.reason


def test_tuner_never_rises_above_the_certified_threshold_nor_moves_on_few_labels() -> None:
    tuner = DynamicTuner(TunerConfig(base_precision=0.9, highest=0.3, max_step=1.0), tau=0.1)
    step = tuner.step(*labelled(np.random.default_rng(6), 0.0))
    assert tuner.tau == 0.3
    assert "held at the limit 0.300" in step.reason
    assert tuner.step([1] * 5, [0.9] * 5).after == 0.3
    assert "at least 30 are needed" in tuner.history[-1].reason
    unreachable = DynamicTuner(TunerConfig(base_precision=0.99, max_step=1.0), tau=0.5)
    assert unreachable.step([1, 0] * 100, [0.4] * 200).wanted == math.inf
    assert unreachable.tau == 1.0
    with pytest.raises(ConfigError, match="lowest <= highest"):
        TunerConfig(base_precision=0.5, lowest=0.5, highest=0.1)
