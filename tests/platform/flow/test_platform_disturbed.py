"""Clocks jump, a Thrift service is slow, fails and dies, a broker goes away: the index ends as undisturbed.

All through the whole flow, and compared with a run in which nothing happened.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import msgspec
import pytest
from platform_doubles import FunctionScorer, ListSource, MemoryIndex, MemoryLetters, policy
from servers.broker import Broker
from servers.gate import Gate
from servers.process import wait_until
from servers.thrift import ThriftFeatures

from tidegate.platform.audit import AuditTrail, verify
from tidegate.platform.contracts import Dead, EventSource, FeatureService, Scored, Scorer, ScoringItem
from tidegate.platform.event import EventCodec, VideoEvent
from tidegate.platform.features import KINDS
from tidegate.platform.flow import RETRY, Flow, FlowConfig
from tidegate.platform.measures import Tally
from tidegate.platform.records import IndexValue
from tidegate.platform.runner import Runner, RunnerConfig, Stores
from tidegate.platform.scoring.feature import FeatureScorer, FeatureScorerSettings
from tidegate.platform.sources.kafka import KafkaSource, KafkaSourceConfig
from tidegate.platform.verdicts import PolicyTable
from tidegate.platform.waiting import WaitingRoom, WaitingSource

COUNT = 120


class Platform:
    """A loop with stores in memory and a waiting room and a trail on disk."""

    def __init__(
        self, folder: Path, source: EventSource, scorer: Scorer, features: tuple[FeatureService, ...] = (),
        *, retry_seconds: float = 0.02, max_retry_seconds: float = 0.2,
    ) -> None:
        folder.mkdir()
        self.folder, self.source, self.index, self.letters = folder, source, MemoryIndex(), MemoryLetters()
        self.room, self.measures = WaitingRoom(folder / "waiting.db"), Tally()
        self.trail = AuditTrail(folder / "audit", "w0", {}, sync=False)
        config = FlowConfig(max_attempts=10_000, retry_seconds=retry_seconds, max_retry_seconds=max_retry_seconds)
        flow = Flow(
            scorer=scorer, policy=PolicyTable(policy()), features=features, config=config, measures=self.measures
        )
        self.runner = Runner(
            source=source, flow=flow, measures=self.measures,
            stores=Stores(index=self.index, dead_letters=self.letters, audit=self.trail, waiting=self.room),
            config=RunnerConfig(max_batch=8, poll_seconds=0.01, backoff_seconds=0.01, max_backoff_seconds=0.1),
            retries=WaitingSource(self.room, RETRY, max_wait_seconds=max_retry_seconds),
        )

    def until(self, num_videos: int) -> None:
        """Work until so many videos have a record, nothing waits, and the source has nothing more."""
        def complete() -> bool:
            self.runner.step()
            return len(self.index.rows) >= num_videos and self.room.count() == 0 and not self.source.lag()

        wait_until(complete, f"{num_videos} videos, got {len(self.index.rows)}", every_seconds=0)
        assert self.runner.stats.accounted

    def close(self) -> None:
        self.room.close()
        self.trail.close()
        assert verify(self.folder / "audit").intact


def events(count: int = COUNT) -> list[VideoEvent]:
    now = time.time()
    return [VideoEvent(video_id=f"v{number % 50}", version=number, occurred_at=now) for number in range(count)]


def scores() -> dict[str, dict[str, float]]:
    """None in the policy's band of abstention, so that every video has a record."""
    rng = random.Random(3)
    return {f"v{number}": {"score": round(rng.choice([0.69, 1.0]) * rng.uniform(0.9, 1.0), 3)} for number in range(50)}


def service(server: ThriftFeatures, **settings: object) -> FeatureService:
    wanted: dict[str, object] = {
        "name": "thrift", "port": server.port, "deadline_seconds": 5.0, "breaker_seconds": 0.05, **settings
    }
    opened: FeatureService = KINDS["thrift"].open(KINDS["thrift"].settings(**wanted))
    return opened


def by_thrift() -> FeatureScorer:
    return FeatureScorer(FeatureScorerSettings(feature="thrift.score"))


def test_clock_that_jumps_between_batches_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, offset = time.time, [0.0]
    monkeypatch.setattr("time.time", lambda: real() + offset[0])
    table, rng = scores(), random.Random(5)

    def scorer() -> FunctionScorer:
        tried: set[tuple[str, int]] = set()

        def score(item: ScoringItem) -> Scored:  # every third version needs a second attempt
            key = (item.event.video_id, item.event.version)
            if item.event.version % 3 == 0 and key not in tried:
                tried.add(key)
                return Dead("service_unavailable", "away", retryable=True)
            own = ScoringItem(item.event, table[item.event.video_id])
            return FeatureScorer(FeatureScorerSettings(feature="score")).score_many([own])[0]

        return FunctionScorer(score)

    messages = events()
    calm = Platform(tmp_path / "calm", ListSource([*messages, b"{broken"]), scorer())
    calm.until(50)
    jumping = Platform(tmp_path / "jumping", ListSource([*messages, b"{broken"]), scorer())
    for _ in range(COUNT // 8 + 10):
        offset[0] += rng.choice([-86_400.0, -3_600.0, -400.0, 0.0, 400.0, 3_600.0, 86_400.0])
        jumping.runner.step()
    jumping.until(50)
    assert jumping.index.rows == calm.index.rows
    assert set(jumping.letters.rows) == set(calm.letters.rows)
    assert [letter.code for letter in jumping.letters.rows.values()] == ["malformed_event"]
    assert min(jumping.measures.latencies) >= 0
    for platform in (calm, jumping):
        platform.close()


def test_slow_failing_and_dying_service_changes_nothing_once_it_is_back(
    tmp_path: Path, own_thrift: ThriftFeatures
) -> None:
    own_thrift.hold(scores())
    calm = Platform(tmp_path / "calm", ListSource(events()), by_thrift(), (asked := service(own_thrift),))
    calm.until(50)
    asked.close()
    source = ListSource(events())
    troubled = service(own_thrift, deadline_seconds=0.3, attempts=1, breaker_failures=2)
    broken = Platform(tmp_path / "broken", source, by_thrift(), (troubled,))
    own_thrift.behave(delay_seconds=20)
    for _ in range(3):
        broken.runner.step()  # slow: the loop goes on after the deadline
    assert broken.room.count() >= 24
    assert not broken.index.rows
    own_thrift.behave(fail_every=2)
    for _ in range(3):
        broken.runner.step()
    own_thrift.kill()
    for _ in range(3):
        broken.runner.step()
    own_thrift.start()
    own_thrift.behave(drop_every=3)
    for _ in range(3):
        broken.runner.step()
    own_thrift.behave()
    broken.until(50)
    assert broken.index.rows == calm.index.rows
    assert not broken.letters.rows
    assert source.lag() == 0
    troubled.close()
    for platform in (calm, broken):
        platform.close()


def test_dead_service_never_becomes_a_zero(tmp_path: Path, own_thrift: ThriftFeatures) -> None:
    """The score comes with the event, the other features from a service that is away: they are missing."""
    own_thrift.kill()
    away = service(own_thrift, attempts=1)
    messages = [VideoEvent(video_id="v", version=1, occurred_at=time.time(), features={"score": 0.1})]
    scorer = FeatureScorer(FeatureScorerSettings(feature="score"))
    platform = Platform(tmp_path / "p", ListSource(messages), scorer, (away,))
    platform.until(1)
    value = msgspec.json.decode(platform.index.rows["v"].value, type=IndexValue)
    assert value.missing == {"thrift": "unavailable"}
    assert value.features == {"score": 0.1}
    away.close()
    platform.close()


def test_broker_that_goes_away_and_comes_back_changes_nothing(tmp_path: Path, own_broker: Broker) -> None:
    """Twice: connections that break while messages are there, and a broker that lost its topic and is filled again."""
    gate, codec = Gate(own_broker.port), EventCodec()
    own_broker.kill()
    listen, own_broker.port = own_broker.port, gate.port
    plain = Broker.command(own_broker)
    plain[plain.index("--listener-url") + 1] = f"tcp://127.0.0.1:{listen}"
    own_broker.command = lambda: plain  # type: ignore[method-assign]
    table = scores()

    def score(item: ScoringItem) -> Scored:
        own = ScoringItem(item.event, table[item.event.video_id])
        return FeatureScorer(FeatureScorerSettings(feature="score")).score_many([own])[0]

    calm = Platform(tmp_path / "calm", ListSource(events(3 * COUNT)), FunctionScorer(score))
    calm.until(50)
    with gate:
        own_broker.start()
        own_broker.create_topic("t", partitions=1)
        source = KafkaSource(KafkaSourceConfig(
            bootstrap=own_broker.bootstrap, topics=("t",), group="g", session_timeout_seconds=3, heartbeat_seconds=0.1,
            commit_seconds=0,
        ))
        broken = Platform(tmp_path / "broken", source, FunctionScorer(score))
        waits = [0]
        broken.runner._stop.wait = lambda seconds: _count(waits, gate)  # type: ignore[assignment,method-assign]
        own_broker.produce("t", [codec.encode(one) for one in events(COUNT)])
        wait_until(lambda: broken.runner.step() > 0, "a first batch", every_seconds=0)
        gate.shut()
        wait_until(lambda: broken.runner.step() >= 0 and waits[0] >= 5, "an outage that ends", every_seconds=0)
        own_broker.produce("t", [codec.encode(one) for one in events(2 * COUNT)[COUNT:]])
        broken.until(50)
        assert broken.measures.outages["source"] >= 5
        own_broker.restart()
        own_broker.create_topic("t", partitions=1)
        own_broker.produce("t", [codec.encode(one) for one in events(3 * COUNT)])

        def last_versions() -> bool:
            broken.runner.step()
            return broken.index.rows == calm.index.rows

        wait_until(last_versions, "the index of the undisturbed run", every_seconds=0)
        assert not broken.letters.rows
        source.close()
    for platform in (calm, broken):
        platform.close()


def _count(waits: list[int], gate: Gate) -> bool:
    """The loop's wait for a server: counts, and brings the server back at the fifth."""
    waits[0] += 1
    if waits[0] == 5:
        gate.open()
    time.sleep(0.05)
    return False
