"""Write short MP4 files: H.264 video and AAC audio, the same bytes' worth of pixels and samples on every run.

Enters: RGB frames, an exact frame rate, optional mono audio. Leaves: an MP4 file at ``path``, complete or not there.
Why this method: libx264 with one thread and FFmpeg's ``bitexact`` flags gives the same stream for the same input on one
build, so that a corpus is reproducible from its seed; colours are tagged and converted as BT.709, the convention of HD
video, so that a decoder which reads the tag gets the colours back. Source: x264 and FFmpeg documentation.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream

from tidegate.errors import UsageError
from tidegate.types import AudioChunk

__all__ = ["encode_video"]

_AAC_SAMPLES = 1024
_H264_BT709 = 1
_REPEATABLE = "mbtree=0"
"""Macroblock-tree rate control gives other bits from run to run on processors with AVX-512 (26 streams of 150 runs)."""
Timed = tuple[Fraction, "list[av.Packet[VideoStream]] | list[av.Packet[AudioStream]]"]
_PixelsHWC = npt.NDArray[np.uint8]


def encode_video(
    path: str | os.PathLike[str],
    frames_THWC: Iterable[_PixelsHWC],
    rate: Fraction | int,
    audio: AudioChunk | None = None,
    *,
    crf: float = 23.0,
    bit_rate: int | None = None,
    preset: str = "veryfast",
    gop: int | None = None,
    b_frames: int | None = None,
    audio_bit_rate: int = 64_000,
    title: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write an MP4 whose frame ``i`` is shown at ``i / rate`` seconds.

    ``frames_THWC``: uint8 RGB frames (an array or any iterable, all of one even height and width). ``rate``: frames a
    second, exact (``Fraction(30000, 1001)``). ``audio``: mono, placed at its ``start_seconds``. ``crf``: x264 quality,
    0 (lossless in YUV) to 51; ignored when ``bit_rate`` (bits a second) is given. ``gop``: most frames between two
    keyframes. ``audio_bit_rate``: bits a second. ``title`` and ``metadata``: container tags.

    Raises ``UsageError`` on no frames, odd or changing sizes, a rate that is not positive.
    """
    rate = Fraction(rate)
    frames = iter(frames_THWC)
    first = next(frames, None)
    if first is None:
        raise UsageError("expected at least one frame, got none")
    if rate <= 0:
        raise UsageError(f"expected a positive frame rate, got {rate}")
    height, width = _even_size(first)
    options = {"threads": "1", "preset": preset, "x264-params": _REPEATABLE} | ({} if bit_rate else {"crf": f"{crf:g}"})
    options |= {} if b_frames is None else {"bf": str(b_frames)}
    part = Path(os.fsdecode(path) + ".part")
    try:
        with part.open("wb") as file, av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
            container.metadata.update({**(metadata or {}), **({} if title is None else {"title": title})})
            video = _add_video(container, rate, (width, height), options=options, bit_rate=bit_rate, gop=gop)
            pictures = _video_packets(video, _chain(first, frames), rate)
            sounds: Iterator[Timed] = iter(())
            if audio is not None:
                sounds = _audio_packets(_add_audio(container, audio, audio_bit_rate), audio)
            for _, packets in heapq.merge(pictures, sounds, key=lambda timed: timed[0]):
                container.mux(packets)
        part.replace(os.fsdecode(path))
    finally:
        part.unlink(missing_ok=True)


def _even_size(frame_HWC: _PixelsHWC) -> tuple[int, int]:
    shape = frame_HWC.shape
    if frame_HWC.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3:
        raise UsageError(f"expected uint8 frames (H, W, 3), got {frame_HWC.dtype} {shape}")
    if shape[0] % 2 or shape[1] % 2 or not shape[0] * shape[1]:
        raise UsageError(f"expected an even height and width (4:2:0 chroma), got {shape[:2]}")
    return shape[0], shape[1]


def _chain(first: _PixelsHWC, rest: Iterator[_PixelsHWC]) -> Iterator[_PixelsHWC]:
    yield first
    for frame_HWC in rest:
        if frame_HWC.shape != first.shape:
            raise UsageError(f"expected every frame to be {first.shape}, got {frame_HWC.shape}")
        yield frame_HWC


def _add_video(
    container: OutputContainer,
    rate: Fraction,
    size: tuple[int, int],
    *,
    options: dict[str, str],
    bit_rate: int | None,
    gop: int | None,
) -> VideoStream:
    stream = container.add_stream("libx264", rate=rate, options=options)
    (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
    context = stream.codec_context
    context.time_base = 1 / rate
    context.thread_count = 1
    context.flags |= av.codec.context.Flags.bitexact
    context.color_range, context.colorspace = int(ColorRange.MPEG), _H264_BT709
    context.color_primaries, context.color_trc = int(ColorPrimaries.BT709), int(ColorTrc.BT709)
    if bit_rate:
        stream.bit_rate = bit_rate
    if gop:
        context.gop_size = gop
    return stream


def _add_audio(container: OutputContainer, audio: AudioChunk, bit_rate: int) -> AudioStream:
    stream = container.add_stream("aac", rate=audio.sample_rate_hz, layout="mono")
    stream.bit_rate = bit_rate
    stream.codec_context.flags |= av.codec.context.Flags.bitexact
    return stream


def _video_packets(stream: VideoStream, frames: Iterator[_PixelsHWC], rate: Fraction) -> Iterator[Timed]:
    seconds = Fraction(0)
    for index, frame_HWC in enumerate(frames):
        seconds = index / rate
        yield seconds, stream.encode(_video_frame(frame_HWC, index, rate))
    yield seconds, stream.encode(None)


def _audio_packets(stream: AudioStream, audio: AudioChunk) -> Iterator[Timed]:
    start = round(audio.start_seconds * audio.sample_rate_hz)
    if start < 0:
        raise UsageError(f"expected audio.start_seconds >= 0, got {audio.start_seconds}")
    samples = np.clip(audio.samples, -1.0, 1.0)
    seconds = Fraction(start, audio.sample_rate_hz)
    for offset in range(0, len(samples), _AAC_SAMPLES):
        part = np.ascontiguousarray(samples[None, offset : offset + _AAC_SAMPLES])
        frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
        frame.sample_rate = audio.sample_rate_hz
        frame.pts, frame.time_base = start + offset, Fraction(1, audio.sample_rate_hz)
        seconds = Fraction(start + offset, audio.sample_rate_hz)
        yield seconds, stream.encode(frame)
    yield seconds, stream.encode(None)


def _video_frame(frame_HWC: _PixelsHWC, index: int, rate: Fraction) -> av.VideoFrame:
    rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
    frame = rgb.reformat(
        format="yuv420p",
        dst_colorspace=int(Colorspace.ITU709),
        dst_color_range=int(ColorRange.MPEG),
        interpolation="BICUBIC",
        threads=1,
    )
    frame.pts, frame.time_base = index, 1 / rate
    return frame
