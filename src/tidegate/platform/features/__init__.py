"""Feature services: what others know of a video, read in batches under a deadline.

``KINDS`` is what a configuration file can name; a client library is imported when a service is opened.
"""

from __future__ import annotations

from tidegate.platform.contracts import Backend
from tidegate.platform.features.redis_features import RedisFeaturesConfig, open_redis_features
from tidegate.platform.features.sql_features import (
    PostgresFeaturesConfig,
    SqliteFeaturesConfig,
    open_postgres_features,
    open_sqlite_features,
)
from tidegate.platform.features.thrift_features import ThriftFeaturesConfig, open_thrift_features

__all__ = ["KINDS"]

KINDS = {
    "redis": Backend(settings=RedisFeaturesConfig, open=open_redis_features),
    "postgres": Backend(settings=PostgresFeaturesConfig, open=open_postgres_features),
    "sqlite": Backend(settings=SqliteFeaturesConfig, open=open_sqlite_features),
    "thrift": Backend(settings=ThriftFeaturesConfig, open=open_thrift_features),
}
