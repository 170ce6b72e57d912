"""The policies that decide now, and how they are changed while the platform runs.

Enters: a configuration, and the wish to read its policy files again (SIGHUP). Leaves: flows, scorers and audit trails
that follow, each between two of its batches: every decision rests on one policy, and the trail says on which. A policy
that cannot be used (a wrong key, a threshold that the models do not have) is refused, and the present one stays.
What else stands in the configuration file is read at start only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from threading import Event, Lock
from typing import Any

from tidegate.errors import ConfigError
from tidegate.platform.audit import AuditTrail
from tidegate.platform.config import PlatformConfig, read_config
from tidegate.platform.contracts import FollowsPolicy, Scorer
from tidegate.platform.flow import Arms, Flow
from tidegate.platform.measures import Measures
from tidegate.platform.telemetry import log
from tidegate.platform.verdicts import PolicyTable

__all__ = ["LivePolicies", "arms_of", "tables_of"]


def tables_of(config: PlatformConfig) -> dict[str, PolicyTable]:
    """The shadow policies, made ready."""
    return {name: PolicyTable(policy) for name, policy in config.shadows.items()}


def arms_of(config: PlatformConfig) -> Arms | None:
    """The running experiment; None: there is none."""
    chosen = config.experiment
    if chosen is None:
        return None
    from tidegate.platform.experiment import Assignment

    settings = chosen.settings
    assignment = Assignment(experiment=settings.name, shares=settings.shares, unit=settings.unit)
    tables = {"live": PolicyTable(config.policy), "candidate": PolicyTable(chosen.candidate)}
    return Arms(assign=assignment.arm, tables=tables, by_creator=settings.unit == "creator")


class LivePolicies:
    """Shared by all loops of one worker; ``ask`` may be called in a signal handler."""

    def __init__(self, config: PlatformConfig, measures: Measures, setup: Callable[..., Mapping[str, Any]]) -> None:
        """``setup(config, name)``: what the audit trail called ``name`` says of the policies."""
        self.config = config
        """With the policies of now."""
        self._measures, self._setup = measures, setup
        self._asked, self._lock, self._generation = Event(), Lock(), 0
        self._scorers: list[Scorer] = []

    def ask(self) -> None:
        """Read the policy files again before the next batch."""
        self._asked.set()

    def followed_by(self, flow: Flow, scorer: Scorer, trail: AuditTrail, name: str) -> Callable[[], None]:
        """What a loop calls between two batches."""
        seen = self._generation
        self._scorers.append(scorer)

        def follow() -> None:
            nonlocal seen
            if self._asked.is_set():
                self._refresh()
            if seen != self._generation:
                seen = self._generation
                if isinstance(scorer, FollowsPolicy):
                    scorer.use_policy(self.config.policy)
                flow.judge_by(PolicyTable(self.config.policy), tables_of(self.config), arms_of(self.config))
                trail.describe(self._setup(self.config, name))

        return follow

    def _refresh(self) -> None:
        with self._lock:
            if not self._asked.is_set():
                return  # another loop was quicker
            self._asked.clear()
            try:
                config = _with_policies_of(self.config, read_config(self.config.path))
                for scorer in self._scorers:
                    if isinstance(scorer, FollowsPolicy):
                        scorer.check_policy(config.policy)
            except ConfigError as error:
                self._measures.policy(None)
                log("policy_refused", level="error", error=str(error), policy=_name(self.config))
                return
            self.config, self._generation = config, self._generation + 1
            self._measures.policy(config.policy)
            log("policy_loaded", policy=_name(config), hash=config.policy.policy_hash, shadows=sorted(config.shadows))


def _with_policies_of(old: PlatformConfig, new: PlatformConfig) -> PlatformConfig:
    experiment = old.experiment
    if experiment is not None and new.experiment is not None:
        experiment = dataclasses.replace(experiment, candidate=new.experiment.candidate)
    return dataclasses.replace(old, policy=new.policy, shadows=new.shadows, experiment=experiment)


def _name(config: PlatformConfig) -> str:
    return f"{config.policy.name}@{config.policy.version}"
