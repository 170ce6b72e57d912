"""One mini-batch from deliveries to what must be written: Retriever, scoring and Filter of the platform.

Enters: deliveries. Leaves: ``Processed``: index records, dead letters, items that wait, audit lines; nothing has been
written when it returns. Work is done column by column (all features, then all matches, then all scores, then all
verdicts), because every service and model is asked once a batch.

What goes wrong with one item is that item's dead letter. A batch that a scorer cannot take is tried again one by one,
so that poison does not take its neighbours. Only an outage (``ServiceUnavailable``) leaves this file as an exception.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import msgspec

from tidegate.errors import ServiceUnavailable, TidegateError
from tidegate.pipeline.boundary import UNEXPECTED, Failure, attempt
from tidegate.platform.contracts import (
    Dead,
    DeadLetter,
    Decided,
    Deferred,
    Delivery,
    FeatureService,
    Found,
    IndexRecord,
    KnownContent,
    KnownMatch,
    OutboxMessage,
    Scored,
    Scorer,
    ScoringItem,
)
from tidegate.platform.event import Scalar, VideoEvent
from tidegate.platform.measures import Measures, NoMeasures
from tidegate.platform.records import AuditEntry, Judged, Standing, index_record, outbox_message
from tidegate.platform.verdicts import PolicyTable
from tidegate.types import Decision, Observation, Score

__all__ = ["RETRY", "Arms", "Flow", "FlowConfig", "Processed", "decided_by_match", "no_checkpoint"]

RETRY = "retry"
"""Name of the waiting room's queue of items that are to be tried again."""


def no_checkpoint(name: str) -> None:
    """The default of the ``checkpoint`` callback: nothing happens at the named points of a batch."""


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """How a batch is worked on."""

    max_attempts: int = 4
    """Attempts at an item before it is dead-lettered; only failures that may pass are tried again."""
    retry_seconds: float = 2.0
    """Wait before the second attempt; doubled for each further one, up to ``max_retry_seconds``."""
    max_retry_seconds: float = 600.0
    """Longest wait between two attempts at an item."""
    with_outbox: bool = False
    """Whether index writes cause messages for downstream."""


@dataclass(frozen=True, kw_only=True)
class Arms:
    """An experiment that runs: which policy decides about which event."""

    assign: Callable[[str], str]
    """From the id of a unit to the name of its arm."""
    tables: Mapping[str, PolicyTable]
    by_creator: bool = False

    def of(self, event: VideoEvent) -> tuple[str, PolicyTable]:
        """The arm of an event and its policy."""
        unit = event.creator if self.by_creator and event.creator is not None else event.video_id
        arm = self.assign(unit)
        return arm, self.tables[arm]


@dataclass(kw_only=True)
class Processed:
    """What one batch has to write."""

    records: list[IndexRecord] = field(default_factory=list)
    messages: list[OutboxMessage] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    waiting: dict[tuple[str, float], list[Delivery]] = field(default_factory=dict)
    """By queue and due time."""
    lines: list[bytes] = field(default_factory=list)
    """For the audit trail."""
    counts: Counter[str] = field(default_factory=Counter)
    """Deliveries by what became of them; their sum is the batch's size."""
    model_seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    reached: Counter[str] = field(default_factory=Counter)
    """Items that each stage scored."""

    def add(self, part: Processed) -> None:
        """Take over what a part of the batch has to write."""
        self.records += part.records
        self.messages += part.messages
        self.letters += part.letters
        self.lines += part.lines
        self.counts.update(part.counts)
        self.reached.update(part.reached)
        for stage, seconds in part.model_seconds.items():
            self.model_seconds[stage] += seconds
        for key, deliveries in part.waiting.items():
            self.waiting.setdefault(key, []).extend(deliveries)


@dataclass
class _Retrieved:
    """Columns of a batch, by position."""

    deliveries: list[Delivery]
    events: list[VideoEvent]
    features: list[dict[str, Scalar]]
    missing: list[dict[str, str]]
    stale: list[tuple[str, ...]]


@dataclass
class _LookedUp:
    """A batch and what is known of its content, by video id."""

    batch: _Retrieved
    matches: dict[str, KnownMatch]
    notes: dict[str, Observation]


_NO_SHADOWS: Mapping[str, Standing] = {}


class Flow:
    """The part of the platform that decides. Used from one thread."""

    def __init__(
        self,
        *,
        scorer: Scorer,
        policy: PolicyTable,
        shadows: Mapping[str, PolicyTable] | None = None,
        arms: Arms | None = None,
        features: Sequence[FeatureService] = (),
        known: KnownContent | None = None,
        config: FlowConfig | None = None,
        measures: Measures | None = None,
        checkpoint: Callable[[str], None] = no_checkpoint,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._scorer, self._policy, self._shadows = scorer, policy, dict(shadows or {})
        self._features, self._known, self._arms = tuple(features), known, arms
        self._config, self._measures = config or FlowConfig(), measures or NoMeasures()
        self._checkpoint, self._clock = checkpoint, clock
        self._encode = msgspec.json.Encoder().encode
        self._now = clock()

    def judge_by(self, policy: PolicyTable, shadows: Mapping[str, PolicyTable], arms: Arms | None) -> None:
        """Other policies, from the next batch on."""
        self._policy, self._shadows, self._arms = policy, dict(shadows), arms

    def process(self, deliveries: Sequence[Delivery]) -> Processed:
        """What the batch has to write. Raises ``ServiceUnavailable`` when nothing can be decided now."""
        done = Processed()
        self._now = self._clock()
        for table in (self._policy, *self._shadows.values(), *(self._arms.tables.values() if self._arms else ())):
            table.begin_batch()
        usable = self._sort_out(deliveries, done)
        if usable:
            with self._measures.timed("retrieve"):
                batch = self._retrieve(usable)
            self._checkpoint("retrieved")
            with self._measures.timed("known"):
                looked_up = self._match(batch)
            with self._measures.timed("score"):
                scored = self._score(batch, looked_up.matches)
            self._checkpoint("scored")
            with self._measures.timed("filter"):
                self._judge(looked_up, scored, done)
        return done

    def reject(self, delivery: Delivery, code: str, reason: str) -> Processed:
        """A delivery that is not to be looked at again."""
        self._now = self._clock()
        done = Processed()
        self._bury(delivery, code, reason, done)
        return done

    def _sort_out(self, deliveries: Sequence[Delivery], done: Processed) -> list[Delivery]:
        """Deletions and messages without an event need no scoring."""
        usable: list[Delivery] = []
        for delivery in deliveries:
            event = delivery.event
            if event is None:
                error = delivery.error
                code = UNEXPECTED if error is None else error.code
                self._bury(delivery, code, str(error), done)
            elif event.kind == "deleted":
                record = IndexRecord(video_id=event.video_id, version=event.version, status="deleted", value=b"")
                self._put(record, done)
                self._log(delivery, "deleted", "The video was deleted.", done)
            else:
                usable.append(delivery)
        return usable

    def _retrieve(self, deliveries: list[Delivery]) -> _Retrieved:
        events = [delivery.event for delivery in deliveries if delivery.event is not None]
        features: list[dict[str, Scalar]] = [dict(event.features) for event in events]
        missing: list[dict[str, str]] = [{} for _ in events]
        stale: list[tuple[str, ...]] = [()] * len(events)
        video_ids = [event.video_id for event in events]
        unique = list(dict.fromkeys(video_ids))
        for service in self._features:
            found, name = service.get_many(unique), service.name
            names: dict[str, str] = {}
            for position, video_id in enumerate(video_ids):
                result = found[video_id]
                if isinstance(result, Found):
                    own = features[position]
                    for key, value in result.values.items():
                        full = names.get(key)
                        if full is None:
                            full = names[key] = f"{name}.{key}"
                        own[full] = value
                    if result.stale:
                        stale[position] = (*stale[position], name)
                else:
                    missing[position][name] = result.reason
        return _Retrieved(deliveries, events, features, missing, stale)

    def _match(self, batch: _Retrieved) -> _LookedUp:
        if self._known is None:
            return _LookedUp(batch, {}, {})
        matches: dict[str, KnownMatch] = {}
        notes: dict[str, Observation] = {}
        unasked = [
            event for event, delivery in zip(batch.events, batch.deliveries, strict=True) if not delivery.scores
        ]
        for video_id, result in self._look_up(self._known, unasked).items():
            if isinstance(result, TidegateError):
                value = f"known content not looked up: {result.code}: {result}"
                notes[video_id] = Observation(kind="fallback", value=value, producer="platform.known")
            else:
                matches[video_id] = result
        return _LookedUp(batch, matches, notes)

    def _look_up(
        self, known: KnownContent, events: Sequence[VideoEvent]
    ) -> Mapping[str, KnownMatch | TidegateError]:
        found = attempt(partial(known.match_many, events))
        if not isinstance(found, Failure):
            return found
        if found.code == ServiceUnavailable.code:
            raise ServiceUnavailable(found.reason)
        if len(events) == 1:
            return {events[0].video_id: TidegateError(found.reason)}
        return {key: result for event in events for key, result in self._look_up(known, [event]).items()}

    def _score(self, batch: _Retrieved, matches: Mapping[str, KnownMatch]) -> list[Scored]:
        """Matches decide at once; the others are scored together."""
        items = [
            ScoringItem(event, features, delivery.scores)
            for event, features, delivery in zip(batch.events, batch.features, batch.deliveries, strict=True)
        ]
        if not matches:
            return list(self._score_items(items))
        open_items = [item for item in items if item.event.video_id not in matches]
        rest = iter(self._score_items(open_items) if open_items else ())
        return [
            next(rest) if (match := matches.get(item.event.video_id)) is None else decided_by_match(match, item.event)
            for item in items
        ]

    def _score_items(self, items: Sequence[ScoringItem]) -> Sequence[Scored]:
        scored = attempt(partial(self._scorer.score_many, items))
        if not isinstance(scored, Failure):
            if len(scored) == len(items):
                return scored
            scored = Failure(UNEXPECTED, f"expected {len(items)} scores, got {len(scored)}")
        if scored.code == ServiceUnavailable.code:
            raise ServiceUnavailable(scored.reason)
        if len(items) == 1:
            return [Dead(scored.code, scored.reason)]
        return [result for item in items for result in self._score_items([item])]

    def _judge(self, looked_up: _LookedUp, scored: Sequence[Scored], done: Processed) -> None:
        """All verdicts; an item under which the code breaks is dead-lettered alone."""
        part = Processed()
        if not isinstance(attempt(partial(self._judge_all, looked_up, scored, part)), Failure):
            done.add(part)
            return
        for position, result in enumerate(scored):
            part = Processed()
            broken = attempt(partial(self._judge_one, looked_up, position, result, part))
            if isinstance(broken, Failure):
                part = self.reject(looked_up.batch.deliveries[position], broken.code, broken.reason)
            done.add(part)

    def _judge_all(self, looked_up: _LookedUp, scored: Sequence[Scored], done: Processed) -> None:
        for position, result in enumerate(scored):
            self._judge_one(looked_up, position, result, done)

    def _judge_one(self, looked_up: _LookedUp, position: int, result: Scored, done: Processed) -> None:
        batch = looked_up.batch
        delivery, event = batch.deliveries[position], batch.events[position]
        if isinstance(result, Dead):
            self._fail(delivery, result, done)
            return
        self._count_models(result.scores, delivery, done)
        verdict, shadows, decision, arm, table = None, _NO_SHADOWS, None, None, self._policy
        if self._arms is not None:
            arm, table = self._arms.of(event)
        match = looked_up.matches.get(event.video_id)
        if isinstance(result, Deferred):
            status, reason = "waiting", result.reason or f"The {result.stage} stage is to be asked."
            later = msgspec.structs.replace(delivery, scores=result.scores, attempts=0)
            done.waiting.setdefault((result.stage, 0.0), []).append(later)
        else:
            decision = result.decision
            verdict = table.judge(decision, event.region)
            status, reason = verdict.status, verdict.reason
            if status != "ignored":
                judged = Judged(
                    event, batch.features[position], batch.missing[position], match, decision, result.scores, verdict
                )
                self._put(index_record(judged, table), done)
            if self._shadows:
                shadows = self._stand(decision, event.region)
        note = looked_up.notes.get(event.video_id)
        done.counts[status] += 1
        done.lines.append(self._encode(AuditEntry(
            at=self._now, video_id=event.video_id, version=event.version, status=status, partition=delivery.partition,
            offset=delivery.offset, reason=reason, attempts=delivery.attempts, day=table.day_text,
            received_at=delivery.received_at, event=event, features=batch.features[position],
            missing=batch.missing[position], stale=batch.stale[position], known=match, scores=result.scores,
            decision=decision, verdict=verdict, shadows=shadows, arm=arm,
            observations=result.observations if note is None else (*result.observations, note),
        )))

    def _stand(self, decision: Decision, region: str | None) -> dict[str, Standing]:
        standings = {}
        for name, table in self._shadows.items():
            verdict = table.judge(decision, region)
            standings[name] = Standing(verdict.status, verdict.clause)
            self._measures.shadowed(name, verdict.status)
        return standings

    def _count_models(self, scores: Sequence[Score], delivery: Delivery, done: Processed) -> None:
        for score in scores[len(delivery.scores) :]:
            done.reached[score.stage] += 1
            done.model_seconds[score.stage] += score.cost_seconds

    def _put(self, record: IndexRecord, done: Processed) -> None:
        done.records.append(record)
        if self._config.with_outbox:
            done.messages.append(outbox_message(record))

    def _fail(self, delivery: Delivery, dead: Dead, done: Processed) -> None:
        attempts = delivery.attempts + 1
        if not dead.retryable or attempts >= self._config.max_attempts:
            self._bury(delivery, dead.code, dead.reason, done)
            return
        config = self._config
        pause = min(config.max_retry_seconds, config.retry_seconds * 2.0 ** min(attempts - 1, 60))
        due_at = self._clock() + pause
        again = msgspec.structs.replace(delivery, attempts=attempts)
        done.waiting.setdefault((RETRY, due_at), []).append(again)
        self._log(delivery, "waiting", f"Attempt {attempts} failed ({dead.code}): {dead.reason}", done, code=dead.code)

    def _bury(self, delivery: Delivery, code: str, reason: str, done: Processed) -> None:
        event = delivery.event
        done.letters.append(DeadLetter(
            partition=delivery.partition, offset=delivery.offset, code=code, reason=reason, raw=delivery.raw,
            video_id=None if event is None else event.video_id, attempts=delivery.attempts + 1,
            failed_at=self._clock(), occurred_at=None if event is None else event.occurred_at,
        ))
        self._log(delivery, "dead", reason, done, code=code)

    def _log(self, delivery: Delivery, status: str, reason: str, done: Processed, *, code: str | None = None) -> None:
        event = delivery.event
        done.counts[status] += 1
        done.lines.append(self._encode(AuditEntry(
            at=self._now, video_id=None if event is None else event.video_id,
            version=None if event is None else event.version, status=status, partition=delivery.partition,
            offset=delivery.offset, reason=reason, code=code, attempts=delivery.attempts,
            received_at=delivery.received_at, event=event,
        )))


def decided_by_match(match: KnownMatch, event: VideoEvent) -> Decided:
    """Known content decides without a model: certain where the bank holds violating content, cleared where not."""
    score = 1.0 if match.violates else 0.0
    kind = "violating" if match.violates else "allowed"
    reason = f"{match.matched_share:.0%} of the frames match entry {match.entry} of bank {match.bank} ({kind})"
    return Decided(Decision(
        issue=match.issue, score=score, flagged=match.violates, threshold=0.5, stage="known_content", escalated=False,
        route="known_content", reason=reason, region=event.region,
    ))
