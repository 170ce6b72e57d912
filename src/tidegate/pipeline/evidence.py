"""Evidence: what people are shown of a verdict, kept so that a report needs no decoding.

Enters: the clip that the deciding stage saw. Leaves: observations (``frames`` with the times, ``texts``) and, in a
store, small JPEG pictures below ``evidence/<video id>/``. Paths in observations are relative to the evidence
folder.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from PIL import Image

from tidegate.types import Clip, Observation

__all__ = ["LONG_EDGE_PIXELS", "EvidenceStore", "seen"]

LONG_EDGE_PIXELS = 240
_JPEG_QUALITY = 70
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MAX_SHOWN_CHARACTERS = 2000


def seen(clip: Clip, store: EvidenceStore | None) -> tuple[Observation, ...]:
    """What a stage saw of a video: frames with their times (and pictures, if there is a store) and texts."""
    observations = []
    if clip.frames is not None and len(clip.frames):
        pictures = [None] * len(clip.frames) if store is None else store.put(clip)
        frames = [
            {"pts_seconds": float(pts), "jpeg": picture}
            for pts, picture in zip(clip.frames.pts_seconds, pictures, strict=True)
        ]
        observations.append(Observation(kind="frames", value=frames, producer="pipeline.evidence"))
    if clip.texts:
        texts = [_shown(clip, n) for n in range(len(clip.texts))]
        observations.append(Observation(kind="texts", value=texts, producer="pipeline.evidence"))
    return tuple(observations)


def _shown(clip: Clip, number: int) -> dict[str, Any]:
    text = clip.texts[number]
    return {"kind": text.kind, "text": text.text[:MAX_SHOWN_CHARACTERS], "language": text.language}


class EvidenceStore:
    """A folder of pictures, one folder a video."""

    def __init__(self, folder: Path, *, long_edge_pixels: int = LONG_EDGE_PIXELS) -> None:
        self.folder = folder
        self._edge = long_edge_pixels

    def put(self, clip: Clip) -> list[str]:
        """Store the clip's frames as JPEG; their paths relative to the folder."""
        if clip.frames is None:
            return []
        name = _folder_name(clip.video_id)
        home = self.folder / name
        home.mkdir(parents=True, exist_ok=True)
        paths = [f"{name}/{number:03d}.jpg" for number in range(len(clip.frames))]
        for path, frame in zip(paths, clip.frames.frames_THWC, strict=True):
            picture = Image.fromarray(frame)
            picture.thumbnail((self._edge, self._edge), Image.Resampling.BILINEAR, reducing_gap=2.0)
            picture.save(self.folder / path, "JPEG", quality=_JPEG_QUALITY)
        for stale in set(home.glob("*.jpg")) - {self.folder / path for path in paths}:
            stale.unlink()
        return paths


def _folder_name(video_id: str) -> str:
    """The id itself where it is a plain name, else a hash: an id from a manifest must not lead out of the folder."""
    if _SAFE_NAME.fullmatch(video_id):
        return video_id
    return "id-" + hashlib.blake2b(video_id.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
