"""Scores of the stages so far, and the video's context → escalate to the next stage, or the decision.

``Cascade.step`` is pure: the pipeline decodes and calls the stages, and asks ``step`` after each of them. Given
scores of all stages, ``step`` uses only as many as the cascade would have bought, so a replay over cached scores
and a live run come to the same decision. ``Cascade.run`` does both for clips that are in memory;
``Cascade.simulate`` for arrays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.cascade.routing import Route, Rule, route_batch
from tidegate.cascade.stages import Stage, score_batch
from tidegate.errors import ConfigError, UsageError
from tidegate.types import Clip, Decision, Guarantee, Score, VideoContext

__all__ = ["Cascade", "Escalate", "Simulated", "StageSpec"]


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """How the cascade uses one stage."""

    name: str
    flag_threshold: float
    """An item that is final here is flagged when its score reaches this (unless the rule judges itself)."""
    rule: Rule | None = None
    """When to ask the next stage; None for the last one."""
    cost_seconds: float = 0.0
    """Expected model time of one item, for budgets and simulations."""
    guarantee: Guarantee | None = None
    """The promise behind ``flag_threshold``, such as a certified precision."""

    def __post_init__(self) -> None:
        if math.isnan(self.flag_threshold):
            raise ConfigError(f"stage {self.name}: expected a flag threshold, got nan")
        if not (math.isfinite(self.cost_seconds) and self.cost_seconds >= 0):
            raise ConfigError(f"stage {self.name}: expected cost_seconds >= 0, got {self.cost_seconds}")


@dataclass(frozen=True, kw_only=True)
class Escalate:
    """The cascade wants another stage's score."""

    to: int
    """Index of the stage to ask."""
    stage: str
    route: str
    reason: str
    threshold: float
    guarantee: Guarantee | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Simulated:
    """What the cascade makes of arrays of scores."""

    stage: npt.NDArray[np.int64]
    """Index of the deciding stage of each item."""
    flagged: npt.NDArray[np.bool_]
    reached: tuple[float, ...]
    """Share of items that each stage sees."""
    cost_seconds: float
    """Mean model time per item."""


@dataclass(frozen=True, kw_only=True)
class Cascade:
    """Stages in the order in which they are asked, each with its rule."""

    stages: tuple[StageSpec, ...]

    def __post_init__(self) -> None:
        if not self.stages:
            raise ConfigError("cascade: expected at least one stage, got none")
        names = [spec.name for spec in self.stages]
        if len(set(names)) < len(names):
            raise ConfigError(f"cascade: expected distinct stage names, got {names}")
        for spec in self.stages[:-1]:
            if spec.rule is None:
                raise ConfigError(f"stage {spec.name}: expected a rule, since it is not the last stage")
        if self.stages[-1].rule is not None:
            raise ConfigError(f"stage {self.stages[-1].name}: expected no rule, since it is the last stage")

    def step(
        self, scores: Sequence[Score], context: VideoContext, *, trigger: str | None = None
    ) -> Escalate | Decision:
        """What next, given the scores so far. ``trigger`` (user report, hash hit) escalates whatever the rules say."""
        self._check(scores)
        trail: list[str] = []
        guarantee: Guarantee | None = None
        for index, score in enumerate(scores):
            spec = self.stages[index]
            if spec.rule is None:
                route = Route(
                    escalate=False, rule="last_stage", reason="", threshold=spec.flag_threshold, guarantee=guarantee
                )
                return self._decide(scores[: index + 1], route, trail, context)
            route = spec.rule(score, context)
            if trigger is not None and not route.escalate:
                reason = f"{route.reason}, but asked again: {trigger}"
                route = Route(escalate=True, rule="trigger", reason=reason, threshold=route.threshold)
            if not route.escalate:
                return self._decide(scores[: index + 1], route, trail, context)
            trail.append(f"{route.reason}: escalated")
            guarantee = route.guarantee or guarantee
        last = len(scores)
        return Escalate(
            to=last,
            stage=self.stages[last].name,
            route=route.rule,
            reason=trail[-1],
            threshold=route.threshold,
            guarantee=guarantee,
        )

    def _check(self, scores: Sequence[Score]) -> None:
        came, wanted = [score.stage for score in scores], [spec.name for spec in self.stages]
        if not came or came != wanted[: len(came)]:
            raise UsageError(f"expected scores of the first stages of {wanted}, got {came}")
        issues = {score.issue for score in scores}
        if len(issues) > 1:
            raise UsageError(f"expected scores of one issue, got {sorted(issues)}")

    def _decide(self, scores: Sequence[Score], route: Route, trail: Sequence[str], context: VideoContext) -> Decision:
        score, spec = scores[-1], self.stages[len(scores) - 1]
        threshold = spec.flag_threshold if route.final_threshold is None else route.final_threshold
        flagged = score.value >= threshold
        judged = f"{score.stage} {score.value:.3f} {'≥' if flagged else '<'} {threshold:.3f}"
        verdict = "flagged" if flagged else "not flagged"
        last = f"{judged}: {verdict}" if not route.reason else f"{route.reason}: final, {verdict}"
        return Decision(
            issue=score.issue,
            score=score.value,
            flagged=flagged,
            threshold=threshold,
            stage=score.stage,
            escalated=len(scores) > 1,
            route=route.rule,
            reason="; ".join([*trail, last]),
            guarantee=route.guarantee or spec.guarantee,
            region=context.region,
            cost_seconds=sum(item.cost_seconds for item in scores),
        )

    def run(
        self, stages: Mapping[str, Stage] | Sequence[Stage], clips: Sequence[Clip], *, trigger: str | None = None
    ) -> list[Decision]:
        """Decisions for clips in memory: each stage scores, in one batch, what the stage before it escalated."""
        by_name = dict(stages) if isinstance(stages, Mapping) else {stage.name: stage for stage in stages}
        missing = [spec.name for spec in self.stages if spec.name not in by_name]
        if missing:
            raise UsageError(f"expected a stage for each of {[s.name for s in self.stages]}, missing {missing}")
        scores: list[list[Score]] = [[] for _ in clips]
        decisions: dict[int, Decision] = {}
        waiting = list(range(len(clips)))
        for spec in self.stages:
            if not waiting:
                break
            for i, score in zip(waiting, score_batch(by_name[spec.name], [clips[i] for i in waiting]), strict=True):
                scores[i].append(score)
                step = self.step(scores[i], clips[i].context, trigger=trigger)
                if isinstance(step, Decision):
                    decisions[i] = step
            waiting = [i for i in waiting if i not in decisions]
        return [decisions[i] for i in range(len(clips))]

    def simulate(
        self, scores: Sequence[npt.NDArray[np.floating[Any]]], views: npt.NDArray[Any] | None = None
    ) -> Simulated:
        """The cascade over cached score arrays, one array a stage, vectorised."""
        if len(scores) != len(self.stages):
            raise UsageError(f"expected scores of {len(self.stages)} stages, got {len(scores)}")
        n = len(scores[0])
        stage, flagged = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=bool)
        active = np.arange(n)
        reached, cost = [], 0.0
        for index, (spec, values) in enumerate(zip(self.stages, scores, strict=True)):
            share = len(active) / n if n else 0.0
            reached.append(share)
            cost += share * spec.cost_seconds
            own = np.asarray(values)[active]
            on = _escalated(spec.rule, own, None if views is None else views[active])
            threshold = _final_threshold(spec)
            stage[active], flagged[active] = index, (own >= threshold) & ~on
            active = active[on]
        return Simulated(stage=stage, flagged=flagged, reached=tuple(reached), cost_seconds=cost)


def _escalated(
    rule: Rule | None, scores: npt.NDArray[np.floating[Any]], views: npt.NDArray[Any] | None
) -> npt.NDArray[np.bool_]:
    return np.zeros(len(scores), dtype=bool) if rule is None else route_batch(rule, scores, views)


def _final_threshold(spec: StageSpec) -> float:
    """Score threshold that judges items that are final at this stage; asked of the rule itself, on a neutral item."""
    if spec.rule is None:
        return spec.flag_threshold
    probe = Score(value=0.0, stage=spec.name, issue="", model="")
    own = spec.rule(probe, VideoContext()).final_threshold
    return spec.flag_threshold if own is None else own
