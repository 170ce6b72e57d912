"""What a user names becomes items, in a fixed order, and nothing disappears without a count."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidegate.corpus.manifest import Entry, Manifest, write_manifest
from tidegate.errors import ManifestError, SourceUnreadable, UsageError
from tidegate.pipeline.item import fingerprint
from tidegate.pipeline.source import Source
from tidegate.types import TextSpan


def touch(path: Path, content: bytes = b"\0\0video") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def names(source: Source, root: Path) -> list[str]:
    return [os.path.relpath(item.path, root) for item in source]


def test_folder_is_walked_in_byte_order_depth_first(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.mkv", "sub/c.webm", "sub/deep/d", "Z.mp4", "noextension"):
        touch(tmp_path / name)
    expected = ["Z.mp4", "a.mkv", "b.mp4", "noextension", "sub/c.webm", "sub/deep/d"]
    source = Source([tmp_path])
    assert names(source, tmp_path) == expected
    assert names(source, tmp_path) == expected
    assert source.count() == len(expected)


def test_hidden_files_sidecars_and_own_outputs_are_left_out_and_counted(tmp_path: Path) -> None:
    touch(tmp_path / "video.mp4")
    touch(tmp_path / ".hidden.mp4")
    touch(tmp_path / ".cache" / "x.mp4")
    touch(tmp_path / "video.info.json", b"{}")
    touch(tmp_path / "video.jpg", b"\xff\xd8\xff\xe0")
    touch(tmp_path / "README.txt", b"hello")
    touch(tmp_path / "labels.csv", b"a,b\n")
    for name in ("index.sqlite", "outcomes.jsonl", "report.html", "evidence/x/000.jpg"):
        touch(tmp_path / name)
    os.mkfifo(tmp_path / "pipe.mp4")
    source = Source([tmp_path])
    assert names(source, tmp_path) == ["video.mp4"]
    assert source.skipped == {"hidden": 2, "sidecar": 4, "own output": 4, "pipe, socket or device": 1}


def test_content_decides_and_not_the_extension(tmp_path: Path) -> None:
    for name in ("movie.jpg", "movie.json", "movie.csv", "movie.parquet", "movie.md"):
        touch(tmp_path / name, b"\0\0\0\x18ftypmp42")
    touch(tmp_path / "notes.txt", b"only words")
    assert len(names(Source([tmp_path]), tmp_path)) == 6


def test_named_files_are_always_attempted(tmp_path: Path) -> None:
    sidecar, hidden = touch(tmp_path / "x.info.json", b"{}"), touch(tmp_path / ".hidden.mp4")
    assert [item.path for item in Source([sidecar, hidden])] == [sidecar, hidden]


def test_missing_path_is_an_item_that_will_fail(tmp_path: Path) -> None:
    assert names(Source([tmp_path / "gone.mp4"]), tmp_path) == ["gone.mp4"]


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "video.mp4")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    source = Source([tmp_path])
    assert names(source, tmp_path) == ["a/video.mp4"]
    assert source.skipped["folder linked twice"] == 2


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Root may read everything: lay the privilege down for a moment."""
    before = os.geteuid()
    os.seteuid(65534 if before == 0 else before)
    try:
        yield
    finally:
        os.seteuid(before)


def test_folder_that_cannot_be_listed_is_an_item_with_its_trouble() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        touch(root / "ok.mp4")
        (root / "closed").mkdir(mode=0)
        with as_nobody():
            fine, closed = Source([name])
            inside = Source([root / "closed" / "video.mp4"])
            (hidden,) = inside
            with pytest.raises(SourceUnreadable, match="Permission denied"):
                fingerprint(hidden)
    assert (fine.trouble, type(closed.trouble)) == (None, SourceUnreadable)
    assert "Permission denied" in str(closed.trouble)


def test_folder_that_vanishes_while_listing_is_an_item_with_its_trouble(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    touch(tmp_path / "0sub" / "b.mp4")
    walk = iter(Source([tmp_path]))
    assert next(walk).trouble is None
    (tmp_path / "0sub" / "b.mp4").unlink()
    (tmp_path / "0sub").rmdir()
    (item,) = walk
    assert item.trouble is not None
    assert "No such file" in str(item.trouble)


def test_glob_that_the_shell_left_alone_is_expanded_by_the_rules_of_a_folder(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    touch(tmp_path / "sub" / "b.mp4")
    touch(tmp_path / "a.info.json", b"{}")
    assert names(Source([str(tmp_path / "*")]), tmp_path) == ["a.mp4", "sub/b.mp4"]
    assert names(Source([str(tmp_path / "**" / "*.mp4")]), tmp_path) == ["a.mp4", "sub/b.mp4"]


def test_glob_without_a_match_is_bad_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file matches"):
        Source([str(tmp_path / "*.mp4")])


def test_name_with_brackets_that_exists_is_no_glob(tmp_path: Path) -> None:
    video = touch(tmp_path / "[1].mp4")
    assert [item.path for item in Source([str(video)])] == [video]


def test_the_same_place_is_taken_once(tmp_path: Path) -> None:
    video = touch(tmp_path / "a.mp4")
    source = Source([video, tmp_path, f"{tmp_path}/./a.mp4"])
    assert names(source, tmp_path) == ["a.mp4"]
    assert source.skipped["named twice"] == 2


def test_list_names_one_path_a_line_relative_to_itself(tmp_path: Path) -> None:
    touch(tmp_path / "lists" / "a.mp4")
    listing = tmp_path / "lists" / "list.txt"
    listing.write_bytes(b"a.mp4\r\n\nb\xe9.mp4\n" + os.fsencode(tmp_path / "abs.mp4"))
    items = list(Source([f"@{listing}"]))
    assert [item.path for item in items] == [
        listing.parent / "a.mp4", listing.parent / os.fsdecode(b"b\xe9.mp4"), tmp_path / "abs.mp4",
    ]
    assert items[1].printable_path.endswith("b\\xe9.mp4")


def test_bad_lists_are_bad_usage(tmp_path: Path) -> None:
    for text in (f"@{tmp_path}/none.txt", f"@{touch(tmp_path / 'binary.txt')}"):
        with pytest.raises(UsageError):
            Source([text])
    with pytest.raises(UsageError, match="at least one"):
        Source([])


@pytest.mark.parametrize("name", ["manifest.parquet", "manifest.csv"])
def test_manifest_brings_ids_texts_and_context(tmp_path: Path, name: str) -> None:
    entry = Entry(
        video_id="v/1", path=tmp_path / "a.mp4", labels={"icd": 1}, region="DE", language="de", views=5,
        texts=(TextSpan("title", "Titel", "de"),),
    )
    write_manifest(Manifest(entries=(entry,)), tmp_path / name)
    for argument in (str(tmp_path / name), f"@{tmp_path / name}"):
        (item,) = Source([argument])
        assert (item.video_id, item.path, item.texts) == ("v/1", tmp_path / "a.mp4", entry.texts)
        assert (item.context.region, item.context.views) == ("DE", 5)


def test_bad_manifest_is_named_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ManifestError):
        Source([touch(tmp_path / "m.csv", b"colour,size\nred,3\n")])


def test_region_of_the_caller_wins_and_is_checked(tmp_path: Path) -> None:
    video = touch(tmp_path / "a.mp4")
    (item,) = Source([video], region="FR")
    assert item.context.region == "FR"
    for region in ("fr", "FRA", "F1"):
        with pytest.raises(UsageError, match="alpha-2"):
            Source([video], region=region)
