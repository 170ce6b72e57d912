"""Features in SQL databases: PostgreSQL, or a SQLite file.

Enters: ids. Leaves: rows. The operator writes the query; its column ``video_id`` names the video, ``observed_at`` (if
any) is the Unix time of the values, every other column is a feature, and NULL is absent. The ids are the parameter
``ids``: an array in PostgreSQL (``WHERE video_id = ANY(%(ids)s)``), a JSON array in SQLite (``WHERE video_id IN
(SELECT value FROM json_each(:ids))``).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from tidegate.errors import ConfigError, ServiceRefused, ServiceUnavailable
from tidegate.platform.features.guard import GuardConfig, GuardedFeatures, Row, scalars
from tidegate.platform.stores.postgres_link import PostgresLink

__all__ = ["PostgresFeaturesConfig", "SqliteFeaturesConfig", "open_postgres_features", "open_sqlite_features"]

_STEPS_BETWEEN_LOOKS = 10_000


@dataclass(frozen=True, kw_only=True)
class PostgresFeaturesConfig(GuardConfig):
    """Which database, and what is asked of it."""

    url: str = "postgresql://127.0.0.1/tidegate"
    """A connection string of libpq; the session is read-only."""
    query: str
    """Selects ``video_id`` and features, with ``%(ids)s`` for the array of ids."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if "%(ids)s" not in self.query:
            raise ConfigError(f"expected a query with %(ids)s, got {self.query!r}")


@dataclass(frozen=True, kw_only=True)
class SqliteFeaturesConfig(GuardConfig):
    """Which file, and what is asked of it."""

    path: str
    """The SQLite file; opened read-only."""
    query: str
    """Selects ``video_id`` and features, with ``:ids`` for the JSON array of ids."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if ":ids" not in self.query:
            raise ConfigError(f"expected a query with :ids, got {self.query!r}")


def open_postgres_features(config: PostgresFeaturesConfig) -> GuardedFeatures:
    """The service; it connects when it is first asked."""
    return GuardedFeatures(config, _PostgresFeatures(config))


def open_sqlite_features(config: SqliteFeaturesConfig) -> GuardedFeatures:
    """The service; the file is opened when it is first asked."""
    return GuardedFeatures(config, _SqliteFeatures(config))


class _PostgresFeatures:
    def __init__(self, config: PostgresFeaturesConfig) -> None:
        self._link = PostgresLink(config.url, config.deadline_seconds, read_only=True)
        self._query = config.query

    def fetch(self, video_ids: Sequence[str], seconds: float) -> Mapping[str, Row]:
        with self._link.transaction(seconds) as cursor:
            cursor.execute(self._query, {"ids": list(video_ids)})
            names = [column.name for column in cursor.description or ()]
            return _rows(names, cursor.fetchall())

    def close(self) -> None:
        self._link.close()


class _SqliteFeatures:
    def __init__(self, config: SqliteFeaturesConfig) -> None:
        self._path, self._query = Path(config.path), config.query
        self._connection: sqlite3.Connection | None = None

    def fetch(self, video_ids: Sequence[str], seconds: float) -> Mapping[str, Row]:
        end = time.monotonic() + seconds
        try:
            connection = self._opened(seconds)
            connection.set_progress_handler(lambda: time.monotonic() > end, _STEPS_BETWEEN_LOOKS)
            cursor = connection.execute(self._query, {"ids": msgspec.json.encode(list(video_ids)).decode()})
            return _rows([column[0] for column in cursor.description or ()], cursor.fetchall())
        except sqlite3.OperationalError as error:  # locked, interrupted, gone, no such table
            self.close()
            raise ServiceUnavailable(f"{self._path}: {error}") from error
        except sqlite3.Error as error:
            self.close()
            raise ServiceRefused(f"{self._path}: {error}") from error

    def _opened(self, seconds: float) -> sqlite3.Connection:
        if self._connection is None:
            uri = self._path.absolute().as_uri() + "?mode=ro"
            self._connection = sqlite3.connect(uri, uri=True, timeout=seconds, check_same_thread=False)
        return self._connection

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _rows(names: Sequence[str], found: Iterable[Sequence[Any]]) -> dict[str, Row]:
    if "video_id" not in names:
        raise ServiceRefused(f"expected a column video_id, got {', '.join(names) or 'none'}")
    where = list(names).index("video_id")
    return {
        str(row[where]): scalars(
            {name: _plain(value) for name, value in zip(names, row, strict=True) if name != "video_id"}
        )
        for row in found
    }


def _plain(value: object) -> object:
    return float(value) if isinstance(value, Decimal) else value
