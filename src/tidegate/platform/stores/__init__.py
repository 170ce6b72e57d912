"""Stores: indexes, outbox publishers, dead letters and base data, in SQLite, Redis or Valkey, and PostgreSQL.

``INDEXES``, ``DEAD_LETTERS``, ``PUBLISHERS`` and ``BASE_DATA`` are what a configuration file can name; a client library
is imported when one is opened.
"""

from __future__ import annotations

from tidegate.platform.contracts import Backend
from tidegate.platform.stores.base_data import BASE_DATA, BaseData
from tidegate.platform.stores.client import IndexClient, VettedVideo
from tidegate.platform.stores.dead_letters import (
    PostgresDeadLetters,
    PostgresDeadLettersConfig,
    SqliteDeadLetters,
    SqliteDeadLettersConfig,
)
from tidegate.platform.stores.postgres_index import PostgresIndex, PostgresIndexConfig
from tidegate.platform.stores.publishers import (
    KafkaPublisher,
    KafkaPublisherConfig,
    WebhookPublisher,
    WebhookPublisherConfig,
)
from tidegate.platform.stores.redis_index import RedisIndex, RedisIndexConfig
from tidegate.platform.stores.sqlite_index import SqliteIndex, SqliteIndexConfig

__all__ = ["BASE_DATA", "DEAD_LETTERS", "INDEXES", "PUBLISHERS", "BaseData", "IndexClient", "VettedVideo"]

INDEXES = {
    "sqlite": Backend(settings=SqliteIndexConfig, open=SqliteIndex),
    "redis": Backend(settings=RedisIndexConfig, open=RedisIndex),
    "postgres": Backend(settings=PostgresIndexConfig, open=PostgresIndex),
}
DEAD_LETTERS = {
    "sqlite": Backend(settings=SqliteDeadLettersConfig, open=SqliteDeadLetters),
    "postgres": Backend(settings=PostgresDeadLettersConfig, open=PostgresDeadLetters),
}
PUBLISHERS = {
    "webhook": Backend(settings=WebhookPublisherConfig, open=WebhookPublisher),
    "kafka": Backend(settings=KafkaPublisherConfig, open=KafkaPublisher),
}
