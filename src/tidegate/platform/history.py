"""The whole story of one video, and whether it can be told again: explain and reproduce.

Enters: the audit trail. Leaves: a video's decisions in order, as records and as text; and for one decision, what the
configuration makes of the same event now: the same scores and verdict to the last bit, or what differs.
Reproducing scores the media again, so it needs the same models, policy and files; costs and clocks are not compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import msgspec

from tidegate.errors import UsageError
from tidegate.pipeline.policy import Policy
from tidegate.platform.audit import read_lines
from tidegate.platform.config import PlatformConfig
from tidegate.platform.contracts import Dead, Deferred, Scored, ScoringItem
from tidegate.platform.flow import decided_by_match
from tidegate.platform.records import AuditEntry
from tidegate.platform.scoring.context import ScoringContext
from tidegate.platform.verdicts import PolicyTable

__all__ = ["Chapter", "Reproduced", "explain", "history_of", "reproduce"]


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """One decision about a video."""

    entry: AuditEntry
    setup: Mapping[str, Any]
    """Software, policies and models at that time."""
    chain: str
    """The file of the trail that holds it."""


def history_of(folder: Path, video_id: str) -> list[Chapter]:
    """All decisions about a video, oldest first."""
    needle = b'"video_id":' + msgspec.json.encode(video_id)
    decoder = msgspec.json.Decoder(AuditEntry)
    chapters = [
        Chapter(entry=entry, setup=line.setup, chain=line.chain)
        for line in read_lines(folder, keep=lambda raw: needle in raw)
        if (entry := decoder.decode(line.raw)).video_id == video_id
    ]
    return sorted(chapters, key=lambda chapter: (chapter.entry.at, chapter.entry.version))


def explain(chapters: Sequence[Chapter]) -> str:
    """The story in words."""
    if not chapters:
        return "The audit trail holds nothing about this video."
    return "\n\n".join(_told(number, chapter) for number, chapter in enumerate(chapters, 1))


def _told(number: int, chapter: Chapter) -> str:
    entry = chapter.entry
    at = datetime.fromtimestamp(entry.at, UTC).isoformat(timespec="seconds")
    lines = [f"{number}. {at}: {entry.status} (version {entry.version}). {entry.reason}"]
    event = entry.event
    if event is not None:
        known = [f"region {event.region}", f"{event.views} views" if event.views is not None else "views unknown"]
        lines.append(f"   event: {event.kind}, {', '.join(known)}")
    for score in entry.scores:
        lines.append(f"   score: {score.stage} {score.value!r} by {score.model}{_lacking(score.missing)}")
    if entry.decision is not None:
        lines.append(f"   cascade: {entry.decision.route}: {entry.decision.reason}")
        promise = entry.decision.guarantee
        if promise is not None:
            lines.append(
                f"   promise: {promise.target}, delta {promise.delta:g} (certificate {promise.certificate_id}, "
                f"{promise.n_audit} audits)"
            )
    if entry.verdict is not None:
        policy = chapter.setup.get("policy", {})
        name, clause = f"{policy.get('name')}@{policy.get('version')}", entry.verdict.clause or "none"
        lines.append(f"   policy: {name} ({policy.get('hash', '')[:12]}), clause {clause}, on {entry.day}")
    if entry.known is not None:
        lines.append(f"   known content: entry {entry.known.entry} of bank {entry.known.bank}")
    lines += [f"   feature {name} = {value!r}" for name, value in sorted(entry.features.items())]
    lines += [f"   missing: {service} ({reason})" for service, reason in sorted(entry.missing.items())]
    lines += [f"   stale: {service}" for service in entry.stale]
    lines += [f"   shadow policy {name}: {standing.status}" for name, standing in sorted(entry.shadows.items())]
    for observation in entry.observations:
        if observation.kind == "seen":
            frames = observation.value.get("frame_pts_seconds", [])
            lines.append(f"   {observation.value.get('stage')} saw frames at {frames} s")
    lines.append(f"   recorded in {chapter.chain} by {chapter.setup.get('software')}, {chapter.setup.get('worker')}")
    return "\n".join(lines)


def _lacking(missing: Sequence[str]) -> str:
    return f", without {', '.join(missing)}" if missing else ""


@dataclass(frozen=True, kw_only=True)
class Reproduced:
    """A decision taken again."""

    video_id: str
    version: int
    differences: tuple[str, ...]
    """``field: recorded -> now``; empty when everything is the same to the last bit."""

    @property
    def equal(self) -> bool:
        return not self.differences


def reproduce(config: PlatformConfig, chapter: Chapter) -> Reproduced:
    """Take a recorded decision again under the configuration; the policy must be the one of that time."""
    entry = chapter.entry
    if entry.event is None or entry.decision is None or entry.verdict is None or entry.day is None:
        raise UsageError(f"expected a decision by models, got one that is {entry.status!r}: {entry.reason}")
    policy = _policy_of_that_time(config, chapter)
    day = date.fromisoformat(entry.day)
    result = _score(config, entry)
    if isinstance(result, Dead | Deferred):
        difference = f"result: {entry.status} -> {type(result).__name__.lower()}: {result.reason}"
        return Reproduced(video_id=entry.event.video_id, version=entry.event.version, differences=(difference,))
    verdict = PolicyTable(policy, clock=lambda: day).judge(result.decision, entry.event.region)
    then = {"scores": _plain(entry.scores), "decision": _plain(entry.decision), "verdict": _plain(entry.verdict)}
    now = {"scores": _plain(result.scores), "decision": _plain(result.decision), "verdict": _plain(verdict)}
    differences = tuple(f"{key}: {then[key]!r} -> {now[key]!r}" for key in then if then[key] != now[key])
    return Reproduced(video_id=entry.event.video_id, version=entry.event.version, differences=differences)


def _policy_of_that_time(config: PlatformConfig, chapter: Chapter) -> Policy:
    policy, recorded = config.policy, chapter.setup.get("policy", {}).get("hash")
    if chapter.entry.arm == "candidate":
        recorded = chapter.setup.get("candidate")
        policy = policy if config.experiment is None else config.experiment.candidate
    if recorded != policy.policy_hash:
        came = f"{policy.name}@{policy.version} ({policy.policy_hash})"
        raise UsageError(f"expected the policy of that time ({recorded}), got {came}")
    return policy


def _score(config: PlatformConfig, entry: AuditEntry) -> Scored:
    assert entry.event is not None
    if entry.known is not None:
        return decided_by_match(entry.known, entry.event)
    context = ScoringContext(
        policy=config.policy, media_folder=config.media_folder, locations=config.locations, later=True
    )
    with closing(config.scoring.backend.open(config.scoring.settings, context)) as scorer:
        result: Scored = scorer.score_many([ScoringItem(entry.event, entry.features)])[0]
        return result


def _plain(value: Any) -> Any:
    """Built-in form without times and costs."""
    plain = msgspec.to_builtins(value)
    records = plain if isinstance(plain, list | tuple) else [plain]
    for record in records:
        record.pop("cost_seconds", None)
    return plain
