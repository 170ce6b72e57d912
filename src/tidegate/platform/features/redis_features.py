"""Features in Redis or Valkey caches.

Enters: ids. Leaves: rows. Two forms: ``json``, one string for each video that holds a JSON object (one MGET for a
batch); ``hash``, one hash for each video whose fields are JSON scalars or plain text (one pipeline for a batch). A
field ``observed_at`` is the Unix time of the values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from tidegate.errors import ConfigError
from tidegate.platform.features.guard import GuardConfig, GuardedFeatures, Row, scalars
from tidegate.platform.stores.redis_link import RedisLink

__all__ = ["RedisFeaturesConfig", "open_redis_features"]


@dataclass(frozen=True, kw_only=True)
class RedisFeaturesConfig(GuardConfig):
    """Which cache, and how its values look."""

    url: str = "redis://127.0.0.1:6379/0"
    """``redis://``, ``rediss://`` (TLS) or ``unix://``."""
    prefix: str = "features:"
    """Before the video id in each key."""
    form: Literal["json", "hash"] = "json"
    """A JSON object in a string, or a hash of JSON scalars or text."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form not in {"json", "hash"}:
            raise ConfigError(f"expected form to be json or hash, got {self.form!r}")


def open_redis_features(config: RedisFeaturesConfig) -> GuardedFeatures:
    """The service; it connects when it is first asked."""
    return GuardedFeatures(config, _RedisFeatures(config))


class _RedisFeatures:
    def __init__(self, config: RedisFeaturesConfig) -> None:
        self._link = RedisLink(config.url, config.deadline_seconds)
        self._prefix, self._form = config.prefix.encode(), config.form

    def fetch(self, video_ids: Sequence[str], seconds: float) -> Mapping[str, Row]:
        keys = [self._prefix + video_id.encode() for video_id in video_ids]
        with self._link.said_plainly():
            if self._form == "json":
                found = zip(video_ids, self._link.client.mget(keys), strict=True)
                return {video_id: _object(value) for video_id, value in found if value is not None}
            with self._link.client.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.hgetall(key)
                hashes = zip(video_ids, pipeline.execute(), strict=True)
        return {video_id: _hash(value) for video_id, value in hashes if value}

    def close(self) -> None:
        self._link.close()


def _object(value: bytes) -> Row:
    try:
        decoded = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Row({}, malformed=True)
    return scalars(decoded) if isinstance(decoded, dict) else Row({}, malformed=True)


def _hash(fields: Mapping[bytes, bytes]) -> Row:
    try:
        return scalars({name.decode(): _scalar(value) for name, value in fields.items()})
    except UnicodeDecodeError:
        return Row({}, malformed=True)


def _scalar(value: bytes) -> Any:
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return value.decode()
