"""Publishers: signed, retried, in order for each video, and honest about what was taken."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from servers.broker import Broker
from servers.receiver import Receiver

from tidegate.errors import ConfigError
from tidegate.platform.contracts import OutboxMessage, Publisher
from tidegate.platform.stores.publishers import (
    KafkaPublisher,
    KafkaPublisherConfig,
    WebhookPublisher,
    WebhookPublisherConfig,
    signature,
    verify_signature,
)

SECRET = b"0123456789abcdef"
Make = Callable[..., WebhookPublisher]


@pytest.fixture
def secret_file(tmp_path: Path) -> str:
    path = tmp_path / "secret"
    path.write_bytes(SECRET + b"\n")
    return str(path)


def message(video_id: str, version: int) -> OutboxMessage:
    return OutboxMessage(key=f"{video_id}:{version}", topic="removed", payload=b'{"version": %d}' % version)


def published(receiver: Receiver, secret_file: str, messages: list[OutboxMessage], **settings: object) -> list[str]:
    config = WebhookPublisherConfig(url=receiver.url, secret_file=secret_file, first_pause_seconds=0.001, **settings)  # type: ignore[arg-type]
    publisher = WebhookPublisher(config)
    assert isinstance(publisher, Publisher)
    try:
        return list(publisher.publish(messages))
    finally:
        publisher.close()


def test_receiver_can_check_who_sent_it_and_when(receiver: Receiver, secret_file: str) -> None:
    assert published(receiver, secret_file, [message("видео", 7)]) == ["видео:7"]
    (headers, body), = receiver.requests
    stamp, sign = headers["x-tidegate-timestamp"], headers["x-tidegate-signature"]
    assert verify_signature(SECRET, stamp, body, sign)
    assert not verify_signature(SECRET, stamp, body + b" ", sign)
    assert not verify_signature(b"another secret of 32 characters!", stamp, body, sign)
    assert not verify_signature(SECRET, stamp, body, sign, now=time.time() + 301)
    assert not verify_signature(SECRET, "yesterday", body, signature(SECRET, "yesterday", body))
    assert headers["idempotency-key"] == "%D0%B2%D0%B8%D0%B4%D0%B5%D0%BE:7"
    assert headers["x-tidegate-topic"] == "removed"


def test_failing_receiver_is_asked_again(receiver: Receiver, secret_file: str) -> None:
    receiver.answer = lambda number: 503 if number < 3 else 204
    assert published(receiver, secret_file, [message("v1", 1)]) == ["v1:1"]
    assert len(receiver.requests) == 3


def test_what_is_not_taken_stays_and_later_events_of_that_video_wait_behind_it(
    receiver: Receiver, secret_file: str
) -> None:
    messages = [message("v1", 1), message("v2", 1), message("v1", 2)]
    receiver.answer = lambda number: 500 if b'"version": 1' in receiver.requests[number - 1][1] else 200
    assert published(receiver, secret_file, messages, attempts=2) == []
    assert all(b'"version": 1' in body for _, body in receiver.requests)


def test_refusal_for_good_is_not_repeated_and_can_be_put_on_record(
    receiver: Receiver, secret_file: str, tmp_path: Path
) -> None:
    receiver.answer = lambda _: 422
    assert published(receiver, secret_file, [message("v1", 1)]) == []
    assert len(receiver.requests) == 1
    record = tmp_path / "refused.jsonl"
    assert published(receiver, secret_file, [message("v1", 1)], refused_file=str(record)) == ["v1:1"]
    assert json.loads(record.read_text()) == {
        "key": "v1:1", "topic": "removed", "status": 422, "payload": '{"version": 1}',
    }


def test_absent_receiver_takes_nothing(secret_file: str) -> None:
    with Receiver() as gone:
        pass
    assert published(gone, secret_file, [message("v1", 1)]) == []


def test_short_or_absent_secret_is_a_configuration_error(tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_text("short")
    for secret in (path, tmp_path / "absent"):
        with pytest.raises(ConfigError, match="secret"):
            WebhookPublisher(WebhookPublisherConfig(url="https://example.com/", secret_file=str(secret)))
    with pytest.raises(ConfigError, match="http"):
        WebhookPublisherConfig(url="file:///etc/passwd", secret_file=str(path))


def test_topic_gets_messages_with_key_and_idempotency_header(broker: Broker) -> None:
    topic = broker.create_topic("publishers-outcomes")
    publisher = KafkaPublisher(KafkaPublisherConfig(bootstrap=broker.bootstrap, topic=topic))
    messages = [message("v1", number) for number in range(50)]
    assert list(publisher.publish(messages)) == [entry.key for entry in messages]
    publisher.close()
    found = broker.consume(topic, 50)
    assert [headers["idempotency_key"].decode() for _, _, headers in found] == [entry.key for entry in messages]
    assert {key for key, _, _ in found} == {"v1"}


def test_absent_broker_takes_nothing_and_says_so_in_time() -> None:
    publisher = KafkaPublisher(KafkaPublisherConfig(bootstrap="127.0.0.1:9", topic="t", timeout_seconds=0.3))
    assert list(publisher.publish([message("v1", 1)])) == []
    publisher.close()
