"""The filter: removed, remained and ignored mean what they say, and the decision carries the clause."""

from __future__ import annotations

from datetime import date
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tidegate.pipeline.filter import Filter, Verdict
from tidegate.pipeline.policy import Clause, Policy, RegionOverride
from tidegate.types import Decision, VideoContext

DAY = date(2026, 3, 1)


def decision(score: float = 0.7, *, flagged: bool = True, stage: str = "large", threshold: float = 0.6) -> Decision:
    return Decision(
        issue="icd", score=score, flagged=flagged, threshold=threshold, stage=stage, escalated=stage == "large",
        route="last_stage", reason="because",
    )


def verdict(given_decision: Decision, *clauses: Clause, region: str | None = None, **settings: Any) -> Verdict:
    policy = Policy(name="p", version="1", clauses=clauses, **settings)
    return Filter(policy, clock=lambda: DAY)(given_decision, VideoContext(region=region))


def clause(**settings: Any) -> Clause:
    return Clause(**({"id": "c", "issue": "icd", "title": "Title"} | settings))


def test_without_a_threshold_of_its_own_a_clause_takes_the_stages() -> None:
    removed = verdict(decision(), clause())
    assert removed.status == "removed"
    assert (removed.decision.clause, removed.decision.policy, removed.decision.threshold) == ("c", "p", 0.6)
    assert "0.700" in removed.reason
    assert verdict(decision(0.5, flagged=False), clause()).status == "remained"


def test_own_threshold_overrides_and_is_what_the_decision_shows() -> None:
    strict = verdict(decision(0.5, flagged=False), clause(remove_at=0.4))
    assert (strict.status, strict.decision.flagged, strict.decision.threshold) == ("removed", True, 0.4)
    lax = verdict(decision(0.7), clause(remove_at=0.8))
    assert (lax.status, lax.decision.flagged, lax.decision.threshold) == ("remained", False, 0.8)


def test_threshold_by_stage_holds_for_that_stage_only() -> None:
    by_stage = clause(remove_at={"base": 0.95})
    assert verdict(decision(0.9, stage="base", threshold=0.3), by_stage).status == "remained"
    assert verdict(decision(0.9), by_stage).status == "removed"


def test_no_clause_about_the_issue_is_no_position() -> None:
    ignored = verdict(decision(), clause(issue="ucc"))
    assert ignored.status == "ignored"
    assert ignored.decision.clause is None
    assert "no clause about 'icd'" in ignored.reason


def test_clause_that_is_not_in_effect_is_no_position() -> None:
    for settings in ({"effective_from": date(2026, 3, 2)}, {"effective_until": date(2026, 2, 28)}):
        ignored = verdict(decision(), clause(**settings))
        assert ignored.status == "ignored"
        assert "in effect" in ignored.reason
    for settings in ({"effective_from": DAY}, {"effective_until": DAY}):
        assert verdict(decision(), clause(**settings)).status == "removed"


def test_band_of_abstention_is_no_position() -> None:
    band = clause(remove_at=0.6, ignore_from=0.4)
    statuses = [verdict(decision(score), band).status for score in (0.39, 0.4, 0.59, 0.6)]
    assert statuses == ["remained", "ignored", "ignored", "removed"]


def test_action_ignore_is_no_position_whatever_the_score() -> None:
    for score in (0.0, 1.0):
        assert verdict(decision(score), clause(action="ignore")).status == "ignored"


def test_a_removing_clause_speaks_before_an_ignoring_one() -> None:
    both = (clause(id="quiet", action="ignore"), clause(id="loud"))
    assert verdict(decision(), *both).decision.clause == "loud"
    assert verdict(decision(0.1, flagged=False), *both).status == "remained"


def test_region_decides_and_unknown_region_takes_the_default() -> None:
    regions = {"DE": RegionOverride(clauses={"c": {"action": "ignore"}})}
    assert verdict(decision(), clause(), region="DE", regions=regions).status == "ignored"
    assert verdict(decision(), clause(), region="FR", regions=regions).status == "removed"
    unknown = verdict(decision(), clause(), region=None, regions=regions)
    assert (unknown.status, unknown.decision.region) == ("removed", None)


scores = st.floats(0, 1)


@given(scores, scores, scores)
def test_a_higher_score_is_never_treated_more_mildly(low: float, high: float, threshold: float) -> None:
    order = {"remained": 0, "ignored": 1, "removed": 2}
    band = clause(remove_at=threshold, ignore_from=threshold / 2)
    first, second = (order[verdict(decision(score), band).status] for score in sorted((low, high)))
    assert first <= second
