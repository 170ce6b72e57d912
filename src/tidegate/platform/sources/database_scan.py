"""Events from a table that other systems write: new and changed rows, found by a watermark.

Enters: a query of the operator, asked page by page. Leaves: an event for each row version.

The query returns ``watermark`` (Unix seconds of the change), ``video_id`` and ``version``, and takes three parameters:
``since``, ``after`` and ``limit`` (``%(since)s`` in PostgreSQL, ``:since`` in SQLite):

    SELECT extract(epoch FROM updated_at) AS watermark, video_id, version, views, region
    FROM videos WHERE (updated_at, video_id) > (to_timestamp(%(since)s), %(after)s)
    ORDER BY updated_at, video_id LIMIT %(limit)s

Columns named as fields of events fill them, ``title`` is a text, every other column is a feature, NULL is absent.
A transaction that began early may commit late, with a watermark behind ours: so each sweep begins ``overlap_seconds``
before the highest watermark, and rows of the overlap that were taken already are known by (video_id, version).
``overlap_seconds`` must be longer than the longest writing transaction. A row that is no valid event becomes a delivery
with an error. Rows that vanish are not seen: mark them deleted in a ``kind`` column.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import msgspec

from tidegate.errors import ConfigError, ServiceRefused, ServiceUnavailable
from tidegate.platform.contracts import Delivery, Shard
from tidegate.platform.event import EVENT_SCHEMA, EventCodec
from tidegate.platform.sources.spool import Spool
from tidegate.platform.stores.postgres_link import PostgresLink
from tidegate.platform.stores.sqlite_file import SqliteFile

__all__ = ["DatabaseSource", "DatabaseSourceConfig"]

_SCHEMA = """
CREATE TABLE scan_place (one INTEGER PRIMARY KEY CHECK (one = 1), since REAL NOT NULL, after TEXT NOT NULL,
    highest REAL NOT NULL);
CREATE TABLE scan_taken (video_id TEXT NOT NULL, version TEXT NOT NULL, watermark REAL NOT NULL,
    PRIMARY KEY (video_id, version)) WITHOUT ROWID;
CREATE INDEX scan_taken_by_time ON scan_taken (watermark);
"""
_FIELDS = {"kind", "location", "region", "language", "views", "creator", "uploaded_at", "occurred_at"}
_Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class DatabaseSourceConfig:
    """Which database, what is asked, how often."""

    database: str
    """``postgresql://...``, or the path of a SQLite file."""
    query: str
    """One page of changed rows, as described above."""
    path: str
    """File of the spool and of what was taken."""
    interval_seconds: float = 5.0
    """Between the end of a sweep and the next one."""
    overlap_seconds: float = 300.0
    """How far behind the highest watermark a sweep begins; longer than the longest writing transaction."""
    page_rows: int = 1000
    """Rows of one query."""
    start: float = 0.0
    """Watermark of the first sweep; 0 = all rows."""
    max_queued: int = 100_000
    """Messages in the spool beyond which nobody asks."""
    timeout_seconds: float = 30.0
    """For one page."""

    def __post_init__(self) -> None:
        for name in ("since", "after", "limit"):
            if f"%({name})s" not in self.query and f":{name}" not in self.query:
                raise ConfigError(f"expected a query with the parameter {name}, got {self.query!r}")
        if not self.path or not self.database or self.page_rows < 1:
            raise ConfigError(f"expected database, path and page_rows >= 1, got {self}")
        if self.interval_seconds <= 0 or self.overlap_seconds < 0 or self.timeout_seconds <= 0:
            raise ConfigError(f"expected positive times, got {self}")


class _Database(Protocol):
    def page(self, query: str, parameters: Mapping[str, Any]) -> list[_Row]: ...

    def close(self) -> None: ...


class _Place(msgspec.Struct, frozen=True):
    since: float
    after: str
    highest: float


class DatabaseSource:
    """``EventSource``; worker 0 asks, all workers share what it found."""

    def __init__(
        self, config: DatabaseSourceConfig, shard: Shard | None = None, codec: EventCodec | None = None
    ) -> None:
        self._config = config
        self._asks = (shard or Shard()).worker == 0
        self._spool = Spool(config.path, shard=shard, codec=codec)
        SqliteFile(config.path, store="scan", version=1, schema=_SCHEMA).close()
        postgres = config.database.startswith(("postgresql://", "postgres://"))
        self._database: _Database = _Postgres(config) if postgres else _Sqlite(config)
        with self._spool.file.reading() as connection:
            row = connection.execute("SELECT since, after, highest FROM scan_place").fetchone()
        self._place = _Place(config.start, "", config.start) if row is None else _Place(*row)
        self._next_ask = 0.0
        self._swept = False

    def poll(self, max_events: int, timeout_seconds: float) -> Sequence[Delivery]:
        """Ask for a page if it is time, then hand out what is queued."""
        due = self._asks and time.monotonic() >= self._next_ask
        if due and self._spool.depth() < self._config.max_queued:
            self._take_page()
        pause = max(0.0, self._next_ask - time.monotonic()) if self._asks else timeout_seconds
        return self._spool.poll(max_events, min(timeout_seconds, pause))

    def settled(self) -> bool:
        """Whether this worker asked to the end of the rows once, and the queue was handed out."""
        return (self._swept or not self._asks) and self._spool.lag() == 0

    def _take_page(self) -> None:
        config, place = self._config, self._place
        parameters = {"since": place.since, "after": place.after, "limit": config.page_rows}
        rows = self._database.page(config.query, parameters)
        marks = [_watermark(row) for row in rows]
        highest = max([place.highest, *marks])
        if len(rows) < config.page_rows:
            following = _Place(max(config.start, highest - config.overlap_seconds), "", highest)
        else:
            following = _Place(marks[-1], str(rows[-1]["video_id"]), highest)
            if (following.since, following.after) == (place.since, place.after):
                raise ServiceRefused("expected rows after (since, after) in their order, got the same page again")
        self._queue(rows, marks, following)
        self._place = following
        if len(rows) < config.page_rows:
            self._swept = True
            self._next_ask = time.monotonic() + config.interval_seconds

    def _queue(self, rows: Sequence[_Row], marks: Sequence[float], following: _Place) -> None:
        keys = [(str(row.get("video_id")), str(row.get("version"))) for row in rows]
        taken = self._taken(keys)
        fresh = [number for number, key in enumerate(keys) if key not in taken]
        messages = [(keys[number][0], _message(rows[number], marks[number])) for number in fresh]

        def remember(connection: sqlite3.Connection) -> None:
            entries = [(*keys[number], marks[number]) for number in fresh]
            connection.executemany("INSERT OR IGNORE INTO scan_taken VALUES (?, ?, ?)", entries)
            horizon = following.highest - self._config.overlap_seconds
            connection.execute("DELETE FROM scan_taken WHERE watermark < ?", (horizon,))
            place = (following.since, following.after, following.highest)
            connection.execute("INSERT OR REPLACE INTO scan_place VALUES (1, ?, ?, ?)", place)

        self._spool.append(messages, remember)

    def _taken(self, keys: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        query = (
            "SELECT video_id, version FROM scan_taken WHERE video_id IN (SELECT value FROM json_each(?))"
        )
        with self._spool.file.reading() as connection:
            names = msgspec.json.encode([video_id for video_id, _ in keys]).decode()
            return {(video_id, version) for video_id, version in connection.execute(query, (names,))}

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Delete them from the spool."""
        self._spool.acknowledge(deliveries)

    def lag(self) -> int | None:
        """Found, not yet handed out; rows that nobody asked for yet are not counted."""
        return self._spool.lag()

    def close(self) -> None:
        """Release the spool and the connection."""
        self._spool.close()
        self._database.close()


class _Postgres:
    def __init__(self, config: DatabaseSourceConfig) -> None:
        self._link = PostgresLink(config.database, config.timeout_seconds, read_only=True)

    def page(self, query: str, parameters: Mapping[str, Any]) -> list[_Row]:
        with self._link.transaction() as cursor:
            cursor.execute(query, parameters)
            names = [column.name for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def close(self) -> None:
        self._link.close()


class _Sqlite:
    def __init__(self, config: DatabaseSourceConfig) -> None:
        self._path, self._timeout_seconds = Path(config.database), config.timeout_seconds

    def page(self, query: str, parameters: Mapping[str, Any]) -> list[_Row]:
        try:
            uri = self._path.absolute().as_uri() + "?mode=ro"
            connection = sqlite3.connect(uri, uri=True, timeout=self._timeout_seconds)
            try:
                cursor = connection.execute(query, dict(parameters))
                names = [column[0] for column in cursor.description or ()]
                return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
            finally:
                connection.close()
        except sqlite3.OperationalError as error:
            raise ServiceUnavailable(f"{self._path}: {error}") from error
        except sqlite3.Error as error:
            raise ServiceRefused(f"{self._path}: {error}") from error

    def close(self) -> None:
        """Nothing is kept open."""


def _watermark(row: _Row) -> float:
    value = row.get("watermark")
    if "video_id" not in row or "version" not in row:
        raise ServiceRefused(f"expected the columns watermark, video_id and version, got {', '.join(row)}")
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or not math.isfinite(value):
        raise ServiceRefused(f"expected watermark in Unix seconds, got {value!r}")
    return float(value)


def _message(row: _Row, watermark: float) -> bytes:
    """The row as an event in JSON; whether it is a valid one is said when it is read."""
    event: dict[str, Any] = {
        "schema": EVENT_SCHEMA, "video_id": row["video_id"], "version": row["version"], "occurred_at": watermark,
    }
    features: dict[str, Any] = {}
    for name, value in row.items():
        if value is None or name in {"watermark", "video_id", "version"}:
            continue
        if name in _FIELDS:
            event[name] = _plain(value)
        elif name == "title":
            event["texts"] = [{"kind": "title", "text": value}]
        else:
            features[name] = _plain(value)
    return msgspec.json.encode(event | {"features": features}, enc_hook=str)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.timestamp()
    return float(value) if isinstance(value, Decimal) else value
