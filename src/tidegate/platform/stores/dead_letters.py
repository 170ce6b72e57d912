"""Deliveries that could not be used, kept with their cause until they are replayed or dropped by people.

Enters: dead letters. Leaves: those of a time range or a cause. One entry for each (partition, offset): a delivery that
fails again replaces its entry. What is removed is marked with the time, not lost: ``settled`` lists it until
``forget_settled``. The SQLite form is for one machine, the PostgreSQL form for workers on several.
"""

from __future__ import annotations

import builtins
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tidegate.errors import ConfigError
from tidegate.platform.contracts import DeadLetter
from tidegate.platform.stores.postgres_link import PostgresLink
from tidegate.platform.stores.sqlite_file import SqliteFile

__all__ = ["PostgresDeadLetters", "PostgresDeadLettersConfig", "SqliteDeadLetters", "SqliteDeadLettersConfig"]

_COLUMNS = "source_partition, source_offset, code, reason, raw, video_id, attempts, failed_at, occurred_at"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS dead_letters (
    source_partition TEXT NOT NULL, source_offset BIGINT NOT NULL, code TEXT NOT NULL, reason TEXT NOT NULL,
    raw {bytes} NOT NULL, video_id TEXT, attempts INTEGER NOT NULL, failed_at {real} NOT NULL, occurred_at {real},
    settled_at {real}, PRIMARY KEY (source_partition, source_offset)
);
CREATE INDEX IF NOT EXISTS dead_letters_by_time ON dead_letters (failed_at)
"""
_ADD = f"""
INSERT INTO dead_letters ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (source_partition, source_offset) DO UPDATE SET code = excluded.code, reason = excluded.reason,
    raw = excluded.raw, video_id = excluded.video_id, attempts = excluded.attempts, failed_at = excluded.failed_at,
    occurred_at = excluded.occurred_at, settled_at = NULL
WHERE excluded.failed_at >= dead_letters.failed_at OR dead_letters.settled_at IS NOT NULL
"""  # noqa: S608 - constants
_SETTLE = "UPDATE dead_letters SET settled_at = ? WHERE source_partition = ? AND source_offset = ?"
_FORGET = "DELETE FROM dead_letters WHERE settled_at < ?"


@dataclass(frozen=True, kw_only=True)
class SqliteDeadLettersConfig:
    """Where the dead letters of one machine lie."""

    path: str
    """The file; made if absent. It may be the index's own file."""

    def __post_init__(self) -> None:
        if not self.path:
            raise ConfigError("expected the path of a SQLite file, got an empty one")


@dataclass(frozen=True, kw_only=True)
class PostgresDeadLettersConfig:
    """Which PostgreSQL database holds the dead letters of all workers."""

    url: str = "postgresql://127.0.0.1/tidegate"
    """A connection string of libpq."""
    timeout_seconds: float = 10.0
    """For connecting and for each batch."""


class SqliteDeadLetters:
    """``DeadLetters`` in a file."""

    def __init__(self, config: SqliteDeadLettersConfig) -> None:
        self._file = SqliteFile(
            config.path, store="dead_letters", version=1, schema=_SCHEMA.format(bytes="BLOB", real="REAL")
        )

    def add_many(self, letters: Sequence[DeadLetter]) -> None:
        """Keep them; an older entry of the same delivery is replaced."""
        with self._file.writing() as connection:
            connection.executemany(_ADD, map(_row, letters))

    def list(
        self, *, since: float | None = None, until: float | None = None, code: str | None = None, limit: int = 1000
    ) -> Sequence[DeadLetter]:
        """Those that wait, by ``failed_at``; ``since`` is included, ``until`` is not."""
        return self._find(*_query(since, until, code, limit, settled=False))

    def settled(self, *, since: float | None = None, limit: int = 1000) -> Sequence[DeadLetter]:
        """Those that were replayed or dropped."""
        return self._find(*_query(since, None, None, limit, settled=True))

    def _find(self, query: str, values: tuple[Any, ...]) -> builtins.list[DeadLetter]:
        with self._file.reading() as connection:
            return [_letter(row) for row in connection.execute(query, values).fetchall()]

    def remove_many(self, keys: Sequence[tuple[str, int]]) -> None:
        """Mark as settled, by (partition, offset)."""
        now = time.time()
        with self._file.writing() as connection:
            connection.executemany(_SETTLE, [(now, partition, offset) for partition, offset in keys])

    def forget_settled(self, before: float) -> None:
        """Delete what was settled before this Unix time."""
        with self._file.writing() as connection:
            connection.execute(_FORGET, (before,))

    def count(self) -> int:
        """How many wait."""
        with self._file.reading() as connection:
            query = "SELECT count(*) FROM dead_letters WHERE settled_at IS NULL"
            return int(connection.execute(query).fetchone()[0])

    def close(self) -> None:
        """Release the file."""
        self._file.close()


class PostgresDeadLetters:
    """``DeadLetters`` in a database."""

    def __init__(self, config: PostgresDeadLettersConfig) -> None:
        schema = _SCHEMA.format(bytes="BYTEA", real="DOUBLE PRECISION")
        self._link = PostgresLink(config.url, config.timeout_seconds, schema=schema)

    def add_many(self, letters: Sequence[DeadLetter]) -> None:
        """Keep them; an older entry of the same delivery is replaced."""
        rows = sorted(map(_row, letters), key=lambda row: row[:2])  # one order of locks for all writers
        with self._link.transaction() as cursor:
            cursor.executemany(_percent(_ADD), rows)

    def list(
        self, *, since: float | None = None, until: float | None = None, code: str | None = None, limit: int = 1000
    ) -> Sequence[DeadLetter]:
        """Those that wait, by ``failed_at``; ``since`` is included, ``until`` is not."""
        return self._find(*_query(since, until, code, limit, settled=False))

    def settled(self, *, since: float | None = None, limit: int = 1000) -> Sequence[DeadLetter]:
        """Those that were replayed or dropped."""
        return self._find(*_query(since, None, None, limit, settled=True))

    def _find(self, query: str, values: tuple[Any, ...]) -> builtins.list[DeadLetter]:
        with self._link.transaction() as cursor:
            return [_letter(row) for row in cursor.execute(_percent(query), values).fetchall()]

    def remove_many(self, keys: Sequence[tuple[str, int]]) -> None:
        """Mark as settled, by (partition, offset)."""
        now = time.time()
        with self._link.transaction() as cursor:
            cursor.executemany(_percent(_SETTLE), [(now, partition, offset) for partition, offset in sorted(keys)])

    def forget_settled(self, before: float) -> None:
        """Delete what was settled before this Unix time."""
        with self._link.transaction() as cursor:
            cursor.execute(_percent(_FORGET), (before,))

    def count(self) -> int:
        """How many wait."""
        with self._link.transaction() as cursor:
            query = "SELECT count(*) FROM dead_letters WHERE settled_at IS NULL"
            return int(cursor.execute(query).fetchone()[0])

    def close(self) -> None:
        """Close the connection."""
        self._link.close()


def _query(
    since: float | None, until: float | None, code: str | None, limit: int, *, settled: bool
) -> tuple[str, tuple[Any, ...]]:
    when = "settled_at IS NOT NULL" if settled else "settled_at IS NULL"
    bounds = [("failed_at >= ?", since), ("failed_at < ?", until), ("code = ?", code)]
    used = [(text, value) for text, value in bounds if value is not None]
    where = " AND ".join([when, *(text for text, _ in used)])
    query = (
        f"SELECT {_COLUMNS} FROM dead_letters WHERE {where} "  # noqa: S608 - constants and placeholders
        "ORDER BY failed_at, source_partition, source_offset LIMIT ?"
    )
    return query, (*(value for _, value in used), limit)


def _percent(query: str) -> str:
    return query.replace("?", "%s")


def _row(letter: DeadLetter) -> tuple[Any, ...]:
    return (
        letter.partition, letter.offset, letter.code, _storable(letter.reason), letter.raw, letter.video_id and
        _storable(letter.video_id), letter.attempts, letter.failed_at, letter.occurred_at,
    )


def _storable(text: str) -> str:
    """What every database takes as text: no NUL, no half of a surrogate pair."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def _letter(row: Sequence[Any]) -> DeadLetter:
    return DeadLetter(
        partition=row[0], offset=row[1], code=row[2], reason=row[3], raw=row[4], video_id=row[5], attempts=row[6],
        failed_at=row[7], occurred_at=row[8],
    )
