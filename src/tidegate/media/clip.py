"""One video as a stage wants to see it.

Enters: a path and a ``ClipRequest``. Leaves: ``MediaInfo`` and a ``Clip``. A modality that the file has and that
could not be read is None in the clip and named in ``MediaInfo.warnings``; nothing is dropped in silence.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from tidegate.errors import CorruptMedia
from tidegate.media.audio import read_track
from tidegate.media.container import PathArg
from tidegate.media.frames import read_probed_frames
from tidegate.media.info import MediaInfo
from tidegate.media.limits import Deadline, Limits
from tidegate.media.probe import probe_timeline
from tidegate.media.sampling import uniform_instants
from tidegate.types import AudioChunk, Clip, ClipRequest, FrameBatch, TextSpan, VideoContext

__all__ = ["ReadMedia", "read_clip", "read_media"]

_MODEL_RATE_HZ = 16_000


@dataclass(frozen=True, kw_only=True)
class ReadMedia:
    """What of a clip comes from the file."""

    info: MediaInfo
    frames: FrameBatch | None
    audio: AudioChunk | None

    def clip(self, video_id: str, texts: tuple[TextSpan, ...], context: VideoContext) -> Clip:
        """The clip, with what the platform knows of the video."""
        return Clip(
            video_id=video_id,
            span=self.info.span,
            frames=self.frames,
            audio=self.audio,
            texts=texts,
            context=context,
        )


def read_clip(
    path: PathArg,
    request: ClipRequest,
    *,
    video_id: str,
    texts: tuple[TextSpan, ...] = (),
    context: VideoContext = VideoContext(),  # noqa: B008  (frozen)
    limits: Limits = Limits(),  # noqa: B008  (frozen)
) -> tuple[MediaInfo, Clip]:
    """Read what ``request`` asks for: frames at uniform instants, and audio from the track's start.

    ``clip.audio`` is None when the file has no audio track, when the request wants none, or when the track does not
    decode; the last is told by a warning in the returned info that starts with ``audio undecodable``. Runs in this
    process; untrusted files belong in ``DecoderPool``. Raises as ``probe`` does.
    """
    media = read_media(path, request, limits)
    return media.info, media.clip(video_id, texts, context)


def read_media(path: PathArg, request: ClipRequest, limits: Limits) -> ReadMedia:
    """``read_clip`` without the platform's knowledge."""
    deadline = Deadline(limits)
    probed = probe_timeline(path, limits, deadline)
    frames, warnings = None, list(probed.info.warnings)
    if request.num_frames:
        read = read_probed_frames(
            path,
            probed,
            uniform_instants(probed.info, request.num_frames),
            exact=request.exact,
            long_edge_pixels=request.long_edge_pixels,
            limits=limits,
            deadline=deadline,
        )
        frames = read.batch
        warnings += read.warnings
    audio = _audio(path, request, limits, deadline, warnings) if request.audio and probed.info.audio_tracks else None
    return ReadMedia(info=dataclasses.replace(probed.info, warnings=tuple(warnings)), frames=frames, audio=audio)


def _audio(
    path: PathArg, request: ClipRequest, limits: Limits, deadline: Deadline, warnings: list[str]
) -> AudioChunk | None:
    """The audio, or None with a warning added: a broken track must not hide pictures that can be judged."""
    try:
        read = read_track(
            path,
            max_seconds=request.max_audio_seconds,
            sample_rate_hz=_MODEL_RATE_HZ,
            limits=limits,
            deadline=deadline,
        )
    except CorruptMedia as error:
        reason = str(error)
        warnings.append(reason if reason.startswith("audio undecodable") else f"audio undecodable: {reason}")
        return None
    if read is None:
        return None
    warnings += read.warnings
    return read.chunk
