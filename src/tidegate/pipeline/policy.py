"""A policy: which clause decides about which issue, at which threshold, in which region, since when.

Enters: a TOML file. Leaves: a frozen ``Policy``; ``resolve(region)`` gives what holds there, and where each setting
came from.

Regions inherit: the file's own clauses → ``[region.default]`` → the region's group (such as EU) → the country. A
file is written by people, so it is checked to the last key: an unknown key, a wrong type or an ambiguous group is a
``ConfigError`` that names the file and the key. The format is described in docs/policy.md.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal, get_args

from tidegate.pipeline.policy_certificate import CertifiedThreshold

__all__ = [
    "Action",
    "Clause",
    "Policy",
    "RegionOverride",
    "ResolvedPolicy",
    "Routing",
    "RuleName",
    "Threshold",
]

Action = Literal["remove", "ignore"]
RuleName = Literal["precision", "entropy", "always", "never"]
Threshold = float | Mapping[str, float] | None
"""A score for every stage, a score by stage name, or None: the deciding stage's own calibrated threshold."""


@dataclass(frozen=True, kw_only=True)
class Clause:
    """One rule of a policy about one issue."""

    id: str
    """Unique in the policy; quoted in every decision that rests on it."""
    issue: str
    """The stages' issue that this clause judges, e.g. ``icd``."""
    title: str
    """A few words for tables and reports."""
    text: str = ""
    """The rule in full, as people are told."""
    action: Action = "remove"
    """``remove``: a video at or over the threshold is removed. ``ignore``: the clause takes no position."""
    remove_at: Threshold = None
    """Score at which the video is removed, in [0, 1]; absent: the threshold of the stage that decided."""
    ignore_from: Threshold = None
    """Lower end of the band below ``remove_at`` in which the policy takes no position; absent: no band."""
    effective_from: date | None = None
    """First day on which the clause holds; absent: always did."""
    effective_until: date | None = None
    """Last day on which the clause holds; absent: no end."""

    def in_effect(self, day: date) -> bool:
        """Whether the clause holds on that day."""
        begun = self.effective_from is None or self.effective_from <= day
        return begun and (self.effective_until is None or day <= self.effective_until)


@dataclass(frozen=True, kw_only=True)
class Routing:
    """When the next stage is asked; what is absent is left to the preset."""

    rule: RuleName = "precision"
    """``precision``: score at or over tau. ``entropy``: the base is unsure. ``always``, ``never``: for comparison."""
    p_base: float | None = None
    """Precision (per cent) of the base stage at which its tau was chosen; one of the preset's calibrated values."""
    tau: float | None = None
    """The base score at which a video is escalated, given outright instead of ``p_base``."""
    certificate: CertifiedThreshold | None = None
    """The certified threshold instead of ``p_base`` or ``tau``; decisions carry its promise."""
    max_entropy: float | None = None
    """For ``entropy``: predictive entropy (bits, in [0, 1]) over which the video is escalated; absent: the preset's."""
    view_limit: int | None = None
    """A video with at least this many views is escalated whatever its score."""


CLAUSE_SETTINGS = frozenset(
    {"title", "text", "action", "remove_at", "ignore_from", "effective_from", "effective_until"}
)
ROUTING_SETTINGS = frozenset(setting.name for setting in dataclasses.fields(Routing))
THRESHOLDS = ("p_base", "tau", "certificate")
"""Settings of the routing of which only one holds."""


@dataclass(frozen=True, kw_only=True)
class RegionOverride:
    """What a region changes: settings of clauses by clause id, and of the routing."""

    clauses: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    routing: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ResolvedPolicy:
    """What holds in one region."""

    policy: str
    version: str
    region: str | None
    chain: tuple[str, ...]
    """Levels that were applied, e.g. ``("default", "EU", "DE")``."""
    clauses: tuple[Clause, ...]
    routing: Routing
    origins: Mapping[str, str]
    """Where a setting that is not the policy's own came from, e.g. ``clause.icd-1.remove_at`` → ``region.EU``."""

    def clauses_of(self, issue: str) -> tuple[Clause, ...]:
        """The clauses about one issue, in the order of the file."""
        return tuple(clause for clause in self.clauses if clause.issue == issue)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A whole policy file, checked."""

    name: str
    version: str
    clauses: tuple[Clause, ...]
    routing: Routing = field(default_factory=Routing)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    regions: Mapping[str, RegionOverride] = field(default_factory=dict)

    @property
    def policy_hash(self) -> str:
        """SHA-256 of the canonical content: the order of keys and comments do not matter, every setting does."""
        record = dataclasses.asdict(self)
        if record["routing"]["certificate"] is None:
            del record["routing"]["certificate"]  # as it was before there were certificates
        canonical = json.dumps(record, sort_keys=True, ensure_ascii=False, default=_canonical)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def chain(self, region: str | None) -> tuple[str, ...]:
        """Levels of inheritance that apply to a region, the weakest first."""
        if region is None:
            return ("default",)
        groups = tuple(name for name, members in self.groups.items() if region in members)
        return ("default", *groups, region)

    def resolve(self, region: str | None) -> ResolvedPolicy:
        """What holds in ``region`` (None: unknown, so only the defaults)."""
        clauses = {clause.id: clause for clause in self.clauses}
        routing, origins, chain = self.routing, dict[str, str](), self.chain(region)
        for level in chain:
            override = self.regions.get(level)
            if override is None:
                continue
            routing = dataclasses.replace(routing, **_instead(override.routing))
            origins |= {f"cascade.{key}": f"region.{level}" for key in override.routing}
            for clause_id, settings in override.clauses.items():
                clauses[clause_id] = dataclasses.replace(clauses[clause_id], **settings)
                origins |= {f"clause.{clause_id}.{key}": f"region.{level}" for key in settings}
        return ResolvedPolicy(
            policy=self.name, version=self.version, region=region, chain=chain, clauses=tuple(clauses.values()),
            routing=routing, origins=origins,
        )

    def explain(self, region: str | None) -> str:
        """What holds in a region and why, line by line, for people."""
        resolved = self.resolve(region)
        where = f"{region or 'an unknown region'}: {' → '.join(resolved.chain)}"
        lines = [f"policy {self.name} version {self.version} in {where}"]
        for clause in resolved.clauses:
            lines.append(f"clause {clause.id} ({clause.issue}): {clause.title}")
            lines += _explained(f"clause.{clause.id}", clause, CLAUSE_SETTINGS - {"title", "text"}, resolved.origins)
        lines.append("cascade")
        lines += _explained("cascade", resolved.routing, ROUTING_SETTINGS, resolved.origins)
        return "\n".join(lines)


def _instead(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes of the routing; a threshold that is given drops an inherited one of another kind."""
    given = [key for key in THRESHOLDS if key in changes]
    return (dict.fromkeys(THRESHOLDS) if given else {}) | dict(changes)


def _explained(prefix: str, record: Clause | Routing, keys: frozenset[str], origins: Mapping[str, str]) -> list[str]:
    return [
        f"  {key} = {getattr(record, key)!s} (from {origins.get(f'{prefix}.{key}', 'the policy')})"
        for key in sorted(keys)
        if getattr(record, key) is not None
    ]


def _canonical(value: object) -> str:
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"expected a value of a policy, got {value!r}")


ACTIONS: tuple[str, ...] = get_args(Action)
RULES: tuple[str, ...] = get_args(RuleName)
