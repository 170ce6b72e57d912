"""Stores and services in memory, for tests of the loop. Real servers have their own tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from tidegate.errors import ServiceUnavailable
from tidegate.pipeline.policy import Clause, Policy
from tidegate.platform.contracts import (
    DeadLetter,
    Delivery,
    FeatureResult,
    Found,
    IndexRecord,
    Missing,
    OutboxMessage,
    PutResult,
    Scored,
    ScoringItem,
)
from tidegate.platform.event import EventCodec, Scalar, VideoEvent, to_json

NOW = 1_700_000_000.0


def policy(**clause: object) -> Policy:
    settings: dict[str, object] = {"id": "icd-1", "issue": "icd", "title": "bad", "remove_at": 0.8, "ignore_from": 0.7}
    return Policy(name="test", version="3", clauses=(Clause(**{**settings, **clause}),))  # type: ignore[arg-type]


def event(video_id: str, version: int = 1, **settings: object) -> VideoEvent:
    return VideoEvent(video_id=video_id, version=version, occurred_at=NOW, **settings)  # type: ignore[arg-type]


def scored_event(video_id: str, score: float | None, version: int = 1, **settings: object) -> VideoEvent:
    return event(video_id, version, features={} if score is None else {"score": score}, **settings)


class ListSource:
    """Deliveries from memory; what is not acknowledged comes again after ``restart``."""

    def __init__(self, messages: Sequence[bytes | VideoEvent], partitions: int = 1) -> None:
        self._codec = EventCodec()
        raws = [to_json(message) if isinstance(message, VideoEvent) else message for message in messages]
        self._queues = [
            [(offset, raw) for offset, raw in enumerate(raws[number::partitions])] for number in range(partitions)
        ]
        self._sent = [0] * partitions
        self.done = [0] * partitions
        self.polls = 0

    def poll(self, max_events: int, timeout_seconds: float) -> list[Delivery]:
        self.polls += 1
        found: list[Delivery] = []
        for number, queue in enumerate(self._queues):
            rest = queue[self._sent[number] : self._sent[number] + max_events - len(found)]
            self._sent[number] += len(rest)
            for offset, raw in rest:
                decoded, error = self._codec.decode_or_error(raw)
                found.append(Delivery(
                    event=decoded, error=error, raw=raw, partition=f"p{number}", offset=offset, received_at=NOW
                ))
        return found

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            number = int(delivery.partition[1:])
            assert delivery.offset == self.done[number], f"acknowledged out of order: {delivery}"
            self.done[number] += 1

    def restart(self) -> None:
        self._sent = list(self.done)

    def lag(self) -> int:
        return sum(len(queue) - sent for queue, sent in zip(self._queues, self._sent, strict=True))

    def close(self) -> None: ...


class MemoryIndex:
    """Versioned compare-and-set in a dict; ``away`` makes it refuse."""

    def __init__(self) -> None:
        self.rows: dict[str, IndexRecord] = {}
        self.messages: dict[str, OutboxMessage] = {}
        self.away = 0
        self.calls = 0

    def put_many(self, records: Sequence[IndexRecord], messages: Sequence[OutboxMessage] = ()) -> PutResult:
        self.calls += 1
        if self.away:
            self.away -= 1
            raise ServiceUnavailable("the index is away")
        by_key = {message.key: message for message in messages}
        applied = 0
        for record in records:
            stored = self.rows.get(record.video_id)
            if stored is None or record.version > stored.version:
                self.rows[record.video_id] = record
                applied += 1
                key = f"{record.video_id}:{record.version}"
                if key in by_key:
                    assert key not in self.messages
                    self.messages[key] = by_key[key]
        return PutResult(applied, len(records) - applied)

    def get_many(self, video_ids: Sequence[str]) -> Mapping[str, IndexRecord]:
        return {key: self.rows[key] for key in video_ids if key in self.rows and self.rows[key].status != "deleted"}

    def counts(self) -> Mapping[str, int]:
        return Counter(row.status for row in self.rows.values())

    def ping(self) -> None: ...

    def close(self) -> None: ...


class MemoryLetters:
    def __init__(self) -> None:
        self.rows: dict[tuple[str, int], DeadLetter] = {}

    def add_many(self, letters: Sequence[DeadLetter]) -> None:
        self.rows.update({(letter.partition, letter.offset): letter for letter in letters})

    def list(
        self, *, since: float | None = None, until: float | None = None, code: str | None = None, limit: int = 1000
    ) -> list[DeadLetter]:
        return sorted(self.rows.values(), key=lambda letter: letter.failed_at)[:limit]

    def remove_many(self, keys: Sequence[tuple[str, int]]) -> None:
        for key in keys:
            self.rows.pop(key, None)

    def count(self) -> int:
        return len(self.rows)

    def close(self) -> None: ...


class TableFeatures:
    """A service that knows what it was given."""

    def __init__(self, name: str, table: Mapping[str, Mapping[str, Scalar]]) -> None:
        self.name = name
        self._table = table

    def get_many(self, video_ids: Sequence[str]) -> Mapping[str, FeatureResult]:
        return {
            key: Found(self._table[key]) if key in self._table else Missing("not_found") for key in video_ids
        }

    def close(self) -> None: ...


class FunctionScorer:
    """Scores one item at a time by a function, which may raise."""

    def __init__(self, function: Callable[[ScoringItem], Scored]) -> None:
        self._function = function

    def score_many(self, items: Sequence[ScoringItem]) -> list[Scored]:
        return [self._function(item) for item in items]

    def close(self) -> None: ...
