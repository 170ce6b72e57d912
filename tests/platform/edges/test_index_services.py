"""One contract, three indexes: versioned compare-and-set, tombstones, outbox. All against real servers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidegate.errors import ServiceUnavailable, UsageError
from tidegate.platform.contracts import IndexRecord, IndexService, Outbox, OutboxMessage, PutResult
from tidegate.platform.stores import INDEXES, IndexClient

BIG = 1_760_000_000_000_000_000  # a version in nanoseconds does not fit in a double
Open = Callable[[], Any]


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def open_index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens connections to one and the same empty index."""
    kind = request.param
    if kind == "sqlite":
        settings = {"path": str(tmp_path / "index.sqlite")}
    elif kind == "redis":
        settings = {"url": request.getfixturevalue("valkey").url, "chunk_records": 7}
    else:
        settings = {"url": request.getfixturevalue("postgres_url")}
    opened: list[Any] = []

    def opener() -> Any:
        backend = INDEXES[kind]
        opened.append(backend.open(backend.settings(**settings)))
        return opened[-1]

    yield opener
    for index in opened:
        index.close()


@pytest.fixture
def index(open_index: Open) -> Any:
    return open_index()


def record(video_id: str, version: int, status: str = "remained", **fields: Any) -> IndexRecord:
    value = b"" if status == "deleted" else msgspec.json.encode({"version": version, "id": video_id})
    return IndexRecord(video_id=video_id, version=version, status=status, value=value, **fields)  # type: ignore[arg-type]


def message(cause: IndexRecord, payload: bytes = b"{}") -> OutboxMessage:
    return OutboxMessage(key=f"{cause.video_id}:{cause.version}", topic=cause.status, payload=payload)


def test_index_conforms_to_the_protocols(index: Any) -> None:
    assert isinstance(index, IndexService)
    assert isinstance(index, Outbox)
    index.ping()


def test_record_comes_back_as_it_was_written(index: Any) -> None:
    full = record("видео/1 🎬", BIG, "removed", issue="icd", score=0.1 + 0.2, region="DE", policy_version="7")
    bare = record("v2", 0)
    assert index.put_many([full, bare]) == PutResult(applied=2, skipped=0)
    assert index.get_many(["v2", "видео/1 🎬", "absent"]) == {"видео/1 🎬": full, "v2": bare}


def test_replay_and_older_version_change_nothing(index: Any) -> None:
    newer = record("v1", BIG + 1, score=0.5)
    index.put_many([newer])
    assert index.put_many([newer]).applied == 0
    assert index.put_many([record("v1", BIG, "removed")]).applied == 0
    assert index.put_many([record("v1", BIG + 1, "removed")]).applied == 0
    assert index.get_many(["v1"]) == {"v1": newer}
    assert index.put_many([record("v1", BIG + 2, "removed")]).applied == 1


def test_versions_that_differ_in_the_last_bit_of_63_are_told_apart(index: Any) -> None:
    last = record("v1", 2**63 - 1)
    index.put_many([record("v1", 2**63 - 2)])
    assert index.put_many([last]).applied == 1
    assert index.put_many([record("v1", 2**63 - 2)]).applied == 0
    assert index.get_many(["v1"]) == {"v1": last}


def test_within_a_batch_the_highest_version_wins_whatever_the_order(index: Any) -> None:
    batch = [record("v1", 2), record("v1", 9, "removed"), record("v1", 3), record("v2", 1)]
    assert index.put_many(batch) == PutResult(applied=2, skipped=2)
    assert index.get_many(["v1"])["v1"].version == 9
    assert index.counts() == {"removed": 1, "remained": 1}


def test_tombstone_hides_the_video_and_late_duplicates_do_not_bring_it_back(index: Any) -> None:
    index.put_many([record("v1", 1)])
    index.put_many([record("v1", 5, "deleted")])
    assert index.put_many([record("v1", 3)]).applied == 0
    assert index.get_many(["v1"]) == {}
    assert index.counts() == {"deleted": 1}
    assert index.put_many([record("v1", 6)]).applied == 1
    assert index.counts() == {"remained": 1}


def test_tombstone_of_an_unknown_video_stops_a_late_first_event(index: Any) -> None:
    index.put_many([record("v1", 5, "deleted")])
    index.put_many([record("v1", 4)])
    assert index.get_many(["v1"]) == {}


def test_empty_batch_is_nothing(index: Any) -> None:
    assert index.put_many([]) == PutResult(applied=0, skipped=0)
    assert index.get_many([]) == {}
    assert index.counts() == {}


def test_message_is_stored_once_and_only_with_its_record(index: Any) -> None:
    first, second = record("v1", 1), record("v2", 1, "removed")
    index.put_many([first, second], [message(first, b"1"), message(second, b"2")])
    index.put_many([first], [message(first, b"replayed")])
    late = record("v2", 0)
    index.put_many([late], [message(late)])
    assert sorted(waiting.payload for waiting in index.pending(10)) == [b"1", b"2"]
    assert index.depth() == 2


def test_outbox_keeps_the_order_of_writes_and_forgets_what_is_done(index: Any) -> None:
    causes = [record(f"v{number % 4}", number) for number in range(1, 30)]
    for cause in causes:
        index.put_many([cause], [message(cause)])
    waiting = index.pending(5)
    assert [entry.key for entry in waiting] == [f"v{number % 4}:{number}" for number in range(1, 6)]
    index.done([entry.key for entry in waiting])
    index.done([entry.key for entry in waiting])
    assert index.depth() == 24
    assert index.pending(1)[0].key == "v2:6"


def test_message_without_its_record_in_the_batch_is_refused(index: Any) -> None:
    with pytest.raises(UsageError, match="names a record"):
        index.put_many([record("v1", 1)], [message(record("v1", 2))])
    assert index.counts() == {}


def test_concurrent_writers_leave_the_highest_version_and_one_message_each(open_index: Open) -> None:
    versions = list(range(1, 41))
    ids = [f"v{number}" for number in range(6)]
    applied: list[int] = []

    def write(writer: int) -> None:
        index = open_index()
        order = ids if writer % 2 else ids[::-1]
        for version in versions[writer::2] + versions[1 - writer :: 2]:
            records = [record(video_id, version) for video_id in order]
            applied.append(index.put_many(records, [message(cause) for cause in records]).applied)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    index = open_index()
    assert {video_id: index.get_many(ids)[video_id].version for video_id in ids} == dict.fromkeys(ids, 40)
    assert index.depth() == sum(applied)
    keys = [entry.key for entry in index.pending(1000)]
    assert len(keys) == len(set(keys))


steps = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c"]), st.integers(BIG, BIG + 6),
            st.sampled_from(["remained", "removed", "deleted"]),
        ),
        max_size=5,
    ),
    max_size=8,
)


def expected(batches: list[list[tuple[str, int, str]]]) -> dict[str, tuple[int, str]]:
    """The definition: a dictionary, one record after the other, batches reduced to the newest of each id."""
    model: dict[str, tuple[int, str]] = {}
    for batch in batches:
        for video_id, version, status in batch:
            if video_id not in model or version > model[video_id][0]:
                model[video_id] = (version, status)
    return model


@settings(
    max_examples=40, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)
@given(batches=steps)
def test_any_sequence_of_batches_equals_the_dictionary(index: Any, batches: list[list[tuple[str, int, str]]]) -> None:
    scope = f"{len(index.counts())}-{sum(index.counts().values())}-"  # ids of this example only
    before = dict(index.counts())
    for batch in batches:
        index.put_many([record(scope + video_id, version, status) for video_id, version, status in batch])
    model = expected(batches)
    found = index.get_many([scope + name for name in "abc"])
    wanted = {scope + name: entry for name, entry in model.items() if entry[1] != "deleted"}
    assert {video_id: (entry.version, entry.status) for video_id, entry in found.items()} == wanted
    grown = {status: count - before.get(status, 0) for status, count in index.counts().items()}
    statuses = [status for _, status in model.values()]
    assert {status: count for status, count in grown.items() if count} == {
        status: statuses.count(status) for status in set(statuses)
    }


def test_client_reads_batches_in_order_and_names_what_may_be_shown(index: Any) -> None:
    index.put_many([record("a", 1), record("b", 1, "removed"), record("c", 1), record("d", 1, "deleted")])
    client = IndexClient(index, max_batch=2)
    assert list(client.get_many(["c", "x", "b", "a", "c", "d"])) == ["c", "b", "a"]
    assert client.servable(["c", "x", "b", "a"]) == ["c", "a"]
    found = client.get("a")
    assert found is not None
    assert found.value == {"version": 1, "id": "a"}
    assert client.get("x") is None


@pytest.mark.parametrize("kind", ["redis", "postgres"])
def test_killed_server_is_an_outage_and_then_the_same_index_again(
    kind: str, request: pytest.FixtureRequest
) -> None:
    server = request.getfixturevalue({"redis": "own_valkey", "postgres": "own_postgres"}[kind])
    backend = INDEXES[kind]
    index = backend.open(backend.settings(url=server.url))
    cause = record("v1", 1)
    index.put_many([cause], [message(cause)])
    server.kill()
    with pytest.raises(ServiceUnavailable):
        index.put_many([record("v1", 2)])
    with pytest.raises(ServiceUnavailable):
        index.ping()
    server.start()
    index.ping()
    assert index.get_many(["v1"]) == {"v1": cause}
    assert index.put_many([record("v1", 2)]).applied == 1
    assert index.depth() == 1
    index.close()


@pytest.mark.parametrize("kind", ["redis", "postgres"])
def test_frozen_server_is_an_outage_after_the_deadline(kind: str, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue({"redis": "own_valkey", "postgres": "own_postgres"}[kind])
    backend = INDEXES[kind]
    index = backend.open(backend.settings(url=server.url, timeout_seconds=0.5))
    index.put_many([record("v1", 1)])
    server.pause()
    try:
        with pytest.raises(ServiceUnavailable):
            index.put_many([record("v1", 2)])
    finally:
        server.resume()
    index.put_many([record("v1", 3)])
    assert index.get_many(["v1"])["v1"].version == 3
    index.close()
