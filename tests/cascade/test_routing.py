"""Rules: what escalates, why, and that the vectorised form agrees with the scalar one item by item."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.cascade import (
    AnyOf,
    BudgetRule,
    CertifiedRule,
    EntropyRule,
    LearnedDeferral,
    PrecisionRule,
    RegionRule,
    Rule,
    ViewRule,
    binary_entropy,
    route_batch,
    thresholds_from_validation,
)
from tidegate.errors import ConfigError
from tidegate.types import Guarantee, Score, VideoContext

PROMISE = Guarantee(target="recall ≥ 0.9", delta=0.05, bound=0.9, n_audit=10, n_positives=3, certificate_id="c-1")


def score(value: float) -> Score:
    return Score(value=value, stage="base", issue="icd", model="m")


def gain(scores: np.ndarray, views: np.ndarray | None) -> np.ndarray:
    return 0.5 - np.abs(scores - 0.5)


RULES: list[Rule] = [
    PrecisionRule(tau=0.4),
    PrecisionRule(tau=0.4, view_limit=1000),
    PrecisionRule(tau=-math.inf),
    PrecisionRule(tau=math.inf),
    CertifiedRule(tau=0.25, guarantee=PROMISE, view_limit=10),
    EntropyRule(max_entropy=0.5),
    EntropyRule(max_entropy=0.0),
    EntropyRule(max_entropy=1.0),
    ViewRule(view_limit=500),
    BudgetRule(tau=0.7, share=0.1),
    LearnedDeferral(gain=gain, price=0.2),
    AnyOf((EntropyRule(max_entropy=0.9), ViewRule(view_limit=500), PrecisionRule(tau=0.95))),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@settings(max_examples=60, deadline=None)
@given(items=st.lists(st.tuples(st.floats(0, 1), st.none() | st.integers(0, 2000)), min_size=1, max_size=20))
def test_batches_route_as_single_items_do(rule: Rule, items: list[tuple[float, int | None]]) -> None:
    scores = np.array([value for value, _ in items])
    views = np.array([-1 if seen is None else seen for _, seen in items])
    expected = [rule(score(value), VideoContext(views=seen)).escalate for value, seen in items]
    assert route_batch(rule, scores, views).tolist() == expected


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_every_route_has_a_reason_a_rule_and_a_threshold(rule: Rule) -> None:
    for value in (0.0, 0.3, 0.5, 1.0):
        route = rule(score(value), VideoContext(views=700))
        assert route.reason
        assert route.rule
        assert not math.isnan(route.threshold)


def test_precision_rule_is_final_negative_below_tau_and_escalates_at_tau_exactly() -> None:
    rule = PrecisionRule(tau=0.4, base_precision=0.1)
    assert rule(score(0.4), VideoContext()).escalate
    below = rule(score(0.399), VideoContext())
    assert (below.escalate, below.final_threshold) == (False, 0.4)
    assert below.reason == "base 0.399 < 0.400 (precision threshold for base precision 10%)"


def test_views_escalate_what_the_score_would_not() -> None:
    route = PrecisionRule(tau=0.4, view_limit=1000)(score(0.1), VideoContext(views=1000))
    assert (route.escalate, route.rule) == (True, "views")
    assert "1000 views" in route.reason
    assert not PrecisionRule(tau=0.4, view_limit=1000)(score(0.1), VideoContext(views=None)).escalate


def test_certified_rule_names_its_certificate() -> None:
    route = CertifiedRule(tau=0.2, guarantee=PROMISE)(score(0.1), VideoContext())
    assert route.guarantee is PROMISE
    assert "c-1" in route.reason
    everything = CertifiedRule(tau=-math.inf, guarantee=PROMISE)(score(0.0), VideoContext())
    assert everything.escalate
    assert "everything is escalated" in everything.reason


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 1), st.floats(0.01, 0.99))
def test_entropy_rule_is_entropy_above_the_limit(value: float, limit: float) -> None:
    entropy = float(binary_entropy(value))
    if abs(entropy - limit) > 1e-9:
        assert EntropyRule(max_entropy=limit)(score(value), VideoContext()).escalate == (entropy > limit)


def test_entropy_is_one_bit_at_one_half_and_zero_when_certain() -> None:
    assert binary_entropy([0.0, 0.5, 1.0]).tolist() == [0.0, 1.0, 0.0]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 10), min_size=1, max_size=50), st.floats(0, 1))
def test_budget_threshold_is_the_lowest_that_the_share_pays_for(values: list[int], share: float) -> None:
    scores = np.array(values) / 10
    rule = BudgetRule.from_scores(scores, share)
    assert rule.batch(scores).mean() <= share + 1e-9
    lower = scores[scores < rule.tau]
    if len(lower):
        assert (scores >= lower.max()).sum() > math.floor(share * len(scores) + 1e-9)


def test_budget_that_overrules_a_certificate_says_that_the_promise_is_suspended() -> None:
    rule = BudgetRule(tau=0.5, share=0.01, certified=CertifiedRule(tau=0.2, guarantee=PROMISE))
    denied = rule(score(0.3), VideoContext())
    assert (denied.escalate, denied.rule, denied.guarantee) == (False, "promise_suspended", None)
    assert "c-1 is suspended" in denied.reason
    kept = BudgetRule(tau=0.1, share=0.5, certified=CertifiedRule(tau=0.2, guarantee=PROMISE))
    assert kept(score(0.3), VideoContext()).guarantee is PROMISE
    assert not kept.suspends


def test_region_rule_falls_back_to_the_default() -> None:
    rule = RegionRule(rules={"JP": PrecisionRule(tau=0.9)}, default=PrecisionRule(tau=0.1))
    assert not rule(score(0.5), VideoContext(region="JP")).escalate
    assert rule(score(0.5), VideoContext(region="FR")).escalate
    assert rule(score(0.5), VideoContext()).escalate


def test_thresholds_from_validation_are_the_lowest_scores_that_reach_each_precision() -> None:
    labels, scores = [0, 0, 1, 0, 1, 1], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    taus = thresholds_from_validation(labels, scores, (0.5, 0.75, 0.99))
    assert taus == {0.5: 0.1, 0.75: 0.3, 0.99: 0.5}
    assert thresholds_from_validation([0, 0], [0.1, 0.2], (0.5,)) == {0.5: math.inf}


@pytest.mark.parametrize("bad", [[math.nan], [1.5], [-0.1]])
def test_routing_refuses_scores_that_are_no_probabilities(bad: list[float]) -> None:
    with pytest.raises(ConfigError, match="finite values in"):
        route_batch(PrecisionRule(tau=0.5), np.array(bad))


def test_rules_refuse_settings_that_mean_nothing() -> None:
    for build in (
        lambda: PrecisionRule(tau=math.nan),
        lambda: EntropyRule(max_entropy=2.0),
        lambda: BudgetRule(tau=0.1, share=1.5),
        lambda: AnyOf(()),
    ):
        with pytest.raises(ConfigError, match="expected"):
            build()
    with pytest.raises(ConfigError, match="expected 1 values"):
        route_batch(PrecisionRule(tau=0.5), np.array([0.1]), np.array([1, 2]))
