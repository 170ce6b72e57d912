"""A policy's ``[cascade]`` and the stages' calibrated thresholds → the ``Cascade`` of a region.

Enters: stages with what was measured about them, and a policy. Leaves: ``RegionalCascades.step``, which answers for
the region of the video. Everything is built before the run, so that a threshold that does not exist is a
``ConfigError`` before the first video and not after the thousandth.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tidegate.cascade import (
    AnyOf,
    Cascade,
    CertifiedRule,
    EntropyRule,
    Escalate,
    PrecisionRule,
    Rule,
    Stage,
    StageSpec,
    ViewRule,
)
from tidegate.errors import CheckpointError, ConfigError
from tidegate.pipeline.policy import Policy, ResolvedPolicy, Routing
from tidegate.pipeline.policy_certificate import CertifiedThreshold
from tidegate.types import Decision, Score, VideoContext

__all__ = ["CalibratedStage", "RegionalCascades", "calibrated"]


@dataclass(frozen=True, kw_only=True)
class CalibratedStage:
    """A stage, and the thresholds that belong to it."""

    stage: Stage
    flag_threshold: float = 0.5
    """Score at or over which a video that is decided here is flagged; chosen on validation."""
    tau: float | None = None
    """Score at or over which a video is escalated, given outright (a foreign stage that has no table)."""
    taus: Mapping[float, float] = field(default_factory=dict)
    """tau by P_base (per cent), from validation."""
    max_entropy: float | None = None
    """Entropy (bits) over which a video is escalated, from validation."""

    @property
    def identity(self) -> str:
        """Name and content of the model, as far as the stage tells."""
        for name in ("identity", "model"):
            value = getattr(self.stage, name, None)
            if isinstance(value, str):
                return value
        return f"{type(self.stage).__module__}.{type(self.stage).__qualname__}"


def calibrated(stage: Stage, thresholds: Mapping[str, Any] | None) -> CalibratedStage:
    """A stage with the content of its checkpoint's ``thresholds.json``; without one: 0.5, and no tau."""
    if thresholds is None:
        return CalibratedStage(stage=stage)
    try:
        taus = {float(p_base): float(tau) for p_base, tau in thresholds.get("escalate", {}).items() if tau is not None}
        entropy = thresholds.get("entropy")
        return CalibratedStage(
            stage=stage,
            flag_threshold=float(thresholds["flag_threshold"]),
            taus=taus,
            max_entropy=None if entropy is None else float(entropy),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"thresholds.json of stage {stage.name}: expected flag_threshold and escalate, got {thresholds!r}"
        ) from error


class RegionalCascades:
    """One ``Cascade`` for each way in which a policy routes."""

    def __init__(self, stages: Sequence[CalibratedStage], policy: Policy) -> None:
        self._policy, self._stages = policy, tuple(stages)
        self._default = _cascade(stages, policy.resolve(None), policy.policy_hash)
        regions = {region for region in policy.regions if region != "default" and region not in policy.groups}
        regions |= {member for members in policy.groups.values() for member in members}
        self._by_region = {
            region: _cascade(stages, policy.resolve(region), policy.policy_hash) for region in sorted(regions)
        }

    def under(self, policy: Policy) -> RegionalCascades:
        """The same stages under another policy."""
        return RegionalCascades(self._stages, policy)

    def of(self, region: str | None) -> Cascade:
        """The cascade of a region."""
        return self._default if region is None else self._by_region.get(region, self._default)

    def step(self, scores: Sequence[Score], context: VideoContext) -> Escalate | Decision:
        """What next, given the scores so far."""
        return self.of(context.region).step(scores, context)


def _cascade(stages: Sequence[CalibratedStage], resolved: ResolvedPolicy, policy_hash: str) -> Cascade:
    routing = resolved.routing
    if routing.certificate is not None:
        return _certified(stages, resolved, routing.certificate, policy_hash)
    used = stages[:1] if routing.rule == "never" else stages
    specs = [
        StageSpec(name=entry.stage.name, flag_threshold=entry.flag_threshold, rule=_rule(entry, routing))
        for entry in used[:-1]
    ]
    last = StageSpec(name=used[-1].stage.name, flag_threshold=used[-1].flag_threshold)
    return Cascade(stages=(*specs, last))


def _certified(
    stages: Sequence[CalibratedStage], resolved: ResolvedPolicy, certificate: CertifiedThreshold, policy_hash: str
) -> Cascade:
    """Two stages under a promise: both thresholds are the certificate's, and no clause may set another one."""
    where = f"cascade.certificate in {resolved.region or 'an unknown region'}"
    if len(stages) != 2:
        raise ConfigError(f"{where}: expected two stages, which a certificate is about, got {len(stages)}")
    base, last = stages[0].stage, stages[1].stage
    for clause in resolved.clauses_of(last.issue):
        given = clause.remove_at
        own = given.get(last.name) if isinstance(given, Mapping) else given
        if clause.action == "remove" and own is not None and own != certificate.lam:
            raise ConfigError(
                f"{where}: expected clause {clause.id} without remove_at for stage {last.name}, or lam = "
                f"{certificate.lam:g}, which the promise is about, got {own:g}"
            )
    guarantee = dataclasses.replace(certificate.guarantee, policy_hash=policy_hash)
    rule = CertifiedRule(tau=certificate.tau, guarantee=guarantee, view_limit=resolved.routing.view_limit)
    return Cascade(stages=(
        StageSpec(name=base.name, flag_threshold=stages[0].flag_threshold, rule=rule),
        StageSpec(name=last.name, flag_threshold=certificate.lam),
    ))


def _rule(entry: CalibratedStage, routing: Routing) -> Rule:
    if routing.rule == "always":
        return PrecisionRule(tau=-math.inf)
    if routing.rule == "precision":
        return _precision_rule(entry, routing)
    max_entropy = entry.max_entropy if routing.max_entropy is None else routing.max_entropy
    if max_entropy is None:
        raise ConfigError(f"cascade.max_entropy: expected a limit for stage {entry.stage.name}, which brings none")
    entropy = EntropyRule(max_entropy=max_entropy)
    if routing.view_limit is None:
        return entropy
    return AnyOf((entropy, ViewRule(view_limit=routing.view_limit)))


def _precision_rule(entry: CalibratedStage, routing: Routing) -> PrecisionRule:
    given = entry.tau if routing.tau is None else routing.tau
    if given is not None:
        return PrecisionRule(tau=given, view_limit=routing.view_limit)
    known = ", ".join(f"{p_base:g}" for p_base in sorted(entry.taus)) or "none"
    if routing.p_base is None:
        raise ConfigError(
            f"cascade: expected p_base (calibrated for stage {entry.stage.name}: {known}) or tau, got neither"
        )
    if routing.p_base not in entry.taus:
        expected = f"a value calibrated for stage {entry.stage.name} ({known})"
        raise ConfigError(f"cascade.p_base: expected {expected}, got {routing.p_base:g}")
    return PrecisionRule(
        tau=entry.taus[routing.p_base], view_limit=routing.view_limit, base_precision=routing.p_base / 100
    )
