"""``Treatment``: what befalls an item between its upload and a stage, and what each probe then shows the stage.

Enters: the clip as its file decodes (damaged, if the treatment damages files), a treatment, a probe. Leaves: the clips
that are scored. A damaged file is damaged under every probe; a pipeline that takes too few frames, or decodes them too
small, is undone by the probes that ask for more of just that. What another reading undoes, ``undone`` says.

Shape legend: T frames.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tidegate.bench.diagnosis_clips.damage import Damage, shrunk
from tidegate.diagnosis.clip_changes import CHANGES, Seen, changed, spread_frames
from tidegate.types import Clip, FrameBatch

__all__ = ["PROBES_OF_CLIPS", "UNTREATED", "Treatment", "undone", "views"]

PROBES_OF_CLIPS = frozenset(CHANGES) | {"retry", "resolution_up"}
"""Probes that a planted clip answers: those of clips, another reading of the file, and decoding at full size."""
_FULL_SIZE = ("resolution_up", "crops")
_WHOLE_SPAN = ("frames_more", "frames_window")
_AS_IT_IS = ("", "resolution_up", "retry")


@dataclass(frozen=True, kw_only=True, eq=False)
class Treatment:
    """What befalls an item."""

    key: str = ""
    """Mechanism and severity: scores are kept under it."""
    damage: Damage | None = None
    """What the file itself suffered."""
    frames: int | None = None
    """Frames that are taken; None: as many as the stage was trained with."""
    beginning: float = 1.0
    """Share of the video, from its start, that frames are taken from."""
    resolution: float = 1.0
    """Share of the size at which frames are decoded."""
    kept_bytes: float = 1.0
    """Share of the file that has arrived."""
    note: str = ""
    """What serving recorded."""


UNTREATED = Treatment()


def undone(treatment: Treatment, probe: str) -> bool:
    """Whether a probe takes the whole treatment back: another reading does where serving made a note of it."""
    return probe == "retry" and treatment.note != ""


def views(seen: Seen, treatment: Treatment, probe: str) -> list[Clip]:
    """What stages see of a decoded file under a treatment and a probe ("": no probe); none if it does not apply."""
    clip = seen.clip
    if probe not in _WHOLE_SPAN:
        clip = _first_part(clip, treatment.beginning)
    if probe not in _FULL_SIZE:
        clip = shrunk(clip, treatment.resolution)
    count = treatment.frames or seen.num_frames
    if probe == "frames_more" and count < seen.num_frames:
        return [spread_frames(clip, seen.num_frames, 2)]
    if probe == "frames_window" and count < 2:
        return []
    return changed(replace(seen, clip=clip, num_frames=count), None if probe in _AS_IT_IS else probe)


def _first_part(clip: Clip, share: float) -> Clip:
    if share >= 1.0 or clip.frames is None or not len(clip.frames):
        return clip
    rows = np.arange(max(1, round(share * len(clip.frames))))
    frames = FrameBatch(frames_THWC=clip.frames.frames_THWC[rows], pts_seconds=clip.frames.pts_seconds[rows])
    return replace(clip, frames=frames)
