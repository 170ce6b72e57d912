"""Files that a scan must survive: each is made from real encoded media and then broken in one way."""

from __future__ import annotations

import os
import random
import wave
from pathlib import Path

import av
import numpy as np
from pipeline_parts import make_video

__all__ = ["make_bad_videos"]


def make_bad_videos(folder: Path) -> dict[str, str | None]:
    """Fill ``folder``; the error code that each file must end with, None where it must be scanned."""
    folder.mkdir(parents=True)
    good = make_video(folder / "good.mp4", 0.5, seconds=2).read_bytes()
    expected: dict[str, str | None] = {"good.mp4": None}

    def add(name: str | bytes, content: bytes, code: str | None) -> None:
        text = os.fsdecode(name)
        (folder / text).write_bytes(content)
        expected[text] = code

    add("empty.mp4", b"", "not_media")
    add("truncated.mp4", good[: len(good) // 3], "corrupt_media")
    add("text.mp4", b"This is a text and no video.\n" * 50, "not_media")
    add("notes.txt", b"This is a text and no video.\n" * 50, "not_media")
    add("wrong-extension.avi", good, None)
    add("no-extension", good, None)
    add("header-of-ten-hours.mp4", _ten_hours(good), None)
    add("random.mp4", random.Random(1).randbytes(5000), "not_media")
    add(b"caf\xe9.mp4", good, None)
    add(b"\xff\xfe-broken.mp4", b"broken", "not_media")
    add("new\nline \x1b[31m.mp4", good, None)
    _audio_only(folder / "audio-only.wav")
    expected["audio-only.wav"] = "no_video_stream"
    _without_packets(folder / "zero-length.mkv")
    expected["zero-length.mkv"] = "corrupt_media"
    _one_pixel(folder / "one-pixel.mkv")
    expected["one-pixel.mkv"] = None
    (folder / "dangling.mp4").symlink_to(folder / "nowhere")
    (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    expected |= {"dangling.mp4": "source_unreadable", "loop.mp4": "source_unreadable"}
    return expected


def make_flipped(folder: Path, count: int) -> None:
    """Videos with flipped bits: whether they still decode is the decoder's to say."""
    folder.mkdir(parents=True)
    good = make_video(folder / "good.mp4", 0.5, seconds=1).read_bytes()
    for seed in range(count):
        dice, content = random.Random(seed), bytearray(good)
        for _ in range(1 + 4**seed % 1000):
            content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        (folder / f"flipped-{seed:02d}.mp4").write_bytes(content)


def _ten_hours(video: bytes) -> bytes:
    """The movie header claims ten hours; the frames stay as they are."""
    content = bytearray(video)
    for box in (b"mvhd",):
        at = content.index(box) + 4
        time_scale = int.from_bytes(content[at + 12 : at + 16], "big")
        content[at + 16 : at + 20] = (36_000 * time_scale).to_bytes(4, "big")
    return bytes(content)


def _audio_only(path: Path) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(np.zeros(16_000, dtype=np.int16).tobytes())


def _without_packets(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()


def _one_pixel(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 1, 1, "bgr0"
        for _ in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((1, 1, 3), 90, dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
