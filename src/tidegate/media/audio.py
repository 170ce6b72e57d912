"""The sound of a video as mono float32 on the video's own timeline.

Enters: a path. Leaves: an ``AudioChunk``, or None where the file has no audio track.
Why this method: swresample mixes down and resamples in one pass; where packets are missing or do not decode, silence of
the right length takes their place, so that a sound's position in the samples is its time in the video.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet

from tidegate.errors import CorruptMedia
from tidegate.media.container import PathArg, demux, open_media
from tidegate.media.limits import Deadline, Limits
from tidegate.media.scan import choose_audio
from tidegate.types import AudioChunk

__all__ = ["ReadAudio", "read_audio", "read_track"]

_GAP_SECONDS = 0.05
_AVERAGE = {"rematrix_maxval": "1.0"}  # channels are averaged: two equal ones keep their level
_MAX_PADDING_SECONDS = 0.15


@dataclass(frozen=True, kw_only=True)
class ReadAudio:
    """Sound, and what was unusual about decoding it."""

    chunk: AudioChunk
    warnings: tuple[str, ...]


def read_audio(
    path: PathArg,
    *,
    max_seconds: float | None = None,
    sample_rate_hz: int = 16_000,
    limits: Limits = Limits(),  # noqa: B008  (frozen)
) -> AudioChunk | None:
    """Mono float32 in [-1, 1] of the chosen track (the first one marked default, else the first); None without a track.

    At most ``max_seconds`` from the track's start. ``start_seconds`` is the first sample's time on the file's timeline.
    Runs in this process. Raises ``SourceUnreadable``, ``NotMedia``, ``LimitExceeded``; ``CorruptMedia`` when the
    file has a track and nothing of it decodes.
    """
    deadline = Deadline(limits)
    read = read_track(path, max_seconds=max_seconds, sample_rate_hz=sample_rate_hz, limits=limits, deadline=deadline)
    return None if read is None else read.chunk


def read_track(
    path: PathArg, *, max_seconds: float | None, sample_rate_hz: int, limits: Limits, deadline: Deadline
) -> ReadAudio | None:
    """``read_audio`` with its warnings."""
    ceiling = limits.max_duration_seconds if max_seconds is None else min(max_seconds, limits.max_duration_seconds)
    with open_media(path, limits, deadline) as container:
        stream = choose_audio(container)
        if stream is None:
            return None
        if stream.codec_context is None:
            raise CorruptMedia("audio undecodable: expected a codec that FFmpeg decodes, got an unknown one")
        tape = _Tape(sample_rate_hz, round(ceiling * sample_rate_hz))
        damage = _record(container, stream, tape, deadline)
    return tape.finish(damage)


def _record(container: InputContainer, stream: AudioStream, tape: _Tape, deadline: Deadline) -> tuple[int, int]:
    """Decode onto the tape until it is full; returns (packets that do not decode, packets)."""
    lost = total = 0
    for packet in demux(container, stream):
        deadline.check()
        total += packet.size > 0
        tape.expect(packet)
        try:
            for frame in stream.codec_context.decode(packet if packet.size else None):
                tape.add(frame)
        except av.error.MemoryError:
            raise
        except (av.error.FFmpegError, ValueError):  # ValueError: PyAV on sample layouts that swresample refuses
            lost += packet.size > 0
        if tape.is_full:
            break
    return lost, total


class _Tape:
    """Resampled sound that grows; positions follow presentation times."""

    def __init__(self, sample_rate_hz: int, max_samples: int) -> None:
        self._rate, self._max = sample_rate_hz, max_samples
        self._parts: list[npt.NDArray[np.float32]] = []
        self._length = 0
        self._origin: float | None = None
        self._next_seconds = 0.0
        self._resampler: av.AudioResampler | None = None
        self._source: tuple[int, str, str] | None = None
        self._jumps_back = 0
        self._end_seconds = -math.inf

    @property
    def is_full(self) -> bool:
        return self._length >= self._max

    def expect(self, packet: Packet[AudioStream]) -> None:
        """Note where the container says that sound ends: the last packet may be padded beyond it."""
        if packet.pts is not None and packet.duration and packet.time_base:
            self._end_seconds = max(self._end_seconds, float((packet.pts + packet.duration) * packet.time_base))

    def add(self, frame: av.AudioFrame) -> None:
        if frame.sample_rate <= 0:
            raise ValueError(f"expected a positive sample rate, got {frame.sample_rate}")
        start = self._next_seconds if frame.time is None else frame.time
        if self._origin is None:
            self._origin = self._next_seconds = start
        source = (frame.sample_rate, frame.layout.name, frame.format.name)
        gap = start - self._next_seconds
        if source != self._source or gap > _GAP_SECONDS:
            self._flush()
            self._source = source
            self._resampler = av.AudioResampler(format="flt", layout="mono", rate=self._rate, options=_AVERAGE)
        if gap > _GAP_SECONDS:
            self._pad(round((start - self._origin) * self._rate))
        self._jumps_back += gap < -_GAP_SECONDS
        self._next_seconds = start + frame.samples / frame.sample_rate
        frame.pts = None
        if self._resampler is not None:
            self._append(self._resampler.resample(frame))

    def _append(self, frames: Iterable[av.AudioFrame]) -> None:
        for frame in frames:
            samples = np.nan_to_num(frame.to_ndarray().reshape(-1), nan=0.0, posinf=1.0, neginf=-1.0)
            self._parts.append(np.clip(samples, -1.0, 1.0).astype(np.float32))
            self._length += len(samples)

    def _flush(self) -> None:
        if self._resampler is not None:
            resampler, self._resampler = self._resampler, None
            with suppress(av.error.ArgumentError):  # nothing usable was ever put in
                self._append(resampler.resample(None))

    def _pad(self, position: int) -> None:
        missing = min(position, self._max) - self._length
        if missing > 0:
            self._parts.append(np.zeros(missing, np.float32))
            self._length += missing

    def _padded_end(self) -> int:
        """Number of samples without the encoder's padding, which is never longer than a packet."""
        if self._origin is None or not math.isfinite(self._end_seconds):
            return self._length
        end = round((self._end_seconds - self._origin) * self._rate)
        return end if 0 < self._length - end <= _MAX_PADDING_SECONDS * self._rate else self._length

    def finish(self, damage: tuple[int, int]) -> ReadAudio:
        """What was recorded; ``CorruptMedia`` when that is nothing."""
        if not self.is_full:
            self._flush()
        lost, total = damage
        if not self._length or self._origin is None:
            raise CorruptMedia(f"audio undecodable: expected sound in {total} packets, none of them decodes")
        warnings = [f"audio: {lost} of {total} packets do not decode"] if lost else []
        warnings += [f"audio: times go back {self._jumps_back} times"] if self._jumps_back else []
        samples = np.concatenate(self._parts)[: min(self._max, self._padded_end())]
        return ReadAudio(chunk=AudioChunk(samples, self._rate, self._origin), warnings=tuple(warnings))
