"""Facts from content, against ffprobe and against what the files were made with."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media_samples import AAC, RECIPES, Recipe, moving_pictures, real_data, variable_pts, write

from tidegate.errors import LimitExceeded
from tidegate.media import Limits, MediaInfo, describe, encode_video, probe, read_audio, read_clip
from tidegate.types import ClipRequest

Sample = Callable[[str], Path]
GUESSED_TIMES = {
    "h264-avi",
    "h264-raw",
}  # the container has no presentation times, and the order is not that of storage


def asked(ffprobe: str, path: Path, *what: str) -> dict:
    command = [ffprobe, "-v", "error", "-of", "json", *what, str(path)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def ffprobe_frame_times(ffprobe: str, path: Path) -> np.ndarray:
    entries = "frame=pts_time,best_effort_timestamp_time"
    shown = asked(ffprobe, path, "-select_streams", "V:0", "-show_frames", "-show_entries", entries)
    times = [frame.get("pts_time", frame.get("best_effort_timestamp_time", "nan")) for frame in shown["frames"]]
    if not times:  # this ffprobe has no decoder for it (AV1)
        shown = asked(ffprobe, path, "-select_streams", "V:0", "-show_packets", "-show_entries", "packet=pts_time")
        times = sorted(float(packet["pts_time"]) for packet in shown["packets"])
    return np.array(times, float)


def assert_same_as_ffprobe(ffprobe: str, path: Path) -> MediaInfo:
    info = probe(path)
    times = ffprobe_frame_times(ffprobe, path)
    assert info.num_frames == len(times)
    known = np.isfinite(times)
    np.testing.assert_allclose(info.frame_pts_seconds[known], times[known], atol=2e-6)
    return info


@pytest.mark.parametrize("name", sorted(set(RECIPES) - GUESSED_TIMES))
def test_frame_times_equal_ffprobe(sample: Sample, ffprobe: str, name: str) -> None:
    assert_same_as_ffprobe(ffprobe, sample(name))


@pytest.mark.parametrize("name", sorted(name for name in RECIPES if RECIPES[name].suffix in {"mp4", "mov"}))
def test_duration_size_and_rate_equal_ffprobe(sample: Sample, ffprobe: str, name: str) -> None:
    info = probe(sample(name))
    stream = asked(ffprobe, sample(name), "-select_streams", "V:0", "-show_streams")["streams"][0]
    size = {info.width, info.height}
    assert size == {stream["width"], stream["height"]}
    if not info.is_variable_rate:
        assert info.duration_seconds == pytest.approx(float(stream["duration"]), abs=1e-5)
        assert info.average_rate == Fraction(stream["avg_frame_rate"]) == RECIPES[name].rate


@pytest.mark.parametrize("name", RECIPES)
def test_facts_are_those_the_file_was_made_with(sample: Sample, name: str) -> None:
    recipe, info = RECIPES[name], probe(sample(name))
    assert info.num_frames == recipe.count
    assert bool(info.audio_tracks) == (recipe.audio is not None)
    assert info.is_variable_rate == (recipe.pts is not None)
    assert info.warnings == () or name in {*GUESSED_TIMES, "mpeg4-avi", "mpeg4-avi-b", "mpeg2-ps-b"}
    if recipe.pts is None and name != "h264-raw":
        assert info.average_rate == recipe.rate
        assert info.duration_seconds == pytest.approx(float(recipe.count / recipe.rate), abs=0.034)


def test_rotation_is_read_and_the_size_is_the_displayed_one(sample: Sample) -> None:
    info = probe(sample("h264-mp4-rotated"))
    assert (info.rotation_degrees, info.is_mirrored) == (270, False)
    assert (info.width, info.height) == (64, 96)


def test_a_late_start_stays_on_the_files_own_timeline(sample: Sample) -> None:
    path = sample("h264-mp4-late-start")
    info = probe(path)
    assert info.span.start_seconds == 2.5
    assert info.duration_seconds == pytest.approx(2.5)
    audio = read_audio(path)
    assert audio is not None
    assert audio.start_seconds == pytest.approx(2.5, abs=0.03)


def test_a_variable_rate_has_the_exact_average(tmp_path: Path) -> None:
    pts = variable_pts(40, seed=5)
    info = probe(write(tmp_path / "v.mkv", Recipe(suffix="mkv", pts=pts, count=40)))
    assert info.is_variable_rate
    assert info.average_rate == pytest.approx(39 / (pts[-1] / 90_000), rel=1e-3)
    np.testing.assert_allclose(info.frame_pts_seconds, np.array(pts) / 90_000, atol=6e-4)


def two_track_file(path: Path) -> Path:
    """Video, German audio of 220 Hz, then English audio of 880 Hz that is marked default."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"threads": "1"})
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        tracks = [container.add_stream("aac", rate=16_000, layout="mono") for _ in range(2)]
        tracks[0].metadata["language"], tracks[1].metadata["language"] = "ger", "eng"
        tracks[0].disposition, tracks[1].disposition = 0, av.stream.Disposition.default
        for index, picture in enumerate(moving_pictures(25, 64, 64)):
            frame = av.VideoFrame.from_ndarray(picture)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(video.encode(frame))
        for track, pitch in zip(tracks, (220, 880), strict=True):
            tone = 0.5 * np.sin(2 * np.pi * pitch * np.arange(16_000) / 16_000)
            for offset in range(0, 16_000, 1000):
                part = tone[None, offset : offset + 1000].astype(np.float32)
                sound = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
                sound.sample_rate, sound.time_base, sound.pts = 16_000, Fraction(1, 16_000), offset
                container.mux(track.encode(sound))
            container.mux(track.encode(None))
        container.mux(video.encode(None))
    return path


def test_of_several_audio_tracks_the_default_one_is_read_and_the_others_are_told(tmp_path: Path) -> None:
    path = two_track_file(tmp_path / "two.mkv")
    info = probe(path)
    assert [track.language for track in info.audio_tracks] == ["ger", "eng"]
    assert info.audio_track is not None
    assert info.audio_track.language == "eng"
    assert "2 audio tracks; one is read" in info.warnings
    audio = read_audio(path)
    assert audio is not None
    spectrum = np.abs(np.fft.rfft(audio.samples[2000:14_000]))
    assert np.argmax(spectrum) * 16_000 / 12_000 == pytest.approx(880, abs=3)


def patch_durations(path: Path, hours: float) -> Path:
    """Make the headers of an MP4 (mvhd, tkhd, mdhd; version 0) claim so many hours."""
    data = bytearray(path.read_bytes())
    timescale = struct.unpack_from(">I", data, data.index(b"mvhd") + 16)[0]
    for box, offset, scale in ((b"mvhd", 20, None), (b"tkhd", 24, timescale), (b"mdhd", 20, None)):
        at = data.find(box)
        while at >= 0:
            ticks = scale or struct.unpack_from(">I", data, at + 16)[0]
            struct.pack_into(">I", data, at + offset, min(int(hours * 3600 * ticks), 2**32 - 1))
            at = data.find(box, at + 4)
    target = path.with_stem(path.stem + "-lies")
    target.write_bytes(data)
    return target


def test_ten_hours_in_the_header_of_one_second_of_content(tmp_path: Path) -> None:
    encode_video(tmp_path / "a.mp4", moving_pictures(30), 30)
    info, clip = read_clip(patch_durations(tmp_path / "a.mp4", 10), ClipRequest(), video_id="x")
    assert info.duration_seconds == pytest.approx(1.0)
    assert info.duration_seconds_from_header == pytest.approx(36_000, rel=0.1)
    assert any(warning.startswith("header says 3") for warning in info.warnings)
    assert clip.frames is not None
    assert len(clip.frames) == 8


def test_a_matroska_header_that_lies(tmp_path: Path, sample: Sample) -> None:
    data = bytearray(sample("h264-mkv").read_bytes())
    at = data.index(b"\x44\x89\x88")  # Info/Duration, a double
    struct.pack_into(">d", data, at + 3, 36_000_000.0)
    (tmp_path / "lies.mkv").write_bytes(data)
    info = probe(tmp_path / "lies.mkv")
    assert info.duration_seconds == pytest.approx(2.5, abs=0.01)
    assert info.duration_seconds_from_header == pytest.approx(36_000)
    assert any("header says 36000" in warning for warning in info.warnings)


def test_content_longer_than_allowed_is_refused(sample: Sample) -> None:
    with pytest.raises(LimitExceeded, match=r"max_duration_seconds=2, got 2\.5"):
        probe(sample("h264-mp4"), Limits(max_duration_seconds=2))


def test_more_packets_and_bytes_than_allowed_are_refused(sample: Sample) -> None:
    with pytest.raises(LimitExceeded, match="max_packets=5"):
        probe(sample("h264-ts"), Limits(max_packets=5))
    with pytest.raises(LimitExceeded, match="max_file_bytes=100, got"):
        probe(sample("h264-mp4"), Limits(max_file_bytes=100))


def test_a_truncated_file_that_still_plays_says_so(tmp_path: Path, sample: Sample) -> None:
    source = write(tmp_path / "fast.mp4", Recipe(muxer_options={"movflags": "faststart"}, audio=AAC))
    data = source.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    info, clip = read_clip(tmp_path / "cut.mp4", ClipRequest(), video_id="x")
    assert any(warning.startswith("truncated") for warning in info.warnings)
    assert 0 < info.num_frames < 75
    assert clip.frames is not None
    assert clip.frames.pts_seconds[-1] < info.span.end_seconds < 2.5


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp"])
def test_a_still_picture_is_a_video_of_one_frame(tmp_path: Path, suffix: str) -> None:
    from PIL import Image

    picture = moving_pictures(1)[0]
    Image.fromarray(picture).save(tmp_path / f"still.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    info, clip = read_clip(tmp_path / f"still.{suffix}", ClipRequest(num_frames=3), video_id="x")
    assert info.num_frames == 1
    assert clip.frames is not None
    if suffix != "jpg":
        assert np.abs(clip.frames.frames_THWC[2].astype(int) - picture).max() <= (8 if suffix == "webp" else 0)


def test_facts_are_json(sample: Sample) -> None:
    facts = json.loads(json.dumps(describe(probe(sample("h264-mp4-ntsc")))))
    assert facts["average_rate"] == "30000/1001"
    assert len(facts["frame_pts_seconds"]) == facts["num_frames"] == 75


def test_the_title_is_the_containers(tmp_path: Path) -> None:
    encode_video(tmp_path / "t.mp4", moving_pictures(5), 5, title="Une vidéo 視頻")
    assert probe(tmp_path / "t.mp4").title == "Une vidéo 視頻"


def real_clips(folder: str, every: int = 1) -> list[Path]:
    return sorted((real_data() / folder).glob("*.mp4"))[::every]


needs_data = pytest.mark.skipif(not real_data().is_dir(), reason="real clips are not here (TIDEGATE_DATA)")


def assert_real_clip(ffprobe: str, path: Path) -> None:
    info = assert_same_as_ffprobe(ffprobe, path)
    stream = asked(ffprobe, path, "-select_streams", "V:0", "-show_streams")["streams"][0]
    assert info.duration_seconds == pytest.approx(float(stream["duration"]), abs=1e-3)
    whole = float(asked(ffprobe, path, "-show_format")["format"]["duration"])
    assert info.content_span.duration_seconds == pytest.approx(whole, abs=0.03)


@needs_data
@pytest.mark.parametrize("path", real_clips("copies"), ids=lambda path: path.stem)
def test_real_copies_equal_ffprobe(ffprobe: str, path: Path) -> None:
    assert_real_clip(ffprobe, path)


@needs_data
@pytest.mark.parametrize("path", real_clips("fights", every=11), ids=lambda path: path.stem)
def test_real_fights_equal_ffprobe(ffprobe: str, path: Path) -> None:
    assert_real_clip(ffprobe, path)


@needs_data
@pytest.mark.long
@pytest.mark.parametrize("path", real_clips("fights"), ids=lambda path: path.stem)
def test_all_real_fights_equal_ffprobe(ffprobe: str, path: Path) -> None:
    assert_real_clip(ffprobe, path)


@needs_data
@pytest.mark.parametrize(
    "path", [*real_clips("copies", every=7), *real_clips("fights", every=40)], ids=lambda p: p.stem
)
def test_real_frames_equal_decoding_the_whole_file(path: Path) -> None:
    from test_media_frames import picks, some_instants

    from tidegate.media import read_frames

    instants = some_instants(path, 5)
    info = probe(path)
    wanted = picks(info.frame_pts_seconds, instants)
    batch = read_frames(path, instants)
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            for place in np.flatnonzero(wanted == number):
                np.testing.assert_array_equal(batch.frames_THWC[place], frame.to_ndarray(format="rgb24"))
                assert batch.pts_seconds[place] == pytest.approx(frame.time, abs=1e-9)
    assert number + 1 == info.num_frames


def test_names_that_are_not_utf8_and_wrong_extensions_work(tmp_path: Path, sample: Sample) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9\xff.txt"
    shutil.copy(sample("h264-mp4"), name)
    assert probe(name).path.endswith("caf\\xe9\\xff.txt")
    assert probe(os.fsdecode(name)).num_frames == 75
