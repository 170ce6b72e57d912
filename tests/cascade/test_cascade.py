"""The cascade: steps, decisions with reasons, runs over callables and cached scores, simulation over arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tidegate.cascade import (
    AnyOf,
    CachedStage,
    Cascade,
    CertifiedRule,
    EntropyRule,
    Escalate,
    FunctionStage,
    PrecisionRule,
    StageSpec,
    ViewRule,
)
from tidegate.errors import ConfigError, ScoringError, UsageError
from tidegate.types import Clip, Decision, Guarantee, Score, Span, VideoContext

PROMISE = Guarantee(target="recall ≥ 0.9", delta=0.05, bound=0.9, n_audit=10, n_positives=3, certificate_id="c-1")
TWO = Cascade(
    stages=(
        StageSpec(name="base", flag_threshold=0.5, rule=PrecisionRule(tau=0.2, view_limit=1000), cost_seconds=0.1),
        StageSpec(name="large", flag_threshold=0.7, cost_seconds=2.0),
    )
)


def score(value: float, stage: str = "base", cost: float = 0.0) -> Score:
    return Score(value=value, stage=stage, issue="icd", model="m", cost_seconds=cost)


def clip(video_id: str, views: int | None = None) -> Clip:
    return Clip(video_id=video_id, span=Span(0, 1), frames=None, audio=None, context=VideoContext(views=views))


def test_low_base_score_is_final_negative_with_the_threshold_that_judged_it() -> None:
    decision = TWO.step([score(0.1, cost=0.1)], VideoContext(region="JP"))
    assert isinstance(decision, Decision)
    assert (decision.flagged, decision.stage, decision.threshold, decision.route) == (False, "base", 0.2, "precision")
    assert (decision.escalated, decision.region, decision.cost_seconds) == (False, "JP", 0.1)
    assert decision.reason == "base 0.100 < 0.200 (precision threshold): final, not flagged"


def test_high_base_score_escalates_and_the_large_stage_decides() -> None:
    step = TWO.step([score(0.3)], VideoContext())
    assert isinstance(step, Escalate)
    assert (step.to, step.stage, step.route) == (1, "large", "precision")
    decision = TWO.step([score(0.3, cost=0.1), score(0.8, "large", cost=2)], VideoContext())
    assert isinstance(decision, Decision)
    assert (decision.flagged, decision.stage, decision.route, decision.escalated) == (True, "large", "last_stage", True)
    assert decision.cost_seconds == pytest.approx(2.1)
    assert decision.reason == "base 0.300 ≥ 0.200 (precision threshold): escalated; large 0.800 ≥ 0.700: flagged"


def test_scores_that_the_cascade_would_not_have_bought_are_not_used() -> None:
    decision = TWO.step([score(0.1), score(0.99, "large")], VideoContext())
    assert isinstance(decision, Decision)
    assert (decision.stage, decision.flagged) == ("base", False)


def test_entropy_routing_is_final_either_way() -> None:
    cascade = Cascade(
        stages=(
            StageSpec(name="base", flag_threshold=0.5, rule=EntropyRule(max_entropy=0.5)),
            StageSpec(name="large", flag_threshold=0.5),
        )
    )
    high, low = cascade.step([score(0.99)], VideoContext()), cascade.step([score(0.01)], VideoContext())
    assert isinstance(high, Decision)
    assert isinstance(low, Decision)
    assert (high.flagged, low.flagged, high.threshold) == (True, False, 0.5)
    assert isinstance(cascade.step([score(0.5)], VideoContext()), Escalate)


def test_a_trigger_reopens_a_final_item_and_the_new_verdict_says_so() -> None:
    step = TWO.step([score(0.1)], VideoContext(), trigger="user report")
    assert isinstance(step, Escalate)
    decision = TWO.step([score(0.1), score(0.9, "large")], VideoContext(), trigger="user report")
    assert isinstance(decision, Decision)
    assert decision.flagged
    assert "asked again: user report" in decision.reason


def test_the_guarantee_travels_from_the_threshold_to_the_decision_of_the_last_stage() -> None:
    cascade = Cascade(
        stages=(
            StageSpec(name="base", flag_threshold=0.5, rule=CertifiedRule(tau=0.2, guarantee=PROMISE)),
            StageSpec(name="large", flag_threshold=0.5),
        )
    )
    for scores in ([score(0.1)], [score(0.3), score(0.9, "large")]):
        decision = cascade.step(scores, VideoContext())
        assert isinstance(decision, Decision)
        assert decision.guarantee is PROMISE


def function(values: dict[str, float], seen: list[str]):
    def call(clips: Sequence[Clip]) -> list[float]:
        seen.extend(item.video_id for item in clips)
        return [values[item.video_id] for item in clips]

    return call


def test_run_asks_the_large_stage_only_for_what_was_escalated() -> None:
    base_seen: list[str] = []
    large_seen: list[str] = []
    base = FunctionStage(
        name="base", issue="icd", model="b", function=function({"a": 0.1, "b": 0.5, "c": 0.1}, base_seen)
    )
    large = FunctionStage(name="large", issue="icd", model="l", function=function({"b": 0.9, "c": 0.2}, large_seen))
    decisions = TWO.run([base, large], [clip("a"), clip("b"), clip("c", views=5000)])
    assert [d.stage for d in decisions] == ["base", "large", "large"]
    assert [d.flagged for d in decisions] == [False, True, False]
    assert (base_seen, large_seen) == (["a", "b", "c"], ["b", "c"])


def test_cached_scores_give_the_same_decisions_as_live_stages() -> None:
    base = CachedStage(name="base", issue="icd", scores={"a": score(0.1), "b": score(0.5)})
    large = CachedStage(name="large", issue="icd", scores={"b": score(0.9, "large")})
    decisions = TWO.run({"base": base, "large": large}, [clip("a"), clip("b")])
    assert [d.flagged for d in decisions] == [False, True]
    with pytest.raises(ScoringError, match="cached score for every clip"):
        TWO.run([base, CachedStage(name="large", issue="icd", scores={})], [clip("b")])
    assert TWO.run([base, large], []) == []


def test_stage_with_too_few_or_impossible_scores_is_an_error() -> None:
    def stage(function) -> FunctionStage:
        return FunctionStage(name="base", issue="icd", model="b", function=function)

    with pytest.raises(ScoringError, match="expected 1 scores, got 0"):
        stage(lambda clips: [])([clip("a")])
    with pytest.raises(ScoringError, match="got nan"):
        stage(lambda clips: [float("nan")])([clip("a")])
    mislabelled = CachedStage(name="base", issue="icd", scores={"a": score(0.1, "other")})
    with pytest.raises(ScoringError, match="own name"):
        TWO.run([mislabelled, CachedStage(name="large", issue="icd", scores={})], [clip("a")])


@pytest.mark.parametrize(
    "rule",
    [
        PrecisionRule(tau=0.3),
        EntropyRule(max_entropy=0.6),
        AnyOf((ViewRule(view_limit=50), PrecisionRule(tau=0.6))),
        AnyOf((EntropyRule(max_entropy=0.9), ViewRule(view_limit=80))),
    ],
)
def test_simulation_over_arrays_agrees_with_step(rule) -> None:
    cascade = Cascade(
        stages=(
            StageSpec(name="base", flag_threshold=0.55, rule=rule, cost_seconds=1),
            StageSpec(name="middle", flag_threshold=0.5, rule=PrecisionRule(tau=0.5), cost_seconds=3),
            StageSpec(name="large", flag_threshold=0.6, cost_seconds=10),
        )
    )
    rng = np.random.default_rng(0)
    values, views = rng.random((3, 200)), rng.integers(0, 100, 200)
    simulated = cascade.simulate(list(values), views)
    names = ["base", "middle", "large"]
    for i in range(200):
        scores = [score(float(values[k, i]), names[k]) for k in range(3)]
        decision = cascade.step(scores, VideoContext(views=int(views[i])))
        assert isinstance(decision, Decision)
        assert (names[simulated.stage[i]], bool(simulated.flagged[i])) == (decision.stage, decision.flagged)
    assert simulated.reached[0] == 1.0
    assert simulated.cost_seconds == pytest.approx(1 + 3 * simulated.reached[1] + 10 * simulated.reached[2])


def test_impossible_cascades_are_refused() -> None:
    last = StageSpec(name="large", flag_threshold=0.5)
    with pytest.raises(ConfigError, match="at least one stage"):
        Cascade(stages=())
    with pytest.raises(ConfigError, match="distinct"):
        Cascade(stages=(StageSpec(name="large", flag_threshold=0.5, rule=PrecisionRule(tau=0)), last))
    with pytest.raises(ConfigError, match="expected a rule"):
        Cascade(stages=(StageSpec(name="base", flag_threshold=0.5), last))
    with pytest.raises(ConfigError, match="expected no rule"):
        Cascade(stages=(StageSpec(name="base", flag_threshold=0.5, rule=PrecisionRule(tau=0)),))


def test_steps_refuse_scores_of_other_stages() -> None:
    with pytest.raises(UsageError, match="first stages"):
        TWO.step([], VideoContext())
    with pytest.raises(UsageError, match="first stages"):
        TWO.step([score(0.5, "large")], VideoContext())
    with pytest.raises(UsageError, match="one issue"):
        TWO.step([score(0.5), Score(value=0.1, stage="large", issue="ucc", model="m")], VideoContext())
    with pytest.raises(UsageError, match="missing"):
        TWO.run([], [clip("a")])
