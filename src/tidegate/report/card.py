"""One outcome record as the report shows it.

Enters: ``Outcome.to_dict()`` and the evidence folder. Leaves: a :class:`Card` of plain strings and numbers. All texts
are untrusted; the template escapes them, and pictures are embedded as data only if they really are JPEG files inside
the evidence folder.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidegate.report.waveform import WaveformDrawing, draw_waveform
from tidegate.types import Span

__all__ = ["Card", "Picture", "interest", "make_card"]

_ORDER = {"removed": 0, "failed": 1, "ignored": 2, "remained": 3}
_MAX_PICTURE_BYTES = 200_000
_JPEG_MAGIC = b"\xff\xd8\xff"


@dataclass(frozen=True)
class Picture:
    """A sampled frame: its time and, when stored, the JPEG as a data URI."""

    pts_seconds: float
    data_uri: str | None


@dataclass(frozen=True, kw_only=True)
class Card:
    """What one entry of the report shows."""

    video_id: str
    name: str
    path: str
    status: str
    reason: str
    error: str | None
    decision: Mapping[str, Any] | None
    scores: Sequence[Mapping[str, Any]]
    routes: Sequence[Mapping[str, Any]]
    duration_seconds: float | None
    cost_seconds: float
    region: str | None
    views: int | None
    pictures: tuple[Picture, ...]
    waveform: WaveformDrawing | None
    speech_seconds: float
    loud_seconds: float
    texts: Sequence[Mapping[str, Any]]
    facts: Mapping[str, Any]
    notes: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def search_text(self) -> str:
        """Lower-case text that the page's search box looks in."""
        return " ".join(
            [self.name, self.status, self.reason, self.region or "", *(t["text"] for t in self.texts)]
        ).lower()


def interest(outcome: Mapping[str, Any]) -> tuple[int, float]:
    """Sort key: removed first, then failed, ignored, remained; inside each the higher score first."""
    return _ORDER[outcome["status"]], -(outcome.get("score") or 0.0)


def make_card(outcome: Mapping[str, Any], evidence_dir: Path | None, *, embed_pictures: bool = True) -> Card:
    """Build the card of one outcome; ``embed_pictures=False`` keeps the times and leaves the JPEGs out."""
    found = _by_kind(outcome.get("observations") or ())
    context = outcome.get("context") or {}
    pictures = _pictures(outcome, found, evidence_dir if embed_pictures else None)
    speech, loud = _spans(found.get("speech")), _spans(found.get("loudness"))
    return Card(
        video_id=outcome["video_id"],
        name=Path(outcome["path"]).name or outcome["path"],
        path=outcome["path"],
        status=outcome["status"],
        reason=outcome["reason"],
        error=outcome.get("error"),
        decision=outcome.get("decision"),
        scores=outcome.get("scores") or (),
        routes=found.get("route", []),
        duration_seconds=outcome.get("duration_seconds"),
        cost_seconds=outcome.get("cost_seconds") or 0.0,
        region=context.get("region"),
        views=context.get("views"),
        pictures=pictures,
        waveform=_waveform(outcome, found, speech, loud),
        speech_seconds=sum(span.duration_seconds for span in speech),
        loud_seconds=sum(span.duration_seconds for span in loud),
        texts=_flat(found.get("texts")),
        facts=_merged(found.get("media")),
        notes=tuple(str(note) for kind in ("warning", "fallback") for note in found.get(kind, [])),
        missing=tuple(str(value) for value in _flat(found.get("missing_modality"))),
    )


def _by_kind(observations: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for observation in observations:
        found.setdefault(observation["kind"], []).append(observation["value"])
    return found


def _flat(values: Sequence[Any] | None) -> list[Any]:
    """Observation values of one kind as one list; a value may be an item or a list of items."""
    flat: list[Any] = []
    for value in values or ():
        flat.extend(value) if isinstance(value, list | tuple) else flat.append(value)
    return flat


def _merged(values: Sequence[Any] | None) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for value in values or ():
        merged.update(value)
    return merged


def _spans(values: Sequence[Any] | None) -> list[Span]:
    return [Span(float(start), float(end)) for start, end in _flat(values)]


def _pictures(
    outcome: Mapping[str, Any], found: Mapping[str, list[Any]], evidence_dir: Path | None
) -> tuple[Picture, ...]:
    frames = _flat(found.get("frames"))
    if not frames:
        return tuple(Picture(float(pts), None) for pts in outcome.get("frame_pts_seconds") or ())
    return tuple(Picture(float(f["pts_seconds"]), _data_uri(evidence_dir, f.get("jpeg"))) for f in frames)


def _data_uri(evidence_dir: Path | None, relative: str | None) -> str | None:
    if evidence_dir is None or relative is None:
        return None
    root = evidence_dir.resolve()
    path = (root / relative).resolve()
    if not path.is_relative_to(root) or not path.is_file() or path.stat().st_size > _MAX_PICTURE_BYTES:
        return None
    content = path.read_bytes()
    if not content.startswith(_JPEG_MAGIC):
        return None
    return "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")


def _waveform(
    outcome: Mapping[str, Any], found: Mapping[str, list[Any]], speech: list[Span], loud: list[Span]
) -> WaveformDrawing | None:
    stored = _merged(found.get("waveform"))
    if not stored.get("bins"):
        return None
    start = float(stored.get("start_seconds", 0.0))
    duration = float(stored.get("duration_seconds") or outcome.get("duration_seconds") or 0.0)
    audio = Span(start, start + duration)
    instants = [float(pts) for pts in outcome.get("frame_pts_seconds") or ()]
    end = max([audio.end_seconds, *instants])
    axis = Span(min([audio.start_seconds, *instants]), end)
    return draw_waveform(stored["bins"], axis, speech=speech, loud=loud, instants_seconds=instants, audio=audio)
