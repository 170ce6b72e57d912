"""What parent and worker of ``DecoderPool`` say to each other.

Enters: requests and results. Leaves: length-prefixed msgpack headers, followed by raw pixels and samples.
Why this method: the worker has read hostile bytes, so the parent takes nothing from it but numbers, strings and arrays
of a size it has checked; no pickle. msgspec checks the type of every field on arrival.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np

from tidegate import errors
from tidegate.media.clip import ReadMedia
from tidegate.media.info import MediaInfo
from tidegate.media.limits import Limits
from tidegate.types import AudioChunk, ClipRequest, FrameBatch

__all__ = [
    "LENGTH",
    "MAX_HEADER_BYTES",
    "READY",
    "Failure",
    "Job",
    "Success",
    "buffers",
    "decode_job",
    "decode_reply",
    "encode",
]

LENGTH = struct.Struct("<Q")
READY = b"READY\n"
MAX_HEADER_BYTES = 2**30


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One video to read; ``request`` None asks for the probe alone."""

    path: bytes
    limits: Limits
    request: ClipRequest | None = None


class Failure(msgspec.Struct, frozen=True, kw_only=True, tag="failure"):
    """A typed error of the worker, by its code."""

    code: str
    message: str
    is_last: bool = False
    """The worker ends after this reply: its memory is not what it was."""

    def error(self) -> errors.MediaError:
        """The exception to raise in the parent."""
        classes = {kind.code: kind for kind in errors.MediaError.__subclasses__()}
        return classes.get(self.code, errors.DecoderCrashed)(self.message)


class Success(msgspec.Struct, frozen=True, kw_only=True, tag="success"):
    """Facts, and the sizes of the pixels, frame times and samples that follow the header."""

    info: MediaInfo
    frames_shape: tuple[int, int, int, int] | None = None
    num_samples: int | None = None
    sample_rate_hz: int = 0
    audio_start_seconds: float = 0.0

    @classmethod
    def of(cls, media: ReadMedia) -> Success:
        """The header of a result."""
        frames, audio = media.frames, media.audio
        return cls(
            info=media.info,
            frames_shape=None if frames is None else frames.frames_THWC.shape,
            num_samples=None if audio is None else len(audio.samples),
            sample_rate_hz=0 if audio is None else audio.sample_rate_hz,
            audio_start_seconds=0.0 if audio is None else audio.start_seconds,
        )

    def receive(self, read_into: Callable[[memoryview], None], max_bytes: int) -> ReadMedia:
        """The result, its arrays filled by ``read_into``; sizes that do not fit are a ``ValueError``."""
        frames = audio = None
        if self.frames_shape is not None:
            if min(self.frames_shape) < 0 or np.prod(self.frames_shape, dtype=object) > max_bytes:
                raise ValueError(f"expected frames within {max_bytes} bytes, got {self.frames_shape}")
            pixels, pts = np.empty(self.frames_shape, np.uint8), np.empty(self.frames_shape[0], np.float64)
            read_into(_view(pixels))
            read_into(_view(pts))
            frames = FrameBatch(pixels, pts)
        if self.num_samples is not None:
            if not 0 <= self.num_samples * 4 <= max_bytes:
                raise ValueError(f"expected audio within {max_bytes} bytes, got {self.num_samples} samples")
            samples = np.empty(self.num_samples, np.float32)
            read_into(_view(samples))
            audio = AudioChunk(samples, self.sample_rate_hz, self.audio_start_seconds)
        return ReadMedia(info=self.info, frames=frames, audio=audio)


def buffers(media: ReadMedia) -> list[memoryview]:
    """The raw bytes that follow the header of a result."""
    arrays = [] if media.frames is None else [media.frames.frames_THWC, media.frames.pts_seconds]
    arrays += [] if media.audio is None else [media.audio.samples]
    return [_view(np.ascontiguousarray(array)) for array in arrays]


def _view(array: np.ndarray[Any, Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def encode(message: Job | Failure | Success) -> bytes:
    """The message with its length before it."""
    body = msgspec.msgpack.encode(message, enc_hook=_to_wire)
    return LENGTH.pack(len(body)) + body


def decode_job(body: bytes) -> Job:
    """A request, validated."""
    return _JOBS.decode(body)


def decode_reply(body: bytes) -> Failure | Success:
    """A reply's header, validated; ``msgspec.MsgspecError`` on anything else."""
    reply: Failure | Success = _REPLIES.decode(body)
    return reply


def _to_wire(value: Any) -> Any:
    if isinstance(value, Fraction):
        return [value.numerator, value.denominator]
    if isinstance(value, np.ndarray):
        return value.astype("<f8").tobytes()
    raise NotImplementedError(f"expected a Fraction or an array, got {type(value)}")


def _from_wire(kind: type, value: Any) -> Any:
    if kind is Fraction:
        numerator, denominator = value
        return Fraction(int(numerator), int(denominator))
    return np.frombuffer(bytes(value), "<f8")


# Built once, on import: two threads that let msgspec look at a type for the first time at once crash the process.
_JOBS = msgspec.msgpack.Decoder(Job)
_REPLIES = msgspec.msgpack.Decoder(Failure | Success, dec_hook=_from_wire)
