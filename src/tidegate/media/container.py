"""Open an untrusted file as media, with nothing else in reach.

Enters: a path. Leaves: an open PyAV container, or a typed error.
Why this method: the file is opened once, checked to be a regular file by its descriptor, and handed to FFmpeg as a
nameless byte stream. So the name decides nothing (a wrong extension works, ``%d`` patterns and ``concat:`` names mean
nothing), only the demuxers listed here may answer (no playlists, no text demuxers, no devices), and no protocol is
allowed, so that a file which refers to other files or to addresses opens none of them.
Source: FFmpeg's ``format_whitelist`` and ``protocol_whitelist`` options.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

import av
import av.error
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

from tidegate.errors import CorruptMedia, LimitExceeded, NotMedia, SourceUnreadable
from tidegate.media.limits import Deadline, Limits

__all__ = ["PathArg", "demux", "open_media", "shown"]

StreamT = TypeVar("StreamT", bound=Stream)
PathArg = str | bytes | os.PathLike[str] | os.PathLike[bytes]

_VIDEO_DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2 matroska,webm avi mpegts mpeg mpegvideo m4v h261 h263 h264 hevc vvc av1 obu ivf vc1 "
    "flv live_flv kux asf asf_o ogg mxf gxf nut nsv rm dv wtv yuv4mpegpipe mjpeg mpjpeg swf dirac cavsvideo avs2 avs3 "
    "r3d pva ty thp bink smk roq flic dhav 4xm amv"
)
_STILL_DEMUXERS = (
    "gif apng webp webp_pipe png_pipe jpeg_pipe jpegxl_pipe jpegxl_anim bmp_pipe tiff_pipe ico jpegls_pipe"
)
_AUDIO_DEMUXERS = (
    "aac ac3 eac3 ac4 aiff amr amrnb amrwb ape au caf dts dtshd dsf flac loas mp3 mpc mpc8 oma qcp tak truehd tta voc "
    "w64 wav wv xwma"
)
_FORMAT_WHITELIST = ",".join(f"{_VIDEO_DEMUXERS} {_STILL_DEMUXERS} {_AUDIO_DEMUXERS}".replace(",", " ").split())
_OPTIONS = {"format_whitelist": _FORMAT_WHITELIST, "protocol_whitelist": "none", "max_streams": "64"}
_READ_BYTES = 1 << 17
_GENERATE_PTS = 0x1

_SIGNATURES = (  # (offset, bytes, name): enough of each to tell broken media from a file that never was media
    (4, b"ftyp", "MP4/QuickTime"),
    (4, b"moov", "MP4/QuickTime"),
    (4, b"mdat", "MP4/QuickTime"),
    (0, b"\x1a\x45\xdf\xa3", "Matroska/WebM"),
    (8, b"AVI ", "AVI"),
    (0, b"FLV\x01", "FLV"),
    (0, b"OggS", "Ogg"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "ASF"),
    (0, b"\x00\x00\x01\xba", "MPEG program stream"),
    (0, b"GIF8", "GIF"),
    (0, b"\x89PNG", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
)


class _Bytes:
    """The nameless byte stream FFmpeg reads; it stops when the deadline passes."""

    def __init__(self, raw: io.FileIO, deadline: Deadline) -> None:
        self._raw, self._deadline = raw, deadline
        self.seek, self.tell = raw.seek, raw.tell

    def read(self, size: int) -> bytes:
        self._deadline.check()
        return self._raw.read(size) or b""


def shown(path: PathArg) -> str:
    """The path as text that can be printed and stored: bytes that are not UTF-8 appear as ``\\xNN``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


@contextmanager
def open_media(path: PathArg, limits: Limits, deadline: Deadline) -> Iterator[InputContainer]:
    """The file as a PyAV container for the length of the block; FFmpeg's errors inside it become ``CorruptMedia``.

    Raises ``SourceUnreadable``, ``NotMedia``, ``CorruptMedia``, ``LimitExceeded``.
    """
    with _open_regular(path, limits) as raw:
        head = raw.read(16)
        raw.seek(0)
        try:
            container = av.open(
                _Bytes(raw, deadline), "r", options=_OPTIONS, metadata_errors="replace", buffer_size=_READ_BYTES
            )
        except av.error.MemoryError as error:
            raise LimitExceeded(f"expected the file to open within the memory limit, got {error}") from error
        except (av.error.FFmpegError, ValueError) as error:
            raise _not_opened(head, error) from error
        container.flags &= ~_GENERATE_PTS  # a guessed time must look missing, not true
        try:
            yield container
        except av.error.MemoryError as error:
            raise LimitExceeded(f"expected decoding to fit the memory limit, got {error}") from error
        except av.error.FFmpegError as error:
            raise CorruptMedia(f"expected streams that decode, got {error}") from error
        finally:
            container.close()


def demux(container: InputContainer, *streams: StreamT) -> Iterator[Packet[StreamT]]:
    """The packets of some streams, to the end of the file.

    A stream that appears on the way is ``CorruptMedia``: what it holds would go unseen.
    """
    try:
        yield from cast("Iterator[Packet[StreamT]]", container.demux(*streams))
    except IndexError as error:  # PyAV's, when FFmpeg adds a stream on the way
        raise CorruptMedia("expected the streams found at the start, got another one midway") from error


def _open_regular(path: PathArg, limits: Limits) -> io.FileIO:
    try:  # O_NONBLOCK: a FIFO without a writer must not hang the open
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise SourceUnreadable(f"expected a readable file, got {getattr(error, 'strerror', None) or error}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SourceUnreadable(f"expected a regular file, got {_kind(status.st_mode)}")
        if status.st_size == 0:
            raise NotMedia("expected media, got an empty file")
        if status.st_size > limits.max_file_bytes:
            raise LimitExceeded(f"expected max_file_bytes={limits.max_file_bytes}, got {status.st_size}")
    except BaseException:
        os.close(descriptor)
        raise
    return io.FileIO(descriptor, "rb")


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def _not_opened(head: bytes, error: Exception) -> NotMedia | CorruptMedia:
    names = [name for offset, magic, name in _SIGNATURES if head[offset : offset + len(magic)] == magic]
    if names:
        return CorruptMedia(f"expected a whole {names[0]} file, got one that does not open (truncated?): {error}")
    return NotMedia(f"expected content of a video container, got {head!r}...")
