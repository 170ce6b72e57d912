"""The index and its exports: versions decide, failures are no verdicts, and crashes leave nothing half."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.errors import UsageError
from tidegate.pipeline.index import Index, Record, outcome_from_json, outcome_to_json
from tidegate.pipeline.sink import FolderSink
from tidegate.types import Decision, Observation, Outcome, Score, Span, VideoContext

DECISION = Decision(
    issue="icd", score=0.7, flagged=True, threshold=0.6, stage="large", escalated=True, route="last_stage",
    reason="why", policy="p", policy_version="1", region="DE", clause="c",
)


def outcome(video_id: str = "v", status: str = "removed", **settings: object) -> Outcome:
    decided = status != "failed"
    values: dict[str, object] = {
        "video_id": video_id, "path": f"/{video_id}.mp4", "status": status, "reason": "because",
        "decision": DECISION if decided else None, "error": None if decided else "not_media",
        "scores": (Score(value=0.7, stage="large", issue="icd", model="m"),) if decided else (),
        "observations": (Observation(kind="speech", value=[[0.0, 1.5]], producer="x", span=Span(0, 2)),),
        "context": VideoContext(region="DE", views=3),
    }
    return Outcome(**(values | settings))  # type: ignore[arg-type]


def record(version: int, *args: str, **settings: object) -> Record:
    return Record(outcome=outcome(*args, **settings), version=version, fingerprint="f", setup="s")


def test_outcome_survives_json() -> None:
    for status in ("removed", "failed"):
        assert outcome_from_json(outcome_to_json(outcome(status=status))) == outcome(status=status)


def test_text_that_utf8_cannot_carry_is_escaped() -> None:
    text = outcome_to_json(outcome(reason="half \ud800 pair"))
    assert json.loads(text)["reason"] == "half \\ud800 pair"


def test_replays_and_older_versions_change_nothing(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.sqlite")
    index.put_many([record(5, "v", "removed")])
    before = index.get_many(["v"])
    index.put_many([record(5, "v", "remained"), record(4, "v", "remained")])
    assert index.get_many(["v"]) == before
    index.put_many([record(6, "v", "remained")])
    assert index.get_many(["v"])["v"].status == "remained"


@pytest.mark.parametrize("status", ["ignored", "failed"])
def test_ignored_and_failed_leave_the_index_untouched(tmp_path: Path, status: str) -> None:
    index = Index(tmp_path / "index.sqlite")
    index.put_many([record(1, "known", "removed")])
    index.put_many([record(2, "known", status), record(2, "new", status)])
    assert index.get_many(["known", "new"]).keys() == {"known"}
    assert index.get_many(["known"])["known"].status == "removed"
    stored = index.stored("known")
    assert stored is not None
    assert stored.status == status


def test_removed_video_is_marked_and_not_deleted(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.sqlite")
    index.put_many([record(1, "v", "remained")])
    index.put_many([record(2, "v", "removed")])
    entry = index.get_many(["v"])["v"]
    assert (entry.status, entry.clause, entry.region) == ("removed", "c", "DE")
    assert entry.outcome["scores"][0]["value"] == 0.7


statuses = st.sampled_from(["removed", "remained", "failed", "ignored"])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 5), statuses), max_size=12))
def test_index_equals_the_highest_version_seen_first(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[str, int, str]]
) -> None:
    index = Index(tmp_path_factory.mktemp("index") / "index.sqlite")
    verdicts: dict[str, tuple[int, str]] = {}
    for video_id, version, status in writes:
        index.put_many([record(version, video_id, status)])
        if status in {"removed", "remained"} and version > verdicts.get(video_id, (0, ""))[0]:
            verdicts[video_id] = (version, status)
    found = {video_id: (entry.version, entry.status) for video_id, entry in index.get_many("ab").items()}
    assert found == verdicts
    index.close()


def test_versions_go_up_even_when_the_clock_goes_back(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.sqlite")
    future = 2**62
    index.put_many([record(future)])
    assert index.next_version() == future + 1


def test_file_that_is_no_index_is_named(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").write_bytes(b"this is no database, it is a text" * 100)
    with pytest.raises(UsageError, match="cannot be used"):
        Index(tmp_path / "index.sqlite")
    with sqlite3.connect(tmp_path / "other.sqlite") as other:
        other.execute("CREATE TABLE mine (x)")
    with pytest.raises(UsageError, match="expected an index of version"):
        Index(tmp_path / "other.sqlite")


def test_exports_hold_one_row_a_video_by_path(tmp_path: Path) -> None:
    with FolderSink(tmp_path / "out") as sink:
        sink.write([record(1, "b", "removed"), record(1, "a", "failed")])
        sink.write([record(2, "b", "remained")])
        assert len((tmp_path / "out/outcomes.jsonl").read_text().splitlines()) == 3
        sink.finish()
    lines = [json.loads(line) for line in (tmp_path / "out/outcomes.jsonl").read_text().splitlines()]
    assert [(line["video_id"], line["status"]) for line in lines] == [("a", "failed"), ("b", "remained")]
    table = pl.read_parquet(tmp_path / "out/outcomes.parquet")
    assert table["video_id"].to_list() == ["a", "b"]
    assert table["score"].to_list() == [None, 0.7]
    assert table["region"].to_list() == ["DE", "DE"]
    assert json.loads(table["observations_json"][0])[0]["kind"] == "speech"


def test_empty_run_writes_readable_exports(tmp_path: Path) -> None:
    with FolderSink(tmp_path) as sink:
        sink.finish()
    assert (tmp_path / "outcomes.jsonl").read_bytes() == b""
    assert pl.read_parquet(tmp_path / "outcomes.parquet").height == 0


@pytest.mark.parametrize(
    "torn", [b'{"video', b'{"a": 1}\n{"video', b'{"a": 1}\n', b"", b"x" * 200_000, b"y\n" + b"x" * 200_000]
)
def test_torn_last_line_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    (tmp_path / "outcomes.jsonl").write_bytes(torn)
    with FolderSink(tmp_path) as sink:
        sink.write([record(1)])
    whole = torn[: torn.rfind(b"\n") + 1]
    content = (tmp_path / "outcomes.jsonl").read_bytes()
    assert content.startswith(whole)
    assert json.loads(content[len(whole):])["video_id"] == "v"


def test_second_writer_is_refused_and_the_lock_ends_with_the_first(tmp_path: Path) -> None:
    with FolderSink(tmp_path), pytest.raises(UsageError, match="another run"):
        FolderSink(tmp_path)
    FolderSink(tmp_path).close()


def test_out_that_is_a_file_is_bad_usage(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(UsageError, match="folder that can be written"):
        FolderSink(tmp_path / "out")


def test_batch_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.sqlite")
    good = record(1, "good")
    bad = Record(outcome=dataclasses.replace(outcome("bad"), path="/x"), version=2**80)
    with pytest.raises(OverflowError):
        index.put_many([good, bad])
    assert index.get_many(["good"]) == {}
    index.put_many([good])
    assert index.get_many(["good"]).keys() == {"good"}
