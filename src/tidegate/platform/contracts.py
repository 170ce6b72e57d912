"""What the parts of the platform promise each other: the values that pass between them, and the Protocols.

Enters and leaves: nothing; this file holds types only. Values of the hot path are ``msgspec.Struct`` (frozen,
about ten times cheaper to make than a frozen dataclass, and they need no codec of their own).

Delivery is at least once, and writes are versioned upserts by video id, so a replay changes nothing:

- A source hands out deliveries and is told which are done; what was not acknowledged comes again after a crash.
- An index applies a record only if its version is higher than the stored one. ``VideoEvent.version`` comes from the
  producer (such as the row's ``updated_at`` in nanoseconds), never from this process's clock.
- A message that cannot be used is a ``Delivery`` with an error: it is dead-lettered, never raised, never dropped.

Always, over any stretch of a stream: deliveries in = remained + removed + ignored + deleted + dead + waiting, where
``waiting`` are those that a later stage has not scored yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import msgspec

from tidegate.errors import TidegateError
from tidegate.pipeline.policy import Policy
from tidegate.platform.event import Scalar, VideoEvent
from tidegate.types import Decision, Observation, Score, Span

__all__ = [
    "Backend",
    "Dead",
    "DeadLetter",
    "DeadLetters",
    "Decided",
    "Deferred",
    "Delivery",
    "EventSource",
    "FeatureResult",
    "FeatureService",
    "FollowsPolicy",
    "Found",
    "IndexRecord",
    "IndexService",
    "IndexStatus",
    "KnownContent",
    "KnownMatch",
    "Missing",
    "Outbox",
    "OutboxMessage",
    "Publisher",
    "PutResult",
    "Scored",
    "Scorer",
    "ScoringItem",
    "Settling",
    "Shard",
]

IndexStatus = Literal["remained", "removed", "deleted"]


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One message as a source handed it out. Exactly one of ``event`` and ``error`` is set."""

    event: VideoEvent | None
    error: TidegateError | None
    """Why there is no event."""
    raw: bytes
    """The message as it came; cut at the source's limit if it was oversized."""
    partition: str
    """Where order holds, e.g. ``topic/3``, ``spool``, a folder."""
    offset: int
    """Ascending within a partition; (partition, offset) names the delivery across restarts."""
    received_at: float
    """Unix seconds at which this process got it."""
    scores: tuple[Score, ...] = ()
    """Scores that earlier stages gave, for a delivery that waited for a later stage."""
    attempts: int = 0
    """How often it was tried before and put back."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Which part of a stream this worker takes, for sources that do not share it out themselves (a folder, a scan)."""

    worker: int = 0
    workers: int = 1


@runtime_checkable
class EventSource(Protocol):
    """Where events come from. Used from one thread."""

    def poll(self, max_events: int, timeout_seconds: float) -> Sequence[Delivery]:
        """Up to ``max_events``, in order within each partition; empty after the timeout. Never raises for a message.

        Raises ``ServiceUnavailable`` when its server is away; the caller waits and polls again."""
        ...

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """These are done: do not hand them out after a restart. Called with a contiguous run of each partition, in
        order, after everything they caused is written. Acknowledging twice, or after a rebalance took the partition
        away, does nothing."""
        ...

    def lag(self) -> int | None:
        """Messages not yet handed out; None where the source cannot know."""
        ...

    def close(self) -> None:
        """Leave (a consumer group, a folder); what is not acknowledged is handed out again later."""
        ...


@runtime_checkable
class Settling(Protocol):
    """A source that may know of events before it hands them out: a file that is still being written, rows that nobody
    asked for yet. ``--until-idle`` leaves only when such a source is settled."""

    def settled(self) -> bool:
        """Whether everything that is there now was handed out."""
        ...


class Found(msgspec.Struct, frozen=True, gc=False):
    """The features that a service holds of one video."""

    values: Mapping[str, Scalar]
    age_seconds: float = 0.0
    """Since the value was computed, as far as the service says."""
    stale: bool = False
    """True: older than the service's limit and used only because nothing fresher could be had."""


class Missing(msgspec.Struct, frozen=True, gc=False):
    """A service has nothing of this video. It is recorded as missing, never as zero."""

    reason: str
    """``not_found``, ``deadline``, ``circuit_open``, ``unavailable``, ``malformed``."""


FeatureResult: TypeAlias = Found | Missing


@runtime_checkable
class FeatureService(Protocol):
    """A cache, a database or a service that knows features of videos."""

    @property
    def name(self) -> str:
        """Names the service in records and metrics, and prefixes its features (``name.feature``)."""
        ...

    def get_many(self, video_ids: Sequence[str]) -> Mapping[str, FeatureResult]:
        """One entry for each id, within the service's deadline. Never raises for an outage: that is ``Missing``."""
        ...

    def close(self) -> None: ...


class KnownMatch(msgspec.Struct, frozen=True, kw_only=True):
    """A match against a bank of known content."""

    bank: str
    entry: str
    """Id of the bank's entry."""
    distance: float
    """Mean Hamming distance of the matched frames' hashes, bits of 256."""
    matched_share: float
    """Of this video's hashed frames, in [0, 1]."""
    spans: tuple[tuple[Span, Span], ...]
    """(span of this video, span of the entry) pairs that match."""
    violates: bool = True
    """Whether the bank holds violating content; False: known and allowed."""
    issue: str = "icd"


@runtime_checkable
class KnownContent(Protocol):
    """Asked before any model."""

    def match_many(self, events: Sequence[VideoEvent]) -> Mapping[str, KnownMatch | TidegateError]:
        """By video id; ids without a match are absent. An error: the content could not be looked at."""
        ...

    def close(self) -> None: ...


class ScoringItem(msgspec.Struct, frozen=True, gc=False):
    """What a scorer gets for one video."""

    event: VideoEvent
    features: Mapping[str, Scalar]
    """The event's own, and ``service.feature`` for what services hold; missing ones are absent."""
    scores: tuple[Score, ...] = ()
    """Scores that earlier stages gave."""


class Decided(msgspec.Struct, frozen=True, gc=False):
    """The cascade decided."""

    decision: Decision
    scores: tuple[Score, ...] = ()
    observations: tuple[Observation, ...] = ()


class Deferred(msgspec.Struct, frozen=True, gc=False):
    """A later stage is wanted, which this scorer does not run: the item goes to the queue of that stage."""

    stage: str
    scores: tuple[Score, ...]
    reason: str = ""
    observations: tuple[Observation, ...] = ()


class Dead(msgspec.Struct, frozen=True, gc=False):
    """The item cannot be scored (corrupt, over a limit, a model's failure)."""

    code: str
    reason: str
    retryable: bool = False
    """True: a later attempt may do better (a server was away)."""


Scored: TypeAlias = Decided | Deferred | Dead


@runtime_checkable
class Scorer(Protocol):
    """Scores videos: in process, over HTTP, on Ray Serve, or from a feature that somebody else computed."""

    def score_many(self, items: Sequence[ScoringItem]) -> Sequence[Scored]:
        """One result for each item, in their order. Raises ``ServiceUnavailable`` when nothing could be scored."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class FollowsPolicy(Protocol):
    """A scorer whose routing is the policy's ``[cascade]``."""

    def check_policy(self, policy: Policy) -> None:
        """Raises ``ConfigError`` if the stages cannot follow this policy. Safe from any thread."""
        ...

    def use_policy(self, policy: Policy) -> None:
        """Route by this policy, which was checked, from the next batch on."""
        ...


class IndexRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the index holds of a video: id and version to store by, ``value`` to read."""

    video_id: str
    version: int
    status: IndexStatus
    """``deleted`` is a tombstone: it keeps the version so that a late duplicate does not bring the video back."""
    value: bytes
    """UTF-8 JSON: all features, scores and the decision; what recommendation reads. Empty for a tombstone."""
    issue: str = ""
    score: float | None = None
    region: str = ""
    policy_version: str = ""


class OutboxMessage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event for downstream, stored with the index write that caused it."""

    key: str
    """Idempotency key, ``video_id:version``; receivers drop a key that they have seen."""
    topic: str
    """``removed``, ``remained``, ``deleted``."""
    payload: bytes


class PutResult(msgspec.Struct, frozen=True, gc=False):
    """What a write changed."""

    applied: int
    """Records whose version was higher than the stored one."""
    skipped: int
    """Replays and late ones: nothing changed."""


@runtime_checkable
class IndexService(Protocol):
    """The index that recommendation reads. Raises ``ServiceUnavailable`` when its server is away."""

    def put_many(self, records: Sequence[IndexRecord], messages: Sequence[OutboxMessage] = ()) -> PutResult:
        """Versioned compare-and-set: a record is written only if its version is higher than the stored one.

        ``messages[i].key`` names the record that caused it; it is stored in the same transaction, and only if its
        record was applied. Within a batch the highest version of an id wins. On return it is durable as the backend
        promises. ``status == "deleted"`` is removal."""
        ...

    def get_many(self, video_ids: Sequence[str]) -> Mapping[str, IndexRecord]:
        """Records by id; ids that are unknown or deleted are absent."""
        ...

    def counts(self) -> Mapping[str, int]:
        """Records by status, tombstones included. Counts the whole index, so it is for people (``tidegate pipeline
        status``), not for probes: a counter beside it would make every write contend for one row."""
        ...

    def ping(self) -> None:
        """Returns, or raises ``ServiceUnavailable``."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Outbox(Protocol):
    """Messages that were stored with the index and are not delivered yet. The index's own object may be it."""

    def pending(self, limit: int) -> Sequence[OutboxMessage]:
        """The oldest ones, in the order of their writes."""
        ...

    def done(self, keys: Sequence[str]) -> None:
        """These were delivered; forget them."""
        ...

    def depth(self) -> int:
        """How many wait."""
        ...


@runtime_checkable
class Publisher(Protocol):
    """Delivers outbox messages (webhook with HMAC, a Kafka topic). At least once."""

    def publish(self, messages: Sequence[OutboxMessage]) -> Sequence[str]:
        """Keys that were delivered; the others stay in the outbox."""
        ...

    def close(self) -> None: ...


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery that could not be used, with its cause."""

    partition: str
    offset: int
    code: str
    """``TidegateError.code`` or ``unexpected_error``."""
    reason: str
    raw: bytes
    video_id: str | None = None
    attempts: int = 1
    failed_at: float = 0.0
    """Unix seconds."""
    occurred_at: float | None = None
    """Of the event, Unix seconds, where it could be read."""


@runtime_checkable
class DeadLetters(Protocol):
    """Kept until replayed or dropped by people; one entry for each (partition, offset)."""

    def add_many(self, letters: Sequence[DeadLetter]) -> None:
        """Idempotent by (partition, offset): the newer entry replaces the older one. Durable on return."""
        ...

    def list(
        self, *, since: float | None = None, until: float | None = None, code: str | None = None, limit: int = 1000
    ) -> Sequence[DeadLetter]:
        """By ``failed_at``, oldest first."""
        ...

    def remove_many(self, keys: Sequence[tuple[str, int]]) -> None:
        """By (partition, offset): replayed with success, or dropped."""
        ...

    def count(self) -> int: ...

    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One choice that a configuration file can name: ``[index] kind = "redis"``.

    ``sources.KINDS``, ``features.KINDS``, ``known.KINDS``, ``stores.INDEXES``, ``stores.DEAD_LETTERS`` and
    ``stores.PUBLISHERS`` are dicts of these. ``settings`` is a frozen keyword-only dataclass whose fields are the
    table's keys (int, float, str, bool, tuples of str, ``| None``); a field's ``ValueError`` or ``ConfigError`` at
    birth becomes a configuration error that names the file and the table. Client libraries are imported inside
    ``open`` and missing ones raise ``DependencyMissing``.
    """

    settings: type[Any]
    open: Callable[..., Any]
    """``open(settings)``; sources are called ``open(settings, shard, codec)`` with the ``EventCodec`` of the file's
    ``[limits]`` and ``[locations]``."""
