"""One SQLite file (WAL) that several stores may share, each with its own tables.

Enters: a path and a schema. Leaves: transactions. One writer at a time over all processes, readers meanwhile. A commit
survives kill -9 of the process; it survives a power cut too if ``synchronous`` is ``FULL``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Literal

from tidegate.errors import ConfigError, ServiceRefused, ServiceUnavailable

__all__ = ["SqliteFile"]


class SqliteFile:
    """A connection that threads may share."""

    def __init__(
        self, path: str | Path, *, store: str, version: int, schema: str,
        synchronous: Literal["NORMAL", "FULL"] = "NORMAL", timeout_seconds: float = 30.0,
    ) -> None:
        self._path = Path(path)
        self._lock = RLock()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                self._path, timeout=timeout_seconds, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"expected a path where a SQLite file can be, got {self._path}: {error}") from error
        with self._said_plainly():
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute(f"PRAGMA synchronous = {synchronous}")
            self._prepare(store, version, schema)

    def _prepare(self, store: str, version: int, schema: str) -> None:
        with self.writing() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS stores (name TEXT PRIMARY KEY, version INTEGER NOT NULL)")
            row = connection.execute("SELECT version FROM stores WHERE name = ?", (store,)).fetchone()
            if row is None:
                for statement in filter(None, map(str.strip, schema.split(";"))):
                    connection.execute(statement)
                connection.execute("INSERT INTO stores VALUES (?, ?)", (store, version))
            elif row[0] != version:
                raise ConfigError(f"{self._path}: expected tables of {store} in version {version}, got {row[0]}")

    @contextmanager
    def _said_plainly(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except sqlite3.OperationalError as error:  # locked, disk full, I/O
            raise ServiceUnavailable(f"{self._path}: {error}") from error
        except sqlite3.Error as error:
            raise ServiceRefused(f"{self._path}: {error}") from error

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction; committed when the block ends without an error."""
        with self._said_plainly():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Reads of one statement each."""
        with self._said_plainly():
            yield self._connection

    def close(self) -> None:
        """Release the file; the last one folds the write-ahead log in."""
        with self._lock:
            self._connection.close()
