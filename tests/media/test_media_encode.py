"""The encoder that makes synthetic clips."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from media_samples import moving_pictures

from tidegate.errors import UsageError
from tidegate.media import (
    encode_video,
    keyframe_instants,
    probe,
    read_audio,
    read_frames,
    uniform_instants,
    windowed_instants,
)
from tidegate.types import AudioChunk, Span


def sound(seconds: float = 1.5, start: float = 0.0) -> AudioChunk:
    time = np.arange(int(16_000 * seconds)) / 16_000
    return AudioChunk((0.5 * np.sin(2 * np.pi * 330 * time)).astype(np.float32), 16_000, start)


def test_the_same_input_gives_the_same_bytes_pixels_and_samples(tmp_path: Path) -> None:
    paths = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    for path in paths:
        encode_video(path, moving_pictures(40), Fraction(30_000, 1001), sound(), title="t")
    assert paths[0].read_bytes() == paths[1].read_bytes()
    every = probe(paths[0]).frame_pts_seconds
    np.testing.assert_array_equal(read_frames(paths[0], every).frames_THWC, read_frames(paths[1], every).frames_THWC)
    first, second = (read_audio(path) for path in paths)
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first.samples, second.samples)


def test_frames_come_back_at_their_times_and_close_to_their_pixels(tmp_path: Path) -> None:
    pictures = np.repeat(np.repeat(moving_pictures(20, 48, 32), 4, axis=1), 4, axis=2)
    encode_video(tmp_path / "a.mp4", pictures, Fraction(30_000, 1001), crf=4)
    info = probe(tmp_path / "a.mp4")
    np.testing.assert_allclose(info.frame_pts_seconds, np.arange(20) * 1001 / 30_000, atol=1e-9)
    assert info.average_rate == Fraction(30_000, 1001)
    frames = read_frames(tmp_path / "a.mp4", info.frame_pts_seconds).frames_THWC
    assert np.abs(frames.astype(int) - pictures).mean() < 12
    closest = [np.abs(frames.astype(int) - picture).mean((1, 2, 3)).argmin() for picture in pictures]
    assert closest == list(range(20))


def test_settings_do_what_they_say(tmp_path: Path) -> None:
    pictures = moving_pictures(60, 160, 96)
    encode_video(tmp_path / "gop.mp4", pictures, 30, gop=10)
    assert len(probe(tmp_path / "gop.mp4").keyframe_pts_seconds) >= 6
    sizes = []
    for number, quality in enumerate([{"crf": 12}, {"crf": 40}, {"bit_rate": 60_000}, {"bit_rate": 600_000}]):
        encode_video(tmp_path / f"{number}.mp4", pictures, 30, **quality)
        sizes.append((tmp_path / f"{number}.mp4").stat().st_size)
    assert sizes[0] > 2 * sizes[1]
    assert sizes[3] > 2 * sizes[2]


def test_sound_starts_when_it_should(tmp_path: Path) -> None:
    encode_video(tmp_path / "late.mp4", moving_pictures(40), 20, sound(1.0, start=0.75))
    audio = read_audio(tmp_path / "late.mp4")
    assert audio is not None
    assert audio.start_seconds + np.flatnonzero(np.abs(audio.samples) > 0.1)[0] / 16_000 == pytest.approx(
        0.75, abs=0.005
    )


def test_an_iterable_is_consumed_lazily(tmp_path: Path) -> None:
    encode_video(tmp_path / "lazy.mp4", (picture for picture in moving_pictures(7)), 7)
    assert probe(tmp_path / "lazy.mp4").num_frames == 7


def test_metadata_is_written(tmp_path: Path) -> None:
    encode_video(tmp_path / "m.mp4", moving_pictures(3), 3, title="a title", metadata={"artist": "me"})
    assert probe(tmp_path / "m.mp4").title == "a title"


@pytest.mark.parametrize(
    ("frames", "rate", "audio", "reason"),
    [
        (np.empty((0, 8, 8, 3), np.uint8), 10, None, "at least one frame"),
        (np.zeros((2, 7, 8, 3), np.uint8), 10, None, "even height and width"),
        (np.zeros((2, 8, 8), np.uint8), 10, None, "uint8 frames"),
        (np.zeros((2, 8, 8, 3), np.float32), 10, None, "uint8 frames"),
        (np.zeros((2, 8, 8, 3), np.uint8), 0, None, "positive frame rate"),
        ([np.zeros((16, 16, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)], 10, None, "every frame to be"),
        (np.zeros((2, 16, 16, 3), np.uint8), 10, sound(start=-1.0), "start_seconds >= 0"),
    ],
)
def test_wrong_use_is_refused_and_leaves_no_file(tmp_path: Path, frames, rate, audio, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        encode_video(tmp_path / "x.mp4", frames, rate, audio)
    assert list(tmp_path.iterdir()) == []


def test_instants_are_centres_of_equal_parts_of_the_span(tmp_path: Path) -> None:
    encode_video(tmp_path / "a.mp4", moving_pictures(40), 20, gop=8)
    info = probe(tmp_path / "a.mp4")
    np.testing.assert_allclose(uniform_instants(info, 4), [0.25, 0.75, 1.25, 1.75])
    np.testing.assert_allclose(windowed_instants(info, Span(1.0, 9.0), 2), [1.25, 1.75])
    assert len(uniform_instants(info, 0)) == 0
    assert set(keyframe_instants(info, 3)) <= set(info.keyframe_pts_seconds)
    assert len(keyframe_instants(info, 3)) == 3
    np.testing.assert_array_equal(keyframe_instants(info, 99), info.keyframe_pts_seconds)
    with pytest.raises(ValueError, match="overlaps"):
        windowed_instants(info, Span(5.0, 9.0), 2)
    with pytest.raises(ValueError, match="n >= 0"):
        uniform_instants(info, -1)
