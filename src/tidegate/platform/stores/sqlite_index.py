"""The embedded index: a SQLite file, no server. Also its own outbox, in the same transaction.

Enters: records with versions, and outbox messages. Leaves: what changed; records by id; messages that wait.
Source of the rule: one writer at a time (``BEGIN IMMEDIATE``), so comparing versions and writing is one step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from tidegate.errors import ConfigError
from tidegate.platform.contracts import IndexRecord, OutboxMessage, PutResult
from tidegate.platform.stores.batches import by_record, newest, record_key
from tidegate.platform.stores.sqlite_file import SqliteFile

__all__ = ["SqliteIndex", "SqliteIndexConfig"]

_SCHEMA = """
CREATE TABLE records (
    video_id TEXT PRIMARY KEY, version INTEGER NOT NULL, status TEXT NOT NULL, value BLOB NOT NULL, issue TEXT NOT NULL,
    score REAL, region TEXT NOT NULL, policy_version TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE outbox (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, topic TEXT NOT NULL, payload BLOB NOT NULL,
    UNIQUE (key, topic)
);
"""
_COLUMNS = "video_id, version, status, value, issue, score, region, policy_version"
_PUT = f"""
INSERT INTO records ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (video_id) DO UPDATE SET version = excluded.version, status = excluded.status, value = excluded.value,
    issue = excluded.issue, score = excluded.score, region = excluded.region, policy_version = excluded.policy_version
WHERE excluded.version > records.version
"""  # noqa: S608 - constants
_VERSIONS = "SELECT video_id, version FROM records WHERE video_id IN (SELECT value FROM json_each(?))"
_GET = f"SELECT {_COLUMNS} FROM records WHERE status <> 'deleted' AND video_id IN (SELECT value FROM json_each(?))"  # noqa: S608
_QUEUE = "INSERT OR IGNORE INTO outbox (key, topic, payload) VALUES (?, ?, ?)"


@dataclass(frozen=True, kw_only=True)
class SqliteIndexConfig:
    """Where the embedded index lies."""

    path: str
    """The file; made if absent."""
    survive_power_loss: bool = False
    """False: a commit survives kill -9 of the process. True: a power cut too; each batch waits for the disk."""
    timeout_seconds: float = 30.0
    """How long a write waits for another process that writes."""

    def __post_init__(self) -> None:
        if not self.path:
            raise ConfigError("expected the path of a SQLite file, got an empty one")


class SqliteIndex:
    """``IndexService`` and ``Outbox``."""

    def __init__(self, config: SqliteIndexConfig) -> None:
        self._file = SqliteFile(
            config.path, store="index", version=1, schema=_SCHEMA,
            synchronous="FULL" if config.survive_power_loss else "NORMAL", timeout_seconds=config.timeout_seconds,
        )

    def put_many(self, records: Sequence[IndexRecord], messages: Sequence[OutboxMessage] = ()) -> PutResult:
        """Versioned compare-and-set of a batch, and its messages, in one transaction."""
        waiting = by_record(records, messages)
        batch = newest(records)
        with self._file.writing() as connection:
            ids = msgspec.json.encode([record.video_id for record in batch]).decode()
            stored: dict[str, int] = dict(connection.execute(_VERSIONS, (ids,)))
            fresh = [record for record in batch if record.version > stored.get(record.video_id, -1)]
            connection.executemany(_PUT, map(_row, fresh))
            if waiting:
                causes = (waiting.get(record_key(record), ()) for record in fresh)
                rows = [(message.key, message.topic, message.payload) for cause in causes for message in cause]
                connection.executemany(_QUEUE, rows)
        return PutResult(applied=len(fresh), skipped=len(records) - len(fresh))

    def get_many(self, video_ids: Sequence[str]) -> Mapping[str, IndexRecord]:
        """Records by id; unknown and deleted ones are absent."""
        with self._file.reading() as connection:
            rows = connection.execute(_GET, (msgspec.json.encode(list(video_ids)).decode(),)).fetchall()
        return {row[0]: _record(row) for row in rows}

    def counts(self) -> Mapping[str, int]:
        """Records by status, tombstones included."""
        with self._file.reading() as connection:
            return dict(connection.execute("SELECT status, count(*) FROM records GROUP BY status").fetchall())

    def ping(self) -> None:
        """Read one page."""
        with self._file.reading() as connection:
            connection.execute("SELECT 1 FROM records LIMIT 1").fetchone()

    def pending(self, limit: int) -> Sequence[OutboxMessage]:
        """The oldest waiting messages."""
        query = "SELECT key, topic, payload FROM outbox ORDER BY sequence LIMIT ?"
        with self._file.reading() as connection:
            rows = connection.execute(query, (limit,)).fetchall()
        return [OutboxMessage(key=key, topic=topic, payload=payload) for key, topic, payload in rows]

    def done(self, keys: Sequence[str]) -> None:
        """Forget delivered messages."""
        with self._file.writing() as connection:
            connection.executemany("DELETE FROM outbox WHERE key = ?", [(key,) for key in keys])

    def depth(self) -> int:
        """How many messages wait."""
        with self._file.reading() as connection:
            return int(connection.execute("SELECT count(*) FROM outbox").fetchone()[0])

    def close(self) -> None:
        """Release the file."""
        self._file.close()


def _row(record: IndexRecord) -> tuple[object, ...]:
    return (
        record.video_id, record.version, record.status, record.value, record.issue, record.score, record.region,
        record.policy_version,
    )


def _record(row: Sequence[Any]) -> IndexRecord:
    return IndexRecord(
        video_id=row[0], version=row[1], status=row[2], value=row[3], issue=row[4], score=row[5], region=row[6],
        policy_version=row[7],
    )
