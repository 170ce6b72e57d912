"""Audits that stop early, and plans: against simulation, and the figures of the design note."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from tidegate.cascade import SequentialAudit, audit_plan
from tidegate.cascade.bounds import wilks_index
from tidegate.cascade.plan import labels_for_precision, positives_for_power
from tidegate.cascade.sequential import log_wealth_above, log_wealth_below, sequential_index
from tidegate.errors import UsageError


@pytest.mark.parametrize(("hits", "n"), [(0, 0), (0, 30), (2, 40), (10, 40)])
def test_wealth_is_the_mixture_of_likelihood_ratios(hits: int, n: int) -> None:
    rate = 0.2

    def weighed(q: float, inside: bool) -> float:
        density = 1 / (math.pi * math.sqrt(q * (1 - q)))
        return density * ((q / rate) ** hits * ((1 - q) / (1 - rate)) ** (n - hits) if inside else 1.0)

    for low, high, wealth in ((0.0, rate, log_wealth_below), (rate, 1.0, log_wealth_above)):
        top = integrate.quad(weighed, low, high, args=(True,), limit=200)[0]
        bottom = integrate.quad(weighed, low, high, args=(False,), limit=200)[0]
        assert float(wealth(hits, n, rate)) == pytest.approx(math.log(top / bottom), abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.floats(0.05, 0.5))
def test_wealth_is_a_fair_game_on_the_boundary_by_enumeration(n: int, rate: float) -> None:
    for wealth in (log_wealth_below, log_wealth_above):
        expected = sum(
            math.comb(n, k) * rate**k * (1 - rate) ** (n - k) * math.exp(float(wealth(k, n, rate)))
            for k in range(n + 1)
        )
        assert expected == pytest.approx(1.0, abs=1e-6)


def test_sequential_index_is_behind_the_fixed_sample_one_and_catches_up() -> None:
    for m in (30, 100, 400, 2000):
        assert -1 <= sequential_index(m, 0.9, 0.05) <= int(wilks_index(m, 0.9, 0.05))
    assert sequential_index(2000, 0.9, 0.05) > 0.85 * int(wilks_index(2000, 0.9, 0.05))


def test_looking_after_every_audit_breaks_no_promise() -> None:
    rng = np.random.default_rng(0)
    failures, trials = 0, 200
    for _ in range(trials):
        audit = SequentialAudit(target_recall=0.9, delta=0.1)
        highest = -math.inf
        for base in rng.random(150):  # all positive, uniform scores: the true threshold is 0.1
            highest = max(highest, audit.update(float(base), 1.0).tau)
        failures += highest > 0.1
    assert failures / trials <= 0.1 + 2 * math.sqrt(0.09 / trials)


@pytest.mark.parametrize(("miss_rate", "verdict"), [(0.01, "certified"), (0.4, "refuted")])
def test_a_clear_answer_stops_the_audit_early(miss_rate: float, verdict: str) -> None:
    rng = np.random.default_rng(1)
    needed = []
    for _ in range(30):
        audit = SequentialAudit(target_recall=0.9, delta=0.05, tau=0.5)
        for _ in range(400):
            state = audit.update(0.1 if rng.random() < miss_rate else 0.9, 1.0)
            if state.verdict != "undecided":
                break
        assert state.verdict == verdict
        assert state.tau == (0.5 if verdict == "certified" else -math.inf)
        needed.append(state.n_positives)
    assert np.median(needed) < 90


def test_verdicts_on_a_threshold_that_just_misses_are_rarely_certified() -> None:
    rng = np.random.default_rng(2)
    wrong, trials = 0, 150
    for _ in range(trials):
        audit = SequentialAudit(target_recall=0.9, delta=0.1, tau=0.5)
        states = [audit.update(0.1 if rng.random() < 0.1 else 0.9, 1.0) for _ in range(150)]
        wrong += any(state.verdict == "certified" for state in states)
    assert wrong / trials <= 0.1 + 2 * math.sqrt(0.09 / trials)


def test_sequential_joint_promise_needs_both() -> None:
    audit = SequentialAudit(target_recall=0.9, delta=0.05, tau=0.5, precision=0.8)
    for _ in range(60):
        state = audit.update(0.9, 1.0, 1)
    assert state.verdict == "certified"
    imprecise = SequentialAudit(target_recall=0.9, delta=0.05, tau=0.5, precision=0.8)
    for i in range(100):
        state = imprecise.update(0.9, 1.0, i % 2)
    assert state.verdict == "refuted"
    with pytest.raises(UsageError, match="label: expected 0 or 1"):
        audit.update(0.9, 1.0)
    with pytest.raises(UsageError, match="expected a given tau"):
        SequentialAudit(target_recall=0.9, delta=0.05, precision=0.8)
    with pytest.raises(UsageError, match="scores in"):
        audit.update(math.nan, 1.0, 1)


def test_positives_for_power_of_the_design_note() -> None:
    wanted = [(0.9, 0.97), (0.95, 0.99), (0.98, 0.995)]
    found = [positives_for_power(target_recall=g, expected_recall=r, delta=0.05) for g, r in wanted]
    assert found == [76, 124, 386]


def test_power_is_reached_in_simulation() -> None:
    m = positives_for_power(target_recall=0.9, expected_recall=0.97, delta=0.05, power=0.8)
    below = np.random.default_rng(3).binomial(m, 0.03, 20_000)
    assert (below <= int(wilks_index(m, 0.9, 0.05))).mean() == pytest.approx(0.8, abs=0.02)


def test_audit_plan_counts_audits_positives_and_labels() -> None:
    plan = audit_plan(prevalence=0.01, eps=0.05, precision=0.9)
    assert (plan.min_positives, plan.min_audits, plan.lower_limit_audits) == (59, 5900, 5992)
    assert plan.audits > plan.positives / 0.01
    assert plan.large_model_calls == plan.audits
    assert plan.labels == labels_for_precision(precision=0.9, expected_precision=2.8 / 3, delta=0.05)
    came = np.random.default_rng(4).binomial(plan.audits, 0.01, 20_000)
    assert (came >= plan.positives).mean() == pytest.approx(0.8, abs=0.02)


@given(st.floats(0.001, 0.5), st.floats(0.02, 0.3), st.floats(1.0, 3.0))
@settings(max_examples=25, deadline=None)
def test_stricter_promises_and_rarer_positives_need_more(prevalence: float, eps: float, factor: float) -> None:
    first = audit_plan(prevalence=prevalence, eps=eps)
    assert audit_plan(prevalence=prevalence, eps=eps / factor).min_audits >= first.min_audits
    assert audit_plan(prevalence=prevalence / factor, eps=eps).audits >= first.audits
    assert audit_plan(prevalence=prevalence, eps=eps, delta=0.05 / factor).min_positives >= first.min_positives


def test_impossible_plans_are_refused() -> None:
    with pytest.raises(UsageError, match="prevalence"):
        audit_plan(prevalence=0.0, eps=0.05)
    with pytest.raises(UsageError, match="expected more than the target"):
        audit_plan(prevalence=0.1, eps=0.05, expected_recall=0.9)
    with pytest.raises(UsageError, match="expected more than the target"):
        labels_for_precision(precision=0.9, expected_precision=0.8, delta=0.05)
