"""Numbers → geometry for SVG: bars with whiskers, intervals on an axis, a heat map, a histogram.

Enters: intervals and counts. Leaves: plain numbers and short strings; the template writes the markup, so that every
text passes its escaping and no style is needed inline.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tidegate.diagnosis.table import Floats
from tidegate.evaluation import Interval

__all__ = ["Axis", "Bar", "Cell", "axis_of", "bar", "heat", "histogram"]

_LEAST_WIDTH = 0.5


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A horizontal axis in SVG units."""

    low: float
    high: float
    width: float
    ticks: tuple[tuple[float, str], ...]
    """(x, label)."""

    def x(self, value: float) -> float:
        """Place of a value, kept inside."""
        share = (value - self.low) / (self.high - self.low)
        return round(min(max(share, 0.0), 1.0) * self.width, 1)


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A bar from zero with its interval."""

    start: float
    width: float
    low: float
    high: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a heat map."""

    text: str
    level: int
    """0 (nothing) to 5."""


def axis_of(intervals: Sequence[Interval], *, width: float = 260.0, whole: bool = False) -> Axis:
    """An axis that holds zero and all intervals."""
    ends = [value for one in intervals for value in (one.low, one.high, one.estimate) if math.isfinite(value)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    step = _step(max(high - low, 1e-9) / 4)
    step = max(1.0, step) if whole else step
    low, high = math.floor(low / step) * step, max(math.ceil(high / step) * step, math.floor(low / step) * step + step)
    marks = np.arange(low, high + step / 2, step)
    return Axis(low=low, high=high, width=width,
                ticks=tuple((round(float((mark - low) / (high - low)) * width, 1), f"{mark:g}"[:7]) for mark in marks))


def _step(rough: float) -> float:
    size = 10.0 ** math.floor(math.log10(rough))
    return next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough * 0.999)


def bar(interval: Interval, axis: Axis, text: str) -> Bar:
    """Geometry of one interval; unknown ends shrink to the estimate."""
    zero, tip = axis.x(0.0), axis.x(interval.estimate)
    low = interval.low if math.isfinite(interval.low) else interval.estimate
    high = interval.high if math.isfinite(interval.high) else interval.estimate
    return Bar(start=min(zero, tip), width=max(abs(tip - zero), _LEAST_WIDTH), low=axis.x(low), high=axis.x(high),
               text=text)


def heat(counts: Floats) -> list[list[Cell]]:
    """Cells of a table of expected counts, shaded on a square-root scale."""
    top = float(counts.max()) if counts.size else 0.0
    return [[Cell(text="" if value < 0.5 else f"{value:.0f}",
                  level=0 if top == 0 or value < 0.5 else max(1, round(5 * math.sqrt(value / top)))) for value in row]
            for row in counts.tolist()]


def histogram(values: Floats, mask: npt.NDArray[np.bool_], edges: Floats, *, height: float = 60.0
              ) -> list[tuple[float, float, str]]:
    """(share of the height of all, of the masked, words) of each bin."""
    everything, some = np.histogram(values, edges)[0], np.histogram(values[mask], edges)[0]
    top = max(1, int(everything.max()))
    return [(round(height * math.sqrt(a / top), 1), round(height * math.sqrt(s / top), 1),
             f"{edges[k]:.1f} to {edges[k + 1]:.1f}: {s} errors of {a} items")
            for k, (a, s) in enumerate(zip(everything.tolist(), some.tolist(), strict=True))]
