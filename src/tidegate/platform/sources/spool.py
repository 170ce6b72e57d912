"""A durable queue of messages in a SQLite file, for sources that have no broker behind them.

Enters: messages, and what else must be remembered in the same transaction (a watermark, the state of a folder). Leaves:
deliveries, in order for each video; those that are acknowledged are deleted. Messages fall into ``LANES`` by video id,
and workers share the lanes out, so that their number may change between runs.
"""

from __future__ import annotations

import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from tidegate.errors import ServiceUnavailable
from tidegate.platform.contracts import Delivery, Shard
from tidegate.platform.event import EventCodec
from tidegate.platform.stores.sqlite_file import SqliteFile

__all__ = ["LANES", "Spool"]

LANES = 64
_LOOK_SECONDS = 0.05
_SCHEMA = """
CREATE TABLE spool (sequence INTEGER PRIMARY KEY AUTOINCREMENT, lane INTEGER NOT NULL, raw BLOB NOT NULL);
CREATE INDEX spool_by_lane ON spool (lane, sequence);
"""


class Spool:
    """The queue as one worker sees it. ``append`` may be called from any thread, the rest from one."""

    def __init__(self, path: str | Path, *, shard: Shard | None = None, codec: EventCodec | None = None) -> None:
        shard = shard or Shard()
        self.file = SqliteFile(path, store="spool", version=1, schema=_SCHEMA, synchronous="FULL")
        self._codec = codec or EventCodec()
        self._lanes = ", ".join(str(lane) for lane in range(LANES) if lane % shard.workers == shard.worker)
        self._cursor = 0
        self._news = threading.Event()

    def append(
        self, messages: Sequence[tuple[str, bytes]], beside: Callable[[sqlite3.Connection], None] | None = None
    ) -> None:
        """Queue (video id, message) pairs; ``beside`` writes into the same transaction. On return they are on disk."""
        rows = [(_lane(video_id), raw) for video_id, raw in messages]
        with self.file.writing() as connection:
            connection.executemany("INSERT INTO spool (lane, raw) VALUES (?, ?)", rows)
            if beside is not None:
                beside(connection)
        self._news.set()

    def poll(self, max_events: int, timeout_seconds: float) -> Sequence[Delivery]:
        """Up to ``max_events`` deliveries that were not handed out yet."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            self._news.clear()
            rows = self._read(max_events)
            left = deadline - time.monotonic()
            if rows or left <= 0:
                break
            self._news.wait(min(left, _LOOK_SECONDS))  # other processes append too
        now = time.time()
        return [self._delivery(*row, now) for row in rows]

    def _read(self, max_events: int) -> list[tuple[int, int, bytes]]:
        query = (
            f"SELECT sequence, lane, raw FROM spool WHERE sequence > ? AND +lane IN ({self._lanes}) "  # noqa: S608
            "ORDER BY sequence LIMIT ?"
        )
        with self.file.reading() as connection:
            rows = connection.execute(query, (self._cursor, max_events)).fetchall() if self._lanes else []
        if rows:
            self._cursor = rows[-1][0]
        return rows

    def _delivery(self, sequence: int, lane: int, raw: bytes, now: float) -> Delivery:
        event, error = self._codec.decode_or_error(raw)
        return Delivery(
            event=event, error=error, raw=raw, partition=f"spool/{lane}", offset=sequence, received_at=now
        )

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Delete up to these, lane by lane."""
        done: dict[int, int] = {}
        for delivery in deliveries:
            lane = int(delivery.partition.rpartition("/")[2])
            done[lane] = max(done.get(lane, 0), delivery.offset)
        if done:
            with self.file.writing() as connection:
                connection.executemany("DELETE FROM spool WHERE lane = ? AND sequence <= ?", done.items())

    def depth(self) -> int:
        """At most how many messages are in the file, of all lanes; acknowledged ones in between count."""
        with self.file.reading() as connection:
            first, last = connection.execute("SELECT min(sequence), max(sequence) FROM spool").fetchone()
        return 0 if first is None else last - first + 1

    def lag(self) -> int | None:
        """Messages of this worker's lanes that were not handed out."""
        query = f"SELECT count(*) FROM spool WHERE sequence > ? AND +lane IN ({self._lanes})"  # noqa: S608
        with suppress(ServiceUnavailable), self.file.reading() as connection:
            return int(connection.execute(query, (self._cursor,)).fetchone()[0]) if self._lanes else 0
        return None

    def close(self) -> None:
        """Release the file."""
        self.file.close()


def _lane(video_id: str) -> int:
    return zlib.crc32(video_id.encode("utf-8", "surrogatepass")) % LANES
