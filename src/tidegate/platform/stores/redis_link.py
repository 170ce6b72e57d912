"""A connection to Redis or Valkey whose failures are said in the platform's words.

Enters: a URL. Leaves: a client; an outage is ``ServiceUnavailable`` (asking again may help: refused, timed out,
loading, read-only after a failover, out of memory), everything else ``ServiceRefused``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tidegate.errors import ConfigError, ServiceRefused, ServiceUnavailable
from tidegate.platform.stores.drivers import driver

__all__ = ["RedisLink"]

_PASSING = ("LOADING", "READONLY", "OOM", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "NOREPLICAS", "MISCONF")


class RedisLink:
    """``client`` connects when it is first used, and again after an outage."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self._redis = driver("redis")
        retry = driver("redis.retry").Retry(driver("redis.backoff").NoBackoff(), 1)
        try:
            self.client: Any = self._redis.Redis.from_url(
                url, socket_timeout=timeout_seconds, socket_connect_timeout=timeout_seconds, retry=retry
            )
        except ValueError as error:
            raise ConfigError(f"expected a redis://, rediss:// or unix:// URL: {error}") from error

    @contextmanager
    def said_plainly(self) -> Iterator[None]:
        """Turn the client's errors into ours."""
        try:
            yield
        except (self._redis.ConnectionError, self._redis.TimeoutError) as error:
            raise ServiceUnavailable(f"Redis: {error}") from error
        except self._redis.ResponseError as error:
            passing = str(error).removeprefix("-").startswith(_PASSING) or isinstance(error, self._redis.ReadOnlyError)
            raise (ServiceUnavailable if passing else ServiceRefused)(f"Redis: {error}") from error
        except self._redis.RedisError as error:
            raise ServiceRefused(f"Redis: {error}") from error

    def close(self) -> None:
        """Close the connections."""
        self.client.close()
