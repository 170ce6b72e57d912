"""Kafka, Valkey and PostgreSQL, all real: workers and servers are killed, and the index ends as undisturbed."""

from __future__ import annotations

import multiprocessing
import random
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import msgspec
import pytest
from platform_crash_child import serve
from platform_doubles import event
from servers.broker import Broker
from servers.postgres import Postgres
from servers.process import wait_until
from servers.valkey import Valkey

from tidegate.platform.config import PlatformConfig, read_config
from tidegate.platform.contracts import IndexRecord
from tidegate.platform.event import EventCodec

CONFIG = """
[platform]
policy_file = "policy.toml"
[batch]
max_batch = 32
poll_seconds = 0.05
max_backoff_seconds = 0.5
[retry]
max_attempts = 40
retry_seconds = 0.05
[source]
kind = "kafka"
bootstrap = "{bootstrap}"
topics = ["{topic}"]
group = "{group}"
session_timeout_seconds = 3
heartbeat_seconds = 0.1
commit_seconds = 0
[[features]]
kind = "redis"
name = "cache"
url = "{valkey}"
deadline_seconds = 2.0
breaker_seconds = 0.2
[scoring]
kind = "feature"
feature = "cache.score"
[index]
kind = "postgres"
url = "{postgres}"
[dead_letters]
kind = "postgres"
url = "{postgres}"
"""
POLICY = """
[policy]
name = "p"
version = "1"
[[clause]]
id = "icd-1"
issue = "icd"
title = "t"
remove_at = 0.8
"""


class Scene:
    """One topic, one cache, two platforms over it."""

    def __init__(self, folder: Path, broker: Broker, valkey: Valkey, postgres: Postgres, num_events: int) -> None:
        self.folder, self.broker, self.valkey, self.postgres = folder, broker, valkey, postgres
        self.num_videos, self.num_bad = num_events // 2, 5
        self.topic = broker.create_topic(f"flow-{uuid.uuid4().hex}", partitions=4)
        self._fill(num_events)

    def _fill(self, num_events: int) -> None:
        import redis

        rng, codec = random.Random(4), EventCodec()
        with redis.Redis.from_url(self.valkey.url) as client:
            client.mset({
                f"features:v{number}": msgspec.json.encode({"score": round(rng.random(), 3)})
                for number in range(self.num_videos)
            })
        messages = [
            (f"v{number % self.num_videos}".encode(), codec.encode(event(f"v{number % self.num_videos}", number)))
            for number in range(num_events)
        ]
        self.broker.produce(self.topic, [*messages, *((b"bad", b"{broken") for _ in range(self.num_bad))])

    def platform(self, name: str) -> Path:
        home = self.folder / name
        home.mkdir()
        (home / "policy.toml").write_text(POLICY)
        (home / "platform.toml").write_text(CONFIG.format(
            bootstrap=self.broker.bootstrap, topic=self.topic, group=f"{name}-{self.topic}", valkey=self.valkey.url,
            postgres=self.postgres.fresh_database(),
        ))
        return home / "platform.toml"

    def done(self, config: PlatformConfig) -> bool:
        """Whether every video has its last version and every bad message is a dead letter."""
        index = config.index.backend.open(config.index.settings)
        letters = config.dead_letters.backend.open(config.dead_letters.settings)
        try:
            found = index.get_many([f"v{number}" for number in range(self.num_videos)])
            last = sum(record.version >= self.num_videos for record in found.values())
            return last == self.num_videos and letters.count() == self.num_bad
        finally:
            index.close()
            letters.close()

    def rows(self, config: PlatformConfig) -> dict[str, IndexRecord]:
        index = config.index.backend.open(config.index.settings)
        try:
            return dict(index.get_many([f"v{number}" for number in range(self.num_videos)]))
        finally:
            index.close()


@contextmanager
def worker(path: Path, kill_at: int, number: int = 0, workers: int = 1) -> Iterator[BaseProcess]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["platform_crash_child"])
    child = context.Process(target=serve, args=(path, kill_at, number, workers))
    child.start()
    try:
        yield child
    finally:
        child.terminate()
        child.join(60)
        child.kill()
        child.join()


def finish(scene: Scene, path: Path, workers: int) -> None:
    """Workers that live, until everything is there."""
    config = read_config(path)
    if workers == 1:
        with worker(path, 0):
            wait_until(lambda: scene.done(config), "the index is complete", 120, 0.2)
        return
    with worker(path, 0, 0, 2), worker(path, 0, 1, 2):
        wait_until(lambda: scene.done(config), "the index is complete", 120, 0.2)


def check(scene: Scene, kills: int, workers: int, restarts: int) -> None:
    calm, broken = scene.platform("calm"), scene.platform("broken")
    finish(scene, calm, 1)
    rng = random.Random(9)
    for _ in range(kills):
        with worker(broken, rng.randint(2, 25)) as child:
            child.join(60)
            assert child.exitcode == -9
    for number in range(restarts):
        with worker(broken, 0):
            time.sleep(rng.uniform(0.2, 1.0))
            server = scene.valkey if number % 2 else scene.postgres
            server.kill()
            time.sleep(0.3)
            server.start()
    finish(scene, broken, workers)
    assert scene.rows(read_config(broken)) == scene.rows(read_config(calm))
    assert len(scene.rows(read_config(calm))) == scene.num_videos


def test_killed_worker_and_killed_servers_change_nothing(
    tmp_path: Path, broker: Broker, own_valkey: Valkey, own_postgres: Postgres
) -> None:
    check(Scene(tmp_path, broker, own_valkey, own_postgres, 400), kills=1, workers=1, restarts=2)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_many_kills_restarts_and_rebalances_change_nothing(
    tmp_path: Path, broker: Broker, own_valkey: Valkey, own_postgres: Postgres
) -> None:
    check(Scene(tmp_path, broker, own_valkey, own_postgres, 6000), kills=20, workers=2, restarts=6)
