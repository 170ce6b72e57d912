"""A policy made ready for a stream: the same verdicts as ``pipeline.filter``, at a tenth of the cost.

Enters: a ``Decision`` of the cascade and the video's region. Leaves: a ``Verdict``. ``pipeline.filter.Filter`` is the
definition (and builds a completed ``Decision`` for each item); here everything that depends only on policy, region,
issue, stage and day is worked out once and kept, so an item costs a dictionary look-up and a comparison. A test holds
the two equal on random policies and decisions.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Literal

import msgspec

from tidegate.pipeline.filter import today
from tidegate.pipeline.policy import Clause, Policy, ResolvedPolicy, Threshold
from tidegate.types import Decision

__all__ = ["PolicyTable", "Verdict", "VerdictStatus"]

VerdictStatus = Literal["remained", "removed", "ignored"]


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """What the policy makes of one decision."""

    status: VerdictStatus
    reason: str
    threshold: float
    flagged: bool
    clause: str | None


class _Test(msgspec.Struct, frozen=True, gc=False):
    """A removing clause at one stage."""

    clause: str
    title: str
    own: float | None
    """The clause's threshold; None: the deciding stage's own verdict counts."""
    low: float | None
    """Lower end of the band of abstention."""


class _Rules(msgspec.Struct, frozen=True):
    """What holds for one region, issue and stage on one day."""

    tests: tuple[_Test, ...]
    silence: str | None
    """Why the policy takes no position, when it has no live clause."""
    passive: _Test | None
    """The first live clause, when none of them removes."""


class PolicyTable:
    """One policy, applied to a stream. Not for use from two threads at once: give each its own."""

    def __init__(self, policy: Policy, *, clock: Callable[[], date] = today) -> None:
        self.policy = policy
        self.policy_hash = policy.policy_hash
        self._clock = clock
        self._day = clock()
        self.day_text = self._day.isoformat()
        self._resolved: dict[str | None, ResolvedPolicy] = {}
        self._rules: dict[tuple[str | None, str, str], _Rules] = {}

    @property
    def day(self) -> date:
        """The day whose clauses are in effect; it moves with ``begin_batch`` only."""
        return self._day

    def begin_batch(self) -> None:
        """Look at the clock; all items of a batch are judged on one day."""
        day = self._clock()
        if day != self._day:
            self._day, self.day_text = day, day.isoformat()
            self._rules.clear()

    def judge(self, decision: Decision, region: str | None) -> Verdict:
        """The verdict on one decision."""
        key = (region, decision.issue, decision.stage)
        rules = self._rules.get(key)
        if rules is None:
            rules = self._rules[key] = self._compile(*key)
        score = decision.score
        if rules.silence is not None:
            return Verdict("ignored", rules.silence, decision.threshold, decision.flagged, None)
        for test in rules.tests:
            if decision.flagged if test.own is None else score >= test.own:
                return _removed(test, decision)
        for test in rules.tests:
            if test.low is not None and score >= test.low:
                return _abstained(test, decision)
        return _passed(rules, decision)

    def _compile(self, region: str | None, issue: str, stage: str) -> _Rules:
        resolved = self._resolved.get(region)
        if resolved is None:
            resolved = self._resolved[region] = self.policy.resolve(region)
        about = resolved.clauses_of(issue)
        live = tuple(clause for clause in about if clause.in_effect(self._day))
        if not live:
            return _Rules((), _silence(resolved, issue, about, self._day), None)
        tests = tuple(_test(clause, stage) for clause in live if clause.action == "remove")
        return _Rules(tests, None, None if tests else _test(live[0], stage))


def _test(clause: Clause, stage: str) -> _Test:
    return _Test(clause.id, clause.title, _at_stage(clause.remove_at, stage), _at_stage(clause.ignore_from, stage))


def _at_stage(threshold: Threshold, stage: str) -> float | None:
    return threshold if threshold is None or isinstance(threshold, int | float) else threshold.get(stage)


def _silence(rules: ResolvedPolicy, issue: str, about: tuple[Clause, ...], day: date) -> str:
    where = rules.region or "an unknown region"
    if not about:
        return f"Policy {rules.policy} has no clause about {issue!r} in {where}."
    names = ", ".join(clause.id for clause in about)
    return f"Policy {rules.policy} has no clause about {issue!r} in effect in {where} on {day}: {names}."


def _removed(test: _Test, decision: Decision) -> Verdict:
    threshold = decision.threshold if test.own is None else test.own
    reason = f"{_score(decision)} is at or over {threshold:.3f}: clause {test.clause} ({test.title})."
    return Verdict("removed", reason, threshold, True, test.clause)


def _abstained(test: _Test, decision: Decision) -> Verdict:
    threshold = decision.threshold if test.own is None else test.own
    between = f"lies between {test.low:.3f} and {threshold:.3f}"
    reason = f"{_score(decision)} {between}: clause {test.clause} takes no position."
    return Verdict("ignored", reason, threshold, False, test.clause)


def _passed(rules: _Rules, decision: Decision) -> Verdict:
    test = rules.passive
    if test is None:
        test = rules.tests[0]
        threshold = decision.threshold if test.own is None else test.own
        reason = f"{_score(decision)} is under {threshold:.3f}: no clause is reached ({test.clause})."
        return Verdict("remained", reason, threshold, False, test.clause)
    threshold = decision.threshold if test.own is None else test.own
    flagged = decision.flagged if test.own is None else decision.score >= test.own
    reason = f"Clause {test.clause} ({test.title}) takes no position here: its action is to ignore."
    return Verdict("ignored", reason, threshold, flagged, test.clause)


def _score(decision: Decision) -> str:
    return f"The {decision.stage} stage's score {decision.score:.3f}"
