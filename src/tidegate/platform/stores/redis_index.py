"""The index in Redis or Valkey: one string for each video, compared and set by a script inside the server.

Enters: records with versions, and outbox messages. Leaves: what changed; records by id; messages that wait.

A value is ``<19 digits of version><status letter><msgpack array>``. The script compares the digits as text: Lua's
numbers are doubles, and a version in nanoseconds does not fit in 53 bits. One script call writes a chunk of a batch
with its outbox messages, atomically; the calls of a batch travel in one pipeline. Reads are one MGET.
Keys of one script lie on one node: for a cluster, put a hash tag into ``prefix`` (``{tidegate}:``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from tidegate.errors import ConfigError
from tidegate.platform.contracts import IndexRecord, OutboxMessage, PutResult
from tidegate.platform.stores.batches import by_record, newest, record_key
from tidegate.platform.stores.redis_link import RedisLink

__all__ = ["RedisIndex", "RedisIndexConfig"]

_LETTERS = {"remained": b"r", "removed": b"x", "deleted": b"d"}
_NAMES = {letter: name for name, letter in _LETTERS.items()}
_HEAD_BYTES = 20
_PUT = """
local counts, queue, payloads, sequence = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local at, applied, change = 1, 0, {}
for i = 5, #KEYS do
  local head, body, messages = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  at = at + 3
  local old = redis.call('GETRANGE', KEYS[i], 0, 19)
  if old == '' or string.sub(head, 1, 19) > string.sub(old, 1, 19) then
    redis.call('SET', KEYS[i], head .. body)
    if old ~= '' then
      local was = string.sub(old, 20, 20)
      change[was] = (change[was] or 0) - 1
    end
    local is = string.sub(head, 20, 20)
    change[is] = (change[is] or 0) + 1
    for m = at, at + 2 * messages - 1, 2 do
      redis.call('HSET', payloads, ARGV[m], ARGV[m + 1])
      redis.call('ZADD', queue, 'NX', redis.call('INCR', sequence), ARGV[m])
    end
    applied = applied + 1
  end
  at = at + 2 * messages
end
for status, by in pairs(change) do
  if by ~= 0 then redis.call('HINCRBY', counts, status, by) end
end
return applied
"""


@dataclass(frozen=True, kw_only=True)
class RedisIndexConfig:
    """Which Redis or Valkey server holds the index."""

    url: str = "redis://127.0.0.1:6379/0"
    """``redis://``, ``rediss://`` (TLS) or ``unix://``; a password belongs into it."""
    prefix: str = "tidegate:"
    """Starts every key."""
    timeout_seconds: float = 5.0
    """For connecting and for each answer."""
    chunk_records: int = 250
    """Records of one script call: other clients wait that long."""

    def __post_init__(self) -> None:
        if self.timeout_seconds <= 0 or self.chunk_records <= 0:
            raise ConfigError(f"expected timeout_seconds > 0 and chunk_records > 0, got {self}")


class RedisIndex:
    """``IndexService`` and ``Outbox``."""

    def __init__(self, config: RedisIndexConfig) -> None:
        self._config = config
        self._link = RedisLink(config.url, config.timeout_seconds)
        self._put = self._link.client.register_script(_PUT)
        prefix = config.prefix
        self._record_key = (prefix + "v:").encode()
        self._counts, self._queue = prefix + "counts", prefix + "outbox"
        self._payloads, self._sequence = prefix + "outbox:payloads", prefix + "outbox:sequence"

    def put_many(self, records: Sequence[IndexRecord], messages: Sequence[OutboxMessage] = ()) -> PutResult:
        """Versioned compare-and-set of a batch, in chunks that are atomic with their messages."""
        waiting = by_record(records, messages)
        with self._link.said_plainly(), self._link.client.pipeline(transaction=False) as pipeline:
            batch, size = newest(records), self._config.chunk_records
            for chunk in (batch[start : start + size] for start in range(0, len(batch), size)):
                keys: list[Any] = [self._counts, self._queue, self._payloads, self._sequence]
                arguments: list[Any] = []
                for record in chunk:
                    keys.append(self._record_key + record.video_id.encode())
                    causes = waiting.get(record_key(record), ())
                    arguments += (_head(record), _body(record), len(causes))
                    for message in causes:
                        arguments += (message.key, msgspec.msgpack.encode((message.topic, message.payload)))
                self._put(keys=keys, args=arguments, client=pipeline)
            applied = sum(pipeline.execute())
        return PutResult(applied=applied, skipped=len(records) - applied)

    def get_many(self, video_ids: Sequence[str]) -> Mapping[str, IndexRecord]:
        """Records by id; unknown and deleted ones are absent."""
        if not video_ids:
            return {}
        with self._link.said_plainly():
            values = self._link.client.mget([self._record_key + video_id.encode() for video_id in video_ids])
        found = zip(video_ids, values, strict=True)
        return {
            video_id: _record(video_id, value)
            for video_id, value in found
            if value is not None and value[_HEAD_BYTES - 1 : _HEAD_BYTES] != b"d"
        }

    def counts(self) -> Mapping[str, int]:
        """Records by status, tombstones included."""
        with self._link.said_plainly():
            counts = self._link.client.hgetall(self._counts)
        return {_NAMES[letter]: int(count) for letter, count in counts.items() if int(count)}

    def ping(self) -> None:
        """Ask the server."""
        with self._link.said_plainly():
            self._link.client.ping()

    def pending(self, limit: int) -> Sequence[OutboxMessage]:
        """The oldest waiting messages."""
        with self._link.said_plainly():
            keys = self._link.client.zrange(self._queue, 0, limit - 1) if limit > 0 else []
            values = self._link.client.hmget(self._payloads, keys) if keys else []
        return [_message(key, value) for key, value in zip(keys, values, strict=True) if value is not None]

    def done(self, keys: Sequence[str]) -> None:
        """Forget delivered messages."""
        if keys:
            with self._link.said_plainly(), self._link.client.pipeline(transaction=True) as pipeline:
                pipeline.zrem(self._queue, *keys)
                pipeline.hdel(self._payloads, *keys)
                pipeline.execute()

    def depth(self) -> int:
        """How many messages wait."""
        with self._link.said_plainly():
            return int(self._link.client.zcard(self._queue))

    def close(self) -> None:
        """Close the connections."""
        self._link.close()


def _head(record: IndexRecord) -> bytes:
    return b"%019d%s" % (record.version, _LETTERS[record.status])


def _body(record: IndexRecord) -> bytes:
    return msgspec.msgpack.encode((record.value, record.issue, record.score, record.region, record.policy_version))


def _record(video_id: str, value: bytes) -> IndexRecord:
    payload, issue, score, region, policy_version = msgspec.msgpack.decode(value[_HEAD_BYTES:])
    return IndexRecord(
        video_id=video_id, version=int(value[: _HEAD_BYTES - 1]),
        status=_NAMES[value[_HEAD_BYTES - 1 : _HEAD_BYTES]],  # type: ignore[arg-type]
        value=payload, issue=issue, score=score, region=region, policy_version=policy_version,
    )


def _message(key: bytes, value: bytes) -> OutboxMessage:
    topic, payload = msgspec.msgpack.decode(value)
    return OutboxMessage(key=key.decode(), topic=topic, payload=payload)
