"""Fetches media from http(s) URLs without being turned against the own network.

Enters: a URL that passed ``check_location``. Leaves: a temporary file while it is read. The host is resolved once and
the connection goes to the address that was checked (a name that changes its answer in between gains nothing); every
redirect is checked like the first URL; bytes and time are limited. TLS certificates are checked against the name.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from tidegate.errors import LimitExceeded, SourceUnreadable
from tidegate.platform.location import LocationRules, check_location, resolve_public

__all__ = ["Fetcher"]

_BLOCK_BYTES = 2**18
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Fetcher:
    """Downloads one file at a time per call; safe to use from many threads."""

    def __init__(
        self,
        rules: LocationRules,
        *,
        max_bytes: int = 8 * 2**30,
        max_seconds: float = 120.0,
        max_redirects: int = 3,
        folder: Path | None = None,
    ) -> None:
        self._rules, self._max_bytes, self._max_seconds = rules, max_bytes, max_seconds
        self._max_redirects, self._folder = max_redirects, folder

    @contextlib.contextmanager
    def fetched(self, url: str) -> Iterator[Path]:
        """The file at a URL, removed on leaving."""
        deadline = time.monotonic() + self._max_seconds
        with tempfile.NamedTemporaryFile(prefix="tidegate-", suffix=".media", dir=self._folder) as file:
            for block in self._blocks(url, deadline):
                file.write(block)
            file.flush()
            yield Path(file.name)

    def _blocks(self, url: str, deadline: float) -> Iterator[bytes]:
        for _ in range(self._max_redirects + 1):
            check_location(url, self._rules)
            try:
                with contextlib.closing(self._connect(url, deadline)) as connection:
                    response = self._ask(connection, url)
                    if response.status not in _REDIRECTS:
                        yield from self._body(response, url, deadline)
                        return
                    url = urljoin(url, response.headers.get("Location", ""))
            except (OSError, http.client.HTTPException) as error:
                raise SourceUnreadable(f"expected the media at {url}, got {error}") from error
        raise SourceUnreadable(f"expected at most {self._max_redirects} redirects, got more: {url}")

    def _connect(self, url: str, deadline: float) -> http.client.HTTPConnection:
        parts = urlsplit(url)
        host = parts.hostname or ""
        secure = parts.scheme.lower() == "https"
        port = parts.port or (443 if secure else 80)
        address = resolve_public(host, port, self._rules)
        timeout = max(0.1, min(30.0, deadline - time.monotonic()))
        channel = socket.create_connection((address, port), timeout)
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
        try:
            connection.sock = (
                ssl.create_default_context().wrap_socket(channel, server_hostname=host) if secure else channel
            )
        except OSError:
            channel.close()
            raise
        return connection

    def _ask(self, connection: http.client.HTTPConnection, url: str) -> http.client.HTTPResponse:
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", target, headers={"User-Agent": "tidegate", "Accept-Encoding": "identity"})
        return connection.getresponse()

    def _body(self, response: http.client.HTTPResponse, url: str, deadline: float) -> Iterator[bytes]:
        if response.status != http.client.OK:
            raise SourceUnreadable(f"expected status 200 from {url}, got {response.status}")
        total = 0
        while block := response.read(_BLOCK_BYTES):
            total += len(block)
            if total > self._max_bytes:
                raise LimitExceeded(f"expected at most {self._max_bytes} bytes from {url}, got more")
            if time.monotonic() > deadline:
                raise LimitExceeded(f"expected {url} within {self._max_seconds:g} s, got {total} bytes")
            yield block
