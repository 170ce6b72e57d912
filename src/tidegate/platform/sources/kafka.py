"""Events from Kafka topics, as one member of a consumer group.

Enters: messages. Leaves: deliveries, in order within each partition; a message that cannot be read is a delivery with
an error. Offsets are committed only for what was acknowledged, so a crash brings the rest again.

A rebalance takes partitions away inside ``poll``: what was acknowledged of them is committed then and there, what was
not is dropped from the books (the next owner gets it again), and a late acknowledgement of it does nothing. Offsets
that are gone (a topic made anew) restart at ``start``. Waiting for a broker has an end: a coordinator that does not
answer delays a rebalance or a stop by ``patience_seconds``, and what was not committed comes again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tidegate.errors import ConfigError, ServiceRefused, ServiceUnavailable
from tidegate.platform.contracts import Delivery, Shard
from tidegate.platform.event import EventCodec
from tidegate.platform.sources.bounded import ended_within
from tidegate.platform.sources.kafka_client import client_settings
from tidegate.platform.stores.drivers import driver

__all__ = ["KafkaSource", "KafkaSourceConfig"]

_LOG = logging.getLogger("tidegate.kafka")


@dataclass(frozen=True, kw_only=True)
class KafkaSourceConfig:
    """Which topics are read, and as whom."""

    bootstrap: str = "127.0.0.1:9092"
    """``host:port`` of brokers, comma-separated."""
    topics: tuple[str, ...] = ("videos",)
    """Topics of events; the key should be the video id, so that a video's events stay in order."""
    group: str = "tidegate"
    """Consumer group: workers of one group share the partitions, and its offsets are where they go on."""
    start: Literal["earliest", "latest"] = "earliest"
    """Where a group begins that has no offset yet, or whose offset is gone."""
    session_timeout_seconds: float = 45.0
    """A silent worker loses its partitions after this time."""
    heartbeat_seconds: float = 3.0
    """Between signs of life; at most a third of the session timeout."""
    max_poll_seconds: float = 300.0
    """A worker that does not poll for this long loses its partitions: longer than the slowest batch."""
    commit_seconds: float = 0.2
    """Acknowledged offsets are committed this often (and when partitions are taken away, and on close)."""
    patience_seconds: float = 10.0
    """Longest wait for a commit when partitions are taken away, and for leaving the group."""
    max_message_bytes: int = 1024 * 1024
    """Kept of an oversized message in its delivery; what counts as oversized is a limit of events."""
    queued_kibibytes: int = 16 * 1024
    """Fetched ahead, for all partitions together."""
    security_file: str | None = None
    """Properties file of librdkafka settings (``name=value`` lines), e.g. for TLS and SASL."""

    def __post_init__(self) -> None:
        if not self.bootstrap or not self.topics or not all(self.topics) or not self.group:
            raise ConfigError(f"expected bootstrap, at least one topic and a group, got {self}")
        if self.start not in {"earliest", "latest"}:
            raise ConfigError(f"expected start to be earliest or latest, got {self.start!r}")
        if not 0 < self.heartbeat_seconds <= self.session_timeout_seconds / 3:
            raise ConfigError(f"expected 0 < heartbeat_seconds <= session_timeout_seconds / 3, got {self}")
        if self.max_poll_seconds < self.session_timeout_seconds:
            raise ConfigError(f"expected max_poll_seconds >= session_timeout_seconds, got {self}")
        if not self.patience_seconds > 0:
            raise ConfigError(f"expected patience_seconds > 0, got {self.patience_seconds}")


class _Progress:
    """How far one partition is, since it was assigned."""

    __slots__ = ("done", "first", "name", "number", "sent", "topic")

    def __init__(self, topic: str, number: int) -> None:
        self.topic, self.number, self.name = topic, number, f"{topic}/{number}"
        self.first: int | None = None
        """First offset that was handed out."""
        self.done = self.sent = -1
        """Next offset to read after what was acknowledged; what of it went to the broker."""


class KafkaSource:
    """``EventSource`` over confluent-kafka."""

    def __init__(self, config: KafkaSourceConfig, shard: Shard | None = None, codec: EventCodec | None = None) -> None:
        del shard  # the group shares the partitions out
        self._config = config
        self._codec = codec or EventCodec()
        self._kafka = driver("confluent_kafka")
        self._progress: dict[str, _Progress] = {}
        self._trouble: Exception | None = None
        self._committed_at = time.monotonic()
        self._consumer: Any = self._kafka.Consumer(self._settings())
        self._consumer.subscribe(
            list(config.topics), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
        )

    def _settings(self) -> dict[str, Any]:
        config = self._config
        return client_settings(config.bootstrap, config.security_file) | {
            "group.id": config.group, "auto.offset.reset": config.start, "enable.auto.commit": False,
            "enable.auto.offset.store": False, "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": int(config.session_timeout_seconds * 1000),
            "heartbeat.interval.ms": int(config.heartbeat_seconds * 1000),
            "max.poll.interval.ms": int(config.max_poll_seconds * 1000),
            "queued.max.messages.kbytes": config.queued_kibibytes, "fetch.wait.max.ms": 100,
            "error_cb": self._troubled, "on_commit": self._commit_answered,
            "topic.metadata.refresh.interval.ms": 30_000, "topic.metadata.propagation.max.ms": 5000,
        }

    def poll(self, max_events: int, timeout_seconds: float) -> Sequence[Delivery]:
        """Up to ``max_events`` deliveries; raises ``ServiceUnavailable`` when no broker answers."""
        try:
            messages = self._consumer.consume(max_events, timeout_seconds)
        except self._kafka.KafkaException as error:
            raise self._named(error.args[0]) from error
        self._commit_when_due()
        now = time.time()
        deliveries = [self._delivery(message, now) for message in self._good(messages)]
        if not deliveries and self._trouble is not None:
            trouble, self._trouble = self._trouble, None
            raise trouble
        return deliveries

    def _good(self, messages: Iterable[Any]) -> Iterable[Any]:
        for message in messages:
            error = message.error()
            if error is None:
                yield message
            elif error.code() != self._kafka.KafkaError._PARTITION_EOF:
                self._trouble = self._named(error)

    def _delivery(self, message: Any, now: float) -> Delivery:
        topic, number, offset = message.topic(), message.partition(), message.offset()
        progress = self._progress.get(f"{topic}/{number}")
        if progress is None:  # assigned without a call of ours; keeps the books complete
            progress = self._progress[f"{topic}/{number}"] = _Progress(topic, number)
        if progress.first is None or offset < progress.done:  # new, or the topic was made anew
            progress.first, progress.done, progress.sent = offset, -1, -1
        raw = message.value() or b""
        event, error = self._codec.decode_or_error(raw)
        return Delivery(
            event=event, error=error, raw=raw[: self._config.max_message_bytes], partition=progress.name, offset=offset,
            received_at=now,
        )

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Commit up to these; those of partitions that are no longer ours are ignored."""
        for delivery in deliveries:
            progress = self._progress.get(delivery.partition)
            if progress is not None and progress.first is not None and delivery.offset >= progress.first:
                progress.done = max(progress.done, delivery.offset + 1)
        self._commit_when_due()

    def _commit_when_due(self) -> None:
        if time.monotonic() - self._committed_at >= self._config.commit_seconds:
            self._committed_at = time.monotonic()
            self._commit(self._progress.values(), wait=False)

    def _commit(self, progresses: Iterable[_Progress], *, wait: bool) -> None:
        due = [progress for progress in progresses if progress.done > progress.sent]
        if not due:
            return
        partitions = [self._kafka.TopicPartition(each.topic, each.number, each.done) for each in due]
        try:
            if not wait:
                self._consumer.commit(offsets=partitions, asynchronous=True)
            elif not self._bounded(lambda: self._consumer.commit(offsets=partitions, asynchronous=False)):
                _LOG.warning("offsets were not committed within %s s", self._config.patience_seconds)
                return
        except self._kafka.KafkaException as error:  # what is not committed comes again
            _LOG.warning("offsets were not committed: %s", error)
            return
        for progress in due:
            progress.sent = progress.done

    def _commit_answered(self, error: Any, partitions: Sequence[Any]) -> None:
        for partition in partitions:
            if error is not None or partition.error is not None:
                _LOG.warning("offset was not committed: %s", error or partition.error)
                progress = self._progress.get(f"{partition.topic}/{partition.partition}")
                if progress is not None:
                    progress.sent = -1

    def _assigned(self, _: Any, partitions: Sequence[Any]) -> None:
        for partition in partitions:
            progress = _Progress(partition.topic, partition.partition)
            self._progress[progress.name] = progress

    def _revoked(self, _: Any, partitions: Sequence[Any]) -> None:
        self._commit(self._forgotten(partitions), wait=True)

    def _lost(self, _: Any, partitions: Sequence[Any]) -> None:
        self._forgotten(partitions)  # somebody else has them already

    def _forgotten(self, partitions: Sequence[Any]) -> list[_Progress]:
        names = [f"{partition.topic}/{partition.partition}" for partition in partitions]
        return [self._progress.pop(name) for name in names if name in self._progress]

    def _troubled(self, error: Any) -> None:
        if error.fatal() or error.code() == self._kafka.KafkaError._ALL_BROKERS_DOWN:
            self._trouble = self._named(error)

    def _named(self, error: Any) -> ServiceUnavailable | ServiceRefused:
        codes = self._kafka.KafkaError
        refused = {
            codes.TOPIC_AUTHORIZATION_FAILED, codes.GROUP_AUTHORIZATION_FAILED, codes.SASL_AUTHENTICATION_FAILED,
            codes._AUTHENTICATION, codes.CLUSTER_AUTHORIZATION_FAILED,
        }
        return (ServiceRefused if error.code() in refused else ServiceUnavailable)(f"Kafka: {error.str()}")

    def lag(self) -> int | None:
        """Messages of our partitions that were not handed out, by the latest fetch; None before the first one."""
        try:
            total, known = 0, False
            for position in self._consumer.position(self._consumer.assignment()):
                low, high = self._consumer.get_watermark_offsets(position, cached=True)
                if high >= 0:
                    known = True
                    total += max(0, high - (position.offset if position.offset >= 0 else max(0, low)))
        except self._kafka.KafkaException:
            return None
        return total if known else None

    def close(self) -> None:
        """Commit what was acknowledged and leave the group, as far as a broker answers in time."""
        self._commit(self._progress.values(), wait=True)
        self._progress.clear()
        if not self._bounded(self._consumer.close):
            _LOG.warning("the group was not left within %s s: the broker will miss this member by itself",
                         self._config.patience_seconds)

    def _bounded(self, call: Callable[[], object]) -> bool:
        return ended_within(self._config.patience_seconds, call)
