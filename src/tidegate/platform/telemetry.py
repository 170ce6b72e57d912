"""Structured logs and traces.

Enters: the ``[operations]`` table. Leaves: a logger whose lines are JSON objects (``at``, ``level``, ``event`` and the
fields that were given), and an OpenTelemetry tracer that writes spans to a file or sends them to a collector: one span
for each batch, with its phases inside.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from tidegate import __version__
from tidegate.errors import DependencyMissing

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

__all__ = ["log", "open_tracing", "set_up_logging"]

_LOGGER = logging.getLogger("tidegate.platform")


def log(event: str, *, level: str = "info", **fields: Any) -> None:
    """One line of the log."""
    _LOGGER.log(getattr(logging, level.upper()), event, extra={"fields": fields})


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"at": at, "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{key}={value}" for key, value in getattr(record, "fields", {}).items())
        at = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S")
        return f"{at} {record.levelname.lower():7} {record.getMessage()} {fields}".rstrip()


def set_up_logging(level: str, form: str, stream: TextIO | None = None) -> None:
    """Send the platform's log lines to stderr (or a stream), in JSON or as text."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    _LOGGER.handlers[:] = [handler]
    _LOGGER.setLevel(level.upper())
    _LOGGER.propagate = False


def open_tracing(
    *, file: str | None, endpoint: str | None, worker: str
) -> tuple[TracerProvider, Callable[[], None]] | None:
    """A provider of tracers and how to close it; None when no traces are wanted."""
    if file is None and endpoint is None:
        return None
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor
    except ImportError as error:
        raise DependencyMissing("traces need the platform extra: pip install 'tidegate[platform]'") from error
    resource = {"service.name": "tidegate", "service.version": __version__, "service.instance.id": worker}
    provider = TracerProvider(resource=Resource.create(resource))
    opened: TextIO | None = None
    if file is not None:
        path = Path(file)
        opened = path.with_name(f"{path.stem}-{worker}{path.suffix}").open("a", encoding="utf-8")
        exporter = ConsoleSpanExporter(out=opened, formatter=lambda span: span.to_json(indent=None) + "\n")
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    if endpoint is not None:
        provider.add_span_processor(BatchSpanProcessor(_otlp(endpoint)))

    def close() -> None:
        provider.shutdown()
        if opened is not None:
            opened.close()

    return provider, close


def _otlp(endpoint: str) -> Any:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise DependencyMissing(
            "operations.trace_endpoint needs opentelemetry-exporter-otlp-proto-http: pip install it"
        ) from error
    return OTLPSpanExporter(endpoint=endpoint)
