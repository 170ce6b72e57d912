"""Waiting room: items that a later stage must score, or that are to be tried again, on disk.

Enters: deliveries with the scores they have so far. Leaves: the same deliveries, when they are due, to the loop that
serves their stage. This is what lets the cheap stage go on while the large one is slow: what waits costs disk, not
memory, and its number is the lag that everybody can see. Stored before the source is acknowledged, removed after the
index is written; a delivery is named by where it came from, so storing it twice changes nothing.

One SQLite file, shared by all workers of a machine. Method: a table as a queue, due time first.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import msgspec

from tidegate.errors import ServiceUnavailable
from tidegate.platform.contracts import Delivery
from tidegate.platform.event import VideoEvent
from tidegate.types import Score

__all__ = ["WaitingRoom", "WaitingSource"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS waiting (
    number INTEGER PRIMARY KEY AUTOINCREMENT, stage TEXT NOT NULL, due_at REAL NOT NULL, home TEXT NOT NULL,
    position INTEGER NOT NULL, item BLOB NOT NULL, UNIQUE (home, position)
);
CREATE INDEX IF NOT EXISTS waiting_by_due ON waiting (stage, due_at, number);
"""
_PUT = """
INSERT INTO waiting (stage, due_at, home, position, item) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (home, position) DO UPDATE SET stage = excluded.stage, due_at = excluded.due_at, item = excluded.item
"""
_TAKE = """
SELECT number, home, position, item FROM waiting
WHERE stage = ? AND (due_at <= ? OR due_at > ?) AND number NOT IN (SELECT value FROM json_each(?))
ORDER BY due_at, number LIMIT ?
"""


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    event: VideoEvent
    raw: bytes
    received_at: float
    scores: tuple[Score, ...]
    attempts: int


class WaitingRoom:
    """The file. Safe to use from many threads and processes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._decoder = msgspec.msgpack.Decoder(_Stored)
        with self._said_plainly():
            self._connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.executescript(_SCHEMA)

    def put_many(self, stage: str, deliveries: Sequence[Delivery], *, due_at: float = 0.0) -> None:
        """Store deliveries for a stage; durable on return. What is there already is moved to this stage."""
        rows = [
            (stage, due_at, delivery.partition, delivery.offset, msgspec.msgpack.encode(
                _Stored(delivery.event, delivery.raw, delivery.received_at, delivery.scores, delivery.attempts)
            ))
            for delivery in deliveries
            if delivery.event is not None
        ]
        with self._transaction():
            self._connection.executemany(_PUT, rows)

    def take(
        self, stage: str, max_events: int, *, now: float, latest: float = math.inf, taken: Sequence[int] = ()
    ) -> list[tuple[int, Delivery]]:
        """Deliveries that are due, with their numbers, oldest first; they stay until ``remove``.

        Nothing is ever put back for longer than until ``latest``: what says so was written before the clock moved
        back, and is due."""
        with self._said_plainly(), self._lock:
            rows = self._connection.execute(
                _TAKE, (stage, now, latest, msgspec.json.encode(list(taken)).decode(), max_events)
            ).fetchall()
        return [(number, self._delivery(home, position, item)) for number, home, position, item in rows]

    def remove(self, numbers: Sequence[int]) -> None:
        """These are done."""
        with self._transaction():
            self._connection.executemany("DELETE FROM waiting WHERE number = ?", [(number,) for number in numbers])

    def counts(self) -> Mapping[str, int]:
        """How many wait, by stage."""
        with self._said_plainly(), self._lock:
            return dict(self._connection.execute("SELECT stage, count(*) FROM waiting GROUP BY stage"))

    def count(self, stage: str | None = None) -> int:
        """How many wait, for one stage or in all."""
        counts = self.counts()
        return sum(counts.values()) if stage is None else counts.get(stage, 0)

    def close(self) -> None:
        self._connection.close()

    def _delivery(self, home: str, position: int, item: bytes) -> Delivery:
        stored = self._decoder.decode(item)
        return Delivery(
            event=stored.event, error=None, raw=stored.raw, partition=home, offset=position,
            received_at=stored.received_at, scores=stored.scores, attempts=stored.attempts,
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._said_plainly(), self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    @contextmanager
    def _said_plainly(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise ServiceUnavailable(f"{self._path}: the waiting room cannot be used: {error}") from error


class _Tokens:
    """A token bucket on the monotonic clock: a hard limit on an average rate."""

    def __init__(self, per_second: float, burst: float) -> None:
        self._rate, self._depth = per_second, max(1.0, burst)
        self._tokens, self._at = self._depth, time.monotonic()

    def whole(self) -> int:
        now = time.monotonic()
        self._tokens, self._at = min(self._depth, self._tokens + self._rate * (now - self._at)), now
        return int(self._tokens)

    def spend(self, count: int) -> None:
        self._tokens -= count


class WaitingSource:
    """The deliveries of one stage as an event source."""

    def __init__(
        self, room: WaitingRoom, stage: str, *, clock: Callable[[], float] = time.time, pause_seconds: float = 0.05,
        max_wait_seconds: float = math.inf, per_second: float | None = None, burst: float = 1.0,
    ) -> None:
        """``per_second``: hand out no more than this on average, after a quiet time ``burst`` at once."""
        self._room, self._stage, self._clock, self._pause = room, stage, clock, pause_seconds
        self._max_wait = max_wait_seconds
        self._tokens = None if per_second is None else _Tokens(per_second, burst)
        self._numbers: dict[tuple[str, int], int] = {}

    def poll(self, max_events: int, timeout_seconds: float) -> Sequence[Delivery]:
        """Due deliveries; waits up to the timeout for some."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            found = self._take(max_events)
            if found or time.monotonic() >= deadline:
                break
            time.sleep(min(self._pause, max(0.0, deadline - time.monotonic())))
        for number, delivery in found:
            self._numbers[delivery.partition, delivery.offset] = number
        return [delivery for _, delivery in found]

    def _take(self, max_events: int) -> list[tuple[int, Delivery]]:
        allowed = max_events if self._tokens is None else min(max_events, self._tokens.whole())
        if allowed == 0:
            return []
        now, taken = self._clock(), tuple(self._numbers.values())
        found = self._room.take(self._stage, allowed, now=now, latest=now + self._max_wait, taken=taken)
        if self._tokens is not None:
            self._tokens.spend(len(found))
        return found

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Done with these, unless they were put back meanwhile (then they have a new due time and stay)."""
        keys = [(delivery.partition, delivery.offset) for delivery in deliveries]
        self._room.remove([self._numbers[key] for key in keys if key in self._numbers])
        self.forget(deliveries)

    def forget(self, deliveries: Sequence[Delivery]) -> None:
        """These were put back: they may be handed out again when they are due."""
        for delivery in deliveries:
            self._numbers.pop((delivery.partition, delivery.offset), None)

    def lag(self) -> int:
        return self._room.count(self._stage)

    def close(self) -> None:
        """Nothing to leave; what was not acknowledged stays in the room."""
