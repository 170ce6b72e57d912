"""Health, readiness and metrics over HTTP, for a load balancer, Kubernetes and Prometheus.

Enters: functions that look at the running worker. Leaves: ``/healthz`` (200 while the loop moves or waits knowingly,
503 when it has been stuck in one step), ``/readyz`` (200 while it works, 503 with the reason while it waits for
something outside or drains), ``/metrics``, ``/status`` (JSON).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import msgspec

__all__ = ["HealthServer"]

Answer = tuple[int, str, bytes]


class HealthServer:
    """A small server in a thread of its own."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        healthy: Callable[[], str | None],
        ready: Callable[[], str | None],
        metrics: Callable[[], bytes],
        status: Callable[[], Mapping[str, Any]],
    ) -> None:
        answers: dict[str, Callable[[], Answer]] = {
            "/healthz": lambda: _verdict(healthy()),
            "/readyz": lambda: _verdict(ready()),
            "/metrics": lambda: (200, "text/plain; version=0.0.4; charset=utf-8", metrics()),
            "/status": lambda: (200, "application/json", msgspec.json.encode(status(), enc_hook=str)),
        }

        class Respond(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = answers.get(self.path.split("?", 1)[0])
                code, kind, body = (404, "text/plain", b"not found\n") if answer is None else answer()
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Probes are not worth a line."""

        self._server = ThreadingHTTPServer((host, port), Respond)
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, name="health", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _verdict(trouble: str | None) -> Answer:
    return (200, "text/plain", b"ok\n") if trouble is None else (503, "text/plain", f"{trouble}\n".encode())
