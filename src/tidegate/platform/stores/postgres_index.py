"""The index in PostgreSQL. Also its own outbox, in the same transaction.

Enters: records with versions, and outbox messages. Leaves: what changed; records by id; messages that wait.
A batch is one statement: arrays in, ``ON CONFLICT ... WHERE excluded.version > stored``, and the ids that were written
come back. Ids are in order, so that two writers lock rows in the same order. A commit whose answer was lost is
repeated by the caller and then changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tidegate.errors import ConfigError
from tidegate.platform.contracts import IndexRecord, OutboxMessage, PutResult
from tidegate.platform.stores.batches import by_record, newest, record_key
from tidegate.platform.stores.postgres_link import PostgresLink

__all__ = ["PostgresIndex", "PostgresIndexConfig"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tidegate_records (
    video_id text COLLATE "C" PRIMARY KEY, version bigint NOT NULL, status text NOT NULL, value bytea NOT NULL,
    issue text NOT NULL, score double precision, region text NOT NULL, policy_version text NOT NULL
);
CREATE TABLE IF NOT EXISTS tidegate_outbox (
    sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key text NOT NULL, topic text NOT NULL,
    payload bytea NOT NULL, UNIQUE (key, topic)
);
"""
_PUT = """
INSERT INTO tidegate_records AS stored
SELECT * FROM unnest(
    %s::text[], %s::bigint[], %s::text[], %s::bytea[], %s::text[], %s::float8[], %s::text[], %s::text[]
)
ON CONFLICT (video_id) DO UPDATE SET version = excluded.version, status = excluded.status, value = excluded.value,
    issue = excluded.issue, score = excluded.score, region = excluded.region, policy_version = excluded.policy_version
WHERE excluded.version > stored.version
RETURNING video_id
"""
_GET = """
SELECT video_id, version, status, value, issue, score, region, policy_version FROM tidegate_records
WHERE video_id = ANY(%s) AND status <> 'deleted'
"""
_QUEUE = """
INSERT INTO tidegate_outbox (key, topic, payload) SELECT * FROM unnest(%s::text[], %s::text[], %s::bytea[])
ON CONFLICT DO NOTHING
"""


@dataclass(frozen=True, kw_only=True)
class PostgresIndexConfig:
    """Which PostgreSQL database holds the index."""

    url: str = "postgresql://127.0.0.1/tidegate"
    """A connection string of libpq; a password belongs into it or into ``~/.pgpass``."""
    timeout_seconds: float = 10.0
    """For connecting and for each batch."""

    def __post_init__(self) -> None:
        if self.timeout_seconds <= 0:
            raise ConfigError(f"expected timeout_seconds > 0, got {self.timeout_seconds}")


class PostgresIndex:
    """``IndexService`` and ``Outbox``."""

    def __init__(self, config: PostgresIndexConfig) -> None:
        self._link = PostgresLink(config.url, config.timeout_seconds, schema=_SCHEMA)

    def put_many(self, records: Sequence[IndexRecord], messages: Sequence[OutboxMessage] = ()) -> PutResult:
        """Versioned compare-and-set of a batch, and its messages, in one transaction."""
        waiting = by_record(records, messages)
        batch = newest(records)
        if not batch:
            return PutResult(applied=0, skipped=0)
        with self._link.transaction() as cursor:
            cursor.execute(_PUT, _columns(batch), binary=True)
            applied = {video_id for (video_id,) in cursor.fetchall()}
            if waiting:
                fresh = (record for record in batch if record.video_id in applied)
                caused = [message for record in fresh for message in waiting.get(record_key(record), ())]
                cursor.execute(_QUEUE, (
                    [message.key for message in caused], [message.topic for message in caused],
                    [message.payload for message in caused],
                ))
        return PutResult(applied=len(applied), skipped=len(records) - len(applied))

    def get_many(self, video_ids: Sequence[str]) -> Mapping[str, IndexRecord]:
        """Records by id; unknown and deleted ones are absent."""
        with self._link.transaction() as cursor:
            rows = cursor.execute(_GET, (list(video_ids),), binary=True).fetchall()
        return {
            row[0]: IndexRecord(
                video_id=row[0], version=row[1], status=row[2], value=row[3], issue=row[4], score=row[5],
                region=row[6], policy_version=row[7],
            )
            for row in rows
        }

    def counts(self) -> Mapping[str, int]:
        """Records by status, tombstones included."""
        with self._link.transaction() as cursor:
            query = "SELECT status, count(*) FROM tidegate_records GROUP BY status"
            return dict(cursor.execute(query).fetchall())

    def ping(self) -> None:
        """Ask the server."""
        with self._link.transaction() as cursor:
            cursor.execute("SELECT 1")

    def pending(self, limit: int) -> Sequence[OutboxMessage]:
        """The oldest waiting messages."""
        query = "SELECT key, topic, payload FROM tidegate_outbox ORDER BY sequence LIMIT %s"
        with self._link.transaction() as cursor:
            rows = cursor.execute(query, (limit,)).fetchall()
        return [OutboxMessage(key=key, topic=topic, payload=payload) for key, topic, payload in rows]

    def done(self, keys: Sequence[str]) -> None:
        """Forget delivered messages."""
        with self._link.transaction() as cursor:
            cursor.execute("DELETE FROM tidegate_outbox WHERE key = ANY(%s)", (list(keys),))

    def depth(self) -> int:
        """How many messages wait."""
        with self._link.transaction() as cursor:
            return int(cursor.execute("SELECT count(*) FROM tidegate_outbox").fetchone()[0])

    def close(self) -> None:
        """Close the connection."""
        self._link.close()


def _columns(batch: Sequence[IndexRecord]) -> tuple[list[object], ...]:
    names = ("video_id", "version", "status", "value", "issue", "score", "region", "policy_version")
    return tuple([getattr(record, name) for record in batch] for name in names)
