"""Facts of a video from its content: every packet is read, the header's claims are only compared.

Enters: a path. Leaves: ``MediaInfo`` (times of all frames, sizes, tracks, warnings), and for the decoder a
``Timeline``.
Why this method: headers lie (durations, frame counts, rates), and packet times are what decoding will give back;
reading packets without decoding them costs a few microseconds each. One frame is decoded, for the display matrix.
Where packets carry no usable times (raw streams, AVI with B-frames) the whole stream is decoded once for them.
Source: ffprobe's ``-show_packets``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np

from tidegate.errors import CorruptMedia, LimitExceeded
from tidegate.media.boxes import movie_header_seconds
from tidegate.media.container import PathArg, open_media, shown
from tidegate.media.info import MediaInfo
from tidegate.media.limits import Deadline, Limits
from tidegate.media.scan import Scan, choose_video, decode_in_order, scan_packets
from tidegate.media.timeline import Timeline, ordered_timeline, packet_timeline
from tidegate.types import Span

__all__ = ["Probed", "probe", "probe_timeline"]


@dataclass(frozen=True, kw_only=True)
class Probed:
    """A probe's results: facts for callers; frame table and stream choice for the decoder."""

    info: MediaInfo
    timeline: Timeline
    scan: Scan


def probe(path: PathArg, limits: Limits = Limits()) -> MediaInfo:  # noqa: B008  (frozen)
    """Read what a video file holds. Runs in this process; untrusted files belong in ``DecoderPool``.

    Raises ``SourceUnreadable``, ``NotMedia``, ``NoVideoStream``, ``CorruptMedia``, ``LimitExceeded``.
    """
    return probe_timeline(path, limits, Deadline(limits)).info


def probe_timeline(path: PathArg, limits: Limits, deadline: Deadline) -> Probed:
    """``probe`` with the frame table that decoding uses."""
    with open_media(path, limits, deadline) as container:
        scan = scan_packets(container, limits, deadline)
        title = container.metadata.get("title") or None
        header_seconds = movie_header_seconds(path, container.format.name)
        if header_seconds is None and container.duration is not None:
            header_seconds = container.duration / av.time_base
        format_name = container.format.name
    timeline = packet_timeline(scan.packets, scan.time_base, scan.header_rate)
    warnings = list(scan.warnings)
    if timeline is None:
        warnings.append("frame times come from decoding the whole stream: its packets carry none that can be trusted")
        timeline = _decoded_timeline(path, scan, limits, deadline)
    start, end = (float(second) for second in timeline.seconds(np.array([timeline.pts[0], timeline.end])))
    span = Span(start, end)
    _check_durations(span, scan, limits)
    warnings += _disagreements(scan, header_seconds, span)
    width, height = scan.orientation.size(scan.width, scan.height)
    info = MediaInfo(
        path=shown(path),
        container=format_name,
        duration_seconds=span.duration_seconds,
        span=span,
        num_frames=len(timeline.pts),
        average_rate=timeline.average_rate,
        is_variable_rate=timeline.is_variable_rate,
        width=width,
        height=height,
        rotation_degrees=scan.orientation.rotation_degrees,
        is_mirrored=scan.orientation.is_mirrored,
        sample_aspect_ratio=scan.sample_aspect_ratio,
        frame_pts_seconds=timeline.seconds(timeline.pts),
        keyframe_pts_seconds=timeline.seconds(timeline.shown_key_pts),
        audio_tracks=scan.audio_tracks,
        codec=scan.codec,
        pixel_format=scan.pixel_format,
        title=title,
        duration_seconds_from_header=header_seconds,
        warnings=tuple(warnings),
    )
    return Probed(info=info, timeline=timeline, scan=scan)


def _decoded_timeline(path: PathArg, scan: Scan, limits: Limits, deadline: Deadline) -> Timeline:
    times: list[int | None] = []
    keys: list[int] = []
    with open_media(path, limits, deadline) as container:
        for frame in decode_in_order(container, choose_video(container), deadline):
            times.append(frame.pts if frame.pts is not None else frame.dts)
            if frame.key_frame:
                keys.append(len(times) - 1)
    if not times:
        raise CorruptMedia(f"expected {scan.codec} video that decodes, got no frame")
    return ordered_timeline(times, keys or [0], scan.time_base, scan.header_rate)


def _check_durations(video: Span, scan: Scan, limits: Limits) -> None:
    spans = [("video", video), *(("audio", track.span) for track in scan.audio_tracks)]
    for kind, span in spans:
        if span is not None and span.duration_seconds > limits.max_duration_seconds:
            came = f"{span.duration_seconds:.3f} of {kind}"
            raise LimitExceeded(f"expected max_duration_seconds={limits.max_duration_seconds:g}, got {came}")


def _disagreements(scan: Scan, header_seconds: float | None, video: Span) -> Iterator[str]:
    spans = [video, *(track.span for track in scan.audio_tracks if track.span is not None)]
    end = max(span.end_seconds for span in spans)
    content = end - min(span.start_seconds for span in spans)
    off = 0.0 if header_seconds is None else min(abs(header_seconds - content), abs(header_seconds - end))
    if off > max(0.5, 0.05 * content):  # some headers count from zero, some from the first frame
        yield f"header says {header_seconds:.3f} s, content lasts {content:.3f} s"
    if scan.num_frames_from_header > scan.num_packets:
        yield f"truncated: the header lists {scan.num_frames_from_header} frames, the file holds {scan.num_packets}"
