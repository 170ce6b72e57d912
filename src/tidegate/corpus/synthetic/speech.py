"""Speech in 33 languages: a phrase goes in, 16 kHz samples come out, the same on every run.

espeak-ng (the library and voices of ``espeakng_loader``; nothing from the system) speaks each phrase in a process of
its own, see ``utterance``: its synthesiser carries states from one utterance to the next, and a fresh process makes
the samples depend on the words and the voice alone. Voices with breath noise read memory that they never wrote and
cannot be made repeatable; they are not offered. espeak-ng is GPL-3 and an optional extra that is loaded at run time.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.signal import resample_poly

from tidegate.corpus.synthetic import utterance
from tidegate.errors import DependencyMissing, TidegateError, UsageError

__all__ = ["SAMPLE_RATE_HZ", "VARIANTS", "Voice", "speak"]

SAMPLE_RATE_HZ = 16_000
VARIANTS = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f4", "anika", "belinda", "linda", "steph", "Annie")
"""Speakers that repeat exactly: measured over 1,500 utterances in shuffled order."""

_PATIENCE_SECONDS = 60.0
"""An utterance takes 20 ms; one that has not come by then never comes."""
_ATTEMPTS = 3
_SPEAKERS = 3
"""Speakers that are tried where espeak-ng crashes."""


class _Silent(Exception):
    """Every attempt hung or crashed."""


@dataclass(frozen=True, kw_only=True)
class Voice:
    """Who speaks, and how."""

    variant: str = "m1"
    """One of ``VARIANTS``."""
    words_per_minute: int = 170
    """80 to 450."""
    pitch: int = 50
    """0 (low) to 100."""
    pitch_range: int = 50
    """0 (monotone) to 100."""


def _loader() -> Any:
    try:
        import espeakng_loader
    except ImportError as error:
        raise DependencyMissing("speech needs espeak-ng: pip install 'tidegate[corpus]'") from error
    return espeakng_loader


def speak(text: str, language_voice: str, voice: Voice) -> npt.NDArray[np.float32]:
    """``text`` spoken by espeak-ng's ``language_voice`` (``en``, ``cmn``) as float32 mono samples at 16 kHz.

    espeak-ng crashes on a few pairs of a speaker and a text, every time (a Vietnamese sentence by one of 15); the next
    speaker of ``VARIANTS`` then takes over, every time.
    """
    place = VARIANTS.index(voice.variant) if voice.variant in VARIANTS else 0
    others = [VARIANTS[(place + step) % len(VARIANTS)] for step in range(1, _SPEAKERS)]
    for variant in (voice.variant, *others):
        try:
            return _spoken_by(text, language_voice, replace(voice, variant=variant))
        except _Silent as error:
            last = error
    raise TidegateError(f"espeak-ng did not speak {text!r} by {_SPEAKERS} speakers: {last}")


def _spoken_by(text: str, language_voice: str, voice: Voice) -> npt.NDArray[np.float32]:
    loader = _loader()
    request = {
        "library": str(loader.get_library_path()),
        "data": str(loader.get_data_path()),
        "voice": f"{language_voice}+{voice.variant}",
        "text": text,
        "words_per_minute": voice.words_per_minute,
        "pitch": voice.pitch,
        "pitch_range": voice.pitch_range,
    }
    return _samples(_spoken(request), text)


def _spoken(request: dict[str, Any]) -> bytes:
    """The utterance's 16-bit samples; a process that hangs or dies by a signal (both happen, rarely) is asked again."""
    command = [sys.executable, "-I", "-S", str(Path(utterance.__file__))]
    ended = ""
    for _ in range(_ATTEMPTS):
        try:
            done = subprocess.run(  # noqa: S603
                command, input=json.dumps(request).encode(), capture_output=True, timeout=_PATIENCE_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            ended = f"no answer within {_PATIENCE_SECONDS:g} s"
            continue
        if done.returncode == utterance.NO_SUCH_VOICE:
            raise UsageError(f"expected a voice of espeak-ng, got {request['voice']!r}")
        if done.returncode == 0:
            return done.stdout
        ended = f"ended with code {done.returncode}: {done.stderr.decode(errors='replace')[-300:]}"
        if done.returncode > 0:
            raise TidegateError(f"espeak-ng {ended}")
    raise _Silent(f"{_ATTEMPTS} attempts, the last: {ended}")


def _samples(pcm: bytes, text: str) -> npt.NDArray[np.float32]:
    raw = np.frombuffer(pcm, np.int16).astype(np.float64) / 32768
    loud = np.flatnonzero(np.abs(raw) > 0.01)
    if not len(loud):
        raise UsageError(f"expected a text that espeak-ng can speak, got {text!r}")
    return np.asarray(resample_poly(raw[loud[0] : loud[-1] + 1], 320, 441), np.float32)
