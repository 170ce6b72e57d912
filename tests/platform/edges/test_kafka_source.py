"""Kafka: order, offsets after acknowledgement only, rebalances, outages, hostile messages. A real broker throughout."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from servers.broker import Broker
from servers.gate import Gate
from servers.process import wait_until

from tidegate.errors import ConfigError, ServiceUnavailable
from tidegate.platform.contracts import Delivery, EventSource
from tidegate.platform.event import EventCodec, VideoEvent
from tidegate.platform.sources.bounded import ended_within
from tidegate.platform.sources.kafka import KafkaSource, KafkaSourceConfig

numbers = itertools.count()
Open = Callable[..., KafkaSource]


def event(number: int, video_id: str | None = None) -> bytes:
    return EventCodec().encode(VideoEvent(video_id=video_id or f"v{number}", version=number, occurred_at=time.time()))


def config(bootstrap: str, topic: str, group: str) -> KafkaSourceConfig:
    return KafkaSourceConfig(
        bootstrap=bootstrap, topics=(topic,), group=group, session_timeout_seconds=3, heartbeat_seconds=0.1,
        commit_seconds=0,
    )


@pytest.fixture
def topic(broker: Broker) -> str:
    return broker.create_topic(f"kafka-source-{uuid.uuid4().hex}", partitions=2)


@pytest.fixture
def open_source(broker: Broker, topic: str) -> Iterator[Open]:
    opened: list[KafkaSource] = []

    def opener(group: str = "g", bootstrap: str = broker.bootstrap) -> KafkaSource:
        opened.append(KafkaSource(config(bootstrap, topic, f"{group}-{topic}")))
        return opened[-1]

    yield opener
    for source in opened:
        source.close()


def take(source: KafkaSource, count: int, most: int = 100) -> list[Delivery]:
    """At least ``count`` deliveries."""
    found: list[Delivery] = []

    def enough() -> bool:
        try:
            found.extend(source.poll(most, 0.1))
        except ServiceUnavailable:
            time.sleep(0.05)
        return len(found) >= count

    wait_until(enough, f"{count} deliveries, got {len(found)}", every_seconds=0)
    return found


def ids(deliveries: Sequence[Delivery]) -> set[str]:
    return {delivery.event.video_id for delivery in deliveries if delivery.event}


def in_order(deliveries: Sequence[Delivery]) -> bool:
    last: dict[str, int] = {}
    for delivery in deliveries:
        if delivery.offset <= last.get(delivery.partition, -1):
            return False
        last[delivery.partition] = delivery.offset
    return True


def test_messages_arrive_in_the_order_of_their_partition_and_lag_falls_to_zero(
    broker: Broker, topic: str, open_source: Open
) -> None:
    broker.produce(topic, ((f"k{number % 7}", event(number)) for number in range(300)))
    source = open_source()
    assert isinstance(source, EventSource)
    assert source.lag() is None
    first = take(source, 1, most=10)
    lag = source.lag()
    assert lag is not None
    assert lag <= 300 - len(first)
    found = first + take(source, 300 - len(first))
    assert len(found) == 300
    assert in_order(found)
    assert {delivery.partition for delivery in found} == {f"{topic}/0", f"{topic}/1"}
    wait_until(lambda: not source.poll(10, 0.05) and source.lag() == 0, "no lag")


def test_only_acknowledged_messages_do_not_come_again(broker: Broker, topic: str, open_source: Open) -> None:
    broker.produce(topic, (event(number) for number in range(20)), partition=0)
    source = open_source()
    found = take(source, 20)
    source.acknowledge(found[:12])
    source.acknowledge(found[3:5])
    source.close()
    again = take(open_source(), 8)
    assert [delivery.offset for delivery in again] == list(range(12, 20))


def test_killed_consumer_gets_back_what_it_did_not_acknowledge(broker: Broker, topic: str, open_source: Open) -> None:
    broker.produce(topic, (event(number) for number in range(10)), partition=1)
    code = (
        "import sys, time\n"
        "from tidegate.platform.sources.kafka import KafkaSource, KafkaSourceConfig\n"
        "source = KafkaSource(KafkaSourceConfig(bootstrap=sys.argv[1], topics=(sys.argv[2],), group=sys.argv[3],\n"
        "    session_timeout_seconds=3, heartbeat_seconds=0.1, commit_seconds=0))\n"
        "found = []\n"
        "while len(found) < 10: found += source.poll(10, 0.1)\n"
        "source.acknowledge(found[:4])\n"
        "for _ in range(5): source.poll(10, 0.1)\n"
        "print('taken', flush=True)\n"
        "while True: source.poll(10, 0.1)\n"
    )
    command = [sys.executable, "-c", code, broker.bootstrap, topic, f"g-{topic}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == b"taken\n"
        victim.kill()
    assert [delivery.offset for delivery in take(open_source(), 6)] == list(range(4, 10))


def test_rebalance_loses_nothing_and_late_acknowledgements_of_lost_partitions_do_nothing(
    broker: Broker, topic: str, open_source: Open
) -> None:
    for partition in (0, 1):
        broker.produce(topic, (event(number, f"p{partition}-{number}") for number in range(50)), partition=partition)
    first = open_source()
    held = take(first, 100)
    second = open_source()
    shared: list[Delivery] = []

    def split() -> bool:
        first.poll(10, 0.05)
        shared.extend(second.poll(100, 0.05))
        return len(first._progress) == 1 and len(second._progress) == 1

    wait_until(split, "one partition for each consumer", every_seconds=0)
    moved = next(iter(second._progress))
    shared += take(second, 50 - len(shared))
    assert {delivery.offset for delivery in shared} == set(range(50))
    assert {delivery.partition for delivery in shared} == {moved}
    second.acknowledge(shared[:30])
    first.acknowledge(held)  # too late for the partition that moved
    first.close()

    def joined() -> bool:  # the broker never forgets a member that leaves while it joins
        second.poll(1, 0.05)
        return len(second._progress) == 2

    wait_until(joined, "both partitions for the one that stays", every_seconds=0)
    second.close()
    rest = take(open_source(), 20)
    assert {(delivery.partition, delivery.offset) for delivery in rest} == {(moved, offset) for offset in range(30, 50)}


def test_hostile_messages_are_deliveries_with_an_error_and_block_nothing(
    broker: Broker, topic: str, open_source: Open
) -> None:
    good = {"schema": 1, "video_id": "v1", "version": 1, "occurred_at": 1.0}
    hostile: list[tuple[bytes, str]] = [
        (b"", "malformed_event"), (b"\xff\xfe\x00", "malformed_event"), (b"{" * 10_000, "malformed_event"),
        (b"x" * 300_000, "oversized_event"), (msgspec.json.encode(good | {"schema": 99}), "unknown_schema"),
        (msgspec.json.encode(good | {"location": "file:///etc/passwd"}), "forbidden_location"),
        (msgspec.json.encode(good | {"location": "../../etc/passwd"}), "forbidden_location"),
        (msgspec.json.encode(good | {"location": "http://169.254.169.254/latest"}), "forbidden_location"),
        (msgspec.json.encode(good | {"region": "XX"}), "invalid_event"),
        (msgspec.json.encode(good | {"video_id": "e\u0301"}), "invalid_event"),
        (msgspec.json.encode(good | {"occurred_at": 4e9}), "invalid_event"),
    ]
    broker.produce(topic, [raw for raw, _ in hostile] + [msgspec.json.encode(good)], partition=0)
    found = take(open_source(), len(hostile) + 1)
    assert [delivery.error.code for delivery in found[:-1] if delivery.error] == [code for _, code in hostile]
    assert found[-1].event is not None
    assert found[0].raw == b""
    assert found[1].raw == b"\xff\xfe\x00"


def test_broken_connections_are_an_outage_and_then_the_stream_goes_on(own_broker: Broker) -> None:
    gate = Gate(own_broker.port)
    # The broker tells clients its own address, so that one must be the gate's.
    own_broker.kill()
    listen, own_broker.port = own_broker.port, gate.port
    own_broker.command = lambda: _advertise(own_broker, listen)  # type: ignore[method-assign]
    with gate:
        own_broker.start()
        own_broker.create_topic("t")
        own_broker.produce("t", (event(number) for number in range(5)))
        source = KafkaSource(config(own_broker.bootstrap, "t", "g"))
        found = take(source, 5)
        source.acknowledge(found)
        gate.shut()
        with pytest.raises(ServiceUnavailable):
            wait_until(lambda: bool(source.poll(10, 0.1)), "an outage")
        gate.open()
        own_broker.produce("t", (event(number) for number in range(5, 10)))
        assert ids(take(source, 5)) >= {f"v{number}" for number in range(5, 10)}
        source.close()


def _advertise(server: Broker, listen: int) -> list[str]:
    command: list[str] = Broker.command(server)
    command[command.index("--listener-url") + 1] = f"tcp://127.0.0.1:{listen}"
    return command


def test_killed_broker_that_lost_its_topics_is_read_from_the_start_again(own_broker: Broker) -> None:
    own_broker.create_topic("t")
    own_broker.produce("t", (event(number) for number in range(30)))
    source = KafkaSource(config(own_broker.bootstrap, "t", "g"))
    source.acknowledge(take(source, 30))
    own_broker.restart()
    own_broker.create_topic("t")
    own_broker.produce("t", (event(number) for number in range(5)))
    again = take(source, 5)
    assert [delivery.offset for delivery in again[:5]] == list(range(5))
    source.acknowledge(again)
    source.close()
    own_broker.produce("t", [event(5)])
    other = KafkaSource(config(own_broker.bootstrap, "t", "g"))
    assert ids(take(other, 1)) == {"v5"}
    other.close()


def test_broker_that_does_not_answer_cannot_keep_a_worker_from_stopping(own_broker: Broker) -> None:
    """Commit and farewell have no deadline in the driver; what was not committed comes again."""
    own_broker.create_topic("t", partitions=1)
    own_broker.produce("t", (event(number) for number in range(5)))
    patient = replace(config(own_broker.bootstrap, "t", "g"), commit_seconds=60, patience_seconds=0.5)
    source = KafkaSource(patient)
    source.acknowledge(take(source, 5))
    own_broker.pause()
    started = time.monotonic()
    source.close()
    assert 0.5 <= time.monotonic() - started < 10  # the driver alone waits a minute and more
    own_broker.resume()
    other = KafkaSource(config(own_broker.bootstrap, "t", "g"))
    own_broker.produce("t", [event(5)])
    seen: set[str] = set()

    def last() -> bool:
        seen.update(ids(take(other, 1)))
        return "v5" in seen

    wait_until(last, "the message after the stop", every_seconds=0)
    other.close()


def test_call_of_a_driver_ends_in_time_is_left_behind_or_raises() -> None:
    for_ever = threading.Event()
    assert ended_within(5, lambda: None)
    assert not ended_within(0.05, for_ever.wait)
    with pytest.raises(ServiceUnavailable, match="away"):
        ended_within(5, lambda: _raise(ServiceUnavailable("away")))
    for_ever.set()


def _raise(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    "wrong",
    [{"topics": ()}, {"group": ""}, {"start": "middle"}, {"heartbeat_seconds": 40}, {"max_poll_seconds": 1},
     {"patience_seconds": 0}],
)
def test_wrong_settings_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong)).split("_")[0]):
        KafkaSourceConfig(**wrong)
