"""Base data and stable features of each video, so that an event that says little is still complete.

Enters: events. Leaves: the same events with what earlier ones said of the video: an event about views brings no title,
region or location, and the policy needs them. Each field keeps the value of the highest version that said something of
it, so the stored state is the same in whatever order events arrive, and replays change nothing. A ``deleted`` event
leaves base data as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import msgspec

from tidegate.errors import ConfigError
from tidegate.platform.contracts import Backend
from tidegate.platform.event import VideoEvent
from tidegate.platform.stores.postgres_link import PostgresLink
from tidegate.platform.stores.sqlite_file import SqliteFile

__all__ = ["BASE_DATA", "BaseData", "PostgresBaseDataConfig", "SqliteBaseDataConfig"]

_Fields: TypeAlias = dict[str, tuple[int, Any]]
_STABLE = ("location", "region", "language", "views", "creator", "uploaded_at", "texts")
_decode = msgspec.msgpack.Decoder(dict[str, tuple[int, Any]]).decode
_SQLITE = "CREATE TABLE base_data (video_id TEXT PRIMARY KEY, fields BLOB NOT NULL) WITHOUT ROWID"
_POSTGRES = """
CREATE TABLE IF NOT EXISTS tidegate_base_data (video_id text COLLATE "C" PRIMARY KEY, fields bytea NOT NULL)
"""


@dataclass(frozen=True, kw_only=True)
class SqliteBaseDataConfig:
    """Where base data lie on one machine."""

    path: str
    """The file; made if absent. It may be the index's own file."""

    def __post_init__(self) -> None:
        if not self.path:
            raise ConfigError("expected the path of a SQLite file, got an empty one")


@dataclass(frozen=True, kw_only=True)
class PostgresBaseDataConfig:
    """Which PostgreSQL database holds base data for all workers."""

    url: str = "postgresql://127.0.0.1/tidegate"
    """A connection string of libpq."""
    timeout_seconds: float = 10.0
    """For connecting and for each batch."""


class _Table(Protocol):
    def merge(self, fresh: Mapping[str, _Fields]) -> dict[str, _Fields]:
        """Store what is newer, in one transaction; the whole state of these ids."""
        ...

    def read(self, video_ids: Sequence[str]) -> dict[str, _Fields]: ...

    def close(self) -> None: ...


class BaseData:
    """Base data in either database; raises ``ServiceUnavailable`` when its server is away."""

    def __init__(self, table: _Table) -> None:
        self._table = table

    def complete_many(self, events: Sequence[VideoEvent]) -> list[VideoEvent]:
        """Remember what the events say; the events with what they leave out."""
        fresh: dict[str, _Fields] = {}
        for event in events:
            if event.kind != "deleted":
                fresh[event.video_id] = _merged(fresh.get(event.video_id, {}), _said(event))
        stored = self._table.merge(fresh)
        return [_completed(event, stored.get(event.video_id, {})) for event in events]

    def get_many(self, video_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """What is known of each video, by field; features as ``features.<name>``. Unknown ids are absent."""
        found = self._table.read(video_ids)
        return {video_id: {name: value for name, (_, value) in fields.items()} for video_id, fields in found.items()}

    def close(self) -> None:
        """Release the file or the connection."""
        self._table.close()


def _said(event: VideoEvent) -> _Fields:
    values = {name: getattr(event, name) for name in _STABLE}
    values["texts"] = [(text.kind, text.text, text.language) for text in event.texts] or None
    values |= {f"features.{name}": value for name, value in event.features.items()}
    return {name: (event.version, value) for name, value in values.items() if value is not None}


def _merged(stored: Mapping[str, tuple[int, Any]], fresh: Mapping[str, tuple[int, Any]]) -> _Fields:
    merged = dict(stored)
    for name, (version, value) in fresh.items():
        if name not in merged or version > merged[name][0]:
            merged[name] = (version, value)
    return merged


def _completed(event: VideoEvent, fields: Mapping[str, tuple[int, Any]]) -> VideoEvent:
    """What the event itself says stands; the rest comes from the state, whatever its version."""
    if event.kind == "deleted":
        return event
    whole: dict[str, Any] = msgspec.structs.asdict(event)
    features: dict[str, Any] = {}
    for name, (_, value) in fields.items():
        if name.startswith("features."):
            features[name.removeprefix("features.")] = value
        elif name == "texts":
            whole["texts"] = event.texts or [
                {"kind": kind, "text": text, "language": language} for kind, text, language in value
            ]
        elif whole.get(name) is None:
            whole[name] = value
    return msgspec.convert({**whole, "features": features | event.features}, VideoEvent, from_attributes=True)


class _SqliteTable:
    def __init__(self, config: SqliteBaseDataConfig) -> None:
        self._file = SqliteFile(config.path, store="base_data", version=1, schema=_SQLITE)

    def merge(self, fresh: Mapping[str, _Fields]) -> dict[str, _Fields]:
        with self._file.writing():
            stored = self.read(list(fresh))
            merged = {video_id: _merged(stored.get(video_id, {}), fields) for video_id, fields in fresh.items()}
            rows = [
                (video_id, msgspec.msgpack.encode(fields))
                for video_id, fields in merged.items()
                if fields != stored.get(video_id)
            ]
            with self._file.reading() as connection:
                connection.executemany("INSERT OR REPLACE INTO base_data VALUES (?, ?)", rows)
        return merged

    def read(self, video_ids: Sequence[str]) -> dict[str, _Fields]:
        query = "SELECT video_id, fields FROM base_data WHERE video_id IN (SELECT value FROM json_each(?))"
        with self._file.reading() as connection:
            rows = connection.execute(query, (msgspec.json.encode(list(video_ids)).decode(),)).fetchall()
        return {video_id: _decode(fields) for video_id, fields in rows}

    def close(self) -> None:
        self._file.close()


class _PostgresTable:
    def __init__(self, config: PostgresBaseDataConfig) -> None:
        self._link = PostgresLink(config.url, config.timeout_seconds, schema=_POSTGRES)

    def merge(self, fresh: Mapping[str, _Fields]) -> dict[str, _Fields]:
        if not fresh:
            return {}
        ids = sorted(fresh)
        empty = msgspec.msgpack.encode({})
        with self._link.transaction() as cursor:
            # First a row for every id, then locks in the order of ids: writers wait, they never block each other.
            cursor.execute(
                "INSERT INTO tidegate_base_data SELECT id, %s FROM unnest(%s::text[]) AS id ON CONFLICT DO NOTHING",
                (empty, ids),
            )
            rows = cursor.execute(
                "SELECT video_id, fields FROM tidegate_base_data WHERE video_id = ANY(%s) ORDER BY video_id FOR UPDATE",
                (ids,),
            ).fetchall()
            merged = {video_id: _merged(_decode(fields), fresh[video_id]) for video_id, fields in rows}
            cursor.execute(
                "UPDATE tidegate_base_data AS stored SET fields = fresh.fields "
                "FROM unnest(%s::text[], %s::bytea[]) AS fresh (video_id, fields) "
                "WHERE stored.video_id = fresh.video_id AND stored.fields <> fresh.fields",
                (list(merged), [msgspec.msgpack.encode(fields) for fields in merged.values()]),
            )
        return merged

    def read(self, video_ids: Sequence[str]) -> dict[str, _Fields]:
        query = "SELECT video_id, fields FROM tidegate_base_data WHERE video_id = ANY(%s)"
        with self._link.transaction() as cursor:
            rows = cursor.execute(query, (list(video_ids),)).fetchall()
        return {video_id: _decode(fields) for video_id, fields in rows}

    def close(self) -> None:
        self._link.close()


def _open_sqlite(config: SqliteBaseDataConfig) -> BaseData:
    return BaseData(_SqliteTable(config))


def _open_postgres(config: PostgresBaseDataConfig) -> BaseData:
    return BaseData(_PostgresTable(config))


BASE_DATA = {
    "sqlite": Backend(settings=SqliteBaseDataConfig, open=_open_sqlite),
    "postgres": Backend(settings=PostgresBaseDataConfig, open=_open_postgres),
}
