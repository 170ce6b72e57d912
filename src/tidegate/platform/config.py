"""The platform's configuration file (TOML): what is read, where from, what decides, where it is written.

Enters: a path. Leaves: a frozen ``PlatformConfig``, or a ``ConfigError`` that names the file and the key, before
anything is opened. Only ``[source]`` must be given; without the other tables the platform is embedded: scores by the
``tiny`` preset in this process, a SQLite index and SQLite dead letters in the ``state`` folder, no server.

    [platform]
    state_folder = "state"
    workers = 2
    policy_file = "policy.toml"
    shadow_policies = ["stricter.toml"]

    [source]
    kind = "kafka"
    ...

Each choice is a ``kind`` and the keys of that kind (``docs/platform.md`` lists them all).
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tidegate.errors import ConfigError
from tidegate.pipeline.policy import Policy
from tidegate.pipeline.policy_file import default_policy, read_policy
from tidegate.platform.contracts import Backend
from tidegate.platform.event import EventLimits
from tidegate.platform.flow import FlowConfig
from tidegate.platform.location import LocationRules
from tidegate.platform.runner import RunnerConfig
from tidegate.platform.settings import Table, nearest

__all__ = [
    "AuditConfig", "BudgetSettings", "Choice", "Experiment", "ExperimentSettings", "OperationsConfig", "PlatformConfig",
    "read_config",
]

_TABLES = (
    "platform", "batch", "retry", "limits", "locations", "source", "features", "known", "scoring", "index",
    "dead_letters", "publisher", "audit", "operations", "experiment", "budget",
)


@dataclass(frozen=True, kw_only=True)
class PlatformSettings:
    """``[platform]``."""

    state_folder: str
    """What this machine remembers: the waiting room, what is in hand, the audit trail, and the embedded stores."""
    workers: int = 1
    """Processes that share the source out among themselves."""
    policy_file: str | None = None
    """The live policy; absent: the one that ships with Tidegate."""
    shadow_policies: tuple[str, ...] = ()
    """Policy files that judge beside the live one and only log; relative to this file."""
    media_folder: str | None = None
    """Where relative media locations lie; absent: media are not read from disk."""

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= 256:
            raise ValueError(f"workers: expected 1 to 256, got {self.workers}")


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """``[audit]``."""

    sync: bool = True
    """True: a decision survives a power cut before it has any effect. False: it survives kill -9 of the process."""
    max_file_bytes: int = 256 * 2**20
    """Size over which a new file is begun."""


@dataclass(frozen=True, kw_only=True)
class OperationsConfig:
    """``[operations]``: what people and monitors see."""

    host: str = "127.0.0.1"
    """Address of the health and metrics server."""
    port: int = 0
    """Its port; worker n takes port + n. 0: no server."""
    log_level: str = "info"
    """``debug``, ``info``, ``warning``, ``error``."""
    log_format: str = "json"
    """``json``: one object a line; ``text`` for people."""
    trace_file: str | None = None
    """OpenTelemetry spans as JSON lines into this file; absent: none (needs the ``platform`` extra)."""
    trace_endpoint: str | None = None
    """OTLP/HTTP endpoint of a collector, such as ``http://collector:4318/v1/traces``."""
    drain_seconds: float = 30.0
    """How long a stop waits for the batch in hand before the process leaves anyway."""

    def __post_init__(self) -> None:
        if self.log_level not in {"debug", "info", "warning", "error"}:
            raise ValueError(f"log_level: expected debug, info, warning or error, got {self.log_level!r}")
        if self.log_format not in {"json", "text"}:
            raise ValueError(f"log_format: expected json or text, got {self.log_format!r}")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port: expected 0 to 65535, got {self.port}")


@dataclass(frozen=True, kw_only=True)
class BudgetSettings:
    """``[budget]``: what the models may cost."""

    later_items_per_second: float | None = None
    """Items that the later stages of this machine score a second at most, on average; needs ``defer`` in
    ``[scoring]``. What is over it waits, where ``tidegate_waiting`` shows it; nothing is dropped. Absent: no limit."""
    burst_items: float = 1.0
    """Items beyond that rate that may be scored at once after a quiet time."""
    model_seconds_per_thousand: float | None = None
    """Model seconds of all stages for a thousand items that ``tidegate_budget_used_ratio`` is measured against; only
    shown, nothing is held back. Absent: the series is left out."""

    def __post_init__(self) -> None:
        if self.later_items_per_second is not None and not 0 < self.later_items_per_second < float("inf"):
            raise ValueError(f"later_items_per_second: expected a rate over 0, got {self.later_items_per_second}")
        if self.burst_items < 1:
            raise ValueError(f"burst_items: expected at least 1, got {self.burst_items}")
        if self.model_seconds_per_thousand is not None and not 0 < self.model_seconds_per_thousand < float("inf"):
            raise ValueError(f"model_seconds_per_thousand: expected over 0, got {self.model_seconds_per_thousand}")


@dataclass(frozen=True, kw_only=True)
class ExperimentSettings:
    """``[experiment]``: a part of the stream is decided by another policy."""

    name: str
    """Another name gives another, independent split."""
    policy_file: str
    """Policy of the arm ``candidate``; the arm ``live`` has the live policy."""
    candidate_share: float = 0.5
    """Share of the units in the arm ``candidate``."""
    unit: Literal["video", "creator"] = "video"
    """What is assigned: single videos, or creators with all their videos."""

    def __post_init__(self) -> None:
        if not 0.0 < self.candidate_share < 1.0:
            raise ValueError(f"candidate_share: expected a share between 0 and 1, got {self.candidate_share}")

    @property
    def shares(self) -> dict[str, float]:
        """Arms and their shares."""
        return {"live": 1.0 - self.candidate_share, "candidate": self.candidate_share}


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The table and its policy."""

    settings: ExperimentSettings
    candidate: Policy


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A kind and its settings."""

    kind: str
    settings: Any
    backend: Backend


@dataclass(frozen=True, kw_only=True)
class PlatformConfig:
    """A whole file, checked."""

    path: Path
    """Of the file."""
    state: Path
    """Folder of what this machine remembers."""
    workers: int
    """Processes that share the source out among themselves."""
    policy: Policy
    """The live policy."""
    shadows: Mapping[str, Policy]
    """Policies that judge beside the live one, by ``name@version``."""
    media_folder: Path | None
    """Where relative media locations lie."""
    batch: RunnerConfig
    """``[batch]``."""
    flow: FlowConfig
    """``[retry]``, and whether there is a publisher."""
    limits: EventLimits
    """``[limits]``."""
    locations: LocationRules
    """``[locations]``."""
    source: Choice
    """``[source]``."""
    scoring: Choice
    """``[scoring]``."""
    index: Choice
    """``[index]``."""
    dead_letters: Choice
    """``[dead_letters]``."""
    features: tuple[Choice, ...] = ()
    """``[[features]]``, asked in this order."""
    known: Choice | None = None
    """``[known]``, or None."""
    publisher: Choice | None = None
    """``[publisher]``, or None."""
    experiment: Experiment | None = None
    """``[experiment]``, or None."""
    audit: AuditConfig = field(default_factory=AuditConfig)
    """``[audit]``."""
    budget: BudgetSettings = field(default_factory=BudgetSettings)
    """``[budget]``."""
    operations: OperationsConfig = field(default_factory=OperationsConfig)
    """``[operations]``."""
    config_hash: str = ""
    """SHA-256 of the file."""


@dataclass(frozen=True, kw_only=True)
class _Retry:
    """``[retry]``."""

    max_attempts: int = 4
    """Attempts at an item before it is dead-lettered; only failures that may pass are tried again."""
    retry_seconds: float = 2.0
    """Wait before the second attempt; doubled for each further one, up to ``max_retry_seconds``."""
    max_retry_seconds: float = 600.0
    """Longest wait between two attempts at an item."""

    def __post_init__(self) -> None:
        if self.max_attempts < 1 or self.retry_seconds <= 0 or self.max_retry_seconds < self.retry_seconds:
            raise ValueError(
                f"expected max_attempts >= 1, retry_seconds > 0 and max_retry_seconds >= retry_seconds, got {self}"
            )


def read_config(path: str | Path) -> PlatformConfig:
    """The configuration in a file."""
    origin = Path(path)
    try:
        content = origin.read_bytes()
        document = tomllib.loads(content.decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"{origin}: expected a readable configuration file, got {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{origin}: expected TOML in UTF-8, got {error}") from error
    return _parse(Table(document, origin.absolute()), origin.absolute(), hashlib.sha256(content).hexdigest())


def _parse(top: Table, origin: Path, config_hash: str) -> PlatformConfig:
    from tidegate.platform.kinds import FEATURES, INDEXES, KNOWN, LETTERS, PUBLISHERS, SCORERS, SOURCES

    top.only(_TABLES)
    platform = top.table("platform").fill(PlatformSettings, state_folder=str(origin.parent / "state"))
    state = Path(platform.state_folder)
    publisher = _choice(top, "publisher", PUBLISHERS) if "publisher" in top else None
    retry = top.table("retry").fill(_Retry)
    scoring = _choice(top, "scoring", SCORERS, kind="preset")
    return PlatformConfig(
        path=origin,
        state=state,
        workers=platform.workers,
        policy=default_policy() if platform.policy_file is None else read_policy(platform.policy_file),
        shadows=_shadows(platform.shadow_policies, origin),
        media_folder=None if platform.media_folder is None else Path(platform.media_folder),
        batch=top.table("batch").fill(RunnerConfig),
        flow=FlowConfig(
            max_attempts=retry.max_attempts, retry_seconds=retry.retry_seconds,
            max_retry_seconds=retry.max_retry_seconds, with_outbox=publisher is not None,
        ),
        limits=top.table("limits").fill(EventLimits),
        locations=top.table("locations").fill(LocationRules),
        source=_choice(top, "source", SOURCES),
        scoring=scoring,
        index=_choice(top, "index", INDEXES, kind="sqlite", path=str(state / "index.db")),
        dead_letters=_choice(top, "dead_letters", LETTERS, kind="sqlite", path=str(state / "dead-letters.db")),
        features=tuple(_chosen(table, FEATURES, None) for table in top.tables("features")),
        known=_choice(top, "known", KNOWN) if "known" in top else None,
        publisher=publisher,
        experiment=_experiment(top) if "experiment" in top else None,
        audit=top.table("audit").fill(AuditConfig),
        operations=top.table("operations").fill(OperationsConfig),
        budget=_budget(top, scoring),
        config_hash=config_hash,
    )


def _choice(
    top: Table, name: str, kinds: Mapping[str, Backend], *, kind: str | None = None, **defaults: Any
) -> Choice:
    if name not in top and kind is None:
        raise top.error(name, f"expected a table [{name}] with a kind; known: {', '.join(sorted(kinds))}")
    return _chosen(top.table(name), kinds, kind, **defaults)


def _chosen(table: Table, kinds: Mapping[str, Backend], default: str | None, **defaults: Any) -> Choice:
    kind = table.take("kind", str, default)
    if kind is None:
        raise table.error("kind", f"expected one of {', '.join(sorted(kinds))}, got none")
    if kind not in kinds:
        raise table.error("kind", f"unknown kind {kind!r}{nearest(kind, kinds)}")
    own = defaults if kind == default else {}
    return Choice(kind=kind, settings=table.fill(kinds[kind].settings, beside=("kind",), **own), backend=kinds[kind])


def _budget(top: Table, scoring: Choice) -> BudgetSettings:
    settings = top.table("budget").fill(BudgetSettings)
    if settings.later_items_per_second is not None and not getattr(scoring.settings, "defer", False):
        raise top.table("budget").error(
            "later_items_per_second", "expected later stages with a loop of their own (scoring.defer = true), got none"
        )
    return settings


def _experiment(top: Table) -> Experiment:
    settings = top.table("experiment").fill(ExperimentSettings)
    return Experiment(settings=settings, candidate=read_policy(settings.policy_file))


def _shadows(paths: tuple[str, ...], origin: Path) -> dict[str, Policy]:
    shadows: dict[str, Policy] = {}
    for path in paths:
        policy = read_policy(origin.parent / path)
        name = f"{policy.name}@{policy.version}"
        if name in shadows:
            raise ConfigError(f"{origin}: platform.shadow_policies: expected distinct policies, got two of {name}")
        shadows[name] = policy
    return shadows
