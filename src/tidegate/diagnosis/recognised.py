"""``Transcripts``: what a speech recogniser makes of each video, kept on disk so that none is heard twice.

Enters: entries and a recogniser. Leaves: the transcript as a text of the clip, or None (no audio, nothing said, not
decodable). The file is named after the recogniser and the length it hears: another one starts another file.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from tidegate.corpus.manifest import Entry
from tidegate.errors import MediaError
from tidegate.media import DecoderPool
from tidegate.types import ClipRequest, TextSpan

if TYPE_CHECKING:
    from tidegate.models.recogniser import Recogniser

__all__ = ["Transcripts"]

_FORMAT = "transcripts-1"


class Transcripts:
    """Texts by video, of one recogniser. ``seconds``: how much of each video's audio is heard."""

    def __init__(self, recogniser: Recogniser, pool: DecoderPool, cache: Path, *, seconds: float) -> None:
        self._recogniser, self._pool = recogniser, pool
        self._request = ClipRequest(num_frames=0, audio=True, max_audio_seconds=seconds)
        said = f"{_FORMAT}|{recogniser.identity}|{seconds!r}"
        self.identity = hashlib.sha256(said.encode()).hexdigest()[:16]
        self._file = cache / f"transcripts-{self.identity}.jsonl"
        self._known = _read(self._file)

    def of(self, entry: Entry) -> TextSpan | None:
        """The transcript in the language that the platform names, if it names one."""
        if entry.video_id not in self._known:
            text = self._recognised(entry)
            self._known[entry.video_id] = text
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"id": entry.video_id, "text": text}) + "\n")
        text = self._known[entry.video_id]
        return TextSpan("transcript", text, entry.language) if text else None

    def _recognised(self, entry: Entry) -> str:
        try:
            clip = self._pool.read_clip(entry.path, self._request, video_id=entry.video_id)[1]
        except MediaError:
            return ""
        heard = clip.audio is not None and len(clip.audio.samples)
        return self._recogniser(clip.audio) if heard and clip.audio is not None else ""


def _read(file: Path) -> dict[str, str]:
    """Whole lines of an earlier run; what a crash left of the last one is cut off."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = file.read_text(encoding="utf-8").split("\n") if file.exists() else []
    if lines and lines[-1]:
        file.write_text("\n".join([*lines[:-1], ""]), encoding="utf-8")
    values = [json.loads(line) for line in lines[:-1]]
    return {value["id"]: value["text"] for value in values}
