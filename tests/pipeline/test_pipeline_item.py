"""Names, ids and fingerprints: stable where they must be, different where they must be."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.errors import SourceUnreadable
from tidegate.pipeline import item as item_module
from tidegate.pipeline.item import Item, fingerprint, path_from_printable, printable_path, video_id_of_path
from tidegate.types import TextSpan, VideoContext


def item_at(path: Path, **settings: object) -> Item:
    return Item(video_id=video_id_of_path(path), path=path, **settings)  # type: ignore[arg-type]


names = st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name and b"/" not in name)
pieces = st.sampled_from([b"\\", b"x", b"5c", b"ff", b"\xff", b"\xc3", b"\xa9", b"a"])
tricky = st.lists(pieces, min_size=1).map(b"".join)


@given(names | tricky)
def test_any_posix_name_survives_json_and_comes_back(name: bytes) -> None:
    path = os.fsdecode(name)
    text = json.loads(json.dumps(printable_path(path), ensure_ascii=False).encode("utf-8"))
    assert os.fsencode(os.fspath(path_from_printable(text))) == os.fsencode(os.fspath(Path(path)))


def test_ordinary_names_stay_as_they_are() -> None:
    for name in ("clip.mp4", "видео.mp4", "a b\\c.mp4", "日本.mov"):
        assert printable_path(name) == name


def test_bytes_that_are_not_utf8_are_shown_as_escapes() -> None:
    assert printable_path(os.fsdecode(b"caf\xe9.mp4")) == "caf\\xe9.mp4"


def test_id_belongs_to_the_place_and_fingerprint_to_the_content(tmp_path: Path) -> None:
    one, two = tmp_path / "one.mp4", tmp_path / "two.mp4"
    one.write_bytes(b"same")
    two.write_bytes(b"same")
    assert video_id_of_path(one) != video_id_of_path(two)
    assert fingerprint(item_at(one)) == fingerprint(item_at(two))
    before = fingerprint(item_at(one))
    one.write_bytes(b"edit")
    assert fingerprint(item_at(one)) != before
    assert video_id_of_path(one) == video_id_of_path(os.path.relpath(one))


def test_fingerprint_notices_new_metadata(tmp_path: Path) -> None:
    video = tmp_path / "video.mp4"
    video.write_bytes(b"content")
    plain = fingerprint(item_at(video))
    assert fingerprint(item_at(video, texts=(TextSpan("title", "new"),))) != plain
    assert fingerprint(item_at(video, context=VideoContext(views=3))) != plain


def test_fingerprint_of_a_large_file_reads_its_edges_and_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_module, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(item_module, "EDGE_BYTES", 100)
    video = tmp_path / "large.mp4"
    video.write_bytes(b"a" * 2000)
    before = fingerprint(item_at(video))
    assert fingerprint(item_at(video)) == before
    os.utime(video, (1, 1))
    changed = fingerprint(item_at(video))
    assert changed != before
    video.write_bytes(b"a" * 1999 + b"b")
    os.utime(video, (1, 1))
    assert fingerprint(item_at(video)) not in {before, changed}


def test_what_is_no_regular_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    words = {"pipe.mp4": "pipe", "loop.mp4": "symbolic links", "gone.mp4": "No such file", ".": "folder"}
    for name, word in words.items():
        with pytest.raises(SourceUnreadable, match=word):
            fingerprint(item_at(tmp_path / name))
    with pytest.raises(SourceUnreadable):
        fingerprint(item_at(tmp_path / "nul\0byte.mp4"))
