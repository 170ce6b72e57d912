"""Sounds that are not speech, synthesised: violent ones, what is mistaken for them, music and ambience.

Enters: a name and a random generator. Leaves: float32 mono samples at 16 kHz, peak 1. Why synthesis: every sample is
ours to give away, and the evidence is known; the look-alikes share spectrum or envelope with what they imitate (a
popping balloon is a click like a shot, fireworks boom like a blast), so loudness alone tells nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

from tidegate.corpus.synthetic.speech import SAMPLE_RATE_HZ

__all__ = ["ALARMING", "HARMLESS", "ambience", "music", "sound"]

_Samples = npt.NDArray[np.float64]
_Rng = np.random.Generator


def _time(seconds: float) -> _Samples:
    return np.arange(int(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ


def _low_pass(samples: _Samples, cutoff_hz: float) -> _Samples:
    keep = np.exp(-2 * np.pi * cutoff_hz / SAMPLE_RATE_HZ)
    return np.asarray(lfilter([1 - keep], [1, -keep], samples))


def _high_pass(samples: _Samples, cutoff_hz: float) -> _Samples:
    return samples - _low_pass(samples, cutoff_hz)


def _noise(rng: _Rng, seconds: float) -> _Samples:
    return rng.standard_normal(int(seconds * SAMPLE_RATE_HZ))


def _placed(pieces: list[tuple[float, _Samples]], seconds: float) -> _Samples:
    out = np.zeros(int(seconds * SAMPLE_RATE_HZ) + 1)
    for start, piece in pieces:
        first = int(start * SAMPLE_RATE_HZ)
        fits = piece[: max(0, len(out) - first)]
        out[first : first + len(fits)] += fits
    return out


def _shot(rng: _Rng) -> _Samples:
    t = _time(0.45)
    crack = _noise(rng, 0.45) * np.exp(-t / 0.012)
    boom = _low_pass(_noise(rng, 0.45), 350) * np.exp(-t / 0.11) * 5
    return crack + boom + _low_pass(_noise(rng, 0.45), 1800) * np.exp(-t / 0.2) * 0.25


def _gunshots(rng: _Rng) -> _Samples:
    starts = np.cumsum(rng.uniform(0.16, 0.5, int(rng.integers(2, 5)))) - 0.15
    return _placed([(start, _shot(rng)) for start in starts], float(starts[-1]) + 0.5)


def _scream(rng: _Rng) -> _Samples:
    seconds, base = rng.uniform(0.9, 1.5), rng.uniform(750, 1150)
    t = _time(seconds)
    glide = base * (1 + 0.35 * np.sin(np.pi * t / seconds)) + 35 * np.sin(2 * np.pi * rng.uniform(6, 9) * t)
    phase = 2 * np.pi * np.cumsum(glide) / SAMPLE_RATE_HZ
    voiced = sum(np.sin(k * phase) / k**0.6 for k in (1, 2, 3, 4))
    rough = 1 + 0.5 * np.sign(np.sin(2 * np.pi * rng.uniform(60, 90) * t))
    return np.asarray(voiced * rough * np.minimum(1, 8 * t) * np.minimum(1, 5 * (seconds - t)))


def _explosion(rng: _Rng) -> _Samples:
    t = _time(1.8)
    rumble = _low_pass(_noise(rng, 1.8), 120) * np.exp(-t / 0.6) * 12
    return rumble + _low_pass(_noise(rng, 1.8), 900) * np.exp(-t / 0.18) * 2 + _noise(rng, 1.8) * np.exp(-t / 0.03)


def _glass_break(rng: _Rng) -> _Samples:
    t = _time(1.1)
    shards: list[tuple[float, _Samples]] = [
        (0.0, _high_pass(_noise(rng, 0.25), 3000) * np.exp(-_time(0.25) / 0.04) * 2)
    ]
    for _ in range(22):
        tone = np.sin(2 * np.pi * rng.uniform(2500, 7500) * t) * np.exp(-t / rng.uniform(0.02, 0.12))
        shards.append((rng.exponential(0.18), tone * rng.uniform(0.1, 0.6)))
    return _placed(shards, 1.4)


def _beats(rng: _Rng, hit: Callable[[], _Samples], count: tuple[int, int], gap: tuple[float, float]) -> _Samples:
    starts = np.arange(int(rng.integers(*count))) * rng.uniform(*gap)
    return _placed([(start, hit() * rng.uniform(0.7, 1)) for start in starts], float(starts[-1]) + 0.6)


def _drum(rng: _Rng) -> _Samples:
    t, pitch = _time(0.4), rng.uniform(90, 180)
    return _beats(
        rng,
        lambda: (
            np.sin(2 * np.pi * pitch * (t + 0.02 * np.exp(-t / 0.03))) * np.exp(-t / 0.1)
            + 0.25 * _noise(rng, 0.4) * np.exp(-t / 0.03)
        ),
        (3, 7),
        (0.22, 0.4),
    )


def _clap(rng: _Rng) -> _Samples:
    t = _time(0.15)
    return _beats(rng, lambda: _high_pass(_noise(rng, 0.15), 700) * np.exp(-t / 0.02), (3, 8), (0.2, 0.35))


def _knock(rng: _Rng) -> _Samples:
    t, pitch = _time(0.2), rng.uniform(180, 320)
    return _beats(
        rng,
        lambda: np.sin(2 * np.pi * pitch * t) * np.exp(-t / 0.03) + 0.3 * _noise(rng, 0.2) * np.exp(-t / 0.006),
        (3, 5),
        (0.22, 0.35),
    )


def _pop(rng: _Rng) -> _Samples:
    t = _time(0.25)
    pops = [(start, _high_pass(_noise(rng, 0.25), 250) * np.exp(-t / 0.015)) for start in rng.uniform(0, 0.9, 2)]
    return _placed(pops, 1.2)


def _crowd(rng: _Rng, seconds: float) -> _Samples:
    t = _time(seconds)
    murmur = _high_pass(_low_pass(_noise(rng, seconds), 1400), 300)
    return np.asarray(murmur * (1 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.5, 2) * t)) * np.minimum(1, 6 * t))


def _fireworks(rng: _Rng) -> _Samples:
    t = _time(0.5)
    whistle = np.sin(2 * np.pi * (900 + 1800 * t) * t) * 0.4 * np.exp(-((t - 0.3) ** 2) / 0.02)
    bursts = [(0.45 + start, _explosion(rng)[: SAMPLE_RATE_HZ // 2] * 0.6) for start in (0.0, rng.uniform(0.3, 0.5))]
    crackle = [(0.6 + start, _noise(rng, 0.01)) for start in rng.exponential(0.3, 25)]
    return _placed([(0.0, whistle), *bursts, *crackle, (0.2, _crowd(rng, 1.6) * 2)], 1.9)


def _cheer(rng: _Rng) -> _Samples:
    seconds = 1.5
    t, out = _time(seconds), _crowd(rng, seconds) * 3
    for _ in range(5):
        pitch = rng.uniform(350, 700) * (1 + 0.15 * np.sin(2 * np.pi * rng.uniform(0.4, 1) * t))
        out = out + 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE_HZ) * np.minimum(1, 5 * t)
    return np.asarray(out * np.minimum(1, 4 * (seconds - t)))


def _dishes(rng: _Rng) -> _Samples:
    t = _time(0.4)
    modes = rng.uniform(1800, 5200, 4)
    return _beats(
        rng,
        lambda: sum((np.sin(2 * np.pi * f * t) for f in modes), np.zeros_like(t)) * np.exp(-t / 0.09),
        (3, 6),
        (0.18, 0.4),
    )


ALARMING: dict[str, Callable[[_Rng], _Samples]] = {
    "gunshots": _gunshots, "scream": _scream, "explosion": _explosion, "glass_break": _glass_break,
}  # fmt: skip
"""Violent sounds: they break ``alarming_sounds``."""
HARMLESS: dict[str, Callable[[_Rng], _Samples]] = {
    "drum": _drum, "clap": _clap, "knock": _knock, "pop": _pop, "fireworks": _fireworks, "cheer": _cheer,
    "dishes": _dishes,
}  # fmt: skip
"""Sounds that are mistaken for violent ones."""


def sound(name: str, rng: _Rng) -> npt.NDArray[np.float32]:
    """One sound by name, peak 1."""
    samples = {**ALARMING, **HARMLESS}[name](rng)
    return (samples / max(1e-9, float(np.abs(samples).max()))).astype(np.float32)


def music(rng: _Rng, seconds: float) -> npt.NDArray[np.float32]:
    """A simple tune over chords: a key, a tempo, a timbre of its own, peak 1."""
    beat, key = rng.uniform(0.22, 0.5), rng.uniform(130, 260)
    scale = np.array([0, 2, 4, 7, 9, 12, 14]) if rng.random() < 0.5 else np.array([0, 3, 5, 7, 10, 12, 15])
    timbre = rng.uniform(0.1, 1, 4) / np.arange(1, 5)
    t = _time(beat * 1.8)
    notes: list[tuple[float, _Samples]] = []
    for step in range(int(seconds / beat) + 1):
        pitch = key * 2 ** (scale[int(rng.integers(7))] / 12)
        tone = sum((a * np.sin(2 * np.pi * pitch * (k + 1) * t) for k, a in enumerate(timbre)), np.zeros_like(t))
        notes.append((step * beat, tone * np.exp(-t / (beat * 0.7))))
        if step % 4 == 0:
            notes.append((step * beat, np.sin(np.pi * key * t) * np.exp(-t / beat)))
    out = _placed(notes, seconds + 2)[: int(seconds * SAMPLE_RATE_HZ)]
    return (out / max(1e-9, float(np.abs(out).max()))).astype(np.float32)


def ambience(rng: _Rng, seconds: float) -> npt.NDArray[np.float32]:
    """Room tone, traffic, rain or hum, peak 1."""
    hiss = _noise(rng, seconds)
    kind = int(rng.integers(4))
    if kind == 0:
        out = _low_pass(hiss, 400)
    elif kind == 1:
        out = _low_pass(hiss, 150) * (1 + 0.6 * np.sin(2 * np.pi * rng.uniform(0.1, 0.4) * _time(seconds)))
    elif kind == 2:
        out = _high_pass(hiss, 1500)
    else:
        out = np.sin(2 * np.pi * 100 * _time(seconds)) + 0.2 * hiss
    return (out / max(1e-9, float(np.abs(out).max()))).astype(np.float32)
