"""Kafka, Valkey and PostgreSQL, all real: workers and servers are killed, and the index ends as undisturbed.

Nothing here waits for a length of time: every step waits for what the step before it was to bring about. A worker is
only stopped or killed once it holds its partitions, because the test broker never forgets a member that leaves while it
joins (see ``servers.broker``), and nobody would be given that group's partitions any more.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import msgspec
import pytest
from platform_crash_child import serve
from platform_doubles import event
from servers.broker import Broker
from servers.postgres import Postgres
from servers.valkey import Valkey

from tidegate.platform.config import PlatformConfig, read_config
from tidegate.platform.contracts import DeadLetter, IndexRecord
from tidegate.platform.event import EventCodec
from tidegate.platform.waiting import WaitingRoom

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
    """One topic, one cache, two platforms over it. Events come in portions; versions ascend over all of them."""

    def __init__(self, folder: Path, broker: Broker, valkey: Valkey, postgres: Postgres, num_videos: int) -> None:
        self.folder, self.broker, self.valkey, self.postgres = folder, broker, valkey, postgres
        self.num_videos, self.num_events, self.num_bad = num_videos, 0, 0
        self.topic = broker.create_topic(f"flow-{uuid.uuid4().hex}", partitions=4)
        self._codec = EventCodec()
        self._fill_cache()

    def _fill_cache(self) -> None:
        import redis

        rng = random.Random(4)
        with redis.Redis.from_url(self.valkey.url) as client:
            client.mset({
                f"features:v{number}": msgspec.json.encode({"score": round(rng.random(), 3)})
                for number in range(self.num_videos)
            })

    def produce(self, num_events: int, num_bad: int = 1) -> None:
        """The next events, and messages that are none."""
        names = [(f"v{number % self.num_videos}", number) for number in range(
            self.num_events, self.num_events + num_events
        )]
        messages = [(name.encode(), self._codec.encode(event(name, number))) for name, number in names]
        self.num_events += num_events
        self.num_bad += num_bad
        self.broker.produce(self.topic, [*messages, *((b"bad", b"{broken") for _ in range(num_bad))])

    def platform(self, name: str) -> Path:
        home = self.folder / name
        home.mkdir()
        (home / "policy.toml").write_text(POLICY)
        (home / "platform.toml").write_text(CONFIG.format(
            bootstrap=self.broker.bootstrap, topic=self.topic, group=f"{name}-{self.topic}", valkey=self.valkey.url,
            postgres=self.postgres.fresh_database(),
        ))
        return home / "platform.toml"

    def expected_version(self, number: int) -> int:
        """The highest version of a video among the events so far."""
        return number + (self.num_events - 1 - number) // self.num_videos * self.num_videos

    def rows(self, config: PlatformConfig) -> dict[str, IndexRecord]:
        index = config.index.backend.open(config.index.settings)
        try:
            return dict(index.get_many([f"v{number}" for number in range(self.num_videos)]))
        finally:
            index.close()

    def missing(self, config: PlatformConfig) -> list[str]:
        """Videos whose last version is not in the index, with the version that is."""
        rows = self.rows(config)
        wanted = {f"v{number}": self.expected_version(number) for number in range(self.num_videos)}
        found = {name: rows[name].version if name in rows else None for name in wanted}
        return [f"{name}: {found[name]}, not {version}" for name, version in wanted.items() if found[name] != version]

    def letters(self, config: PlatformConfig) -> Sequence[DeadLetter]:
        letters = config.dead_letters.backend.open(config.dead_letters.settings)
        try:
            return list(letters.list())
        finally:
            letters.close()

    def describe(self, config: PlatformConfig, child: BaseProcess) -> str:
        """What a person needs to see when the index does not become complete."""
        log = config.state.parent / "worker.log"
        if child.is_alive() and child.pid is not None:
            os.kill(child.pid, signal.SIGUSR1)  # the worker writes its stack into its log
            time.sleep(1)
        missing, room = self.missing(config), WaitingRoom(config.state / "waiting.db")
        letters = [(letter.partition, letter.offset, letter.code, letter.reason) for letter in self.letters(config)]
        try:
            return (
                f"exit code {child.exitcode}; {len(missing)} of {self.num_videos} videos: {missing[:20]}\n"
                f"waiting: {dict(room.counts())}; expected {self.num_bad} dead letters, got {letters[:20]}\n"
                f"worker: {log.read_text(errors='replace')[-6000:]}\nbroker: {self.broker.log}"
            )
        finally:
            room.close()


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


def await_all(scene: Scene, path: Path, child: BaseProcess, seconds: float = 180) -> None:
    """Until every video has its last version and every bad message is a dead letter."""
    config, end = read_config(path), time.monotonic() + seconds
    while scene.missing(config) or len(scene.letters(config)) != scene.num_bad:
        assert child.exitcode is None, f"the worker died: {scene.describe(config, child)}"
        assert time.monotonic() < end, f"not complete after {seconds} s: {scene.describe(config, child)}"
        time.sleep(0.2)


def await_start(scene: Scene, path: Path, child: BaseProcess, before: int, seconds: float = 60) -> None:
    """Until more events than ``before`` have had an effect, or all."""
    config, end = read_config(path), time.monotonic() + seconds
    while len(scene.missing(config)) >= before > 0:
        assert child.exitcode is None, f"the worker died: {scene.describe(config, child)}"
        assert time.monotonic() < end, f"no progress in {seconds} s: {scene.describe(config, child)}"
        time.sleep(0.02)


def kill_servers(scene: Scene, path: Path, child: BaseProcess, restarts: int, portion: int) -> None:
    """Under a worker that lives: a server dies while it works, more events come, the server is back."""
    for number in range(restarts):
        scene.produce(portion)
        await_start(scene, path, child, before=len(scene.missing(read_config(path))))
        server = scene.valkey if number % 2 else scene.postgres
        server.kill()
        scene.produce(portion)
        server.start()
        await_all(scene, path, child)


def check(scene: Scene, *, kills: int, restarts: int, portion: int, rebalance: bool) -> None:
    broken, rng = scene.platform("broken"), random.Random(9)
    scene.produce(scene.num_videos + kills * portion, num_bad=4)
    for _ in range(kills):
        with worker(broken, rng.randint(2, 25)) as child:
            child.join(120)
            assert child.exitcode == -signal.SIGKILL, scene.describe(read_config(broken), child)
    with worker(broken, 0) as child:
        await_all(scene, broken, child)
        kill_servers(scene, broken, child, restarts, portion)
        if rebalance:
            with worker(broken, 0, 1, 2):
                scene.produce(20 * portion)
                await_all(scene, broken, child)
                scene.produce(20 * portion)
                await_all(scene, broken, child)
    calm = scene.platform("calm")
    with worker(calm, 0) as child:
        await_all(scene, calm, child)
    rows = scene.rows(read_config(calm))
    assert len(rows) == scene.num_videos
    assert scene.rows(read_config(broken)) == rows


def test_killed_worker_and_killed_servers_change_nothing(
    tmp_path: Path, broker: Broker, own_valkey: Valkey, own_postgres: Postgres
) -> None:
    scene = Scene(tmp_path, broker, own_valkey, own_postgres, num_videos=150)
    check(scene, kills=1, restarts=2, portion=100, rebalance=False)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_many_kills_restarts_and_rebalances_change_nothing(
    tmp_path: Path, broker: Broker, own_valkey: Valkey, own_postgres: Postgres
) -> None:
    scene = Scene(tmp_path, broker, own_valkey, own_postgres, num_videos=3000)
    check(scene, kills=20, restarts=6, portion=300, rebalance=True)
