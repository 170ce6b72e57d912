"""The loop loses nothing, doubles nothing, and is not stopped by poison, outages or slow stages."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from platform_doubles import (
    NOW,
    FunctionScorer,
    ListSource,
    MemoryIndex,
    MemoryLetters,
    TableFeatures,
    event,
    policy,
    scored_event,
)

from tidegate.errors import ServiceUnavailable
from tidegate.platform.audit import AuditTrail, read_lines, verify
from tidegate.platform.contracts import Dead, Decided, Deferred, KnownMatch, Scored, ScoringItem
from tidegate.platform.flow import RETRY, Flow, FlowConfig
from tidegate.platform.journal import InHand
from tidegate.platform.measures import Tally
from tidegate.platform.records import AuditEntry, IndexValue
from tidegate.platform.runner import Runner, RunnerConfig, Stores
from tidegate.platform.scoring.feature import FeatureScorer, FeatureScorerSettings
from tidegate.platform.verdicts import PolicyTable
from tidegate.platform.waiting import WaitingRoom, WaitingSource
from tidegate.types import Decision, Score, Span

SETTINGS = FeatureScorerSettings(feature="score")


class Bench:
    """A loop over memory stores, and everything around it."""

    def __init__(self, folder: Path, source: object, scorer: object = None, **flow: object) -> None:
        self.now = NOW
        self.index, self.letters = MemoryIndex(), MemoryLetters()
        self.room = WaitingRoom(folder / "waiting.db")
        self.trail = AuditTrail(folder / "audit", "w0", {"policy": "test"}, sync=False)
        self.folder, self.source, self.measures = folder, source, Tally()
        self.flow = Flow(
            scorer=scorer or FeatureScorer(SETTINGS), policy=PolicyTable(policy()), measures=self.measures,
            clock=lambda: self.now, **flow,  # type: ignore[arg-type]
        )

    def runner(self, **settings: object) -> Runner:
        defaults: dict[str, object] = {
            "source": self.source, "flow": self.flow, "measures": self.measures, "clock": lambda: self.now,
            "stores": Stores(index=self.index, dead_letters=self.letters, audit=self.trail, waiting=self.room),
            "config": RunnerConfig(max_batch=16, poll_seconds=0.0, backoff_seconds=0.001),
            "retries": WaitingSource(self.room, RETRY, clock=lambda: self.now),
        }
        return Runner(**{**defaults, **settings})  # type: ignore[arg-type]

    def entries(self) -> list[AuditEntry]:
        return [msgspec.json.decode(line.raw, type=AuditEntry) for line in read_lines(self.folder / "audit")]


def test_every_event_becomes_exactly_one_thing(tmp_path: Path) -> None:
    events = [
        scored_event("kept", 0.1, region="DE", views=5), scored_event("gone", 0.9), scored_event("unsure", 0.75),
        event("erased", kind="deleted"), scored_event("bad", 3.0), b"not an event",
    ]
    bench = Bench(tmp_path, ListSource(events))
    stats = bench.runner().run(until_idle=True)
    assert stats.accounted
    assert stats.counts == {"remained": 1, "removed": 1, "ignored": 1, "deleted": 1, "dead": 2}
    assert {key: row.status for key, row in bench.index.rows.items()} == {
        "kept": "remained", "gone": "removed", "erased": "deleted",
    }
    assert sorted(letter.code for letter in bench.letters.rows.values()) == ["malformed_event", "scoring_error"]
    value = msgspec.json.decode(bench.index.rows["kept"].value, type=IndexValue)
    assert (value.score, value.region, value.views, value.clause) == (0.1, "DE", 5, "icd-1")
    assert value.features == {"score": 0.1}
    assert Counter(entry.status for entry in bench.entries()) == stats.counts
    assert verify(tmp_path / "audit").intact


def test_features_carry_their_service_and_missing_is_missing_not_zero(tmp_path: Path) -> None:
    services = [TableFeatures("cache", {"a": {"score": 0.2, "likes": 7}}), TableFeatures("sql", {"b": {"age": 3}})]
    scorer = FeatureScorer(FeatureScorerSettings(feature="cache.score"))
    bench = Bench(tmp_path, ListSource([event("a"), event("b")]), scorer, features=services,
                  config=FlowConfig(max_attempts=1))
    bench.runner().run(until_idle=True)
    value = msgspec.json.decode(bench.index.rows["a"].value, type=IndexValue)
    assert value.features == {"cache.score": 0.2, "cache.likes": 7}
    assert value.missing == {"sql": "not_found"}
    (letter,) = bench.letters.rows.values()
    assert (letter.video_id, letter.code) == ("b", "score_missing")


def test_late_and_repeated_events_change_nothing(tmp_path: Path) -> None:
    events = [scored_event("v", 0.9, 7), scored_event("v", 0.1, 3), scored_event("v", 0.9, 7)]
    bench = Bench(tmp_path, ListSource(events), config=FlowConfig(with_outbox=True))
    stats = bench.runner(config=RunnerConfig(max_batch=1, poll_seconds=0.0)).run(until_idle=True)
    assert (stats.applied, stats.skipped) == (1, 2)
    assert bench.index.rows["v"].version == 7
    assert list(bench.index.messages) == ["v:7"]


def test_deleted_video_is_not_brought_back_by_a_late_event(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ListSource([event("v", 9, kind="deleted"), scored_event("v", 0.1, 8)]))
    bench.runner().run(until_idle=True)
    assert bench.index.get_many(["v"]) == {}


def test_poison_does_not_take_its_neighbours(tmp_path: Path) -> None:
    def explode(item: ScoringItem) -> Scored:
        if item.event.video_id == "v5":
            raise RuntimeError("a bug")
        return FeatureScorer(SETTINGS).score_many([item])[0]

    bench = Bench(tmp_path, ListSource([scored_event(f"v{n}", 0.1) for n in range(10)]), FunctionScorer(explode))
    stats = bench.runner().run(until_idle=True)
    assert stats.counts == {"remained": 9, "dead": 1}
    (letter,) = bench.letters.rows.values()
    assert (letter.video_id, letter.code) == ("v5", "unexpected_error")
    assert "a bug" in letter.reason


def test_failure_that_may_pass_is_tried_again_later_without_blocking(tmp_path: Path) -> None:
    tries: Counter[str] = Counter()

    def flaky(item: ScoringItem) -> Scored:
        name = item.event.video_id
        tries[name] += 1
        if name == "never" or (name == "late" and tries[name] < 3):
            return Dead("service_unavailable", "the store is away", retryable=True)
        return FeatureScorer(SETTINGS).score_many([item])[0]

    events = [scored_event("never", 0.1), scored_event("late", 0.1), scored_event("fine", 0.1)]
    bench = Bench(tmp_path, ListSource(events), FunctionScorer(flaky), config=FlowConfig(max_attempts=4))
    runner = bench.runner()
    runner.run(until_idle=True)
    assert set(bench.index.rows) == {"fine"}
    assert bench.room.counts() == {RETRY: 2}
    for _ in range(6):
        bench.now += 60
        runner.run(until_idle=True)
    assert set(bench.index.rows) == {"fine", "late"}
    (letter,) = bench.letters.rows.values()
    assert (letter.video_id, letter.attempts) == ("never", 4)
    assert bench.room.counts() == {}
    assert tries == {"never": 4, "late": 3, "fine": 1}
    assert runner.stats.accounted


def test_outages_are_waited_for_and_nothing_is_lost(tmp_path: Path) -> None:
    failures = [3]

    def away(item: ScoringItem) -> Scored:
        if failures[0]:
            failures[0] -= 1
            raise ServiceUnavailable("the scorer is away")
        return FeatureScorer(SETTINGS).score_many([item])[0]

    bench = Bench(tmp_path, ListSource([scored_event(f"v{n}", 0.1) for n in range(40)]), FunctionScorer(away))
    bench.index.away = 5
    stats = bench.runner().run(until_idle=True)
    assert len(bench.index.rows) == 40
    assert stats.counts == {"remained": 40}
    assert bench.measures.outages == {"scoring": 3, "index": 5}
    assert not bench.letters.rows


def test_stop_during_an_outage_leaves_the_batch_for_the_next_run(tmp_path: Path) -> None:
    bench = Bench(tmp_path, source := ListSource([scored_event("v", 0.1)]))
    bench.index.away = 10**9
    runner = bench.runner()
    bench.measures.outage = lambda what, seconds: runner.stop()  # type: ignore[method-assign]
    runner.run()
    assert source.done == [0]
    assert runner.outage is not None
    bench.index.away = 0
    source.restart()
    again = Runner(source=source, flow=bench.flow, stores=Stores(
        index=bench.index, dead_letters=bench.letters, audit=bench.trail, waiting=bench.room
    ), config=RunnerConfig(poll_seconds=0.0))
    again.run(until_idle=True)
    assert set(bench.index.rows) == {"v"}


def test_stop_during_an_outage_is_no_death_and_makes_nothing_suspect(tmp_path: Path) -> None:
    source = ListSource([scored_event("v", 0.1)])
    bench = Bench(tmp_path, source)
    bench.measures.outage = lambda what, seconds: runner.stop()  # type: ignore[method-assign]
    for _ in range(5):
        bench.index.away = 10**9
        source.restart()
        journal = InHand(tmp_path / "in-hand.json")
        runner = bench.runner(in_hand=journal)
        assert runner.run().accounted
        journal.close()
    again = InHand(tmp_path / "in-hand.json")
    assert not again.has_suspects
    bench.index.away = 0
    source.restart()
    bench.runner(in_hand=again).run(until_idle=True)
    assert set(bench.index.rows) == {"v"}
    assert not bench.letters.rows


def test_pauses_between_attempts_stop_growing(tmp_path: Path) -> None:
    def away(item: ScoringItem) -> Scored:
        return Dead("service_unavailable", "away", retryable=True)

    config = FlowConfig(max_attempts=100, retry_seconds=1.0, max_retry_seconds=30.0)
    bench = Bench(tmp_path, ListSource([scored_event("v", 0.1)]), FunctionScorer(away), config=config)
    runner = bench.runner()
    runner.run(until_idle=True)
    for _ in range(99):
        assert bench.room.count() == 1
        bench.now += 30
        runner.step()
    assert [letter.attempts for letter in bench.letters.rows.values()] == [100]


def two_stages(slow: Callable[[], None] = lambda: None) -> tuple[FunctionScorer, FunctionScorer]:
    def base(item: ScoringItem) -> Scored:
        value = float(str(item.features["score"]))
        score = Score(value=value, stage="base", issue="icd", model="b")
        if 0.3 <= value < 0.7:
            return Deferred("large", (score,), "unsure")
        return decided(score, (score,))

    def large(item: ScoringItem) -> Scored:
        slow()
        score = Score(value=0.95, stage="large", issue="icd", model="l", cost_seconds=0.5)
        return decided(score, (*item.scores, score))

    def decided(score: Score, scores: tuple[Score, ...]) -> Decided:
        return Decided(Decision(
            issue="icd", score=score.value, flagged=score.value >= 0.5, threshold=0.5, stage=score.stage,
            escalated=len(scores) > 1, route="r", reason="r",
        ), scores)

    return FunctionScorer(base), FunctionScorer(large)


def test_items_wait_for_the_large_stage_and_then_are_decided(tmp_path: Path) -> None:
    base, large = two_stages()
    bench = Bench(tmp_path, ListSource([scored_event(f"v{n}", n / 10) for n in range(10)]), base)
    first = bench.runner().run(until_idle=True)
    assert first.accounted
    assert first.counts["waiting"] == bench.room.count("large") == 4
    assert set(bench.index.rows) == {"v0", "v1", "v2", "v7", "v8", "v9"} - {"v7"}  # v7 lies in the policy's band
    flow = Flow(scorer=large, policy=PolicyTable(policy()))
    runner = bench.runner(flow=flow, source=WaitingSource(bench.room, "large"), retries=None)
    second = runner.run(until_idle=True)
    assert second.counts == {"removed": 4}
    assert bench.room.count() == 0
    value = msgspec.json.decode(bench.index.rows["v5"].value, type=IndexValue)
    assert [(score.stage, score.value) for score in value.scores] == [("base", 0.5), ("large", 0.95)]
    assert value.escalated


def test_slow_large_stage_does_not_hold_the_cheap_one_nor_memory(tmp_path: Path) -> None:
    base, _ = two_stages()
    source = ListSource([scored_event(f"v{n}", 0.5 if n % 2 else 0.1, texts=()) for n in range(4000)])
    bench = Bench(tmp_path, source, base)
    runner = bench.runner(config=RunnerConfig(max_batch=100, poll_seconds=0.0))
    for _ in range(10):
        runner.step()
    bench.measures.latencies.clear()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(20):
        runner.step()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert runner.stats.counts == {"remained": 1500, "waiting": 1500}
    assert bench.room.count("large") == 1500
    held_by_the_doubles = 1000 * 2500  # rows of the index in memory
    assert after - before < held_by_the_doubles


def test_full_waiting_room_stops_polling_until_it_drains(tmp_path: Path) -> None:
    base, large = two_stages()
    source = ListSource([scored_event(f"v{n}", 0.5) for n in range(100)])
    bench = Bench(tmp_path, source, base)
    runner = bench.runner(config=RunnerConfig(max_batch=10, max_waiting=20, poll_seconds=0.0))
    runner._looked_at = -1e9
    for _ in range(30):
        runner._looked_at = -1e9
        runner.step()
    assert bench.room.count("large") == 20
    assert source.lag() == 80
    later = bench.runner(
        flow=Flow(scorer=large, policy=PolicyTable(policy())), source=WaitingSource(bench.room, "large"), retries=None
    )
    for _ in range(60):
        later.step()
        runner._looked_at = -1e9
        runner.step()
    later.run(until_idle=True)
    assert len(bench.index.rows) == 100


def test_message_that_kills_the_process_is_isolated_and_dead_lettered(tmp_path: Path) -> None:
    events = [scored_event(f"v{n}", 0.1) for n in range(8)]
    source = ListSource(events)
    bench = Bench(tmp_path, source)
    deaths = 0

    class Killed(BaseException):
        pass

    def kill(item: ScoringItem) -> Scored:
        if item.event.video_id == "v3":
            raise Killed
        return FeatureScorer(SETTINGS).score_many([item])[0]

    flow = Flow(scorer=FunctionScorer(kill), policy=PolicyTable(policy()), clock=lambda: NOW)
    for _ in range(10):
        source.restart()
        journal = InHand(tmp_path / "in-hand.json")
        try:
            bench.runner(flow=flow, in_hand=journal).run(until_idle=True)
        except Killed:
            deaths += 1
        else:
            break
        finally:
            journal.close()
    assert deaths == 4  # once in company, three times alone
    (letter,) = bench.letters.rows.values()
    assert (letter.video_id, letter.code) == ("v3", "worker_crashed")
    assert len(bench.index.rows) == 7


def test_shadow_policies_only_log(tmp_path: Path) -> None:
    shadow = PolicyTable(policy(remove_at=0.05, ignore_from=None))
    bench = Bench(tmp_path, ListSource([scored_event("v", 0.1)]), shadows={"strict@3": shadow})
    bench.runner().run(until_idle=True)
    assert bench.index.rows["v"].status == "remained"
    assert bench.measures.shadows == {("strict@3", "removed"): 1}
    (entry,) = bench.entries()
    assert entry.shadows["strict@3"].status == "removed"


class Bank:
    """Known content: one id matches, one cannot be read."""

    def match_many(self, events: object) -> dict[str, object]:
        pair = (Span(0.0, 1.0), Span(2.0, 3.0))
        match = KnownMatch(bank="b", entry="e1", distance=3.0, matched_share=0.9, spans=(pair,))
        return {"known": match}

    def close(self) -> None: ...


def test_known_content_decides_before_any_model(tmp_path: Path) -> None:
    asked: list[str] = []

    def score(item: ScoringItem) -> Scored:
        asked.append(item.event.video_id)
        return FeatureScorer(SETTINGS).score_many([item])[0]

    bench = Bench(tmp_path, ListSource([event("known"), scored_event("new", 0.1)]), FunctionScorer(score), known=Bank())
    bench.runner().run(until_idle=True)
    assert asked == ["new"]
    value = msgspec.json.decode(bench.index.rows["known"].value, type=IndexValue)
    assert (value.status, value.stage, value.route) == ("removed", "known_content", "known_content")
    assert value.known is not None
    assert value.known.spans == ((Span(0.0, 1.0), Span(2.0, 3.0)),)


@pytest.mark.parametrize("point", ["polled", "decided", "audited", "indexed", "acknowledged"])
def test_dying_at_any_point_changes_nothing_in_the_index(tmp_path: Path, point: str) -> None:
    events = [scored_event(f"v{n % 30}", (n * 7 % 10) / 10, n) for n in range(60)]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    plain = Bench(tmp_path / "a", ListSource(events))
    plain.runner().run(until_idle=True)
    source = ListSource(events)
    broken = Bench(tmp_path / "b", source)

    class Died(BaseException):
        pass

    died = 0
    for death in range(1, 4):
        seen = [0]

        def die(name: str, death: int = death, seen: list[int] = seen) -> None:
            seen[0] += name == point
            if seen[0] == death:
                raise Died

        source.restart()
        try:
            broken.runner(checkpoint=die).run(until_idle=True)
        except Died:
            died += 1
    source.restart()
    broken.runner().run(until_idle=True)
    assert died >= 2
    assert broken.index.rows == plain.index.rows
    unique = {(entry.partition, entry.offset): entry.status for entry in broken.entries()}
    assert Counter(unique.values()) == Counter(entry.status for entry in plain.entries())
