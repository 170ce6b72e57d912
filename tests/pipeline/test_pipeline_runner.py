"""The runner: whatever happens to items, each of them ends exactly once, and the others go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_parts import LARGE_REQUEST, POLICY, bright_stages, brightness_of, make_video

from tidegate.errors import DecoderCrashed, ScoringError, SourceUnreadable, UsageError
from tidegate.media import Limits, MediaInfo, read_clip
from tidegate.pipeline.boundary import UNEXPECTED
from tidegate.pipeline.filter import Filter
from tidegate.pipeline.flow import RunnerConfig
from tidegate.pipeline.index import Record
from tidegate.pipeline.item import Item, video_id_of_path
from tidegate.pipeline.policy import Clause, Policy
from tidegate.pipeline.retriever import Retriever
from tidegate.pipeline.routing import CalibratedStage, RegionalCascades
from tidegate.pipeline.runner import Runner
from tidegate.types import Clip, ClipRequest, Outcome, TextSpan, VideoContext


class ReplayDecoder:
    """One real clip, given for every item: the decoder's edge without its cost. Items named ``bad`` cannot be read."""

    def __init__(self, video: Path, seconds: float = 0.0) -> None:
        self._info, self._clip = read_clip(video, LARGE_REQUEST, video_id="any", limits=Limits())
        self._seconds = seconds
        self.calls = 0

    def read_clip(
        self, path: Path, request: ClipRequest, *, video_id: str, texts: tuple[TextSpan, ...], context: VideoContext
    ) -> tuple[MediaInfo, Clip]:
        self.calls += 1
        time.sleep(self._seconds)
        if "undecodable" in video_id:
            raise SourceUnreadable("gone")
        if "decoder-bug" in video_id:
            raise KeyError("bug")
        clip = Clip(
            video_id=video_id, span=self._clip.span, frames=self._clip.frames, audio=None, texts=texts, context=context
        )
        return self._info, clip


class ListSink:
    def __init__(self) -> None:
        self.records: list[Record] = []

    def write(self, records: Sequence[Record]) -> None:
        self.records.extend(records)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("video") / "grey.mp4", 0.45, seconds=0.5)


def items(video: Path, ids: Sequence[str]) -> list[Item]:
    return [Item(video_id=video_id, path=video) for video_id in ids]


def runner(
    decoder: ReplayDecoder, stages: Sequence[CalibratedStage], *, policy: Policy = POLICY, sink: ListSink | None = None,
    **config: int,
) -> Runner:
    return Runner(
        stages=stages, cascades=RegionalCascades(stages, policy), retriever=Retriever(decoder),
        policy_filter=Filter(policy), config=RunnerConfig(max_wait_seconds=0.001, **config), sink=sink,
    )


def by_id(outcomes: Sequence[Outcome]) -> dict[str, Outcome]:
    return {outcome.video_id: outcome for outcome in outcomes}


def run(ready: Runner, taken: Iterator[Item] | list[Item]) -> list[Outcome]:
    return [finished.outcome for finished in ready.run(taken)]


def failing(name: str) -> Callable[[Sequence[Clip]], list[float]]:
    """Brightness, but a clip whose id holds ``name`` fails the whole batch, in the way its id says."""

    def function(clips: Sequence[Clip]) -> list[float]:
        for clip in clips:
            if f"{name}-bug" in clip.video_id:
                raise ZeroDivisionError("bug in a stage")
            if f"{name}-typed" in clip.video_id:
                raise ScoringError("no score")
        if any(f"{name}-short" in clip.video_id for clip in clips):
            return []
        return [float("nan") if f"{name}-nan" in clip.video_id else value
                for clip, value in zip(clips, brightness_of(clips), strict=True)]

    return function


TROUBLES = [
    "fine", "undecodable", "decoder-bug", "base-bug", "base-typed", "base-short", "base-nan", "large-bug",
    "large-typed", "large-short", "large-nan",
]


@settings(max_examples=25, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(TROUBLES), max_size=20), threads=st.integers(1, 3), batch=st.integers(1, 5),
    room=st.integers(1, 9),
)
def test_items_in_are_remained_removed_ignored_or_failed(
    video: Path, kinds: list[str], threads: int, batch: int, room: int
) -> None:
    ids = [f"{number}:{kind}" for number, kind in enumerate(kinds)]
    stages = bright_stages(failing("base"), failing("large"))
    sink = ListSink()
    ready = runner(
        ReplayDecoder(video), stages, sink=sink, decode_threads=threads, max_batch=batch, max_in_flight=room
    )
    outcomes = by_id(run(ready, items(video, ids)))
    assert sorted(outcomes) == sorted(ids)
    assert sorted(record.outcome.video_id for record in sink.records) == sorted(ids)
    assert ready.stats.accounted
    assert ready.stats.dropped == 0
    for video_id, kind in zip(ids, kinds, strict=True):
        outcome = outcomes[video_id]
        assert (outcome.status == "failed") == (kind != "fine"), outcome
        if kind != "fine":
            assert outcome.decision is None
            assert outcome.reason


def test_error_of_a_stage_is_that_videos_failure_and_not_its_neighbours(video: Path) -> None:
    ids = ["a", "b:base-bug", "c", "d:base-typed"]
    outcomes = by_id(run(runner(ReplayDecoder(video), bright_stages(failing("base")), max_batch=4), items(video, ids)))
    assert {key: outcome.status for key, outcome in outcomes.items()} == {
        "a": "remained", "b:base-bug": "failed", "c": "remained", "d:base-typed": "failed",
    }
    assert outcomes["b:base-bug"].error == UNEXPECTED
    assert "ZeroDivisionError: bug in a stage" in outcomes["b:base-bug"].reason
    assert outcomes["d:base-typed"].error == "scoring_error"


def test_failure_of_the_large_stage_keeps_the_base_score_and_is_no_verdict(video: Path) -> None:
    (outcome,) = run(runner(ReplayDecoder(video), bright_stages(large=failing("large"))), items(video, ["x:large-bug"]))
    assert (outcome.status, outcome.decision, outcome.score) == ("failed", None, None)
    assert [score.stage for score in outcome.scores] == ["base"]
    assert [seen.value["stage"] for seen in outcome.observations if seen.kind == "route"] == ["base"]


def test_trouble_known_at_listing_is_a_failure(video: Path) -> None:
    item = Item(video_id="x", path=video, trouble=SourceUnreadable("expected a readable folder, got none"))
    (outcome,) = run(runner(ReplayDecoder(video), bright_stages()), [item])
    assert (outcome.status, outcome.error) == ("failed", "source_unreadable")


def test_policy_without_a_clause_ignores(video: Path) -> None:
    silent = Policy(name="p", version="1", clauses=(Clause(id="u", issue="ucc", title="U"),), routing=POLICY.routing)
    (outcome,) = run(runner(ReplayDecoder(video), bright_stages(), policy=silent), items(video, ["x"]))
    assert outcome.status == "ignored"
    assert outcome.decision is not None


def test_no_more_than_the_allowed_number_of_items_is_inside(video: Path) -> None:
    taken: list[int] = []
    written: list[int] = []

    def counted() -> Iterator[Item]:
        for number in range(40):
            taken.append(number)
            yield Item(video_id=str(number), path=video)

    ready = runner(ReplayDecoder(video), bright_stages(), max_in_flight=5, decode_threads=2)
    for finished in ready.run(counted()):
        written.append(int(finished.outcome.video_id))
        # everything taken and not yet acknowledged, and the one that waits at the door
        assert len(taken) - len(written) <= 5 + 5 + 1
    assert len(written) == 40


def test_held_bytes_close_the_door(video: Path) -> None:
    decoder = ReplayDecoder(video)
    gate = threading.Event()

    def slow(clips: Sequence[Clip]) -> list[float]:
        gate.wait(5)
        return brightness_of(clips)

    ready = runner(decoder, bright_stages(slow), max_in_flight=100, max_held_bytes=1, decode_threads=2)
    stream = ready.run(items(video, [str(number) for number in range(20)]))
    opener = threading.Timer(0.5, gate.set)
    opener.start()
    first = next(stream)
    assert first.outcome.status == "remained"
    assert decoder.calls <= 2 * 3  # one clip a thread over the limit, each read again by the large stage
    assert len(list(stream)) == 19


def test_base_stage_goes_on_while_the_large_one_is_slow(video: Path) -> None:
    """Three of four videos are final at the base stage; they do not wait for the one in the large stage."""
    ids = ["0:up", "1", "2", "3"]

    def base(clips: Sequence[Clip]) -> list[float]:
        return [0.5 if "up" in clip.video_id else 0.1 for clip in clips]

    def large(clips: Sequence[Clip]) -> list[float]:
        time.sleep(0.5)
        return brightness_of(clips)

    outcomes = run(runner(ReplayDecoder(video), bright_stages(base, large), max_batch=1), items(video, ids))
    assert [outcome.video_id for outcome in outcomes][-1] == "0:up"


def test_decoding_goes_on_while_a_stage_scores(video: Path) -> None:
    """20 items, 50 ms each in the decoder and 50 ms in the stage: one after the other it would take two seconds."""

    def base(clips: Sequence[Clip]) -> list[float]:
        time.sleep(0.05 * len(clips))
        return [0.1 for _ in clips]

    ready = runner(ReplayDecoder(video, 0.05), bright_stages(base), decode_threads=1, max_batch=1)
    began = time.perf_counter()
    assert len(run(ready, items(video, [str(number) for number in range(20)]))) == 20
    assert time.perf_counter() - began < 1.7
    assert ready.stats.busy_seconds["decode"] >= 1.0
    assert ready.stats.busy_seconds["base"] >= 1.0


def test_closing_the_iterator_stops_the_run_and_counts_what_it_dropped(video: Path) -> None:
    aborted = threading.Event()
    stages = bright_stages()
    ready = Runner(
        stages=stages, cascades=RegionalCascades(stages, POLICY), retriever=Retriever(ReplayDecoder(video, 0.01)),
        policy_filter=Filter(POLICY), config=RunnerConfig(max_in_flight=4), abort=aborted.set,
    )
    stream = ready.run(items(video, [str(number) for number in range(50)]))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert aborted.is_set()
    assert ready.interrupted
    assert ready.stats.accounted
    assert 1 <= ready.stats.by_status.total() < 50
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tidegate")]


def test_failures_that_leaving_causes_are_dropped_and_not_recorded(video: Path) -> None:
    gate = threading.Event()

    class Killed(ReplayDecoder):
        def read_clip(self, path: Path, request: ClipRequest, **item: Any) -> tuple[MediaInfo, Clip]:
            if item["video_id"] == "1":
                gate.wait(10)
                raise DecoderCrashed("killed on the way out")
            return super().read_clip(path, request, **item)

    sink = ListSink()
    ready = runner(Killed(video), bright_stages(), sink=sink, decode_threads=2)
    stream = ready.run(items(video, ["0", "1"]))
    assert next(stream).outcome.video_id == "0"
    ready.stop()
    gate.set()
    assert list(stream) == []
    assert [record.outcome.video_id for record in sink.records] == ["0"]
    assert (ready.stats.dropped, ready.stats.accounted) == (1, True)


def test_trouble_of_the_run_itself_is_raised(video: Path) -> None:
    def broken() -> Iterator[Item]:
        yield Item(video_id="1", path=video)
        raise UsageError("the list of items broke")

    ready = runner(ReplayDecoder(video), bright_stages())
    with pytest.raises(UsageError, match="broke"):
        list(ready.run(broken()))


def test_sink_that_cannot_write_stops_the_run_and_acknowledges_nothing(video: Path) -> None:
    class FullSink(ListSink):
        def write(self, records: Sequence[Record]) -> None:
            raise UsageError("disk full")

    ready = runner(ReplayDecoder(video), bright_stages(), sink=FullSink())
    with pytest.raises(UsageError, match="disk full"):
        list(ready.run(items(video, ["1", "2"])))
    assert ready.stats.by_status.total() == 0


def test_empty_run_ends(video: Path) -> None:
    ready = runner(ReplayDecoder(video), bright_stages())
    assert run(ready, []) == []
    assert ready.stats.accounted


def test_deciding_stage_names_its_frames_and_cost(video: Path) -> None:
    (outcome,) = run(runner(ReplayDecoder(video), bright_stages()), items(video, [video_id_of_path(video)]))
    assert len(outcome.frame_pts_seconds) == 4
    assert outcome.duration_seconds == pytest.approx(0.5)
    assert outcome.cost_seconds > 0
