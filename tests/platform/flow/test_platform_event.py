"""What enters is checked once: every bad message is a typed error that says why, and nothing private is reached."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.errors import (
    EventError,
    ForbiddenLocation,
    InvalidEvent,
    LimitExceeded,
    MalformedEvent,
    OversizedEvent,
    SourceUnreadable,
    UnknownSchema,
)
from tidegate.platform.event import EventCodec, EventLimits, EventText, VideoEvent, to_json
from tidegate.platform.eventlog import LogSource, write_log
from tidegate.platform.fetch import Fetcher
from tidegate.platform.location import LocationRules, check_location, resolve_local, resolve_public

CODEC = EventCodec()
FULL = VideoEvent(
    video_id="Видео-1", version=2**62, kind="views", occurred_at=1_700_000_000.5, location="a/b.mp4", region="DE",
    language="de", views=0, creator="c", uploaded_at=1_600_000_000.0, texts=(EventText("title", "Hallo", "de"),),
    features={"likes": 3, "ratio": 0.5, "flag": True, "name": "x", "none": None},
)


@pytest.mark.parametrize("encode", [to_json, CODEC.encode])
def test_both_forms_come_back_as_they_were(encode: object) -> None:
    assert CODEC.decode(encode(FULL)) == FULL  # type: ignore[operator]
    least = VideoEvent(video_id="v", version=0, occurred_at=0.0)
    assert CODEC.decode(encode(least)) == least  # type: ignore[operator]
    assert CODEC.decode(b'{"video_id":"v","version":0,"occurred_at":0}') == least
    assert CODEC.decode(msgspec.msgpack.encode([1, "v", "new", 0, 0.0])) == least


def changed(**fields: object) -> bytes:
    record = {"video_id": "v", "version": 1, "occurred_at": 1_700_000_000.0}
    return msgspec.json.encode({key: value for key, value in {**record, **fields}.items() if value != "drop"})


@pytest.mark.parametrize(("raw", "error", "said"), [
    (b"", MalformedEvent, "empty message"),
    (b"{", MalformedEvent, "JSON or compact form"),
    (b"\xff\xfe", MalformedEvent, "JSON or compact form"),
    (b"[1]", MalformedEvent, "Expected `array`"),
    (b'{"a":' * 100_000, OversizedEvent, "expected at most 262144 bytes"),
    (b'{"a":' * 40_000, MalformedEvent, ""),
    (changed(video_id="drop"), MalformedEvent, "missing required field `video_id`"),
    (changed(colour=1), MalformedEvent, "unknown field `colour`"),
    (changed(version="1"), MalformedEvent, "Expected `int`"),
    (changed(version=-1), MalformedEvent, ">= 0"),
    (changed(version=2**63), MalformedEvent, ""),
    (changed(kind="party"), MalformedEvent, "Invalid enum value"),
    (changed(schema=2, colour=1), UnknownSchema, "expected schema 1, got 2"),
    (changed(schema=0), UnknownSchema, "expected schema 1, got 0"),
    (msgspec.msgpack.encode([7, "v", "new", 1, 0.0, *[None] * 20]), UnknownSchema, "got 7"),
    (changed(video_id=""), MalformedEvent, "length >= 1"),
    (changed(video_id="x" * 257), MalformedEvent, "length <= 256"),
    (changed(video_id="a\nb"), InvalidEvent, "printable"),
    (changed(video_id=" v"), InvalidEvent, "outer spaces"),
    (changed(video_id="v\u202e"), InvalidEvent, "printable"),
    (changed(video_id=unicodedata.normalize("NFD", "é")), InvalidEvent, r"expected a video id in Unicode NFC"),
    (changed(region="QQ"), InvalidEvent, "expected an ISO 3166-1 alpha-2 region"),
    (changed(region="de"), InvalidEvent, "got 'de'"),
    (changed(occurred_at=4_102_444_800.0), InvalidEvent, "expected occurred_at in Unix seconds"),
    (changed(occurred_at=-1), InvalidEvent, "occurred_at"),
    (changed(uploaded_at=1e12), InvalidEvent, "uploaded_at"),
    (changed(views=-1), MalformedEvent, ">= 0"),
    (changed(texts=[{"kind": "title", "text": "x" * 20_001}]), OversizedEvent, "20000 characters"),
    (changed(texts=[{"kind": "title", "text": "x"}] * 65), OversizedEvent, "64 texts"),
    (changed(texts=[{"kind": "smell", "text": "x"}]), MalformedEvent, "Invalid enum"),
    (changed(features={f"f{n}": n for n in range(257)}), OversizedEvent, "256 features"),
    (changed(features={"f": [1]}), MalformedEvent, "features"),
    (changed(location="file:///etc/passwd"), ForbiddenLocation, "http(s) URL"),
    (b'{"video_id":"\\ud800","version":1,"occurred_at":1}', MalformedEvent, ""),
], ids=lambda value: ascii(value[:60]) if isinstance(value, bytes) else None)
def test_bad_message_is_a_typed_error_that_says_why(raw: bytes, error: type[EventError], said: str) -> None:
    with pytest.raises(error) as caught:
        CODEC.decode(raw)
    assert type(caught.value) is error
    assert said in str(caught.value)
    event, reason = CODEC.decode_or_error(raw)
    assert event is None
    assert type(reason) is error


def test_not_a_number_is_refused_in_the_compact_form() -> None:
    for value in (math.nan, math.inf):
        with pytest.raises(InvalidEvent):
            CODEC.decode(msgspec.msgpack.encode([1, "v", "new", 1, value]))


def test_ids_differ_by_case_unless_the_platform_says_otherwise() -> None:
    assert CODEC.decode(changed(video_id="aBc")).video_id == "aBc"
    strict = EventCodec(EventLimits(lower_case_ids=True))
    with pytest.raises(InvalidEvent, match="lower-case"):
        strict.decode(changed(video_id="aBc"))


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(raw: bytes) -> None:
    event, error = CODEC.decode_or_error(raw)
    assert (event is None) != (error is None)


@pytest.mark.parametrize("location", [
    "file:///etc/passwd", "FILE:///etc/passwd", "ftp://example.com/a", "gopher://example.com", "data://x",
    "/etc/passwd", "~/x", "../x", "a/../../x", "a/%2e%2e/x", "..\\x", "C:\\x", "c:x", "a\x00b", "",
    "http://127.0.0.1/", "http://127.1/", "http://2130706433/", "http://0x7f000001/", "http://017700000001/",
    "http://[::1]/", "http://[::ffff:10.0.0.1]/", "http://[fd00::1]/", "http://[fe80::1%25eth0]/", "http://0.0.0.0/",
    "http://10.0.0.1/", "http://172.16.0.1/", "http://192.168.1.1/", "http://169.254.169.254/latest/meta-data",
    "http://100.64.0.1/", "http://224.0.0.1/", "http://localhost/", "http://LOCALHOST./", "http://a.localhost/",
    "http://metadata.google.internal/", "http://printer.local/", "http://intranet/", "http://user:pass@example.com/",
    "http://example.com@127.0.0.1/", "http://example.com\\@127.0.0.1/", "http://example.com:22/", "http:///x",
    "http://[2002:7f00:1::]/", "http://[64:ff9b::7f00:1]/",
])
def test_hostile_locations_are_refused(location: str) -> None:
    with pytest.raises(ForbiddenLocation):
        check_location(location, LocationRules())


@pytest.mark.parametrize("location", [
    "a.mp4", "a/b c/d.mp4", "..a/b.mp4", "https://example.com/v.mp4", "http://EXAMPLE.com:8080/v?x=1#y",
    "https://93.184.215.14/v.mp4", "https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/v.mp4",
])
def test_ordinary_locations_pass(location: str) -> None:
    check_location(location, LocationRules())


def test_allow_list_opens_one_host_or_one_port_and_never_files() -> None:
    rules = LocationRules(allow_hosts=("store.internal", "10.0.0.5:9000"))
    check_location("http://store.internal/v.mp4", rules)
    check_location("http://10.0.0.5:9000/v.mp4", rules)
    for location in ("http://10.0.0.5/v.mp4", "http://10.0.0.5:9001/v.mp4", "file://store.internal/x"):
        with pytest.raises(ForbiddenLocation):
            check_location(location, rules)
    with pytest.raises(ForbiddenLocation, match="expected a path"):
        check_location("https://example.com/v.mp4", LocationRules(allow_urls=False))


def test_links_do_not_lead_out_of_the_media_folder(tmp_path: Path) -> None:
    root, secret = tmp_path / "root", tmp_path / "secret"
    root.mkdir()
    secret.write_text("x")
    (root / "link").symlink_to(secret)
    (root / "inside").symlink_to(root / "a.mp4")
    assert resolve_local("a.mp4", root) == root / "a.mp4"
    assert resolve_local("inside", root) == root / "a.mp4"
    with pytest.raises(ForbiddenLocation):
        resolve_local("link", root)


def test_name_that_resolves_to_a_private_address_is_refused() -> None:
    with pytest.raises(ForbiddenLocation, match="expected a public address"):
        resolve_public("localhost", 80, LocationRules())
    assert resolve_public("localhost", 80, LocationRules(allow_hosts=("localhost",))) in {"127.0.0.1", "::1"}


@contextmanager
def web(routes: dict[str, tuple[int, dict[str, str], bytes]]) -> Iterator[int]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = routes.get(self.path, (404, {}, b""))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_media_are_fetched_within_limits_and_redirects_are_checked() -> None:
    routes = {
        "/v": (200, {}, b"x" * 1000),
        "/moved": (302, {"Location": "/v"}, b""),
        "/metadata": (302, {"Location": "http://169.254.169.254/latest"}, b""),
        "/file": (302, {"Location": "file:///etc/passwd"}, b""),
        "/loop": (302, {"Location": "/loop"}, b""),
    }
    with web(routes) as port:
        home = f"http://127.0.0.1:{port}"
        fetcher = Fetcher(LocationRules(allow_hosts=(f"127.0.0.1:{port}",)), max_bytes=1000)
        for path in ("/v", "/moved"):
            with fetcher.fetched(home + path) as file:
                assert file.read_bytes() == b"x" * 1000
            assert not file.exists()
        for path in ("/metadata", "/file"):
            with pytest.raises(ForbiddenLocation), fetcher.fetched(home + path):
                pass
        for path in ("/loop", "/absent"):
            with pytest.raises(SourceUnreadable), fetcher.fetched(home + path):
                pass
        small = Fetcher(LocationRules(allow_hosts=(f"127.0.0.1:{port}",)), max_bytes=999)
        with pytest.raises(LimitExceeded), small.fetched(f"{home}/v"):
            pass
        with pytest.raises(ForbiddenLocation), Fetcher(LocationRules()).fetched(f"{home}/v"):
            pass


def test_log_goes_on_where_it_was_acknowledged(tmp_path: Path) -> None:
    messages = [CODEC.encode(VideoEvent(video_id=f"v{n}", version=n, occurred_at=0.0)) for n in range(10)]
    assert write_log(tmp_path, "p", [*messages[:5], b"bad", b""]) == 7
    source = LogSource(tmp_path)
    first = source.poll(4, 0.0)
    source.acknowledge(first[:3])
    source.close()
    again = LogSource(tmp_path)
    rest = again.poll(100, 0.0)
    assert [delivery.offset for delivery in rest] == [3, 4, 5, 6]
    assert [type(delivery.error).__name__ for delivery in rest[2:]] == ["MalformedEvent", "MalformedEvent"]
    assert list(again.poll(100, 0.0)) == []
    write_log(tmp_path, "p", messages[5:])
    assert [delivery.offset for delivery in again.poll(100, 0.0)] == [7, 8, 9, 10, 11]
    assert again.lag() == 0
    again.close()
