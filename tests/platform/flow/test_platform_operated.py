"""A running platform in people's hands: policies read again, budgets, slow large stages, series that say so."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from platform_doubles import NOW, scored_event
from servers.process import wait_until

from tidegate.errors import ConfigError
from tidegate.pipeline.policy import Policy
from tidegate.platform.audit import read_lines, verify
from tidegate.platform.config import Choice, PlatformConfig, read_config
from tidegate.platform.contracts import Backend, Decided, Deferred, Delivery, Scored, ScoringItem, Shard
from tidegate.platform.event import EventCodec, VideoEvent
from tidegate.platform.eventlog import write_log
from tidegate.platform.history import history_of
from tidegate.platform.metrics import PlatformMeasures
from tidegate.platform.records import AuditEntry
from tidegate.platform.scoring.context import ScoringContext
from tidegate.platform.scoring.preset import PresetScorerSettings
from tidegate.platform.scoring.ray_settings import RayScorerSettings
from tidegate.platform.sources.folder_watch import FolderSource, FolderSourceConfig
from tidegate.platform.waiting import WaitingRoom, WaitingSource
from tidegate.platform.worker import Worker
from tidegate.types import Decision, Score

CONFIG = """
[platform]
policy_file = "policy.toml"
[batch]
max_batch = 50
poll_seconds = 0.01
[audit]
sync = false
[source]
kind = "log"
folder = "events"
[scoring]
kind = "feature"
feature = "score"
"""
POLICY = """
[policy]
name = "live"
version = "{version}"
[[clause]]
id = "icd-1"
issue = "icd"
title = "t"
remove_at = {at}
"""


def platform(folder: Path, events: Sequence[VideoEvent], more: str = "") -> Path:
    codec = EventCodec()
    write_log(folder / "events", "p0", [codec.encode(one) for one in events])
    policy(folder, "1", 0.8)
    path = folder / "platform.toml"
    path.write_text(CONFIG + more)
    return path


def policy(folder: Path, version: str, at: float, more: str = "") -> None:
    (folder / "policy.toml").write_text(POLICY.format(version=version, at=at) + more)


def entries(path: Path) -> list[tuple[str, AuditEntry]]:
    """Policy's version and entry of each decision."""
    return [
        (line.setup["policy"]["version"], msgspec.json.decode(line.raw, type=AuditEntry))
        for line in read_lines(path.parent / "state" / "audit")
    ]


@contextmanager
def running(worker: Worker) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield thread
    finally:
        worker.stop()
        thread.join(60)
    assert not thread.is_alive()


class Fed:
    """A source that a test feeds while the worker runs."""

    def __init__(self) -> None:
        self.queue: list[Delivery] = []
        self.done = 0

    def feed(self, *events: VideoEvent) -> None:
        first = self.done + len(self.queue)
        self.queue += [
            Delivery(event=one, error=None, raw=b"", partition="p", offset=first + number, received_at=NOW)
            for number, one in enumerate(events)
        ]

    def poll(self, max_events: int, timeout_seconds: float) -> list[Delivery]:
        if not self.queue:
            time.sleep(timeout_seconds)
        taken, self.queue = self.queue[:max_events], self.queue[max_events:]
        return taken

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        self.done += len(deliveries)

    def lag(self) -> int:
        return len(self.queue)

    def close(self) -> None: ...


def fed(config: PlatformConfig, source: Fed) -> PlatformConfig:
    choice = Choice(kind="fed", settings=None, backend=Backend(settings=type(None), open=lambda *_: source))
    return dataclasses.replace(config, source=choice)


def series(measures: PlatformMeasures, name: str) -> list[str]:
    return [line for line in measures.text().decode().splitlines() if line.startswith(name)]


def test_policy_is_read_again_between_two_batches_and_the_trail_says_so(tmp_path: Path) -> None:
    path, source, measures = platform(tmp_path, []), Fed(), PlatformMeasures()
    with Worker(fed(read_config(path), source), measures=measures) as worker, running(worker):
        source.feed(scored_event("v", 0.6, 1))
        wait_until(lambda: source.done == 1, "the first decision")
        policy(tmp_path, "2", 0.5)
        worker.reload()
        wait_until(lambda: worker.status()["policy"] == "live@2", "the second policy")
        source.feed(scored_event("v", 0.6, 2))
        wait_until(lambda: source.done == 2, "the second decision")
        (tmp_path / "policy.toml").write_text("nonsense = true")
        worker.reload()
        wait_until(lambda: 'result="refused"} 1.0' in measures.text().decode(), "a refusal")
        source.feed(scored_event("v", 0.6, 3))
        wait_until(lambda: source.done == 3, "the third decision")
        assert worker.status()["policy"] == "live@2"
        assert series(measures, "tidegate_policy_info") == [
            f'tidegate_policy_info{{hash="{worker._policies.config.policy.policy_hash}",name="live",version="2"}} 1.0'
        ]
    assert [(version, entry.status) for version, entry in entries(path)] == [
        ("1", "remained"), ("2", "removed"), ("2", "removed")
    ]
    assert verify(tmp_path / "state" / "audit").intact
    assert [chapter.setup["policy"]["version"] for chapter in history_of(tmp_path / "state" / "audit", "v")] == [
        "1", "2", "2"
    ]


def test_policy_that_the_models_cannot_follow_is_refused(tmp_path: Path) -> None:
    class Picky(Stages):
        def check_policy(self, policy: Policy) -> None:
            raise ConfigError("cascade.p_base: expected a calibrated value")

        def use_policy(self, policy: Policy) -> None:
            raise AssertionError("used, though it was refused")

    path, source, measures = platform(tmp_path, []), Fed(), PlatformMeasures()
    config = staged(fed(read_config(path), source), lambda: Picky(0.0))
    with Worker(config, measures=measures) as worker, running(worker):
        policy(tmp_path, "2", 0.5)
        worker.reload()
        wait_until(lambda: 'result="refused"} 1.0' in measures.text().decode(), "a refusal")
        source.feed(scored_event("v", 0.1, 1))
        wait_until(lambda: source.done == 1, "a decision")
        assert worker.status()["policy"] == "live@1"
    assert [version for version, _ in entries(path)] == ["1"]


class Stages:
    """Scores by feature; half of the videos are for a large stage that takes ``seconds`` for each."""

    def __init__(self, seconds: float, later: bool = False) -> None:
        self._seconds, self._later = seconds, later

    deferred_stages = ("large",)

    def score_many(self, items: Sequence[ScoringItem]) -> list[Scored]:
        return [self._scored(item) for item in items]

    def _scored(self, item: ScoringItem) -> Scored:
        if not self._later:
            time.sleep(self._seconds / 10)  # the large stage is ten times slower
        value = float(str(item.features["score"]))
        score = Score(value=value, stage="base", issue="icd", model="b", cost_seconds=self._seconds / 10)
        if not self._later and value >= 0.5:
            return Deferred("large", (score,), "unsure")
        scores = (score,)
        if self._later:
            time.sleep(self._seconds)
            scores = (*item.scores, Score(value=value, stage="large", issue="icd", model="l", cost_seconds=1.0))
        return Decided(Decision(
            issue="icd", score=value, flagged=value >= 0.8, threshold=0.8, stage=scores[-1].stage,
            escalated=self._later, route="r", reason="r",
        ), scores)

    def close(self) -> None: ...


@dataclasses.dataclass(frozen=True)
class _NoSettings:
    defer: bool = True


def staged(config: PlatformConfig, make: Callable[[], Stages], seconds: float = 0.0) -> PlatformConfig:
    def opened(settings: object, context: ScoringContext) -> Stages:
        return Stages(seconds, later=True) if context.later else make()

    backend = Backend(settings=_NoSettings, open=opened)
    return dataclasses.replace(config, scoring=Choice(kind="staged", settings=_NoSettings(), backend=backend))


def test_ten_times_slower_large_stage_holds_neither_the_cheap_one_nor_memory_and_its_lag_is_seen(
    tmp_path: Path,
) -> None:
    count, seconds = 3000, 0.005
    events = [scored_event(f"v{number}", 0.9 if number % 2 else 0.1, number) for number in range(count)]
    path = platform(tmp_path, events)
    measures = PlatformMeasures()
    config = staged(read_config(path), lambda: Stages(seconds), seconds)
    with Worker(config, measures=measures) as worker:
        with running(worker):
            wait_until(lambda: worker.stats.taken >= 500, "a sixth of the stream")
            early = resident_mib()
            wait_until(lambda: worker.stats.taken == count, "the cheap stage to be through")
            waiting = worker.stores.waiting.count("large")
            assert waiting > count // 4  # of the half that was escalated
            worker._main._looked_at = -1e9
            wait_until(lambda: shown(measures) > count // 8, "the lag among the series")
            assert resident_mib() - early < 40
            assert worker.stats.counts == {"remained": count // 2, "waiting": count // 2}
        assert worker.stores.waiting.count("large") == waiting_left(worker)
    again = staged(read_config(path), lambda: Stages(0.0), 0.0)
    with Worker(again) as worker:
        worker.run(until_idle=True)
        assert worker.stores.index.counts() == {"remained": count // 2, "removed": count // 2}


def shown(measures: PlatformMeasures) -> float:
    found = series(measures, 'tidegate_waiting{stage="large"}')
    return float(found[0].rsplit(" ", 1)[1]) if found else 0.0


def waiting_left(worker: Worker) -> int:
    decided = sum(worker.stores.index.counts().values())
    return 3000 - decided


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def test_budget_holds_the_rate_of_the_large_stage_and_drops_nothing(tmp_path: Path) -> None:
    room = WaitingRoom(tmp_path / "waiting.db")
    deliveries = [
        Delivery(event=scored_event(f"v{n}", 0.5), error=None, raw=b"", partition="p", offset=n, received_at=NOW)
        for n in range(200)
    ]
    room.put_many("large", deliveries)
    source, taken, begun = WaitingSource(room, "large", per_second=100.0, burst=5.0), 0, time.monotonic()
    first = source.poll(50, 0.0)
    assert 5 <= len(first) <= 5 + 100 * (time.monotonic() - begun)
    source.acknowledge(first)
    taken += len(first)
    while taken < 60:
        found = source.poll(50, 0.05)
        source.acknowledge(found)
        taken += len(found)
        assert taken <= 5 + 100 * (time.monotonic() - begun)
    assert room.count("large") == 200 - taken
    room.close()


def test_budget_without_a_loop_of_its_own_is_a_configuration_error(tmp_path: Path) -> None:
    path = platform(tmp_path, [], "[budget]\nlater_items_per_second = 5\n")
    with pytest.raises(ConfigError, match=r"budget\.later_items_per_second: expected later stages"):
        read_config(path)
    path.write_text(CONFIG + "[budget]\nmodel_seconds_per_thousand = -1\n")
    with pytest.raises(ConfigError, match="budget: model_seconds_per_thousand"):
        read_config(path)


def test_series_show_budget_gpu_time_audit_and_certificate(tmp_path: Path) -> None:
    path = platform(tmp_path, [scored_event("v", 0.1)], "[budget]\nmodel_seconds_per_thousand = 10\n")
    certificate = {
        "certified": True, "tau": 0.2, "lam": 0.8, "delta": 0.05, "recall_bound": 0.9, "target_recall": 0.9,
        "n_audit": 10, "n_positives": 5, "reason": "r", "target": "recall", "certificate_id": "abc",
    }
    (tmp_path / "certificate.json").write_text(json.dumps(certificate))
    policy(tmp_path, "1", 0.8, '[cascade]\ncertificate = "certificate.json"\n')
    config = read_config(path)
    config = dataclasses.replace(config, operations=dataclasses.replace(config.operations, port=40_000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tidegate.platform.worker.HealthServer", Silent)
        before = time.time()
        with Worker(config) as worker:
            worker.run(until_idle=True)
            measures = worker._measures
            assert isinstance(measures, PlatformMeasures)
            measures.models({"base": 1000, "large": 10}, {"base": 3.0, "large": 2.0})
            (used,) = series(measures, "tidegate_budget_used_ratio")
            assert float(used.rsplit(" ", 1)[1]) == pytest.approx(1000 * 5.0 / 1001 / 10)
            (sealed,) = series(measures, "tidegate_audit_sealed_at_seconds")
            assert before - 1 <= float(sealed.rsplit(" ", 1)[1]) <= time.time() + 1
            assert series(measures, "tidegate_certificate_info") == [
                'tidegate_certificate_info{certificate="abc",delta="0.05",promise="recall",region="default"} 1.0'
            ]
            assert series(measures, "tidegate_gpu_seconds_total") == []
    gpu = PlatformMeasures(gpus_of=RayScorerSettings(large_gpus=0.5).gpus_of)
    gpu.models({"base": 4, "large": 2}, {"base": 3.0, "large": 2.0})
    assert series(gpu, "tidegate_gpu_seconds_total") == ['tidegate_gpu_seconds_total{stage="large"} 1.0']
    assert series(gpu, "tidegate_budget_used_ratio") == []
    assert PresetScorerSettings(device="cuda:1").gpus_of("base") == 1.0
    assert PresetScorerSettings().gpus_of("base") == 0.0


class Silent:
    """Stands where the health server would listen."""

    def __init__(self, **_: object) -> None: ...

    def close(self) -> None: ...


def test_until_idle_waits_for_files_that_are_still_settling(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(b"1")
    path = platform(tmp_path, [], "[retry]\nmax_attempts = 1\n")
    settings = FolderSourceConfig(
        folder=str(tmp_path / "in"), path=str(tmp_path / "spool.db"), interval_seconds=0.05, settle_seconds=0.4
    )

    def opened(_: object, shard: Shard, codec: EventCodec) -> FolderSource:
        return FolderSource(settings, shard, codec)

    choice = Choice(kind="folder", settings=settings, backend=Backend(settings=FolderSourceConfig, open=opened))
    config = dataclasses.replace(read_config(path), source=choice)
    with Worker(config) as worker:
        stats = worker.run(until_idle=True)
    assert stats.taken == 1
    with Worker(config) as worker:
        assert worker.run(until_idle=True).taken == 0
    os.utime(tmp_path / "in" / "a.mp4", ns=(5, 5))
    with Worker(config) as worker:
        assert worker.run(until_idle=True).taken == 1
