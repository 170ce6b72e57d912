"""Draw a stored waveform envelope, its marked stretches and the instants of frames as one SVG.

Enters: envelope bins (min, max in [-1, 1]), stretches and instants in seconds. Leaves: SVG geometry as plain numbers
and path strings; the template writes the markup, so that every text passes its escaping.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tidegate.types import Span

__all__ = ["Stretch", "WaveformDrawing", "draw_waveform"]

WIDTH, HEIGHT = 600.0, 56.0


@dataclass(frozen=True)
class Stretch:
    """A marked part of the time axis, in SVG units, with its own words for the tooltip."""

    x: float
    width: float
    label: str


@dataclass(frozen=True)
class WaveformDrawing:
    """Everything the template needs to write one waveform."""

    path: str
    speech: tuple[Stretch, ...]
    loud: tuple[Stretch, ...]
    frame_x: tuple[float, ...]
    width: float = WIDTH
    height: float = HEIGHT


def draw_waveform(
    bins: Sequence[Sequence[float]],
    axis: Span,
    *,
    speech: Sequence[Span] = (),
    loud: Sequence[Span] = (),
    instants_seconds: Sequence[float] = (),
    audio: Span | None = None,
) -> WaveformDrawing:
    """Place the envelope (over ``audio``, by default the whole axis), the stretches and the instants on ``axis``."""
    audio = audio or axis
    return WaveformDrawing(
        path=_envelope_path(bins, _x(audio.start_seconds, axis), _x(audio.end_seconds, axis)),
        speech=tuple(_stretch(span, axis, "speech") for span in speech),
        loud=tuple(_stretch(span, axis, "loud") for span in loud),
        frame_x=tuple(round(_x(instant, axis), 1) for instant in instants_seconds),
    )


def _x(instant_seconds: float, axis: Span) -> float:
    duration = axis.duration_seconds
    share = (instant_seconds - axis.start_seconds) / duration if duration > 0 else 0.0
    return min(max(share, 0.0), 1.0) * WIDTH


def _stretch(span: Span, axis: Span, word: str) -> Stretch:
    start, end = _x(span.start_seconds, axis), _x(span.end_seconds, axis)
    label = f"{word} {span.start_seconds:.1f}–{span.end_seconds:.1f} s"
    return Stretch(round(start, 1), round(max(end - start, 1.0), 1), label)


def _envelope_path(bins: Sequence[Sequence[float]], left: float, right: float) -> str:
    """Closed outline: along the maxima, back along the minima. Quiet audio is amplified by the square root."""
    if not bins:
        return ""
    step = (right - left) / len(bins)
    tops = [f"{left + (i + 0.5) * step:.1f},{_y(high):.1f}" for i, (_low, high) in enumerate(bins)]
    bottoms = [f"{left + (i + 0.5) * step:.1f},{_y(low):.1f}" for i, (low, _high) in enumerate(bins)]
    return "M" + "L".join([*tops, *reversed(bottoms)]) + "Z"


def _y(amplitude: float) -> float:
    shown = math.copysign(math.sqrt(min(abs(amplitude), 1.0)), amplitude)
    return HEIGHT / 2 * (1 - shown)
