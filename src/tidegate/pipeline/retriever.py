"""Retriever: from an item to what a stage may see of it, with everything that had to be said on the way.

Enters: an ``Item`` and a stage's ``ClipRequest``. Leaves: the clip, the facts of the media, and observations: probe
facts, warnings, speech and loud stretches, the waveform, missing modalities, and what was not read. Decoding
happens in the decoder's own processes; a video that cannot be read is a typed error, never an empty clip.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tidegate.media import MediaInfo, loud_spans, speech_spans, waveform_envelope
from tidegate.pipeline.item import Item
from tidegate.types import AudioChunk, Clip, ClipRequest, Observation, Span, TextSpan, VideoContext

__all__ = ["Decoder", "Known", "OnScreenText", "Retrieved", "Retriever", "listen"]

WAVEFORM_BINS = 200
_PRODUCER = "pipeline.retriever"
_NOT_READ = "on-screen text not read: no reader was asked for (--ocr)"


class Decoder(Protocol):
    """What the retriever asks of ``media``: ``DecoderPool`` in production."""

    def read_clip(
        self, path: Path, request: ClipRequest, *, video_id: str, texts: tuple[TextSpan, ...], context: VideoContext
    ) -> tuple[MediaInfo, Clip]:
        """Facts of the file, and the frames and audio that were asked for."""
        ...


class OnScreenText(Protocol):
    """A reader of text in frames."""

    @property
    def request(self) -> ClipRequest:
        """The frames it wants to see."""
        ...

    def __call__(self, clip: Clip) -> tuple[tuple[TextSpan, ...], tuple[Observation, ...]]:
        """The texts it found, and what it cannot read."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Known:
    """What the first retrieval finds out and later ones need not: it holds no pixels and no samples."""

    info: MediaInfo
    texts: tuple[TextSpan, ...]
    facts: tuple[Observation, ...]
    """Of the file: probe facts, warnings, texts that were not read."""
    audio_facts: tuple[Observation, ...]
    """Of the audio: waveform, speech, loud stretches."""
    audio_seconds: float
    """How much audio the audio's facts rest on."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Retrieved:
    """What a stage is shown of an item, and what is known of it."""

    clip: Clip
    known: Known

    @property
    def num_bytes(self) -> int:
        """Memory that the decoded clip holds."""
        frames = 0 if self.clip.frames is None else self.clip.frames.frames_THWC.nbytes
        return frames + (0 if self.clip.audio is None else self.clip.audio.samples.nbytes)


class Retriever:
    """Reads clips through a decoder and adds what else is known. Safe to call from many threads."""

    def __init__(self, decoder: Decoder, *, on_screen_text: OnScreenText | None = None) -> None:
        self._decoder = decoder
        self._on_screen_text = on_screen_text

    def __call__(self, item: Item, request: ClipRequest, known: Known | None = None) -> Retrieved:
        """What a stage with this ``request`` sees; ``known`` is what an earlier retrieval found out."""
        texts = item.texts if known is None else known.texts
        info, clip = self._decoder.read_clip(
            item.path, request, video_id=item.video_id, texts=texts, context=item.context
        )
        if known is None:
            texts, notes = self._texts(item, info)
            facts = (_media_facts(info), *_warnings(info), *item.observations, *notes)
            known = Known(info=info, texts=texts, facts=facts, audio_facts=(), audio_seconds=0.0)
            clip = dataclasses.replace(clip, texts=texts)
        else:
            new = tuple(warning for warning in _warnings(info) if warning not in known.facts)
            known = dataclasses.replace(known, facts=(*known.facts, *new))
        return Retrieved(clip=clip, known=known)

    def _texts(self, item: Item, info: MediaInfo) -> tuple[tuple[TextSpan, ...], tuple[Observation, ...]]:
        texts = item.texts
        if info.title and not any(text.kind == "title" for text in texts):
            texts = (TextSpan("title", info.title, item.context.language), *texts)
        if self._on_screen_text is None:
            return texts, (Observation(kind="fallback", value=_NOT_READ, producer=_PRODUCER),)
        _, clip = self._decoder.read_clip(
            item.path, self._on_screen_text.request, video_id=item.video_id, texts=(), context=item.context
        )
        found, notes = self._on_screen_text(clip)
        return (*texts, *found), notes


def listen(retrieved: Retrieved) -> Known:
    """What is known, with waveform, speech and loud stretches, unless as much audio was heard before."""
    audio, known = retrieved.clip.audio, retrieved.known
    if audio is None or audio.duration_seconds <= known.audio_seconds:
        return known
    return dataclasses.replace(known, audio_facts=_audio_facts(audio), audio_seconds=audio.duration_seconds)


def _media_facts(info: MediaInfo) -> Observation:
    track = info.audio_track
    value: dict[str, Any] = {
        "container": info.container,
        "video_codec": info.codec,
        "width": info.width,
        "height": info.height,
        "rotation_degrees": info.rotation_degrees,
        "num_frames": info.num_frames,
        "average_rate": str(info.average_rate),
        "is_variable_rate": info.is_variable_rate,
        "start_seconds": info.span.start_seconds,
        "duration_seconds": info.duration_seconds,
        "audio_tracks": len(info.audio_tracks),
        "audio_codec": None if track is None else track.codec,
    }
    return Observation(kind="media", value=value, producer="media.probe")


def _warnings(info: MediaInfo) -> tuple[Observation, ...]:
    return tuple(Observation(kind="warning", value=text, producer="media.probe") for text in info.warnings)


def _audio_facts(audio: AudioChunk) -> tuple[Observation, ...]:
    envelope = waveform_envelope(audio, min(WAVEFORM_BINS, len(audio.samples)))
    waveform = {
        "bins": np.round(envelope.astype(np.float64), 4).tolist(),
        "start_seconds": audio.start_seconds,
        "duration_seconds": audio.duration_seconds,
    }
    return (
        Observation(kind="waveform", value=waveform, producer="media.audio"),
        Observation(kind="speech", value=_pairs(speech_spans(audio)), producer="media.audio"),
        Observation(kind="loudness", value=_pairs(loud_spans(audio)), producer="media.audio"),
    )


def _pairs(spans: Sequence[Span]) -> list[list[float]]:
    return [[round(span.start_seconds, 3), round(span.end_seconds, 3)] for span in spans]
