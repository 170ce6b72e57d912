"""Text as pixels in any script of the lexicon, without a system font or library.

Enters: a text and the ISO 15924 script of its letters. Leaves: an alpha mask (H, W), tight around the ink. HarfBuzz
shapes (joins Arabic, orders right-to-left runs, builds Indic conjuncts) and rasterises the outlines: Pillow alone would
need libraqm and libfribidi from the system for that, and FFmpeg's drawtext breaks Devanagari.
Source: HarfBuzz manual (shaping, hb-raster); fonts: Noto Sans subsets in ``fonts/``.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.errors import DependencyMissing

__all__ = ["draw_line", "draw_wrapped"]

_FONT_OF_SCRIPT = {"Cyrl": "Latn", "Grek": "Latn"}
_RIGHT_TO_LEFT = {"Arab", "Hebr"}
_UNSPACED = {"Hans", "Thai", "Jpan"}
_Mask = npt.NDArray[np.uint8]


def _harfbuzz() -> Any:
    try:
        import uharfbuzz
    except ImportError as error:
        raise DependencyMissing("drawing text needs uharfbuzz: pip install 'tidegate[corpus]'") from error
    return uharfbuzz


@cache
def _font(script: str) -> Any:
    harfbuzz = _harfbuzz()
    name = _FONT_OF_SCRIPT.get(script, script)
    data = files(__package__).joinpath("fonts", f"{name}.ttf").read_bytes()
    return harfbuzz.Font(harfbuzz.Face(harfbuzz.Blob(data)))


def draw_line(text: str, script: str, size_pixels: float) -> _Mask:
    """One line of ``text``; ``size_pixels`` is the em. A text without ink gives a 1 x 1 empty mask."""
    harfbuzz, font = _harfbuzz(), _font(script)
    buffer = harfbuzz.Buffer()
    buffer.add_str(text)
    buffer.guess_segment_properties()
    if script in _RIGHT_TO_LEFT:
        buffer.direction = "rtl"
    harfbuzz.shape(font, buffer)
    scale = size_pixels / font.face.upem
    raster, x, y = harfbuzz.RasterDraw(), 0.0, 0.0
    for info, position in zip(buffer.glyph_infos, buffer.glyph_positions, strict=True):
        origin = ((x + position.x_offset) * scale, (y + position.y_offset) * scale)
        raster.transform = (scale, 0.0, 0.0, scale, *origin)
        raster.draw_glyph(font, info.codepoint)
        x, y = x + position.x_advance, y + position.y_advance
    return _pixels(raster.render())


def _pixels(image: Any) -> _Mask:
    if image is None or not image.extents.width or not image.extents.height:
        return np.zeros((1, 1), np.uint8)
    extents = image.extents
    rows = np.frombuffer(image.buffer, np.uint8).reshape(extents.height, extents.stride)
    return np.ascontiguousarray(rows[::-1, : extents.width])


def draw_wrapped(text: str, script: str, size_pixels: float, max_width_pixels: int, max_lines: int = 3) -> _Mask:
    """``text`` in up to ``max_lines`` lines no wider than ``max_width_pixels``; the size shrinks until it fits."""
    for _ in range(12):
        lines = [draw_line(line, script, size_pixels) for line in _wrapped(text, script, size_pixels, max_width_pixels)]
        if len(lines) <= max_lines and max(line.shape[1] for line in lines) <= max_width_pixels:
            break
        size_pixels *= 0.88
    return _stacked(lines, round(size_pixels * 1.3), right=script in _RIGHT_TO_LEFT)


def _wrapped(text: str, script: str, size_pixels: float, max_width_pixels: int) -> list[str]:
    joint = "" if script in _UNSPACED and " " not in text else " "
    words = text.split(" ") if joint else _chunks(text, script)
    lines = [words[0]]
    for word in words[1:]:
        longer = f"{lines[-1]}{joint}{word}"
        if draw_line(longer, script, size_pixels).shape[1] <= max_width_pixels:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _chunks(text: str, script: str) -> list[str]:
    """Places where an unspaced script may break here: between ideographs; a Thai phrase without spaces stays whole."""
    return [text] if script == "Thai" else list(text)


def _stacked(lines: list[_Mask], pitch_pixels: int, *, right: bool) -> _Mask:
    width = max(line.shape[1] for line in lines)
    heights = [max(pitch_pixels, line.shape[0] + 2) for line in lines]
    mask = np.zeros((sum(heights), width), np.uint8)
    top = 0
    for line, height in zip(lines, heights, strict=True):
        left, down = (
            (width - line.shape[1] if right else (width - line.shape[1]) // 2),
            top + (height - line.shape[0]) // 2,
        )
        mask[down : down + line.shape[0], left : left + line.shape[1]] = line
        top += height
    return mask
