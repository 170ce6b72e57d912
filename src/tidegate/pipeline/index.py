"""The index: one SQLite file (WAL) that recommendation reads by key, and that a stopped run resumes from.

Enters: records of finished items, in batches. Leaves: rows, after the commit.

Two tables, because a failure or an abstention is no verdict:

- ``videos``: the latest **verdict** of each video, ``remained`` or ``removed`` (marked, never deleted), with all
  features and scores as JSON. ``ignored`` and ``failed`` leave it untouched.
- ``outcomes``: the latest **outcome** of each video whatever it is, with the fingerprint of the content and the
  setup (policy, models, region) that it rests on.

A write is a compare-and-set on ``version``: replays and older versions change nothing. A run's version is the time
it began in nanoseconds, or one more than the highest stored version if the clock went back.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any

import msgspec

from tidegate.errors import UsageError
from tidegate.types import Outcome

__all__ = ["Index", "IndexEntry", "Record", "Stored", "outcome_from_json", "outcome_to_json"]

_OUTCOMES = msgspec.json.Decoder(Outcome)
"""Made at import: msgspec learns a type on first use, and two threads that do so at once crash it (0.22)."""
SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE outcomes (
    video_id TEXT PRIMARY KEY, version INTEGER NOT NULL, fingerprint TEXT NOT NULL, setup TEXT NOT NULL,
    path TEXT NOT NULL, status TEXT NOT NULL CHECK (status IN ('remained', 'removed', 'ignored', 'failed')),
    error TEXT, outcome TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE videos (
    video_id TEXT PRIMARY KEY, version INTEGER NOT NULL, status TEXT NOT NULL CHECK (status IN ('remained', 'removed')),
    path TEXT NOT NULL, issue TEXT NOT NULL, score REAL NOT NULL, stage TEXT NOT NULL, escalated INTEGER NOT NULL,
    policy TEXT, policy_version TEXT, region TEXT, clause TEXT, outcome TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX outcomes_by_path ON outcomes (path, video_id);
"""
_PUT_OUTCOME = """
INSERT INTO outcomes (video_id, version, fingerprint, setup, path, status, error, outcome)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (video_id) DO UPDATE SET version = excluded.version, fingerprint = excluded.fingerprint,
    setup = excluded.setup, path = excluded.path, status = excluded.status, error = excluded.error,
    outcome = excluded.outcome
WHERE excluded.version > outcomes.version
"""
_PUT_VIDEO = """
INSERT INTO videos (video_id, version, status, path, issue, score, stage, escalated, policy, policy_version, region,
    clause, outcome)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (video_id) DO UPDATE SET version = excluded.version, status = excluded.status, path = excluded.path,
    issue = excluded.issue, score = excluded.score, stage = excluded.stage, escalated = excluded.escalated,
    policy = excluded.policy, policy_version = excluded.policy_version, region = excluded.region,
    clause = excluded.clause, outcome = excluded.outcome
WHERE excluded.version > videos.version
"""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One finished item, ready to be written."""

    outcome: Outcome
    version: int
    fingerprint: str = ""
    """Of the content; empty when it could not be read."""
    setup: str = ""
    """Hash of policy, models and region that the outcome rests on."""


@dataclass(frozen=True)
class Stored:
    """What the index knows of a video's latest outcome."""

    fingerprint: str
    setup: str
    status: str
    outcome_json: str


@dataclass(frozen=True, kw_only=True)
class IndexEntry:
    """What recommendation reads: the latest verdict of a video."""

    video_id: str
    version: int
    status: str
    score: float
    stage: str
    region: str | None
    clause: str | None
    outcome: dict[str, Any]
    """All features and scores."""


def outcome_to_json(outcome: Outcome) -> str:
    """One line of JSON; every reader's, also where a text holds half a surrogate pair."""
    encoded = msgspec.json.encode(_clean(outcome.to_dict()))
    return encoded.decode("utf-8")


def outcome_from_json(text: str) -> Outcome:
    """The outcome that ``outcome_to_json`` wrote."""
    return _OUTCOMES.decode(text)


def _clean(value: Any) -> Any:
    """The same value with what UTF-8 cannot carry written as an escape."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {str(key): _clean(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(entry) for entry in value]
    return value


class Index:
    """The SQLite file. One writer at a time; any number of readers meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = RLock()
        with self._said_plainly():
            self._connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._prepare()

    def _prepare(self) -> None:
        found = self._connection.execute("PRAGMA user_version").fetchone()[0]
        tables = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if found == 0 and tables == 0:
            self._connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        elif found != SCHEMA_VERSION:
            raise UsageError(f"{self._path}: expected an index of version {SCHEMA_VERSION}, got {found}")

    @contextmanager
    def _said_plainly(self) -> Iterator[None]:
        """One thread at a time, and database errors in words."""
        try:
            with self._lock:
                yield
        except sqlite3.Error as error:
            raise UsageError(f"{self._path}: the index cannot be used: {error}") from error

    def next_version(self) -> int:
        """A version that is newer than everything stored."""
        with self._said_plainly():
            highest = self._connection.execute("SELECT max(version) FROM outcomes").fetchone()[0] or 0
        return max(time.time_ns(), int(highest) + 1)

    def put_many(self, records: Sequence[Record]) -> None:
        """Write a batch in one transaction; when this returns, it is written."""
        rows = [(record, outcome_to_json(record.outcome)) for record in records]
        with self._said_plainly():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany(_PUT_OUTCOME, (_outcome_row(record, text) for record, text in rows))
                self._connection.executemany(_PUT_VIDEO, _video_rows(rows))
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def stored(self, video_id: str) -> Stored | None:
        """The latest outcome of a video and what it rests on."""
        query = "SELECT fingerprint, setup, status, outcome FROM outcomes WHERE video_id = ?"
        with self._said_plainly():
            row = self._connection.execute(query, (video_id,)).fetchone()
        return None if row is None else Stored(*row)

    def get_many(self, video_ids: Iterable[str]) -> dict[str, IndexEntry]:
        """The latest verdicts of the videos that have one."""
        columns = "video_id, version, status, score, stage, region, clause, outcome"
        found: dict[str, IndexEntry] = {}
        with self._said_plainly():
            for video_id in video_ids:
                query = f"SELECT {columns} FROM videos WHERE video_id = ?"  # noqa: S608 - a constant
                row = self._connection.execute(query, (video_id,)).fetchone()
                if row is not None:
                    named = dict(zip(columns.split(", "), row, strict=True))
                    found[video_id] = IndexEntry(**named | {"outcome": msgspec.json.decode(named["outcome"])})
        return found

    def outcomes_json(self) -> Iterator[str]:
        """All latest outcomes as JSON, by path; streamed."""
        with self._said_plainly(), closing(self._connection.cursor()) as cursor:
            for (text,) in cursor.execute("SELECT outcome FROM outcomes ORDER BY path, video_id"):
                yield text

    def counts(self) -> dict[str, int]:
        """How many videos the latest outcomes put in each status."""
        with self._said_plainly():
            return dict(self._connection.execute("SELECT status, count(*) FROM outcomes GROUP BY status"))

    def close(self) -> None:
        """Release the file; the write-ahead log is folded in."""
        self._connection.close()


def _outcome_row(record: Record, text: str) -> tuple[Any, ...]:
    outcome = record.outcome
    return (
        outcome.video_id, record.version, record.fingerprint, record.setup, outcome.path, outcome.status, outcome.error,
        text,
    )


def _video_rows(rows: Iterable[tuple[Record, str]]) -> Iterator[tuple[Any, ...]]:
    for record, text in rows:
        outcome, decision = record.outcome, record.outcome.decision
        if outcome.status in {"remained", "removed"} and decision is not None:
            yield (
                outcome.video_id, record.version, outcome.status, outcome.path, decision.issue, decision.score,
                decision.stage, decision.escalated, decision.policy, decision.policy_version, decision.region,
                decision.clause, text,
            )
