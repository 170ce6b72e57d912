"""A plan becomes sound.

Enters: a ``VideoPlan``. Leaves: 16 kHz mono samples of the video's length, and when in them speech and the sound
effect lie. Loudness varies by video and not by label; loud music covers the speech in videos with that noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tidegate.corpus.synthetic.lexicon import lexicon
from tidegate.corpus.synthetic.plan import VideoPlan, rng_of
from tidegate.corpus.synthetic.sounds import ambience, music, sound
from tidegate.corpus.synthetic.speech import SAMPLE_RATE_HZ, speak
from tidegate.types import AudioChunk

__all__ = ["Soundtrack", "mix"]

_Samples = npt.NDArray[np.float32]
_LEAD_SECONDS = 0.25


@dataclass(frozen=True, kw_only=True, eq=False)
class Soundtrack:
    """The audio of one video and what lies where in it."""

    audio: AudioChunk
    speech_span: list[float] | None
    sound_span: list[float] | None


def mix(plan: VideoPlan) -> Soundtrack:
    """Speak, play and mix what the plan says."""
    rng = rng_of(plan.seed, "video", plan.index, 2)
    total = round(plan.duration_seconds * SAMPLE_RATE_HZ)
    gain = float(rng.uniform(0.35, 0.8))
    out = gain * float(rng.uniform(0.01, 0.06)) * ambience(rng, plan.duration_seconds + 0.1)[:total]
    if plan.music:
        level = rng.uniform(0.6, 0.9) if plan.noise.loud_music else rng.uniform(0.08, 0.3)
        out = out + gain * float(level) * music(rng, plan.duration_seconds + 0.1)[:total]
    speech_span = sound_span = None
    if plan.speech is not None:
        out, speech_span = _laid(out, gain * _spoken(plan), rng)
    if plan.sound is not None:
        effect = sound(plan.sound, rng) * float(rng.uniform(0.45, 1.0)) * gain
        out, sound_span = _laid(out, effect, rng)
    peak = float(np.abs(out).max())
    samples = np.ascontiguousarray(out / max(1.0, peak / 0.98), dtype=np.float32)
    return Soundtrack(
        audio=AudioChunk(samples=samples, sample_rate_hz=SAMPLE_RATE_HZ), speech_span=speech_span, sound_span=sound_span
    )


def _spoken(plan: VideoPlan) -> _Samples:
    """The phrase, faster where it would not fit."""
    assert plan.speech is not None
    voice = lexicon()[plan.speech.language].voice
    samples = speak(plan.speech.text, voice, plan.source.voice)
    room = plan.duration_seconds - 2 * _LEAD_SECONDS
    if len(samples) > room * SAMPLE_RATE_HZ:
        pace = round(plan.source.voice.words_per_minute * len(samples) / (room * SAMPLE_RATE_HZ) * 1.1)
        samples = speak(plan.speech.text, voice, replace(plan.source.voice, words_per_minute=pace))
    return samples / max(1e-6, float(np.abs(samples).max()))


def _laid(track: _Samples, piece: _Samples, rng: np.random.Generator) -> tuple[_Samples, list[float]]:
    """``piece`` added at a random place of ``track``, and its span in seconds."""
    piece = piece[: len(track)]
    latest = max(0, len(track) - len(piece) - int(_LEAD_SECONDS * SAMPLE_RATE_HZ / 2))
    first = int(rng.integers(0, latest + 1))
    out = track.copy()
    out[first : first + len(piece)] += piece
    return out, [round(first / SAMPLE_RATE_HZ, 3), round((first + len(piece)) / SAMPLE_RATE_HZ, 3)]
