"""Telling downstream what happened: outbox messages as signed webhooks or into a Kafka topic. At least once.

Enters: messages in the order of their writes. Leaves: the keys that were taken. Two events of one video never overtake
each other: once a message of a video was not taken, later ones of that video wait too.

Webhook, as GitHub's and Stripe's: ``X-Tidegate-Signature: v1=<hex HMAC-SHA256 of "<timestamp>.<body>">``,
``X-Tidegate-Timestamp``, ``Idempotency-Key`` (URL-quoted). Receivers recompute the signature (``verify_signature``),
refuse old timestamps, and drop keys that they have seen.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from tidegate.errors import ConfigError, ServiceUnavailable
from tidegate.platform.contracts import OutboxMessage
from tidegate.platform.stores.drivers import driver

__all__ = [
    "KafkaPublisher", "KafkaPublisherConfig", "WebhookPublisher", "WebhookPublisherConfig", "signature",
    "verify_signature",
]

_FINAL = range(400, 500)
_ASK_AGAIN = {408, 409, 425, 429}


def signature(secret: bytes, timestamp: str, body: bytes) -> str:
    """What the signature header holds."""
    return "v1=" + hmac.new(secret, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def verify_signature(
    secret: bytes, timestamp: str, body: bytes, received: str, *, now: float | None = None,
    tolerance_seconds: float = 300,
) -> bool:
    """Whether a webhook is ours and recent; for receivers."""
    if not timestamp.isascii() or not timestamp.isdigit():
        return False
    recent = abs((time.time() if now is None else now) - int(timestamp)) <= tolerance_seconds
    return hmac.compare_digest(signature(secret, timestamp, body).encode(), received.encode()) and recent


@dataclass(frozen=True, kw_only=True)
class WebhookPublisherConfig:
    """Who is told over HTTP, and how patiently."""

    url: str
    """``https://`` (or ``http://`` inside a trusted network); the operator's setting, never taken from an event."""
    secret_file: str
    """File with the shared secret, at least 16 bytes; read at start, surrounding white space is dropped."""
    timeout_seconds: float = 5.0
    """For one attempt."""
    attempts: int = 3
    """Attempts for one message before it goes back to the outbox."""
    first_pause_seconds: float = 0.1
    """Before the second attempt; doubled for each further one, with full jitter."""
    parallel: int = 4
    """Videos told at the same time; messages of one video go one after the other."""
    refused_file: str | None = None
    """Where messages go that the receiver refuses for good (4xx but 408, 409, 425, 429), as JSON lines; they then leave
    the outbox. None: they stay in it, and later messages of the same video behind them."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigError(f"expected an http(s) URL, got {self.url!r}")
        if self.attempts < 1 or self.parallel < 1 or self.timeout_seconds <= 0:
            raise ConfigError(f"expected attempts >= 1, parallel >= 1 and timeout_seconds > 0, got {self}")


class WebhookPublisher:
    """``Publisher`` over HTTP POST."""

    def __init__(self, config: WebhookPublisherConfig) -> None:
        self._config = config
        self._parts = urlsplit(config.url)
        self._secret = _secret(config.secret_file)
        self._pool = ThreadPoolExecutor(config.parallel, thread_name_prefix="webhook")
        self._closing = threading.Event()
        self._lock = threading.Lock()

    def publish(self, messages: Sequence[OutboxMessage]) -> Sequence[str]:
        """Keys that the receiver took with a 2xx answer."""
        lanes = list(self._pool.map(self._tell, _by_video(messages)))
        taken = {key for lane in lanes for key in lane}
        return [message.key for message in messages if message.key in taken]

    def _tell(self, lane: Sequence[OutboxMessage]) -> list[str]:
        taken: list[str] = []
        for message in lane:
            if not self._tell_one(message):
                break
            taken.append(message.key)
        return taken

    def _tell_one(self, message: OutboxMessage) -> bool:
        for pause in self._pauses():
            if self._closing.wait(pause):
                return False
            try:
                status = self._post(message)
            except (OSError, http.client.HTTPException):
                continue
            if 200 <= status < 300:
                return True
            if status in _FINAL and status not in _ASK_AGAIN:
                return self._refused(message, status)
        return False

    def _refused(self, message: OutboxMessage, status: int) -> bool:
        """Whether the refusal was put on record, so that the message may leave the outbox."""
        path = self._config.refused_file
        if path is None:
            return False
        payload = message.payload.decode("utf-8", "backslashreplace")
        entry = {"key": message.key, "topic": message.topic, "status": status, "payload": payload}
        try:
            with self._lock, open(path, "ab") as file:
                file.write(msgspec.json.encode(entry) + b"\n")
        except OSError:
            return False
        return True

    def _pauses(self) -> Iterator[float]:
        yield 0.0
        for attempt in range(self._config.attempts - 1):
            yield random.uniform(0, self._config.first_pause_seconds * 2**attempt)  # noqa: S311 - jitter

    def _post(self, message: OutboxMessage) -> int:
        secure, config = self._parts.scheme == "https", self._config
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=config.timeout_seconds)
        now = str(int(time.time()))
        headers = {
            "Content-Type": "application/json", "Idempotency-Key": quote(message.key, safe=":"),
            "X-Tidegate-Topic": message.topic, "X-Tidegate-Timestamp": now,
            "X-Tidegate-Signature": signature(self._secret, now, message.payload),
        }
        path = (self._parts.path or "/") + (f"?{self._parts.query}" if self._parts.query else "")
        try:
            connection.request("POST", path, message.payload, headers)
            return connection.getresponse().status
        finally:
            connection.close()

    def close(self) -> None:
        """End pauses and release the threads; what is on its way is finished."""
        self._closing.set()
        self._pool.shutdown(wait=True, cancel_futures=True)


def _secret(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            secret = file.read(4096).strip()
    except OSError as error:
        raise ConfigError(f"expected a readable file with the webhook's secret: {error}") from error
    if len(secret) < 16:
        raise ConfigError(f"{path}: expected a secret of at least 16 bytes, got {len(secret)}")
    return secret


def _by_video(messages: Sequence[OutboxMessage]) -> list[list[OutboxMessage]]:
    lanes: dict[str, list[OutboxMessage]] = {}
    for message in messages:
        lanes.setdefault(_video_id(message), []).append(message)
    return list(lanes.values())


def _video_id(message: OutboxMessage) -> str:
    return message.key.rpartition(":")[0]


@dataclass(frozen=True, kw_only=True)
class KafkaPublisherConfig:
    """Which topic is told."""

    bootstrap: str = "127.0.0.1:9092"
    """``host:port`` of brokers, comma-separated."""
    topic: str = "tidegate.outcomes"
    """Exists already; the key is the video id, so that a video's events stay in order in one partition."""
    timeout_seconds: float = 30.0
    """Until a message counts as not taken."""
    security_file: str | None = None
    """Properties file of librdkafka settings (``name=value`` lines), e.g. for TLS and SASL."""

    def __post_init__(self) -> None:
        if not self.bootstrap or not self.topic or self.timeout_seconds <= 0:
            raise ConfigError(f"expected bootstrap, topic and timeout_seconds > 0, got {self}")


class KafkaPublisher:
    """``Publisher`` into a topic; the payload is the value, ``idempotency_key`` and ``topic`` are headers."""

    def __init__(self, config: KafkaPublisherConfig) -> None:
        from tidegate.platform.sources.kafka_client import client_settings

        self._config = config
        self._producer: Any = driver("confluent_kafka").Producer({
            **client_settings(config.bootstrap, config.security_file), "enable.idempotence": True, "acks": "all",
            "linger.ms": 5, "compression.type": "none", "message.timeout.ms": int(config.timeout_seconds * 1000),
        })

    def publish(self, messages: Sequence[OutboxMessage]) -> Sequence[str]:
        """Keys that the broker acknowledged; without a gap within a video."""
        taken: set[str] = set()

        def told(error: Any, key: str) -> None:
            if error is None:
                taken.add(key)

        for message in messages:
            self._produce(message, lambda error, _, key=message.key: told(error, key))
        self._producer.flush(self._config.timeout_seconds + 5)
        return list(_without_gaps(messages, taken))

    def _produce(self, message: OutboxMessage, told: Any) -> None:
        headers = [("idempotency_key", message.key.encode()), ("topic", message.topic.encode())]
        end = time.monotonic() + self._config.timeout_seconds
        while True:
            try:
                self._producer.produce(
                    self._config.topic, key=_video_id(message), value=message.payload, headers=headers, on_delivery=told
                )
                self._producer.poll(0)
                return
            except BufferError as error:
                if time.monotonic() > end:
                    raise ServiceUnavailable("Kafka: the producer's queue stays full") from error
                self._producer.poll(0.1)

    def close(self) -> None:
        """Wait for what is on its way."""
        self._producer.flush(self._config.timeout_seconds)


def _without_gaps(messages: Sequence[OutboxMessage], taken: set[str]) -> Iterator[str]:
    behind: set[str] = set()
    for message in messages:
        if message.key not in taken:
            behind.add(_video_id(message))
        elif _video_id(message) not in behind:
            yield message.key
