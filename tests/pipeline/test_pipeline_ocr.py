"""On-screen text: read where the reader can, said where it cannot."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pipeline_parts import POLICY, SETTINGS, bright_stages

from tidegate.media import encode_video
from tidegate.pipeline.ocr import PaddleReader
from tidegate.pipeline.scanner import Scanner
from tidegate.types import VideoContext

pytest.importorskip("rapidocr")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    picture = Image.new("RGB", (480, 160), "white")
    ImageDraw.Draw(picture).text((20, 50), "BUY IT HERE", fill="black", font_size=48)
    path = tmp_path_factory.mktemp("ocr") / "text.mp4"
    encode_video(path, np.stack([np.asarray(picture)] * 10), Fraction(10))
    return path


def test_text_in_frames_becomes_a_text_and_other_scripts_are_said_to_be_unread(written: Path) -> None:
    with Scanner(bright_stages(), policy=POLICY, settings=SETTINGS, on_screen_text=PaddleReader()) as scanner:
        read = scanner.scan(written)
        unread = scanner.scan(written, context=VideoContext(language="hi"))
    texts = [seen.value for seen in read.observations if seen.kind == "texts"]
    assert texts == [[{"kind": "ocr", "text": "BUY IT HERE", "language": None}]]
    assert not [seen for seen in unread.observations if seen.kind == "texts"]
    notes = [str(seen.value) for seen in unread.observations if seen.kind == "fallback"]
    assert any("not read: the reader has no Devanagari script" in note for note in notes)
