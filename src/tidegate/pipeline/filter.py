"""Filter: what the policy of the video's region makes of a cascade's decision.

Enters: a ``Decision`` (score, deciding stage, its threshold) and the ``VideoContext``. Leaves: a ``Verdict``: the
status, one sentence that says why, and the decision completed with policy, version, region and clause.

- **removed**: a clause in effect with action ``remove`` is reached.
- **remained**: such a clause is in effect and is not reached.
- **ignored**: the policy takes no position: no clause about this issue, none in effect on this day, only clauses
  with action ``ignore``, or a score inside a band of abstention. The index is left untouched.

A failed item never comes here: failure is not a verdict.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Literal

from tidegate.pipeline.policy import Clause, Policy, ResolvedPolicy, Threshold
from tidegate.types import Decision, VideoContext

__all__ = ["Filter", "Verdict", "today"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the policy makes of one decision."""

    status: Literal["remained", "removed", "ignored"]
    reason: str
    decision: Decision


def today() -> date:
    """The day on which clauses are in effect or not (UTC)."""
    return datetime.now(UTC).date()


class Filter:
    """One policy, applied. Resolved regions are kept, so a call costs a few comparisons."""

    def __init__(self, policy: Policy, *, clock: Callable[[], date] = today) -> None:
        self.policy = policy
        self._clock = clock
        self._resolved: dict[str | None, ResolvedPolicy] = {}

    def resolve(self, region: str | None) -> ResolvedPolicy:
        """What holds in a region."""
        if region not in self._resolved:
            self._resolved[region] = self.policy.resolve(region)
        return self._resolved[region]

    def __call__(self, decision: Decision, context: VideoContext) -> Verdict:
        rules = self.resolve(context.region)
        about = rules.clauses_of(decision.issue)
        day = self._clock()
        live = tuple(clause for clause in about if clause.in_effect(day))
        if not live:
            reason = _no_clause(rules, decision, about, day)
            return Verdict(status="ignored", reason=reason, decision=_completed(decision, rules, None))
        return _judge(live, decision, rules)


def _judge(live: tuple[Clause, ...], decision: Decision, rules: ResolvedPolicy) -> Verdict:
    removing = [_Test(clause, decision) for clause in live if clause.action == "remove"]
    for test in removing:
        if test.reached:
            reason = f"{test.score} is at or over {test.threshold:.3f}: clause {test.clause.id} ({test.clause.title})."
            return Verdict(status="removed", reason=reason, decision=_completed(decision, rules, test))
    for test in removing:
        if test.abstains:
            band = f"{test.low:.3f} and {test.threshold:.3f}"
            reason = f"{test.score} lies between {band}: clause {test.clause.id} takes no position."
            return Verdict(status="ignored", reason=reason, decision=_completed(decision, rules, test))
    test = removing[0] if removing else _Test(live[0], decision)
    completed = _completed(decision, rules, test)
    if not removing:
        reason = f"Clause {test.clause.id} ({test.clause.title}) takes no position here: its action is to ignore."
        return Verdict(status="ignored", reason=reason, decision=completed)
    reason = f"{test.score} is under {test.threshold:.3f}: no clause is reached ({test.clause.id})."
    return Verdict(status="remained", reason=reason, decision=completed)


class _Test:
    """A clause held against a decision."""

    def __init__(self, clause: Clause, decision: Decision) -> None:
        own = _at_stage(clause.remove_at, decision.stage)
        self.clause = clause
        self.score = f"The {decision.stage} stage's score {decision.score:.3f}"
        self.threshold = decision.threshold if own is None else own
        self.reached = decision.flagged if own is None else decision.score >= own
        self.low = _at_stage(clause.ignore_from, decision.stage)
        self.abstains = not self.reached and self.low is not None and decision.score >= self.low


def _at_stage(threshold: Threshold, stage: str) -> float | None:
    return threshold.get(stage) if isinstance(threshold, Mapping) else threshold


def _no_clause(rules: ResolvedPolicy, decision: Decision, about: tuple[Clause, ...], day: date) -> str:
    where = rules.region or "an unknown region"
    if not about:
        return f"Policy {rules.policy} has no clause about {decision.issue!r} in {where}."
    names = ", ".join(clause.id for clause in about)
    return f"Policy {rules.policy} has no clause about {decision.issue!r} in effect in {where} on {day}: {names}."


def _completed(decision: Decision, rules: ResolvedPolicy, test: _Test | None) -> Decision:
    named = dataclasses.replace(decision, policy=rules.policy, policy_version=rules.version, region=rules.region)
    if test is None:
        return named
    return dataclasses.replace(named, threshold=test.threshold, flagged=test.reached, clause=test.clause.id)
