"""Sidecars: what is right is used, what is wrong is a warning, and no sidecar harms its video."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tidegate.pipeline.sidecar import MAX_SIDECAR_BYTES, Sidecar, read_sidecar, sidecar_path


def sidecar(folder: Path, content: object) -> Sidecar:
    video = folder / "clip.one.mp4"
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    sidecar_path(video).write_bytes(data)
    return read_sidecar(video)


def test_name_follows_yt_dlp(tmp_path: Path) -> None:
    assert sidecar_path(tmp_path / "clip.one.mp4").name == "clip.one.info.json"


def test_all_fields_are_read(tmp_path: Path) -> None:
    read = sidecar(tmp_path, {
        "title": " A title ", "view_count": 7, "language": "pt-BR", "upload_date": "20260131", "uploader": "me",
        "region": "br", "stickers": ["one", "two"], "formats": [{"anything": 1}],
    })
    assert [(text.kind, text.text, text.language) for text in read.texts] == [
        ("title", "A title", "pt"), ("sticker", "one", "pt"), ("sticker", "two", "pt"),
    ]
    assert read.context.region == "BR"
    assert read.context.views == 7
    assert read.context.creator == "me"
    assert read.context.uploaded_at == datetime(2026, 1, 31, tzinfo=UTC)
    assert read.warnings == ()


def test_no_sidecar_is_no_warning(tmp_path: Path) -> None:
    assert read_sidecar(tmp_path / "video.mp4") == Sidecar()


@pytest.mark.parametrize(("key", "value"), [
    ("title", 3), ("title", "x" * 20_000), ("view_count", -1), ("view_count", True), ("view_count", "many"),
    ("view_count", 2**70), ("language", "deutsch!"), ("region", "Germany"), ("upload_date", "20261399"),
    ("upload_date", "yesterday"), ("stickers", "text"), ("stickers", [1]), ("stickers", ["x"] * 1000), ("uploader", []),
])
def test_bad_field_is_a_warning_and_the_others_are_used(tmp_path: Path, key: str, value: object) -> None:
    good = {"title": "kept", "region": "DE"}
    read = sidecar(tmp_path, good | {key: value})
    assert len(read.warnings) == 1
    assert key in str(read.warnings[0].value)
    if key != "title":
        assert [text.text for text in read.texts] == ["kept"]
    if key != "region":
        assert read.context.region == "DE"


@pytest.mark.parametrize("content", [
    b"", b"not json", b"[1, 2]", b"\xff\xfe{}", b'{"title": "half', b"[" * 100_000, b'{"title": "\\ud800"}',
    b" " * (MAX_SIDECAR_BYTES + 1),
])
def test_bad_file_is_a_warning(tmp_path: Path, content: bytes) -> None:
    read = sidecar(tmp_path, content)
    assert read.texts == ()
    assert len(read.warnings) == 1


def test_sidecar_that_is_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "video.info.json")
    assert len(read_sidecar(tmp_path / "video.mp4").warnings) == 1
