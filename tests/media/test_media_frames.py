"""Decoding against its slow definition: decode the whole file in order and pick."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media_samples import RECIPES, Recipe, moving_pictures, write

from tidegate.errors import CorruptMedia, LimitExceeded
from tidegate.media import Limits, encode_video, probe, read_clip, read_frames, uniform_instants
from tidegate.types import ClipRequest

Sample = Callable[[str], Path]


def whole_file(path: Path) -> tuple[np.ndarray, list[float | None]]:
    """Every frame, decoded in order by plain PyAV with one thread; upright by ``np.rot90``."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        frames = list(container.decode(stream))
        turned = [np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90) for frame in frames]
        return np.stack(turned), [frame.time for frame in frames]


def some_instants(path: Path, count: int = 12) -> np.ndarray:
    info = probe(path)
    rng = np.random.default_rng(7)
    anywhere = rng.uniform(info.span.start_seconds - 0.2, info.span.end_seconds + 0.2, count)
    return np.sort(np.concatenate([anywhere, rng.choice(info.frame_pts_seconds, 4), info.frame_pts_seconds[[0, -1]]]))


def picks(pts_seconds: np.ndarray, instants: np.ndarray) -> np.ndarray:
    """The definition: the last frame with pts <= t, the first frame for earlier t."""
    return np.array([max([i for i, pts in enumerate(pts_seconds) if pts <= t], default=0) for t in instants])


@pytest.mark.parametrize("name", RECIPES)
def test_exact_frames_equal_those_of_decoding_the_whole_file(sample: Sample, name: str) -> None:
    path = sample(name)
    instants = some_instants(path)
    frames, _ = whole_file(path)
    pts = probe(path).frame_pts_seconds
    assert len(pts) == len(frames) == RECIPES[name].count

    batch = read_frames(path, instants)

    wanted = picks(pts, instants)
    np.testing.assert_array_equal(batch.pts_seconds, pts[wanted])
    np.testing.assert_array_equal(batch.frames_THWC, frames[wanted])


@pytest.mark.parametrize("name", RECIPES)
def test_each_single_frame_equals_its_place_in_the_whole_file(sample: Sample, name: str) -> None:
    path = sample(name)
    frames, _ = whole_file(path)
    pts = probe(path).frame_pts_seconds
    for number in np.random.default_rng(3).choice(len(pts), 5, replace=False):
        batch = read_frames(path, [pts[number]])
        np.testing.assert_array_equal(batch.frames_THWC[0], frames[number])


@pytest.mark.parametrize("name", RECIPES)
def test_approximate_frames_are_the_keyframes_at_or_before(sample: Sample, name: str) -> None:
    path = sample(name)
    info, instants = probe(path), some_instants(path)
    frames, _ = whole_file(path)
    pts, keys = info.frame_pts_seconds, info.keyframe_pts_seconds

    batch = read_frames(path, instants, exact=False)

    shown = pts[picks(pts, instants)]
    expected = [max((key for key in keys if key <= time), default=time) for time in shown]
    np.testing.assert_array_equal(batch.pts_seconds, expected)
    np.testing.assert_array_equal(batch.frames_THWC, frames[np.searchsorted(pts, expected)])


@pytest.mark.parametrize("name", ["h264-mp4", "h264-mkv-open-gop", "h264-mp4-pyramid", "vp9-webm", "h265-mp4"])
def test_frame_times_are_those_that_the_decoder_gives(sample: Sample, name: str) -> None:
    _, times = whole_file(sample(name))
    np.testing.assert_allclose(probe(sample(name)).frame_pts_seconds, times, atol=1e-9)


JUMPED = ["h264-mp4", "h264-mkv-open-gop", "h265-mp4", "av1-mp4", "h264-ts", "h264-ts-interlaced", "h264-flv"]


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("name", JUMPED)
def test_reading_few_frames_decodes_by_jumps_and_not_in_order(
    sample: Sample, name: str, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("decoded in order")

    monkeypatch.setattr("tidegate.media.frames.decode_in_order", refuse)
    path = sample(name)
    assert len(read_frames(path, some_instants(path), exact=exact)) == 18


def test_a_gradually_refreshed_stream_is_not_trusted_at_its_recovery_points(sample: Sample) -> None:
    path = sample("h264-mp4-intra-refresh")
    frames, _ = whole_file(path)
    pts = probe(path).frame_pts_seconds
    assert len(probe(path).keyframe_pts_seconds) > 1
    np.testing.assert_array_equal(read_frames(path, pts).frames_THWC, frames)
    for number in (20, 45, 74):
        np.testing.assert_array_equal(read_frames(path, [pts[number]]).frames_THWC[0], frames[number])


def test_long_edge_shrinks_and_never_enlarges(sample: Sample) -> None:
    path = sample("h264-mp4")
    assert read_frames(path, [0.5], long_edge_pixels=48).frames_THWC.shape == (1, 32, 48, 3)
    assert read_frames(path, [0.5], long_edge_pixels=500).frames_THWC.shape == (1, 64, 96, 3)
    rotated = read_frames(sample("h264-mp4-rotated"), [0.5], long_edge_pixels=48)
    assert rotated.frames_THWC.shape == (1, 48, 32, 3)


def test_shrinking_is_area_averaging_and_repeats_exactly(sample: Sample) -> None:
    path = sample("h264-mp4")
    full = read_frames(path, [0.5]).frames_THWC[0].astype(float)
    small = read_frames(path, [0.5], long_edge_pixels=48).frames_THWC[0]
    averaged = full.reshape(32, 2, 48, 2, 3).mean((1, 3))
    assert np.abs(small - averaged).mean() < 4  # the mean is taken in YUV; single pixels instead of means are 7 away
    np.testing.assert_array_equal(small, read_frames(path, [0.5], long_edge_pixels=48).frames_THWC[0])


def test_no_instants_give_an_empty_batch(sample: Sample) -> None:
    assert read_frames(sample("h264-mp4"), []).frames_THWC.shape == (0, 64, 96, 3)


@pytest.mark.parametrize("instants", [[1.0, 0.5], [np.nan], [[0.0]]])
def test_instants_that_make_no_sense_are_refused(sample: Sample, instants: list[float]) -> None:
    with pytest.raises(ValueError, match="ascending"):
        read_frames(sample("h264-mp4"), instants)


def test_colours_survive_encoding_and_decoding(tmp_path: Path) -> None:
    colour = np.array([200, 30, 60], np.uint8)
    encode_video(tmp_path / "red.mp4", np.tile(colour, (5, 32, 32, 1)), 10, crf=1)
    frame = read_frames(tmp_path / "red.mp4", [0.2]).frames_THWC[0]
    assert np.abs(frame.astype(int) - colour).max() <= 3


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 5), (1, 64)])
def test_tiny_pictures_work(tmp_path: Path, size: tuple[int, int]) -> None:
    height, width = size
    recipe = Recipe(codec="ffv1", suffix="mkv", pixel_format="bgr0", count=4, width=width, height=height)
    path = write(tmp_path / "tiny.mkv", recipe)
    info, clip = read_clip(path, ClipRequest(num_frames=2, long_edge_pixels=32), video_id="tiny")
    assert (info.width, info.height) == (width, height)
    assert clip.frames is not None
    assert len(clip.frames) == 2


def test_more_pixels_than_allowed_are_refused_before_decoding(sample: Sample) -> None:
    with pytest.raises(LimitExceeded, match=r"max_pixels=1000 .* 96x64"):
        read_frames(sample("h264-mp4"), [0.5], limits=Limits(max_pixels=1000))


def test_more_frames_than_fit_in_memory_are_refused(sample: Sample) -> None:
    with pytest.raises(LimitExceeded, match="max_memory_bytes"):
        read_frames(sample("h264-mp4"), np.linspace(0, 2, 60), limits=Limits(max_memory_bytes=10**6))


def zero_packets(source: Path, target: Path, start: float, end: float) -> Path:
    """A copy in which the video packets between two shares of the file are filled with zeros; times stay."""
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        spots = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size and packet.pos]
    for position, size in spots[int(start * len(spots)) : int(end * len(spots))]:
        data[position : position + size] = bytes(size)
    target.write_bytes(data)
    return target


def test_a_few_undecodable_frames_are_replaced_and_told(tmp_path: Path) -> None:
    path = tmp_path / "whole.mp4"
    encode_video(path, moving_pictures(80), 20, gop=4)
    broken = zero_packets(path, tmp_path / "broken.mp4", 0.6, 0.8)
    info, clip = read_clip(broken, ClipRequest(num_frames=8), video_id="x")
    assert any("wanted frames do not decode" in warning for warning in info.warnings)
    assert clip.frames is not None
    wanted = info.frame_pts_seconds[picks(info.frame_pts_seconds, uniform_instants(info, 8))]
    differs = clip.frames.pts_seconds != wanted
    assert 0 < differs.sum() <= 4
    assert np.all(clip.frames.pts_seconds[differs] < wanted[differs])


def test_mostly_undecodable_video_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "whole.mp4"
    encode_video(path, moving_pictures(80), 20, gop=4)
    broken = zero_packets(path, tmp_path / "broken.mp4", 0.2, 1.0)
    with pytest.raises(CorruptMedia, match="at least half of 8 wanted frames"):
        read_clip(broken, ClipRequest(num_frames=8), video_id="x")


def trimmed(source: Path, target: Path, seconds: Fraction) -> Path:
    """A copy whose edit list hides the first seconds: their packets are there and are not shown."""
    with (
        av.open(str(source)) as container,
        av.open(str(target), "w", options={"avoid_negative_ts": "disabled", "use_editlist": "1"}) as output,
    ):
        video = container.streams.video[0]
        stream = output.add_stream_from_template(video)
        shift = int(seconds / video.time_base)
        for packet in container.demux(video):
            if packet.dts is not None and packet.pts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                output.mux(packet)
    return target


def test_frames_that_an_edit_list_hides_are_decoded_and_not_shown(tmp_path: Path, sample: Sample) -> None:
    path = trimmed(sample("h264-mp4"), tmp_path / "trimmed.mp4", Fraction(1, 5))
    info = probe(path)
    frames, times = whole_file(path)
    assert len(frames) == info.num_frames == 69
    np.testing.assert_allclose(info.frame_pts_seconds, times, atol=1e-9)
    assert info.span.start_seconds == pytest.approx(0.0, abs=0.04)
    assert all(key in info.frame_pts_seconds for key in info.keyframe_pts_seconds)
    instants = some_instants(path)
    wanted = picks(info.frame_pts_seconds, instants)
    np.testing.assert_array_equal(read_frames(path, instants).frames_THWC, frames[wanted])
    approximate = read_frames(path, instants, exact=False)
    np.testing.assert_array_equal(
        approximate.frames_THWC, frames[np.searchsorted(info.frame_pts_seconds, approximate.pts_seconds)]
    )


def test_threads_do_not_change_pixels(sample: Sample) -> None:
    path = sample("h264-mp4-pyramid")
    every = probe(path).frame_pts_seconds
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        container.streams.video[0].thread_count = 4
        threaded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    np.testing.assert_array_equal(read_frames(path, every).frames_THWC, threaded)
