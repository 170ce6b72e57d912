"""Budget controller, shadow price, deferral, and maps from score to probability."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import sklearn.isotonic
import sklearn.linear_model
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.cascade import (
    BudgetConfig,
    BudgetController,
    Cascade,
    LearnedDeferral,
    StageSpec,
    fit_deferral,
    fit_gain,
    plan_for_budget,
    plan_for_price,
)
from tidegate.cascade.calibration import CALIBRATORS, fit_isotonic, fit_platt, fit_temperature, fit_venn_abers
from tidegate.errors import ConfigError, UsageError
from tidegate.evaluation import calibration_error, debiased_calibration_error, log_score, roc_auc
from tidegate.types import Score, VideoContext

REFERENCE = np.random.default_rng(0).beta(0.3, 3.0, 5000)


def bursty(rng: np.random.Generator, seconds: int) -> list[np.ndarray]:
    return [rng.beta(0.3, 3.0, rng.poisson(100.0 if t % 60 < 10 else 20.0)) for t in range(seconds)]


@pytest.mark.parametrize("rate", [0.3, 4.0, 7.5, 15.0])
def test_no_second_sees_more_calls_than_the_budget_and_every_item_is_answered(rate: float) -> None:
    rng = np.random.default_rng(1)
    control = BudgetController(BudgetConfig(calls_per_second=rate, max_wait_seconds=20, start_share=0.2), REFERENCE)
    trace, answered, calls, first = bursty(rng, 300), [], [], 0
    for second, batch in enumerate([*trace, *[np.zeros(0)] * 40]):
        tick = control.tick(second + 1.0, range(first, first + len(batch)), batch)
        first += len(batch)
        calls.append(len(tick.escalate))
        answered += [*tick.escalate, *tick.final, *tick.suspended]
    assert max(calls) <= math.ceil(rate)
    assert sum(calls) <= rate * len(calls) + 1
    assert sum(calls) >= 0.85 * rate * 300
    assert sorted(answered) == list(range(first))


def test_short_ticks_hold_the_budget_of_every_second_too() -> None:
    rng = np.random.default_rng(2)
    control = BudgetController(BudgetConfig(calls_per_second=5, start_share=0.5), REFERENCE)
    calls = []
    for step in range(600):
        batch = rng.beta(0.3, 3.0, rng.poisson(4))
        calls.append(len(control.tick((step + 1) / 10, [f"{step}-{i}" for i in range(len(batch))], batch).escalate))
    windows = np.convolve(calls[10:], np.ones(10), mode="valid")
    assert windows.max() <= 5


def test_worth_is_near_the_offline_optimum_of_the_whole_trace() -> None:
    rng = np.random.default_rng(3)
    control = BudgetController(BudgetConfig(calls_per_second=8, start_share=0.25), REFERENCE)
    trace, worth, got = bursty(rng, 600), [], 0.0
    for second, batch in enumerate([*trace, *[np.zeros(0)] * 60]):
        worth += batch.tolist()
        tick = control.tick(second + 1.0, range(len(worth) - len(batch), len(worth)), batch)
        got += sum(worth[int(i)] for i in tick.escalate)
    assert got >= 0.95 * np.sort(worth)[::-1][: 8 * 600].sum()


def test_promised_items_go_first_and_are_declared_suspended_when_they_cannot_be_served() -> None:
    control = BudgetController(BudgetConfig(calls_per_second=2, certified_tau=0.5, max_wait_seconds=3), REFERENCE)
    tick = control.tick(1.0, ["low", *[f"p{i}" for i in range(12)]], [0.49, *[0.6] * 12])
    assert tick.escalate == ("p0", "p1")
    assert tick.promise_held
    later = [control.tick(float(t), [], []) for t in range(2, 6)]
    assert [len(t.escalate) for t in later] == [2, 2, 2, 2]
    assert later[-1].suspended == ("p10", "p11")
    assert not later[-1].promise_held


def test_promised_items_enter_whatever_the_price() -> None:
    control = BudgetController(BudgetConfig(calls_per_second=100, certified_tau=0.01, start_share=1e-4), REFERENCE)
    tick = control.tick(1.0, ["promised", "not"], [0.011, 0.009])
    assert tick.escalate == ("promised",)
    assert tick.final == ("not",)


def test_impossible_budgets_are_refused() -> None:
    for wrong in ({"calls_per_second": 0.0}, {"calls_per_second": 1.0, "overbooking": 0.5}):
        with pytest.raises(ConfigError, match="expected"):
            BudgetConfig(**wrong)
    control = BudgetController(BudgetConfig(calls_per_second=1), [0.5])
    control.tick(1.0, [], [])
    with pytest.raises(UsageError, match=r"expected later than 1\.0"):
        control.tick(1.0, [], [])
    with pytest.raises(UsageError, match="ids: expected 1"):
        control.tick(2.0, [], [0.5])


def three_stages(seed: int, n: int) -> tuple[list[np.ndarray], list[np.ndarray], list[float]]:
    rng = np.random.default_rng(seed)
    label = rng.random(n) < 0.3
    scores = [1 / (1 + np.exp(-rng.normal((2 * label - 1) * strength, 1.0))) for strength in (0.8, 1.5, 3.0)]
    return scores, [((s >= 0.5) == label).astype(float) for s in scores], [0.1, 1.0, 10.0]


def test_backward_induction_finds_the_best_table_of_two_stages_by_enumeration() -> None:
    scores, utilities, costs = three_stages(0, 400)
    price = 0.02
    plan = plan_for_price(scores[:2], utilities[:2], costs[:2], price=price, num_bins=5)
    codes = np.searchsorted(plan.rules[0].edges, scores[0], side="right")
    best = max(
        np.where(np.array(table)[codes], utilities[1] - price * costs[1], utilities[0]).mean()
        for table in itertools.product([False, True], repeat=5)
    )
    assert plan.mean_utility - price * (plan.mean_cost - costs[0]) == pytest.approx(best)


def test_plan_keeps_the_budget_and_more_budget_is_never_worse() -> None:
    scores, utilities, costs = three_stages(1, 5000)
    plans = [plan_for_budget(scores, utilities, costs, mean_cost=budget) for budget in (0.1, 0.3, 1.0, 3.0, 20.0)]
    assert all(plan.mean_cost <= budget + 1e-9 for plan, budget in zip(plans, (0.1, 0.3, 1, 3, 20), strict=True))
    assert [p.mean_utility for p in plans] == sorted(p.mean_utility for p in plans)
    assert plans[0].mean_utility == pytest.approx(utilities[0].mean())
    with pytest.raises(UsageError, match="at least the first stage"):
        plan_for_budget(scores, utilities, costs, mean_cost=0.01)


def test_plan_beats_random_escalation_at_the_same_cost() -> None:
    scores, utilities, _ = three_stages(2, 20_000)
    plan = plan_for_budget([scores[0], scores[2]], [utilities[0], utilities[2]], [0.1, 10.0], mean_cost=2.0)
    share = (plan.mean_cost - 0.1) / 10.0
    random = share * utilities[2].mean() + (1 - share) * utilities[0].mean()
    assert plan.mean_utility > random + 0.02


def test_plan_rules_route_a_cascade_as_planned() -> None:
    scores, utilities, costs = three_stages(3, 3000)
    plan = plan_for_budget(scores, utilities, costs, mean_cost=2.0)
    names = ("base", "middle", "large")
    cascade = Cascade(
        stages=tuple(
            StageSpec(name=name, flag_threshold=0.5, rule=rule, cost_seconds=cost)
            for name, rule, cost in zip(names, (*plan.rules, None), costs, strict=True)
        )
    )
    assert cascade.simulate(scores).cost_seconds == pytest.approx(plan.mean_cost)
    route = plan.rules[0](Score(value=0.5, stage="base", issue="icd", model="m"), VideoContext())
    assert route.escalate == bool(plan.rules[0].batch(np.array([0.5]))[0])
    assert "worth its cost" in route.reason


def test_deferral_model_is_ridge_logistic_regression() -> None:
    rng = np.random.default_rng(4)
    features = rng.normal(size=(500, 3))
    flags = (rng.random(500) < 1 / (1 + np.exp(-features @ [1.0, -2.0, 0.0]))).astype(float)
    ours = fit_deferral(features, flags, quadratic=False)
    standard = (features - features.mean(axis=0)) / features.std(axis=0)
    theirs = sklearn.linear_model.LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(standard, flags)
    assert ours.weights[1:] == pytest.approx(theirs.coef_[0], abs=1e-3)
    assert ours(features) == pytest.approx(theirs.predict_proba(standard)[:, 1], abs=1e-3)
    with pytest.raises(UsageError, match="expected 3 columns"):
        ours(features[:, :2])


def test_deferral_uses_features_that_the_base_score_ignores() -> None:
    rng = np.random.default_rng(5)
    label = rng.random(4000) < 0.2
    base, sound = 1 / (1 + np.exp(-rng.normal(label * 1.0, 1))), rng.normal(label * 2.0, 1)
    inputs = np.column_stack([base, sound])
    model = fit_deferral(inputs[:2000], label[:2000].astype(float))
    assert roc_auc(label[2000:], model(inputs[2000:])) > roc_auc(label[2000:], base[2000:]) + 0.1


def test_learned_deferral_rule_escalates_where_asking_gains() -> None:
    rng = np.random.default_rng(6)
    base = rng.random(20_000)
    gain = (rng.random(20_000) < np.minimum(base, 1 - base)).astype(float)  # the base errs most in the middle
    model = fit_gain(base, gain)
    rule = LearnedDeferral(gain=model, price=0.3)
    assert rule(Score(value=0.5, stage="base", issue="icd", model="m"), VideoContext()).escalate
    assert not rule(Score(value=0.02, stage="base", issue="icd", model="m"), VideoContext()).escalate
    seen = VideoContext(views=1000)
    assert rule(Score(value=0.02, stage="base", issue="icd", model="m"), seen).escalate
    with pytest.raises(UsageError, match="one gain a score"):
        fit_gain([0.1], [])


def miscalibrated(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.beta(1.0, 2.0, n)
    scores = 1 / (1 + np.exp(-(2.0 * np.log(truth / (1 - truth)) + 0.8)))
    return scores, (rng.random(n) < truth).astype(int)


@pytest.mark.parametrize("name", CALIBRATORS)
def test_calibration_improves_error_and_proper_score_on_new_data(name: str) -> None:
    fitted = CALIBRATORS[name](*miscalibrated(0, 3000))
    scores, labels = miscalibrated(1, 3000)
    before, after = np.clip(scores, 1e-6, 1 - 1e-6), np.clip(fitted(scores), 1e-6, 1 - 1e-6)
    assert calibration_error(labels, after) < calibration_error(labels, before)
    assert log_score(labels, after) < log_score(labels, before)
    if name != "temperature":  # one parameter cannot undo the offset
        assert debiased_calibration_error(labels, after) < 0.03


@pytest.mark.parametrize("name", CALIBRATORS)
def test_calibration_is_monotone_and_gives_probabilities(name: str) -> None:
    fitted = CALIBRATORS[name](*miscalibrated(2, 400))
    values = fitted(np.linspace(0, 1, 500))
    assert ((values >= 0) & (values <= 1)).all()
    assert (np.diff(values) >= -1e-12).all()


def test_temperature_and_platt_recover_what_was_done_to_the_logits() -> None:
    rng = np.random.default_rng(7)
    logits = rng.normal(0, 2, 50_000)
    labels = (rng.random(50_000) < 1 / (1 + np.exp(-logits))).astype(int)
    assert fit_temperature(1 / (1 + np.exp(-3 * logits)), labels).a == pytest.approx(1 / 3, rel=0.05)
    platt = fit_platt(1 / (1 + np.exp(-(2 * logits + 1))), labels)
    assert (platt.a, platt.c) == (pytest.approx(0.5, rel=0.05), pytest.approx(-0.5, abs=0.05))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 1)), min_size=2, max_size=40))
def test_isotonic_agrees_with_scikit_learn(items: list[tuple[int, int]]) -> None:
    scores, labels = np.array([s for s, _ in items]) / 10, np.array([y for _, y in items])
    if labels.min() == labels.max():
        with pytest.raises(UsageError, match="labels of both kinds"):
            fit_isotonic(scores, labels)
        return
    theirs = sklearn.isotonic.IsotonicRegression(out_of_bounds="clip").fit(scores, labels)
    grid = np.linspace(0, 1, 21)
    assert fit_isotonic(scores, labels)(grid) == pytest.approx(theirs.predict(grid), abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1)), min_size=3, max_size=25), st.integers(0, 12))
def test_venn_abers_is_isotonic_regression_with_the_new_item_added(items: list[tuple[int, int]], where: int) -> None:
    scores, labels = np.array([s for s, _ in items]) / 6, np.array([y for _, y in items])
    if labels.min() == labels.max():
        return
    new = where / 12
    low, high = fit_venn_abers(scores, labels).interval([new])
    for label, ours in ((0, low[0]), (1, high[0])):
        refit = sklearn.isotonic.IsotonicRegression().fit(np.append(scores, new), np.append(labels, label))
        assert ours == pytest.approx(float(refit.predict([new])[0]), abs=1e-9)
    assert low[0] <= high[0]


def test_venn_abers_of_many_scores_groups_them() -> None:
    scores, labels = miscalibrated(8, 4000)
    assert len(fit_venn_abers(scores, labels, max_knots=100).knots) <= 100
