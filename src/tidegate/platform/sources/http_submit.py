"""Events over HTTP: ``POST /v1/events``. Answered with 202 only after they are on disk.

Enters: one event (``application/json``), one compact event (``application/msgpack``) or an event a line
(``application/x-ndjson``). Leaves: deliveries from the spool. A request is taken as a whole or not at all; what is
wrong with which line is in the answer. Limits: body size, lines, connections, time for a request, queued messages (503
with ``Retry-After``). With ``token_file``, ``Authorization: Bearer <token>`` is required.

The server is the standard library's: submitting is one small handler, and events by the ten thousand come over Kafka.
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec

from tidegate.errors import ConfigError, EventError, ServiceError
from tidegate.platform.contracts import Delivery, Shard
from tidegate.platform.event import EventCodec
from tidegate.platform.sources.spool import Spool

__all__ = ["HttpSource", "HttpSourceConfig"]

_SHOWN_ERRORS = 20


@dataclass(frozen=True, kw_only=True)
class HttpSourceConfig:
    """Where events are taken, and how many."""

    path: str
    """The spool's file; made if absent. Workers on one machine share it."""
    host: str = "127.0.0.1"
    """Address to listen on; put a TLS-terminating proxy before any other."""
    port: int = 8900
    """Port of worker 0; worker n listens on ``port + n``; 0 = any free one."""
    token_file: str | None = None
    """File with the bearer token that submitters must send; None: everyone who reaches the port may submit."""
    max_body_bytes: int = 4 * 2**20
    """Of one request."""
    max_events: int = 1000
    """Of one request."""
    max_queued: int = 1_000_000
    """Messages in the spool beyond which requests are answered with 503."""
    max_connections: int = 64
    """Open connections; further ones are closed at once."""
    timeout_seconds: float = 10.0
    """A connection that stays silent for this long is closed."""

    def __post_init__(self) -> None:
        if not self.path or not 0 <= self.port < 2**16:
            raise ConfigError(f"expected a path and a port of 0 to 65535, got {self}")
        numbers = (self.max_body_bytes, self.max_events, self.max_queued, self.max_connections, self.timeout_seconds)
        if min(numbers) <= 0:
            raise ConfigError(f"expected positive limits, got {self}")


class HttpSource:
    """``EventSource``; listens from birth to ``close``."""

    def __init__(self, config: HttpSourceConfig, shard: Shard | None = None, codec: EventCodec | None = None) -> None:
        shard = shard or Shard()
        self.config = config
        self.codec = codec or EventCodec()
        self.token = None if config.token_file is None else _token(config.token_file)
        self.spool = Spool(config.path, shard=shard, codec=self.codec)
        port = config.port + shard.worker if config.port else 0
        try:
            self._server = _Server((config.host, port), self)
        except OSError as error:
            self.spool.close()
            raise ConfigError(f"expected to listen on {config.host}:{port}, got {error}") from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="http-submit", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._server.server_address[1])

    def submit(self, messages: Sequence[bytes]) -> int:
        """Queue checked messages; how many. Raises an ``EventError`` for the first wrong one, and queues none."""
        checked = [(self.codec.decode(raw).video_id, raw) for raw in messages]
        self.spool.append(checked)
        return len(checked)

    def poll(self, max_events: int, timeout_seconds: float) -> Sequence[Delivery]:
        """Up to ``max_events`` submitted events."""
        return self.spool.poll(max_events, timeout_seconds)

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Delete them from the spool."""
        self.spool.acknowledge(deliveries)

    def lag(self) -> int | None:
        """Submitted, not yet handed out."""
        return self.spool.lag()

    def close(self) -> None:
        """Stop listening, then release the spool."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
        self.spool.close()


def _token(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            token = file.read(4096).strip()
    except OSError as error:
        raise ConfigError(f"expected a readable file with the submitters' token: {error}") from error
    if len(token) < 16:
        raise ConfigError(f"{path}: expected a token of at least 16 bytes, got {len(token)}")
    return token


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], source: HttpSource) -> None:
        self.source = source
        self._places = threading.BoundedSemaphore(source.config.max_connections)
        super().__init__(address, _Submission)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A submitter that broke its connection is its own affair."""


class _Refused(Exception):
    def __init__(self, status: int, reason: str, **more: Any) -> None:
        super().__init__(reason)
        self.status, self.answer = status, {"error": reason, **more}


class _Submission(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "tidegate", ""
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.server.source.config.timeout_seconds)

    def do_GET(self) -> None:
        self._answer(200 if self.path == "/healthz" else 404, {"status": "ok"} if self.path == "/healthz" else {})

    def do_POST(self) -> None:
        try:
            self._admit()
            messages = self._messages(self._body())
            self._check(messages)
            self._answer(202, {"accepted": self.server.source.submit(messages)})
        except _Refused as refused:
            self._answer(refused.status, refused.answer)
        except ServiceError as error:
            self._answer(503, {"error": str(error)}, retry=True)

    def _admit(self) -> None:
        source = self.server.source
        if self.path != "/v1/events":
            raise _Refused(404, "expected POST /v1/events")
        given = self.headers.get("Authorization", "").encode("latin-1", "replace")
        if source.token is not None and not hmac.compare_digest(given, b"Bearer " + source.token):
            raise _Refused(401, "expected Authorization: Bearer with the submitters' token")
        if source.spool.depth() >= source.config.max_queued:
            raise _Refused(503, f"expected fewer than {source.config.max_queued} queued messages")

    def _body(self) -> bytes:
        length, most = self.headers.get("Content-Length", ""), self.server.source.config.max_body_bytes
        if not length.isascii() or not length.isdigit() or self.headers.get("Transfer-Encoding"):
            raise _Refused(411, "expected a Content-Length")
        if len(length) > 18 or int(length) > most:
            raise _Refused(413, f"expected at most {most} bytes, got {length[:20]}")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise _Refused(400, "expected the whole body")
        return body

    def _messages(self, body: bytes) -> list[bytes]:
        kind = self.headers.get_content_type()
        if kind in {"application/json", "application/msgpack"}:
            return [body]
        if kind != "application/x-ndjson":
            raise _Refused(415, "expected application/json, application/x-ndjson or application/msgpack")
        lines = [line for line in body.split(b"\n") if line.strip()]
        if not 0 < len(lines) <= self.server.source.config.max_events:
            raise _Refused(413, f"expected 1 to {self.server.source.config.max_events} lines, got {len(lines)}")
        return lines

    def _check(self, messages: Sequence[bytes]) -> None:
        wrong: list[dict[str, Any]] = []
        for number, raw in enumerate(messages):
            try:
                self.server.source.codec.decode(raw)
            except EventError as error:
                wrong.append({"index": number, "code": error.code, "reason": str(error)[:500]})
        if wrong:
            raise _Refused(422, "nothing was taken", events=wrong[:_SHOWN_ERRORS], wrong=len(wrong))

    def _answer(self, status: int, answer: dict[str, Any], *, retry: bool = False) -> None:
        if status >= 400:
            self.close_connection = True  # what is left of the body must not be read as a request
        body = msgspec.json.encode(answer)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if retry or status == 503:
            self.send_header("Retry-After", "1")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Requests are counted by the platform's metrics."""
