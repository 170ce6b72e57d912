"""What is written about one delivery: the index's value, the audit line, the message for downstream.

Enters: a delivery and what became of it. Leaves: encoded records. The index's value holds nothing that depends on when
or how often an item was processed (no clock, no cost, no age), so that a replay writes the same bytes; the audit line
holds all of that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from tidegate.platform.contracts import IndexRecord, IndexStatus, KnownMatch, OutboxMessage
from tidegate.platform.event import Scalar, VideoEvent
from tidegate.platform.verdicts import PolicyTable, Verdict
from tidegate.types import Decision, Observation, Score

__all__ = [
    "AUDIT_DECODER", "AuditEntry", "IndexValue", "Judged", "StageScore", "Standing", "index_record", "outbox_message",
]


class StageScore(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A stage's score as recommendation reads it."""

    stage: str
    value: float
    model: str
    missing: tuple[str, ...] = ()


class IndexValue(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What the index holds of a video: all features and scores, the verdict, and why."""

    video_id: str
    version: int
    status: str
    reason: str
    issue: str
    score: float
    threshold: float
    stage: str
    route: str
    escalated: bool
    policy: str
    policy_version: str
    policy_hash: str
    clause: str | None = None
    region: str | None = None
    language: str | None = None
    views: int | None = None
    creator: str | None = None
    uploaded_at: float | None = None
    scores: tuple[StageScore, ...] = ()
    features: Mapping[str, Scalar] = {}
    missing: Mapping[str, str] = {}
    """Services that had nothing, and why; never zeros."""
    known: KnownMatch | None = None


class Standing(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What a shadow policy would have done."""

    status: str
    clause: str | None = None


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One decision, with all that it rests on. ``setup`` of the trail names policies and models."""

    at: float
    """Unix seconds at which it was decided."""
    video_id: str | None
    version: int | None
    status: str
    """``remained``, ``removed``, ``ignored``, ``deleted``, ``dead``, ``waiting``."""
    partition: str
    offset: int
    reason: str
    code: str | None = None
    """Of the error, for ``dead``."""
    attempts: int = 0
    day: str | None = None
    """The day whose clauses were in effect."""
    received_at: float | None = None
    event: VideoEvent | None = None
    features: Mapping[str, Scalar] = {}
    missing: Mapping[str, str] = {}
    stale: tuple[str, ...] = ()
    """Services whose answer was older than their limit."""
    known: KnownMatch | None = None
    scores: tuple[Score, ...] = ()
    decision: Decision | None = None
    verdict: Verdict | None = None
    shadows: Mapping[str, Standing] = {}
    arm: str | None = None
    """Of the experiment that runs, if one does."""
    observations: tuple[Observation, ...] = ()
    """Frames seen, routes taken, facts of the media."""


AUDIT_DECODER = msgspec.json.Decoder(AuditEntry)
"""Built on import: two threads must not be the first to meet a type together."""


class Judged(msgspec.Struct, frozen=True, gc=False):
    """An event with everything that led to its verdict."""

    event: VideoEvent
    features: Mapping[str, Scalar]
    missing: Mapping[str, str]
    known: KnownMatch | None
    decision: Decision
    scores: tuple[Score, ...]
    verdict: Verdict


def index_record(judged: Judged, table: PolicyTable) -> IndexRecord:
    """The index's record of a verdict that is not ``ignored``."""
    event, decision, verdict, policy = judged.event, judged.decision, judged.verdict, table.policy
    value = IndexValue(
        video_id=event.video_id, version=event.version, status=verdict.status, reason=verdict.reason,
        issue=decision.issue, score=decision.score, threshold=verdict.threshold, stage=decision.stage,
        route=decision.route, escalated=decision.escalated, policy=policy.name, policy_version=policy.version,
        policy_hash=table.policy_hash, clause=verdict.clause, region=event.region, language=event.language,
        views=event.views, creator=event.creator, uploaded_at=event.uploaded_at, scores=_stage_scores(judged.scores),
        features=judged.features, missing=judged.missing, known=judged.known,
    )
    status: IndexStatus = "removed" if verdict.status == "removed" else "remained"
    return IndexRecord(
        video_id=event.video_id, version=event.version, status=status, value=msgspec.json.encode(value),
        issue=decision.issue, score=decision.score, region=event.region or "", policy_version=policy.version,
    )


def _stage_scores(scores: Sequence[Score]) -> tuple[StageScore, ...]:
    return tuple([StageScore(score.stage, score.value, score.model, score.missing) for score in scores])


class _Message(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    key: str
    video_id: str
    version: int
    status: str
    issue: str = ""
    score: float | None = None
    region: str = ""
    policy_version: str = ""


def outbox_message(record: IndexRecord) -> OutboxMessage:
    """What downstream is told of a write."""
    key = f"{record.video_id}:{record.version}"
    message = _Message(
        key, record.video_id, record.version, record.status, record.issue, record.score, record.region,
        record.policy_version,
    )
    return OutboxMessage(key=key, topic=record.status, payload=msgspec.json.encode(message))
