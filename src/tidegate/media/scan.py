"""One pass over the packets of an open file.

Enters: an open container. Leaves: ``Scan``: packet times of the chosen video stream, audio tracks, stored picture
facts.
Why this method: see ``probe``. Which stream: the first one marked default, else the first; cover art is not video.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import av.error
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition, Stream
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from tidegate.errors import CorruptMedia, LimitExceeded, NoVideoStream
from tidegate.media.container import demux
from tidegate.media.info import AudioTrack
from tidegate.media.limits import Deadline, Limits
from tidegate.media.orientation import Orientation, orientation_of
from tidegate.media.timeline import VideoPackets
from tidegate.types import Span

__all__ = ["Scan", "check_pixels", "choose_audio", "choose_video", "decode_in_order", "scan_packets"]

_FIRST_FRAME_TRIES = 8
_PACKETS_PER_CHECK = 256
_VP8_SHOW_FRAME = 0x10


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What one pass over the packets found."""

    packets: VideoPackets
    num_packets: int
    num_frames_from_header: int
    time_base: Fraction
    header_rate: Fraction | None
    codec: str
    pixel_format: str
    width: int
    """Stored, before rotation."""
    height: int
    sample_aspect_ratio: Fraction
    orientation: Orientation
    audio_tracks: tuple[AudioTrack, ...]
    warnings: tuple[str, ...]


@dataclass
class _Reach:
    """First start and last end of an audio track's packets, in ticks."""

    start: int | None = None
    end: int = 0

    def add(self, packet: Packet[Stream]) -> None:
        pts = packet.pts if packet.pts is not None else packet.dts
        if pts is None or packet.is_discard:
            return
        self.start = pts if self.start is None else min(self.start, pts)
        self.end = max(self.end, pts + (packet.duration or 0))


@dataclass
class _FirstPicture:
    """The first keyframe that decodes, for facts that only a frame has."""

    tries: int = 0
    frame: av.VideoFrame | None = None

    def offer(self, packet: Packet[Stream], context: VideoCodecContext) -> None:
        if self.frame is not None or self.tries >= _FIRST_FRAME_TRIES or not packet.is_keyframe:
            return
        self.tries += 1
        try:
            frames = [*context.decode(packet), *context.decode(None)]
        except av.error.MemoryError:
            raise
        except av.error.FFmpegError:
            frames = []
        context.flush_buffers()
        self.frame = next(iter(frames), None)


def choose_video(container: InputContainer) -> VideoStream:
    """The video stream that is read: the first one marked default, else the first; cover art does not count."""
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "no stream at all"
        raise NoVideoStream(f"expected a video stream, got {kinds}{_cover(container)}")
    stream = next((stream for stream in streams if stream.disposition & Disposition.default), streams[0])
    if stream.codec_context is None:
        raise CorruptMedia("expected a video codec that FFmpeg decodes, got an unknown one")
    stream.codec_context.thread_count = 1
    return stream


def choose_audio(container: InputContainer) -> AudioStream | None:
    """The audio stream that is read: the first one marked default, else the first; None without any."""
    streams = container.streams.audio
    return next((stream for stream in streams if stream.disposition & Disposition.default), next(iter(streams), None))


def _cover(container: InputContainer) -> str:
    return " (its picture is cover art)" if len(container.streams.video) else ""


def check_pixels(width: int, height: int, limits: Limits) -> None:
    """Raise ``LimitExceeded`` when one picture is too large."""
    if width * height > limits.max_pixels:
        raise LimitExceeded(f"expected max_pixels={limits.max_pixels} in a frame, got {width}x{height}")


def scan_packets(container: InputContainer, limits: Limits, deadline: Deadline) -> Scan:
    """Read every packet of the chosen video stream and of all audio streams."""
    stream = choose_video(container)
    context = stream.codec_context
    check_pixels(context.width, context.height, limits)
    audio = {track.index: _Reach() for track in container.streams.audio}
    for other in container.streams:
        if other.index != stream.index and other.index not in audio:
            other.discard = Discard.all
    packets, picture, warnings = VideoPackets(), _FirstPicture(), []
    watched: list[Stream] = [stream, *container.streams.audio]
    try:
        for count, packet in enumerate(demux(container, *watched)):
            if count % _PACKETS_PER_CHECK == 0:
                deadline.check()
            if packet.size == 0:
                continue
            if count >= limits.max_packets:
                raise LimitExceeded(f"expected max_packets={limits.max_packets}, got more")
            if packet.stream_index == stream.index:
                _add_video(packets, packet, context.name)
                picture.offer(packet, context)
            else:
                audio[packet.stream_index].add(packet)
    except av.error.MemoryError:
        raise
    except av.error.FFmpegError as error:
        warnings.append(f"truncated: reading stopped before the end of the file: {error}")
    if not packets.pts:
        raise CorruptMedia(f"expected packets of {context.name} video, got none")
    tracks = tuple(_audio_track(track, audio[track.index]) for track in container.streams.audio)
    warnings += _unread(container, stream, tracks)
    if picture.frame is None:
        warnings.append("no keyframe near the start decodes; sizes are the header's")
    scan = _summary(stream, packets, picture.frame, tracks, tuple(warnings))
    check_pixels(scan.width, scan.height, limits)
    return scan


def _add_video(packets: VideoPackets, packet: Packet[Stream], codec: str) -> None:
    pts, dts = packet.pts, packet.dts
    if codec == "vp8" and not memoryview(packet)[0] & _VP8_SHOW_FRAME:  # an alternate reference frame, never shown
        return
    if pts is None:
        packets.unusable = True
        pts = dts if dts is not None else 0
    if packet.has_sidedata("new_extradata"):
        packets.unusable = True
    if packet.is_keyframe:
        packets.key_pts.append(pts)
        packets.key_dts.append(dts if dts is not None else pts)
    if packet.is_discard:
        packets.hidden.add(pts)
        return
    packets.pts.append(pts)
    packets.durations.append(packet.duration or 0)


def _summary(
    stream: VideoStream,
    packets: VideoPackets,
    frame: av.VideoFrame | None,
    tracks: tuple[AudioTrack, ...],
    warnings: tuple[str, ...],
) -> Scan:
    context = stream.codec_context
    width, height = (context.width, context.height) if frame is None else (frame.width, frame.height)
    if width * height == 0:
        raise CorruptMedia(f"expected a picture size, got {width}x{height} {context.name}")
    return Scan(
        packets=packets,
        num_packets=len(packets.pts) + len(packets.hidden),
        num_frames_from_header=stream.frames,
        time_base=stream.time_base or Fraction(1, 90_000),
        header_rate=stream.average_rate or stream.guessed_rate or None,
        codec=context.codec.canonical_name,
        pixel_format=(frame.format.name if frame is not None else context.pix_fmt) or "unknown",
        width=width,
        height=height,
        sample_aspect_ratio=stream.sample_aspect_ratio or Fraction(1),
        orientation=Orientation() if frame is None else orientation_of(frame),
        audio_tracks=tracks,
        warnings=warnings,
    )


def _unread(container: InputContainer, stream: VideoStream, tracks: tuple[AudioTrack, ...]) -> Iterator[str]:
    others = sum(not other.disposition & Disposition.attached_pic for other in container.streams.video) - 1
    if others:
        yield f"{others} more video stream(s) not read; stream {stream.index} is"
    if len(tracks) > 1:
        yield f"{len(tracks)} audio tracks; one is read"


def _audio_track(stream: AudioStream, reach: _Reach) -> AudioTrack:
    context = stream.codec_context
    base = stream.time_base or Fraction(1)
    language = stream.language
    return AudioTrack(
        index=stream.index,
        codec="unknown" if context is None else context.codec.canonical_name,
        sample_rate_hz=0 if context is None else context.sample_rate,
        channels=0 if context is None else context.channels,
        language=None if language in {None, "", "und"} else language,
        is_default=bool(stream.disposition & Disposition.default),
        span=None if reach.start is None else Span(float(reach.start * base), float(reach.end * base)),
    )


def decode_in_order(container: InputContainer, stream: VideoStream, deadline: Deadline) -> Iterator[av.VideoFrame]:
    """Every frame that decodes, from the start: the slow definition that all faster reading must equal."""
    for packet in demux(container, stream):
        deadline.check()
        try:
            yield from stream.codec_context.decode(packet if packet.size else None)
        except av.error.MemoryError:
            raise
        except av.error.FFmpegError:
            continue
