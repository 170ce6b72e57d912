"""The facts that a probe finds. Times are seconds on the file's own timeline, what ffprobe prints as ``pts_time``."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.types import Span

__all__ = ["AudioTrack", "MediaInfo", "describe"]


@dataclass(frozen=True, kw_only=True)
class AudioTrack:
    """One audio track of a file."""

    index: int
    """Stream index in the container."""
    codec: str
    """FFmpeg's name; ``unknown`` when no decoder has one."""
    sample_rate_hz: int
    channels: int
    language: str | None
    """As tagged (usually ISO 639-2), None when untagged or ``und``."""
    is_default: bool
    span: Span | None
    """Seconds from the first packet to the end of the last; None for a track without packets."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MediaInfo:
    """What a video file holds, from its content. Times: seconds on the file's own timeline (ffprobe's ``pts_time``)."""

    path: str
    """As given; bytes that are not UTF-8 appear as ``\\xNN``."""
    container: str
    """FFmpeg's name of the demuxer, e.g. ``mov,mp4,m4a,3gp,3g2,mj2``."""
    duration_seconds: float
    """Length of the video content: end of the last frame minus start of the first."""
    span: Span
    """The video content."""
    num_frames: int
    average_rate: Fraction
    """Frames a second, exact; 0 when one frame has no duration."""
    is_variable_rate: bool
    """Whether some frame lies more than one tick of the time base off an even grid."""
    width: int
    """Pixels, after rotation, before any stretch by ``sample_aspect_ratio``."""
    height: int
    rotation_degrees: int
    """Clockwise turn that displays the stored picture upright: 0, 90, 180 or 270. Already applied to frames."""
    is_mirrored: bool
    """Whether the display matrix also mirrors the picture. Already applied to frames."""
    sample_aspect_ratio: Fraction
    """Width of a displayed pixel over its height, as stored (before rotation)."""
    frame_pts_seconds: npt.NDArray[np.float64]
    """Presentation times of all frames, ascending."""
    keyframe_pts_seconds: npt.NDArray[np.float64]
    audio_tracks: tuple[AudioTrack, ...]
    codec: str
    pixel_format: str
    title: str | None
    """The container's title tag."""
    duration_seconds_from_header: float | None
    """What the header claims for the whole file; never used for decoding."""
    warnings: tuple[str, ...]
    """What is unusual: header and content disagree, truncation, unread tracks, undecodable parts."""

    @property
    def content_span(self) -> Span:
        """Video and all audio tracks together: ffprobe's ``format`` duration, where sound may outlast the picture."""
        spans = [self.span, *(track.span for track in self.audio_tracks if track.span is not None)]
        return Span(min(span.start_seconds for span in spans), max(span.end_seconds for span in spans))

    @property
    def audio_track(self) -> AudioTrack | None:
        """The track that ``read_audio`` reads: the first one marked default, else the first; None without audio."""
        return next((track for track in self.audio_tracks if track.is_default), next(iter(self.audio_tracks), None))


def describe(info: MediaInfo) -> dict[str, Any]:
    """The facts as JSON-able values: fractions as ``30000/1001``, spans as [start, end], arrays as lists."""
    return {name: _plain(value) for name, value in vars(info).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Fraction):
        return str(value)
    if isinstance(value, Span):
        return [value.start_seconds, value.end_seconds]
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, AudioTrack):
        return {name: _plain(part) for name, part in vars(value).items()}
    return [_plain(part) for part in value] if isinstance(value, tuple) else value
