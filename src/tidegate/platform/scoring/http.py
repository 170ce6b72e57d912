"""Scoring over HTTP: a client that is a ``Scorer``, and a server that shows any ``Scorer`` to such clients.

Enters: items. Leaves: results. ``POST /score`` with a MessagePack body, one array of items, answered by one array of
results in their order. 200: results; 503: try again; everything else is the caller's fault and is not tried again. The
models of several machines are put behind one address by any HTTP load balancer.
"""

from __future__ import annotations

import http.client
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from urllib.parse import urlsplit

import msgspec

from tidegate.errors import ServiceRefused, ServiceUnavailable, TidegateError
from tidegate.platform.contracts import Scored, Scorer, ScoringItem
from tidegate.platform.scoring.context import ScoringContext
from tidegate.platform.scoring.wire import decode_results, encode_results

__all__ = ["HttpScorer", "HttpScorerSettings", "ScoringServer", "open_http_scorer"]

MAX_BODY_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class HttpScorerSettings:
    """``[scoring] kind = "http"``."""

    url: str
    """Where the scorer is, e.g. ``http://scorer:8090/score``. The operator's setting, never taken from an event."""
    timeout_seconds: float = 60.0
    """For one batch."""
    max_items: int = 64
    """Items of one request; a batch is sent in several, one after the other."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"url: expected http(s)://host[:port]/path, got {self.url!r}")
        if self.timeout_seconds <= 0 or self.max_items < 1:
            raise ValueError(f"expected timeout_seconds > 0 and max_items >= 1, got {self}")


def open_http_scorer(settings: HttpScorerSettings, context: ScoringContext) -> HttpScorer:
    """The scorer of a configuration."""
    return HttpScorer(settings)


class HttpScorer:
    """Asks a scorer elsewhere."""

    def __init__(self, settings: HttpScorerSettings) -> None:
        self._settings = settings

    def score_many(self, items: Sequence[ScoringItem]) -> Sequence[Scored]:
        step = self._settings.max_items
        return [result for start in range(0, len(items), step) for result in self._ask(items[start : start + step])]

    def _ask(self, items: Sequence[ScoringItem]) -> list[Scored]:
        parts = urlsplit(self._settings.url)
        make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        body = msgspec.msgpack.encode(items)
        try:
            with closing(make(parts.hostname or "", parts.port, timeout=self._settings.timeout_seconds)) as connection:
                connection.request("POST", parts.path or "/score", body, {"Content-Type": "application/msgpack"})
                response = connection.getresponse()
                answer = response.read(MAX_BODY_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise ServiceUnavailable(f"the scorer at {self._settings.url} is away: {error}") from error
        if response.status in {429, 502, 503, 504}:
            raise ServiceUnavailable(f"the scorer at {self._settings.url} is busy: {response.status}")
        if response.status != http.client.OK:
            raise ServiceRefused(f"the scorer at {self._settings.url} answered {response.status}: {answer[:200]!r}")
        return self._results(answer, len(items))

    def _results(self, answer: bytes, expected: int) -> list[Scored]:
        try:
            results = decode_results(answer)
        except (msgspec.MsgspecError, KeyError) as error:
            raise ServiceRefused(f"expected results from {self._settings.url}, got {error}") from error
        if len(results) != expected:
            raise ServiceRefused(f"expected {expected} results from {self._settings.url}, got {len(results)}")
        return results

    def close(self) -> None:
        """Connections are not kept."""


class ScoringServer:
    """Shows a scorer over HTTP. Requests are scored one after the other, as models want it."""

    def __init__(self, scorer: Scorer, host: str = "127.0.0.1", port: int = 0) -> None:
        lock = Lock()

        class Answer(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                if not 0 < length <= MAX_BODY_BYTES:
                    self._send(413, b"expected a body within the limit")
                    return
                status, body = _answer(scorer, lock, self.rfile.read(length))
                self._send(status, body)

            def _send(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """The platform has its own log."""

        self._server = ThreadingHTTPServer((host, port), Answer)
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, name="scoring-server", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}/score"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _answer(scorer: Scorer, lock: Lock, body: bytes) -> tuple[int, bytes]:
    try:
        items = msgspec.msgpack.decode(body, type=list[ScoringItem])
        with lock:
            results = scorer.score_many(items)
    except ServiceUnavailable as error:
        return 503, str(error).encode()
    except (msgspec.MsgspecError, TidegateError) as error:
        return 400, str(error).encode()
    return 200, encode_results(results)
