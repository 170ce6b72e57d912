"""What a person looks at and listens to: frames, waveform, sound and texts of one clip, and its score under each probe.

Enters: manifest entries. Leaves: ``Shown`` values with everything inside as data, small enough for a page: pictures of
160 pixels, sound at 8 kHz and 8 bits. A clip that does not decode is shown with the reason.
"""

from __future__ import annotations

import base64
import io
import wave
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tidegate.corpus.manifest import Entry
from tidegate.errors import MediaError
from tidegate.media import DecoderPool, waveform_envelope
from tidegate.report.waveform import WaveformDrawing, draw_waveform
from tidegate.types import AudioChunk, Clip, ClipRequest, Span

__all__ = ["Shown", "show"]

_EDGE, _FRAMES, _RATE, _SECONDS = 160, 6, 8000, 8.0


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One clip for a page."""

    pictures: tuple[tuple[float, str], ...]
    """(seconds, data URI)."""
    waveform: WaveformDrawing | None
    sound: str | None
    """Data URI of a WAV."""
    texts: tuple[tuple[str, str, str], ...]
    """(kind, text, language)."""
    reason: str
    """Why there is nothing to see; empty otherwise."""


def show(entries: Mapping[str, Entry], wanted: list[str], *, workers: int = 2) -> dict[str, Shown]:
    """Clips by id; ids that are not among the entries are left out."""
    request = ClipRequest(num_frames=_FRAMES, exact=True, long_edge_pixels=_EDGE, max_audio_seconds=_SECONDS)
    found = {}
    with DecoderPool(workers=workers) as pool:
        for name in dict.fromkeys(wanted):
            entry = entries.get(name)
            if entry is not None:
                found[name] = _shown(pool, entry, request)
    return found


def _shown(pool: DecoderPool, entry: Entry, request: ClipRequest) -> Shown:
    texts = tuple((text.kind, text.text[:300], text.language or "") for text in entry.texts)
    try:
        _, clip = pool.read_clip(entry.path, request, video_id=entry.video_id, texts=entry.texts, context=entry.context)
    except MediaError as error:
        return Shown(pictures=(), waveform=None, sound=None, texts=texts, reason=f"{error.code}: {error}")
    return Shown(pictures=_pictures(clip), waveform=_waveform(clip), sound=_sound(clip.audio), texts=texts, reason="")


def _pictures(clip: Clip) -> tuple[tuple[float, str], ...]:
    if clip.frames is None:
        return ()
    uris = []
    for frame, pts_seconds in zip(clip.frames.frames_THWC, clip.frames.pts_seconds, strict=True):
        picture, buffer = Image.fromarray(frame), io.BytesIO()
        picture.thumbnail((_EDGE, _EDGE))
        picture.save(buffer, "JPEG", quality=70)
        uris.append((float(pts_seconds), "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()))
    return tuple(uris)


def _waveform(clip: Clip) -> WaveformDrawing | None:
    if clip.audio is None or not len(clip.audio.samples):
        return None
    envelope = [(float(low), float(high)) for low, high in waveform_envelope(clip.audio, 200)]
    instants = [] if clip.frames is None else clip.frames.pts_seconds.tolist()
    start = clip.audio.start_seconds
    return draw_waveform(envelope, Span(start, start + clip.audio.duration_seconds), instants_seconds=instants)


def _sound(audio: AudioChunk | None) -> str | None:
    """The sound, twice as coarse in time and 8 bits deep."""
    if audio is None or not len(audio.samples):
        return None
    step = max(1, audio.sample_rate_hz // _RATE)
    kept = audio.samples[: len(audio.samples) // step * step].reshape(-1, step).mean(axis=1)
    levels = np.clip(kept * 127 + 128, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(audio.sample_rate_hz // step)
        file.writeframes(levels.tobytes())
    return "data:audio/wav;base64," + base64.b64encode(buffer.getvalue()).decode()
