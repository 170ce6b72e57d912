"""Small real files of many kinds, made by PyAV's own encoders: what the media tests read."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

ROOT = Path(__file__).parents[2]
RATE = Fraction(30)
_TICKS = 90_000


def moving_pictures(count: int, width: int = 96, height: int = 64, seed: int = 0) -> np.ndarray:
    """Textured pictures in which every frame differs: a drifting gradient, a moving square, some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    texture = rng.integers(0, 40, (height, width, 3))
    frames = np.empty((count, height, width, 3), np.uint8)
    for t in range(count):
        base = np.stack([x * 2 + 3 * t, y * 2 + 5 * t, (x + y) * 2 - 2 * t], -1) % 200
        frames[t] = np.roll(base + texture, t, axis=1)
        left = (t * 3) % max(1, width - 16)
        frames[t, height // 4 : height // 4 + 12, left : left + 12] = rng.integers(0, 255, 3)
    return frames


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to make one file."""

    codec: str = "libx264"
    suffix: str = "mp4"
    format: str | None = None
    count: int = 75
    width: int = 96
    height: int = 64
    rate: Fraction = RATE
    pixel_format: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)
    muxer_options: dict[str, str] = field(default_factory=dict)
    gop: int | None = 12
    b_frames: int | None = None
    pts: Sequence[int] | None = None
    """Ticks of 1/90000 s for a variable rate; None for an even grid."""
    start_seconds: Fraction = Fraction(0)
    audio: tuple[str, int, str] | None = None
    """(codec, rate, layout)"""
    rotation: int = 0
    interlaced: bool = False


def write(path: Path, recipe: Recipe) -> Path:
    """Make the file."""
    audio = recipe.audio
    with av.open(str(path), "w", format=recipe.format, options=recipe.muxer_options) as container:
        repeatable = {"x264-params": "mbtree=0"} if recipe.codec == "libx264" else {}
        options = {"threads": "1", **repeatable, **recipe.options}
        stream = container.add_stream(recipe.codec, rate=recipe.rate, options=options)
        stream.width, stream.height, stream.pix_fmt = recipe.width, recipe.height, recipe.pixel_format
        context = stream.codec_context
        context.time_base = Fraction(1, _TICKS) if recipe.pts is not None else 1 / recipe.rate
        if recipe.gop:
            context.gop_size = recipe.gop
        if recipe.b_frames is not None:
            context.max_b_frames = recipe.b_frames
        if recipe.rotation:
            stream.set_display_rotation(recipe.rotation)
        sound = None if audio is None else container.add_stream(audio[0], rate=audio[1], layout=audio[2])
        pictures = moving_pictures(recipe.count, recipe.width, recipe.height)
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=recipe.pixel_format)
            frame.time_base = context.time_base
            ticks = recipe.pts[index] if recipe.pts is not None else index
            frame.pts = ticks + int(recipe.start_seconds / context.time_base)
            container.mux(stream.encode(frame))
        if sound is not None:
            _write_tone(container, sound, float(recipe.count / recipe.rate), recipe.start_seconds)
        container.mux(stream.encode(None))
    return path


def _write_tone(container, sound, seconds: float, start: Fraction) -> None:
    context = sound.codec_context
    rate = context.sample_rate
    channels = len(context.layout.channels)
    time = np.arange(int(seconds * rate)) / rate
    tone = (0.4 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    for offset in range(0, len(tone), 1024):
        part = np.tile(tone[None, offset : offset + 1024], (channels, 1))
        frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=context.layout.name)
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        frame.pts = offset + int(start * rate)
        container.mux(sound.encode(frame))
    container.mux(sound.encode(None))


def variable_pts(count: int, seed: int = 0) -> list[int]:
    """Irregular times, in ticks of 1/90000 s."""
    rng = random.Random(seed)
    times = [0]
    while len(times) < count:
        times.append(times[-1] + rng.choice([1500, 3000, 3003, 6000, 20_000]))
    return times


AAC = ("aac", 48_000, "stereo")
RECIPES: dict[str, Recipe] = {
    "h264-mp4": Recipe(audio=AAC),
    "h264-mp4-one-keyframe": Recipe(gop=250),
    "h264-mp4-no-b": Recipe(b_frames=0, options={"bf": "0"}),
    "h264-mp4-pyramid": Recipe(options={"bf": "5", "b_pyramid": "normal", "refs": "5"}, gop=25),
    "h264-mp4-open-gop": Recipe(options={"x264-params": "open-gop=1:bframes=4:keyint=15:min-keyint=15"}),
    "h264-mp4-intra-refresh": Recipe(options={"x264-params": "intra-refresh=1:keyint=20"}),
    "h264-mp4-all-intra": Recipe(gop=1),
    "h264-mp4-ntsc": Recipe(rate=Fraction(30_000, 1001)),
    "h264-mp4-variable": Recipe(pts=variable_pts(75), rate=RATE),
    "h264-mp4-late-start": Recipe(start_seconds=Fraction(5, 2), audio=AAC),
    "h264-mp4-rotated": Recipe(rotation=90),
    "h264-mp4-fragmented": Recipe(muxer_options={"movflags": "frag_keyframe+empty_moov"}),
    "h264-mkv": Recipe(suffix="mkv", audio=("libopus", 48_000, "stereo"), rate=Fraction(30_000, 1001)),
    "h264-mkv-open-gop": Recipe(suffix="mkv", options={"x264-params": "open-gop=1:bframes=4:keyint=15:min-keyint=15"}),
    "h264-ts": Recipe(suffix="ts", format="mpegts", audio=AAC),
    "h264-ts-open-gop": Recipe(
        suffix="ts", format="mpegts", options={"x264-params": "open-gop=1:bframes=4:keyint=15:min-keyint=15"}
    ),
    "h264-ts-interlaced": Recipe(
        suffix="ts", format="mpegts", options={"x264-params": "interlaced=1:keyint=12"}, height=96, width=128
    ),
    "h264-flv": Recipe(suffix="flv", audio=("aac", 44_100, "mono")),
    "h264-avi": Recipe(suffix="avi", options={"bf": "2"}),
    "h264-raw": Recipe(suffix="h264", format="h264", options={"bf": "2"}),
    "h265-mp4": Recipe(codec="libx265", options={"x265-params": "log-level=none:keyint=15:pools=none:frame-threads=1"}),
    "h265-mkv-open-gop": Recipe(
        codec="libx265",
        suffix="mkv",
        options={"x265-params": "log-level=none:keyint=15:open-gop=1:bframes=4:pools=none:frame-threads=1"},
    ),
    "mpeg4-avi": Recipe(codec="mpeg4", suffix="avi", audio=("libmp3lame", 44_100, "stereo")),
    "mpeg4-avi-b": Recipe(codec="mpeg4", suffix="avi", options={"bf": "2"}, b_frames=2),
    "mpeg4-mp4-b": Recipe(codec="mpeg4", options={"bf": "2"}, b_frames=2),
    "mpeg2-ts-b": Recipe(codec="mpeg2video", suffix="ts", format="mpegts", b_frames=2, audio=("mp2", 48_000, "stereo")),
    "mpeg2-ps-b": Recipe(codec="mpeg2video", suffix="mpg", format="mpeg", b_frames=2, audio=("mp2", 48_000, "stereo")),
    "vp8-webm-hidden-frames": Recipe(
        codec="libvpx",
        suffix="webm",
        options={"auto-alt-ref": "1", "lag-in-frames": "16", "arnr-maxframes": "7", "deadline": "good", "b": "200k"},
        audio=("libopus", 48_000, "mono"),
    ),
    "vp9-webm": Recipe(
        codec="libvpx-vp9", suffix="webm", options={"deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "1"}
    ),
    "av1-mp4": Recipe(
        codec="libsvtav1", options={"preset": "12", "svtav1-params": "lp=1"}, width=128, height=96, count=45
    ),
    "mjpeg-mov": Recipe(codec="mjpeg", suffix="mov", pixel_format="yuvj420p", count=30),
    "ffv1-mkv": Recipe(codec="ffv1", suffix="mkv", count=30),
    "gif": Recipe(codec="gif", suffix="gif", pixel_format="rgb8", count=20, rate=Fraction(10)),
}


def real_data() -> Path:
    """Folder of the real clips: TIDEGATE_DATA, or ../shared/data beside the repository; may not exist."""
    return Path(os.environ.get("TIDEGATE_DATA", ROOT.parent / "shared" / "data"))
