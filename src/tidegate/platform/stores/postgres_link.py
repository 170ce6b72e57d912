"""A connection to PostgreSQL that comes back after an outage and never waits longer than its deadline.

Enters: a connection string. Leaves: transactions; an outage or a deadline is ``ServiceUnavailable``, everything else
``ServiceRefused``. A server that froze answers nothing and closes nothing, so a timer shuts the socket down from this
side; a statement that is merely slow is cancelled by the server (``statement_timeout``).
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tidegate.errors import ServiceRefused, ServiceUnavailable
from tidegate.platform.stores.drivers import driver

__all__ = ["PostgresLink"]


class PostgresLink:
    """One connection; threads take turns."""

    def __init__(self, url: str, timeout_seconds: float, *, schema: str = "", read_only: bool = False) -> None:
        self._psycopg = driver("psycopg")
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._schema = schema
        self._read_only = read_only
        self._lock = threading.RLock()
        self._connection: Any = None

    @contextmanager
    def transaction(self, timeout_seconds: float | None = None) -> Iterator[Any]:
        """A cursor in one transaction; committed when the block ends without an error."""
        with self._lock, self._said_plainly():
            connection = self._connected()
            with (
                self._shut_after(connection, timeout_seconds or self._timeout_seconds),
                connection.transaction(),
                connection.cursor() as cursor,
            ):
                yield cursor

    def _connected(self) -> Any:
        if self._connection is None or self._connection.closed:
            milliseconds = max(1, int(self._timeout_seconds * 1000))
            connection = self._psycopg.connect(
                self._url, autocommit=True, connect_timeout=max(2, int(self._timeout_seconds)), keepalives_idle=5,
                keepalives_interval=2, keepalives_count=3, tcp_user_timeout=milliseconds, application_name="tidegate",
                options=f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds}",
            )
            connection.read_only = self._read_only
            if self._schema:
                self._create(connection)
            self._connection = connection
        return self._connection

    def _create(self, connection: Any) -> None:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(7145033)")  # two workers that start at once
            connection.execute(self._schema)

    @contextmanager
    def _said_plainly(self) -> Iterator[None]:
        try:
            yield
        except (self._psycopg.OperationalError, self._psycopg.InterfaceError) as error:
            self.close()
            raise ServiceUnavailable(f"PostgreSQL: {_line(error)}") from error
        except self._psycopg.Error as error:
            self.close()
            raise ServiceRefused(f"PostgreSQL: {_line(error)}") from error

    @contextmanager
    def _shut_after(self, connection: Any, seconds: float) -> Iterator[None]:
        """Shut the socket if the block is not done in time; libpq then reports a lost connection."""

        def shut() -> None:
            gone = (OSError, self._psycopg.Error)
            with contextlib.suppress(*gone), socket.socket(fileno=os.dup(connection.fileno())) as end:
                end.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(seconds + 1.0, shut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def close(self) -> None:
        """Close the connection; the next transaction makes a new one."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
