"""HTTP submit, folder watch, database scan: durable before they answer, in order, nothing lost to a restart."""

from __future__ import annotations

import http.client
import json
import os
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from servers.process import wait_until

from tidegate.errors import ConfigError, ServiceRefused, ServiceUnavailable
from tidegate.pipeline.item import video_id_of_path
from tidegate.platform.contracts import Delivery, EventSource, Shard
from tidegate.platform.event import EventCodec, VideoEvent
from tidegate.platform.sources import KINDS
from tidegate.platform.sources.spool import Spool

Open = Callable[..., Any]


@pytest.fixture
def open_source() -> Iterator[Open]:
    opened: list[Any] = []

    def opener(kind: str, shard: Shard | None = None, **settings: Any) -> Any:
        opened.append(KINDS[kind].open(KINDS[kind].settings(**settings), shard or Shard(), EventCodec()))
        return opened[-1]

    yield opener
    for source in opened:
        source.close()


def event(video_id: str, version: int = 1, **fields: Any) -> bytes:
    return json.dumps({"schema": 1, "video_id": video_id, "version": version, "occurred_at": 1.0, **fields}).encode()


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.event.video_id for delivery in deliveries if delivery.event]


def take(source: Any, count: int) -> list[Delivery]:
    found: list[Delivery] = []

    def enough() -> bool:
        found.extend(source.poll(1000, 0.05))
        return len(found) >= count

    wait_until(enough, f"{count} deliveries, got {len(found)}", every_seconds=0)
    return found


# The spool


def test_spool_hands_out_again_what_was_not_acknowledged(tmp_path: Path) -> None:
    first = Spool(tmp_path / "s")
    first.append([(f"v{number % 3}", event(f"v{number % 3}", number)) for number in range(30)])
    found = first.poll(100, 0)
    assert [delivery.event.version for delivery in found if delivery.event] == list(range(30))
    lane = found[0].partition
    mine = [delivery for delivery in found if delivery.partition == lane]
    first.acknowledge(mine[:4])
    assert first.poll(100, 0) == []
    first.close()
    second = Spool(tmp_path / "s")
    assert len(second.poll(100, 0)) == 26
    second.close()


def test_workers_share_the_lanes_whatever_their_number(tmp_path: Path) -> None:
    Spool(tmp_path / "s").append([(f"v{number}", event(f"v{number}")) for number in range(200)])
    for workers in (1, 3):
        spools = [Spool(tmp_path / "s", shard=Shard(worker=number, workers=workers)) for number in range(workers)]
        shares = [ids(spool.poll(1000, 0)) for spool in spools]
        assert sorted(video_id for share in shares for video_id in share) == sorted(f"v{n}" for n in range(200))
        assert all(shares)


# HTTP submit


class Client:
    def __init__(self, port: int) -> None:
        self.port = port

    def post(self, body: bytes, kind: str = "application/json", path: str = "/v1/events", **headers: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("POST", path, body, {"Content-Type": kind, **headers})
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        return response.status, answer


def http_settings(tmp_path: Path, **settings: Any) -> dict[str, Any]:
    return {"path": str(tmp_path / "spool"), "port": 0, **settings}


def test_submitted_events_are_on_disk_when_they_are_answered(tmp_path: Path, open_source: Open) -> None:
    source = open_source("http", **http_settings(tmp_path))
    assert isinstance(source, EventSource)
    client = Client(source.port)
    assert client.post(event("v1")) == (202, {"accepted": 1})
    lines = b"\n".join(event(f"v{number}") for number in range(2, 5)) + b"\n"
    assert client.post(lines, "application/x-ndjson") == (202, {"accepted": 3})
    compact = EventCodec().encode(VideoEvent(video_id="v5", version=1, occurred_at=1.0))
    assert client.post(compact, "application/msgpack") == (202, {"accepted": 1})
    with sqlite3.connect(tmp_path / "spool") as connection:
        assert connection.execute("SELECT count(*) FROM spool").fetchone() == (5,)
    connection.close()
    assert source.lag() == 5
    found = take(source, 5)
    assert ids(found) == ["v1", "v2", "v3", "v4", "v5"]
    source.acknowledge(found)
    assert source.lag() == 0
    assert source.spool.depth() == 0


def test_one_wrong_line_refuses_the_request_and_names_the_line(tmp_path: Path, open_source: Open) -> None:
    source = open_source("http", **http_settings(tmp_path))
    lines = [event("v1"), event("v2", location="file:///etc/passwd"), b"{", event("v3")]
    status, answer = Client(source.port).post(b"\n".join(lines), "application/x-ndjson")
    assert status == 422
    assert [(wrong["index"], wrong["code"]) for wrong in answer["events"]] == [
        (1, "forbidden_location"), (2, "malformed_event"),
    ]
    assert source.poll(10, 0) == []


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"body": b"x" * 2001}, 413), ({"body": b"{}", "kind": "text/plain"}, 415),
        ({"body": b"{}", "path": "/other"}, 404), ({"body": b"\n" * 5, "kind": "application/x-ndjson"}, 413),
        ({"body": b"{}\n" * 9, "kind": "application/x-ndjson"}, 413), ({"body": b""}, 422),
        ({"body": b"{}", "Transfer-Encoding": "chunked"}, 411), ({"body": b"\xff\xfe"}, 422),
    ],
)
def test_bad_requests_are_refused(
    tmp_path: Path, open_source: Open, request_: dict[str, Any], status: int
) -> None:
    source = open_source("http", **http_settings(tmp_path, max_body_bytes=2000, max_events=5))
    assert Client(source.port).post(**request_)[0] == status
    assert source.poll(10, 0) == []
    assert Client(source.port).post(event("v1"))[0] == 202


def test_submitters_need_the_token_if_there_is_one(tmp_path: Path, open_source: Open) -> None:
    (tmp_path / "token").write_text("0123456789abcdef\n")
    source = open_source("http", **http_settings(tmp_path, token_file=str(tmp_path / "token")))
    client = Client(source.port)
    assert client.post(event("v1"))[0] == 401
    assert client.post(event("v1"), Authorization="Bearer wrong")[0] == 401
    assert client.post(event("v1"), Authorization="Bearer 0123456789abcdef")[0] == 202


def test_full_spool_asks_submitters_to_come_back(tmp_path: Path, open_source: Open) -> None:
    source = open_source("http", **http_settings(tmp_path, max_queued=2))
    client = Client(source.port)
    assert [client.post(event(f"v{number}"))[0] for number in range(3)] == [202, 202, 503]
    source.acknowledge(take(source, 2))
    assert client.post(event("v9"))[0] == 202


def test_silent_connections_do_not_keep_others_out_for_ever(tmp_path: Path, open_source: Open) -> None:
    source = open_source("http", **http_settings(tmp_path, max_connections=2, timeout_seconds=0.3))
    silent = [socket.create_connection(("127.0.0.1", source.port)) for _ in range(2)]

    def answered() -> bool:
        try:
            return bool(Client(source.port).post(event("v1"))[0] == 202)
        except (OSError, http.client.HTTPException):
            return False

    wait_until(answered, "an answer")
    for connection in silent:
        connection.close()


def test_taken_port_is_a_configuration_error(tmp_path: Path, open_source: Open) -> None:
    source = open_source("http", **http_settings(tmp_path))
    with pytest.raises(ConfigError, match="listen"):
        open_source("http", path=str(tmp_path / "other"), port=source.port)


# Folder watch


def folder_settings(tmp_path: Path, **settings: Any) -> dict[str, Any]:
    (tmp_path / "in").mkdir(exist_ok=True)
    return {
        "folder": str(tmp_path / "in"), "path": str(tmp_path / "spool"), "interval_seconds": 0.02,
        "settle_seconds": 0.1, **settings,
    }


def test_video_and_its_sidecar_become_an_event(tmp_path: Path, open_source: Open) -> None:
    source = open_source("folder", **folder_settings(tmp_path))
    path = tmp_path / "in" / "day 1" / "clip.mp4"
    path.parent.mkdir()
    path.write_bytes(b"video")
    path.with_suffix(".info.json").write_text(json.dumps({"title": "Titel", "view_count": 7, "region": "DE"}))
    (path.parent / "notes.txt").write_text("no video")
    (path.parent / ".hidden.mp4").write_bytes(b"x")
    (path.parent / "link.mp4").symlink_to("/etc/passwd")
    found = take(source, 1)
    assert len(found) == 1
    seen = found[0].event
    assert seen is not None
    assert (seen.video_id, seen.location, seen.kind) == (video_id_of_path(path), "day 1/clip.mp4", "new")
    assert (seen.views, seen.region, seen.texts[0].text) == (7, "DE", "Titel")
    newest = max(path.stat().st_mtime_ns, path.with_suffix(".info.json").stat().st_mtime_ns)
    assert seen.version == newest


def test_file_that_still_grows_is_not_taken(tmp_path: Path, open_source: Open) -> None:
    source = open_source("folder", **folder_settings(tmp_path, settle_seconds=4.0))
    path = tmp_path / "in" / "growing.mp4"
    with path.open("wb") as file:
        for number in range(8):
            file.write(b"part %d" % number)
            file.flush()
            end = time.monotonic() + 0.05
            while time.monotonic() < end:
                assert source.poll(10, 0.01) == []
    seen = take(source, 1)[0].event
    assert seen is not None
    assert path.stat().st_size == 8 * 6


def test_restart_does_not_repeat_what_was_acknowledged_and_sees_what_changed_meanwhile(
    tmp_path: Path, open_source: Open
) -> None:
    settings = folder_settings(tmp_path)
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "in" / name).write_bytes(b"1")
    source = open_source("folder", **settings)
    found = take(source, 2)
    first_version = {delivery.event.video_id: delivery.event.version for delivery in found if delivery.event}
    source.acknowledge(found)
    source.close()
    os.utime(tmp_path / "in" / "b.mp4", ns=(1, 1))  # an older date, and yet a new edition
    again = take(open_source("folder", **settings), 1)
    assert len(again) == 1
    seen = again[0].event
    assert seen is not None
    assert seen.video_id == video_id_of_path(tmp_path / "in" / "b.mp4")
    assert seen.kind == "edited"
    assert seen.version == first_version[seen.video_id] + 1


def test_deletions_are_reported_only_if_asked_for_and_never_for_a_folder_that_went_away(
    tmp_path: Path, open_source: Open
) -> None:
    settings = folder_settings(tmp_path, report_deleted=True)
    path = tmp_path / "in" / "a.mp4"
    path.write_bytes(b"1")
    source = open_source("folder", **settings)
    first = take(source, 1)[0].event
    (tmp_path / "in").rename(tmp_path / "away")
    with pytest.raises(ServiceUnavailable):
        wait_until(lambda: bool(source.poll(10, 0.05)), "an outage")
    (tmp_path / "away").rename(tmp_path / "in")
    path.unlink()
    last = take(source, 1)[0].event
    assert first is not None
    assert last is not None
    assert last.kind == "deleted"
    assert last.version > first.version
    path.write_bytes(b"1")
    back = take(source, 1)[0].event
    assert back is not None
    assert back.kind == "new"
    assert back.version > last.version


def test_name_that_no_location_can_say_is_a_delivery_with_an_error(tmp_path: Path, open_source: Open) -> None:
    source = open_source("folder", **folder_settings(tmp_path))
    (tmp_path / "in" / "line\nbreak.mp4").write_bytes(b"1")
    error = take(source, 1)[0].error
    assert error is not None
    assert error.code == "forbidden_location"


# Database scan

POSTGRES_QUERY = """
SELECT extract(epoch FROM updated_at) AS watermark, video_id, version, views, region, title, ctr
FROM videos WHERE (updated_at, video_id) > (to_timestamp(%(since)s), %(after)s)
ORDER BY updated_at, video_id LIMIT %(limit)s
"""
SQLITE_QUERY = """
SELECT updated_at AS watermark, video_id, version, views, region, title, ctr
FROM videos WHERE (updated_at, video_id) > (:since, :after) ORDER BY updated_at, video_id LIMIT :limit
"""


class Table:
    """The table ``videos`` in either database."""

    def __init__(self, kind: str, where: str) -> None:
        self.kind, self.where = kind, where
        at = "timestamptz" if kind == "postgres" else "REAL"
        self.execute(
            f"CREATE TABLE videos (video_id text PRIMARY KEY, version bigint, updated_at {at}, views bigint, "
            "region text, title text, ctr numeric)"
        )

    def execute(self, statement: str, rows: Sequence[Sequence[Any]] = ((),)) -> None:
        if self.kind == "postgres":
            with psycopg.connect(self.where) as connection, connection.cursor() as cursor:
                cursor.executemany(statement.replace("?", "%s"), rows)
            return
        connection_ = sqlite3.connect(self.where)
        with connection_:
            connection_.executemany(statement, rows)
        connection_.close()

    def put(self, *rows: tuple[str, int, float]) -> None:
        at = "to_timestamp(?)" if self.kind == "postgres" else "?"
        self.execute(
            f"INSERT INTO videos VALUES (?, ?, {at}, 5, 'DE', 'Titel', 0.5) "
            "ON CONFLICT (video_id) DO UPDATE SET version = excluded.version, updated_at = excluded.updated_at", rows,
        )


@pytest.fixture(params=["sqlite", "postgres"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Table:
    where = str(tmp_path / "db.sqlite") if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    return Table(request.param, where)


def scan_settings(table: Table, tmp_path: Path, **settings: Any) -> dict[str, Any]:
    query = POSTGRES_QUERY if table.kind == "postgres" else SQLITE_QUERY
    return {
        "database": table.where, "query": query, "path": str(tmp_path / "spool"), "interval_seconds": 0.02,
        "overlap_seconds": 100.0, "page_rows": 7, **settings,
    }


def versions(deliveries: Sequence[Delivery]) -> set[tuple[str, int]]:
    return {(delivery.event.video_id, delivery.event.version) for delivery in deliveries if delivery.event}


def test_rows_become_events_once_page_by_page(table: Table, tmp_path: Path, open_source: Open) -> None:
    table.put(*[(f"v{number}", number, 1000.0 + number // 10) for number in range(40)])
    source = open_source("database", **scan_settings(table, tmp_path))
    found = take(source, 40)
    for _ in range(5):
        found += source.poll(100, 0.05)
    assert versions(found) == {(f"v{number}", number) for number in range(40)}
    assert len(found) == 40
    seen = found[0].event
    assert seen is not None
    assert (seen.views, seen.region, seen.texts[0].text, seen.features) == (5, "DE", "Titel", {"ctr": 0.5})
    assert seen.occurred_at == 1000.0


def test_changed_row_comes_again_and_a_late_commit_is_not_lost(
    table: Table, tmp_path: Path, open_source: Open
) -> None:
    table.put(("v1", 1, 1000.0), ("v2", 1, 1050.0))
    source = open_source("database", **scan_settings(table, tmp_path))
    assert versions(take(source, 2)) == {("v1", 1), ("v2", 1)}
    table.put(("late", 1, 990.5), ("v1", 2, 1060.0))
    assert versions(take(source, 2)) == {("late", 1), ("v1", 2)}


def test_restart_goes_on_where_it_was(table: Table, tmp_path: Path, open_source: Open) -> None:
    table.put(*[(f"v{number}", 1, 1000.0 + number) for number in range(20)])
    settings = scan_settings(table, tmp_path)
    source = open_source("database", **settings)
    found = take(source, 20)
    source.acknowledge(found)
    source.close()
    table.put(("v3", 2, 1100.0))
    again = open_source("database", **settings)
    assert versions(take(again, 1)) == {("v3", 2)}
    assert again.poll(10, 0.1) == []


def test_row_that_is_no_event_is_a_delivery_with_an_error(table: Table, tmp_path: Path, open_source: Open) -> None:
    table.put(("", 1, 1000.0), ("v1", -5, 1001.0), ("v2", 1, 1002.0))
    found = take(open_source("database", **scan_settings(table, tmp_path)), 3)
    assert [delivery.error is None for delivery in found] == [False, False, True]


def test_query_without_its_columns_or_parameters_is_refused(tmp_path: Path, open_source: Open) -> None:
    table = Table("sqlite", str(tmp_path / "db.sqlite"))
    table.put(("v1", 1, 1.0))
    query = "SELECT video_id FROM videos WHERE :since < 1 AND :after = '' LIMIT :limit"
    source = open_source("database", **scan_settings(table, tmp_path, query=query))
    with pytest.raises(ServiceRefused, match="watermark"):
        source.poll(1, 0)
    with pytest.raises(ConfigError, match="since"):
        open_source("database", **scan_settings(table, tmp_path, query="SELECT 1"))


def test_database_that_is_away_is_an_outage(own_postgres: Any, tmp_path: Path, open_source: Open) -> None:
    table = Table("postgres", own_postgres.url)
    table.put(("v1", 1, 1000.0))
    source = open_source("database", **scan_settings(table, tmp_path))
    assert versions(take(source, 1)) == {("v1", 1)}
    own_postgres.kill()
    with pytest.raises(ServiceUnavailable):
        wait_until(lambda: bool(source.poll(10, 0.05)), "an outage")
    own_postgres.start()
    table.put(("v2", 1, 1001.0))
    assert versions(take(source, 1)) == {("v2", 1)}
