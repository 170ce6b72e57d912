"""The cascade over items: each stage scores, in one batch, what the stage before it escalated.

Enters: items, with the scores that they have. Leaves: a decision, a failure, or ``Deferred`` when a later stage has a
loop of its own. Where a stage runs (in this process, on Ray Serve) is the ``ItemStage``'s affair; the routing is always
here, so that every backend gives the same verdicts.

Events that bring doubt of their own (a user's report, a hash hit, an appeal) escalate whatever the scores say.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import msgspec

from tidegate.cascade import Escalate
from tidegate.errors import ServiceUnavailable
from tidegate.pipeline.boundary import Failure, attempt
from tidegate.pipeline.policy import Policy
from tidegate.pipeline.routing import RegionalCascades
from tidegate.platform.contracts import Dead, Decided, Deferred, Scored, ScoringItem
from tidegate.types import Observation, Score

__all__ = ["TRIGGERS", "CascadeScorer", "ItemStage", "StageScored"]

TRIGGERS = {"report": "a user reported it", "hash_hit": "a hash hit", "appeal": "its creator appealed"}


class StageScored(msgspec.Struct, frozen=True):
    """One stage's answer for one item."""

    score: Score
    observations: tuple[Observation, ...] = ()


class ItemStage(Protocol):
    """A stage that reads media itself."""

    @property
    def name(self) -> str: ...

    def score_items(self, items: Sequence[ScoringItem]) -> Sequence[StageScored | Dead]:
        """One answer for each item, in order."""
        ...

    def close(self) -> None: ...


class _Trail:
    """An item on its way through the stages."""

    def __init__(self, item: ScoringItem) -> None:
        self.item = item
        self.scores = list(item.scores)
        self.observations: list[Observation] = []
        self.result: Scored | None = None


class CascadeScorer:
    """``Scorer`` over stages."""

    def __init__(
        self, stages: Sequence[ItemStage], cascades: RegionalCascades, *, defer: bool = False, chunk: int = 32
    ) -> None:
        self._stages, self._cascades, self._defer, self._chunk = tuple(stages), cascades, defer, chunk

    @property
    def deferred_stages(self) -> tuple[str, ...]:
        """Stages that need a loop of their own."""
        return tuple(stage.name for stage in self._stages[1:]) if self._defer else ()

    def check_policy(self, policy: Policy) -> None:
        """Raises ``ConfigError`` if the policy wants a threshold that the stages do not have."""
        self._cascades.under(policy)

    def use_policy(self, policy: Policy) -> None:
        """Route by another policy from the next batch on."""
        self._cascades = self._cascades.under(policy)

    def score_many(self, items: Sequence[ScoringItem]) -> Sequence[Scored]:
        trails = [_Trail(item) for item in items]
        for start in range(0, len(trails), self._chunk):
            self._run(trails[start : start + self._chunk])
        return [Dead("unexpected_error", "no stage decided") if it.result is None else it.result for it in trails]

    def _run(self, trails: Sequence[_Trail]) -> None:
        for number, stage in enumerate(self._stages):
            here = [trail for trail in trails if trail.result is None and len(trail.scores) == number]
            if not here:
                continue
            answers = self._ask(stage, [trail.item for trail in here])
            for trail, answer in zip(here, answers, strict=True):
                self._take(trail, answer)

    def _ask(self, stage: ItemStage, items: Sequence[ScoringItem]) -> Sequence[StageScored | Dead]:
        answers = attempt(partial(stage.score_items, items))
        if not isinstance(answers, Failure):
            return answers
        if answers.code == ServiceUnavailable.code:
            raise ServiceUnavailable(answers.reason)
        if len(items) == 1:
            return [Dead(answers.code, answers.reason)]
        return [answer for item in items for answer in self._ask(stage, [item])]

    def _take(self, trail: _Trail, answer: StageScored | Dead) -> None:
        if isinstance(answer, Dead):
            trail.result = answer
            return
        event = trail.item.event
        trail.scores.append(answer.score)
        trail.observations += answer.observations
        step = self._cascades.of(event.region).step(trail.scores, event.context, trigger=TRIGGERS.get(event.kind))
        if not isinstance(step, Escalate):
            trail.result = Decided(step, tuple(trail.scores), tuple(trail.observations))
            return
        value = {
            "stage": answer.score.stage, "rule": step.route, "reason": step.reason, "threshold": step.threshold,
        }
        trail.observations.append(Observation(kind="route", value=value, producer="platform.scoring"))
        if self._defer:
            trail.result = Deferred(step.stage, tuple(trail.scores), step.reason, tuple(trail.observations))

    def close(self) -> None:
        for stage in self._stages:
            stage.close()
