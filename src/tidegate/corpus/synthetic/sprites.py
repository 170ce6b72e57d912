"""Things that lie in the picture, drawn as flat shapes: what violates, what is mistaken for it, and what is merely
there.

Enters: a name, a width in pixels, a random generator (colours, proportions, mirroring). Leaves: an RGBA Pillow image.
Why vector shapes: sizes down to 20 pixels stay crisp, every pixel is ours, and a look-alike differs from what it
imitates by exactly the mark that a moderator would look for (orange tip, bright plastic, cutting board).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageOps

__all__ = ["CLUTTER", "FOR_SALE", "TOYS_AND_TOOLS", "WEAPONS", "sprite"]

_Rng = np.random.Generator
_Colour = tuple[int, int, int]
_Point = tuple[float, float]
_OVERSAMPLE = 4


class _Pen:
    """Draws in coordinates of a box 100 wide and ``high`` tall, oversampled."""

    def __init__(self, width_pixels: int, high: float) -> None:
        self.unit = width_pixels * _OVERSAMPLE / 100
        self.size = (width_pixels, max(2, round(width_pixels * high / 100)))
        self.image = Image.new("RGBA", (self.size[0] * _OVERSAMPLE, self.size[1] * _OVERSAMPLE), (0, 0, 0, 0))
        self.draw = ImageDraw.Draw(self.image)

    def _scaled(self, points: Sequence[_Point]) -> list[_Point]:
        return [(x * self.unit, y * self.unit) for x, y in points]

    def shape(self, colour: _Colour, *points: _Point) -> None:
        self.draw.polygon(self._scaled(points), fill=colour)

    def oval(self, colour: _Colour, left: float, top: float, right: float, bottom: float) -> None:
        self.draw.ellipse([*self._scaled([(left, top)])[0], *self._scaled([(right, bottom)])[0]], fill=colour)

    def box(self, colour: _Colour, *corners: float) -> None:
        """Left, top, right, bottom, and the radius of the corners when they are round."""
        left, top, right, bottom, *radius = corners
        box = [*self._scaled([(left, top)])[0], *self._scaled([(right, bottom)])[0]]
        self.draw.rounded_rectangle(box, (radius[0] if radius else 0) * self.unit, fill=colour)

    def line(self, colour: _Colour, width: float, *points: _Point) -> None:
        self.draw.line(self._scaled(points), fill=colour, width=max(1, round(width * self.unit)), joint="curve")

    def done(self) -> Image.Image:
        return self.image.resize(self.size, Image.Resampling.BOX)


def _bright(rng: _Rng) -> _Colour:
    palette = (
        (230, 40, 60),
        (40, 160, 240),
        (60, 200, 80),
        (250, 210, 30),
        (240, 90, 200),
        (150, 70, 230),
        (20, 200, 190),
    )
    return palette[int(rng.integers(len(palette)))]


def _metal(rng: _Rng) -> _Colour:
    level = int(rng.integers(18, 75)) if rng.random() < 0.75 else int(rng.integers(120, 165))
    return level, level, min(255, level + int(rng.integers(0, 12)))


def _darker(colour: _Colour, factor: float = 0.6) -> _Colour:
    return tuple(int(channel * factor) for channel in colour)  # type: ignore[return-value]


def _handgun(pen: _Pen, body: _Colour, grip: _Colour, rng: _Rng) -> None:
    slide, lean = rng.uniform(17, 24), rng.uniform(4, 14)
    pen.shape(grip, (8, 16), (34, 16), (30 - lean / 3, 60), (4 - lean / 3, 60))
    pen.line(body, 3.5, (34, 22), (36, 36), (46, 36), (50, 22))
    pen.box(body, 4, 4, 97, slide, 2)
    pen.box(_darker(body), 30, slide - 1, 82, slide + 5)
    pen.box(body, 88, 1, 92, 5)
    pen.line(_darker(body, 0.4), 1.5, (12, 8), (12, slide - 3))


def _pistol(width: int, rng: _Rng) -> Image.Image:
    pen, body = _Pen(width, 64), _metal(rng)
    grip = (70, 45, 28) if rng.random() < 0.3 else _darker(body, 0.75)
    _handgun(pen, body, grip, rng)
    return pen.done()


def _toy_pistol(width: int, rng: _Rng) -> Image.Image:
    pen = _Pen(width, 64)
    body = _bright(rng) if rng.random() < 0.7 else _metal(rng)
    _handgun(pen, body, _bright(rng), rng)
    pen.box((255, 120, 0), 84, 2, 100, 25, 3)
    return pen.done()


def _rifle(width: int, rng: _Rng) -> Image.Image:
    pen, body = _Pen(width, 34), _metal(rng)
    stock = (96, 62, 34) if rng.random() < 0.5 else _darker(body, 0.8)
    pen.shape(stock, (0, 10), (24, 8), (24, 16), (2, 26))
    pen.box(body, 22, 7, 62, 15)
    pen.line(body, 2.5, (60, 10), (100, 10))
    pen.box(stock, 58, 8, 80, 14)
    pen.shape(_darker(body), (42, 14), (50, 14), (55, 32), (46, 32))
    pen.shape(body, (28, 14), (34, 14), (31, 25), (26, 25))
    pen.line(body, 1.5, (92, 10), (92, 5))
    return pen.done()


def _water_pistol(width: int, rng: _Rng) -> Image.Image:
    pen, body = _Pen(width, 66), _bright(rng)
    pen.oval((170, 225, 255), 12, 0, 52, 22)
    pen.box(body, 6, 16, 90, 34, 6)
    pen.shape(body, (14, 30), (36, 30), (30, 65), (10, 65))
    pen.box((255, 255, 255), 88, 20, 99, 29, 2)
    pen.oval(_bright(rng), 34, 34, 48, 46)
    return pen.done()


def _hairdryer(width: int, rng: _Rng) -> Image.Image:
    pen, body = _Pen(width, 70), _bright(rng) if rng.random() < 0.6 else _metal(rng)
    pen.oval(body, 0, 0, 50, 36)
    pen.shape(body, (24, 3), (84, 10), (84, 27), (24, 34))
    pen.box(_darker(body), 82, 6, 94, 31, 3)
    pen.box(body, 20, 28, 34, 68, 4)
    return pen.done()


def _drill(width: int, rng: _Rng) -> Image.Image:
    pen, body = _Pen(width, 66), _bright(rng)
    pen.box(body, 4, 6, 66, 28, 6)
    pen.box((50, 50, 50), 64, 10, 80, 24, 2)
    pen.line((150, 150, 150), 3, (80, 17), (100, 17))
    pen.box(body, 14, 24, 32, 52, 3)
    pen.box((40, 40, 40), 6, 50, 42, 65, 3)
    return pen.done()


def _blade(pen: _Pen, steel: int, handle: _Colour, top: float, rng: _Rng) -> None:
    depth = rng.uniform(11, 17)
    pen.shape((steel, steel, steel + 8), (34, top), (98, top + 2), (88, top + depth * 0.7), (34, top + depth))
    pen.line((245, 245, 250), 1.2, (36, top + depth - 1), (86, top + depth * 0.7))
    pen.box(handle, 2, top, 35, top + 9, 3)


def _knife(width: int, rng: _Rng) -> Image.Image:
    pen = _Pen(width, 100)
    handle = (40, 30, 26) if rng.random() < 0.6 else (110, 70, 40)
    _blade(pen, int(rng.integers(170, 225)), handle, 42, rng)
    return pen.done().rotate(float(rng.uniform(40, 100)), Image.Resampling.BILINEAR)


def _knife_on_board(width: int, rng: _Rng) -> Image.Image:
    pen, wood = _Pen(width, 60), (196, 150, 96)
    pen.box(wood, 0, 12, 99, 59, 5)
    pen.line(_darker(wood, 0.85), 1.2, (4, 26), (95, 26))
    for x in np.arange(14, 40, 7) + rng.uniform(0, 3):
        pen.oval((245, 130, 30), x, 42, x + 9, 51)
    pen.shape((60, 170, 60), (56, 44), (70, 40), (66, 52))
    pen.oval((220, 50, 40), 74, 40, 90, 55)
    _blade(pen, int(rng.integers(170, 225)), (40, 30, 26), 18, rng)
    return pen.done()


def _banana(width: int, rng: _Rng) -> Image.Image:
    pen, skin = _Pen(width, 50), (250, 215, 50)
    pen.line(skin, 15, (10, 12), (22, 30), (45, 39), (70, 35), (90, 18))
    pen.line(_darker(skin, 0.75), 4, (88, 20), (96, 8))
    return pen.done()


def _pills(width: int, rng: _Rng) -> Image.Image:
    pen, colour = _Pen(width, 80), _bright(rng)
    pen.box((245, 150, 40), 4, 12, 46, 78, 6)
    pen.box((245, 245, 245), 2, 2, 48, 16, 3)
    pen.box((250, 250, 245), 8, 32, 42, 60)
    for _ in range(8):
        x, y = rng.uniform(50, 84), rng.uniform(48, 70)
        pen.oval(colour if rng.random() < 0.5 else (250, 250, 250), x, y, x + 14, y + 8)
    return pen.done()


def _powder(width: int, rng: _Rng) -> Image.Image:
    pen = _Pen(width, 80)
    for left, top in ((4, 26), (46, 32), (24, 4)):
        pen.shape((205, 220, 228), (left, top + 6), (left + 44, top), (left + 48, top + 42), (left + 2, top + 44))
        pen.oval((252, 252, 252), left + 5, top + 14, left + 42, top + 42)
        pen.line((60, 120, 210), 2.5, (left, top + 7), (left + 44, top + 2))
    return pen.done()


def _cash(width: int, rng: _Rng) -> Image.Image:
    pen, green = _Pen(width, 62), (120, 170, 110)
    for step in range(4):
        top = 30 - step * 9 + rng.uniform(-2, 2)
        pen.shape(_darker(green, 0.55), (2, top + 14), (88, top), (98, top + 22), (10, top + 37))
        pen.shape(green, (4, top + 14), (88, top + 1), (96, top + 20), (11, top + 35))
        pen.oval((215, 230, 200), 38, top + 10, 62, top + 27)
    return pen.done()


def _ball(width: int, rng: _Rng) -> Image.Image:
    pen, colour = _Pen(width, 100), _bright(rng)
    pen.oval(colour, 0, 0, 99, 99)
    pen.shape((255, 255, 255), (50, 0), (70, 50), (50, 99), (36, 50))
    return pen.done()


def _cup(width: int, rng: _Rng) -> Image.Image:
    pen, colour = _Pen(width, 90), _bright(rng)
    pen.oval(colour, 50, 18, 98, 66)
    pen.oval((230, 230, 230), 62, 30, 86, 54)
    pen.shape(colour, (6, 6), (74, 6), (66, 88), (14, 88))
    return pen.done()


def _phone(width: int, rng: _Rng) -> Image.Image:
    pen = _Pen(width, 150)
    pen.box((25, 25, 28), 10, 2, 88, 148, 9)
    pen.box(_bright(rng), 16, 14, 82, 134)
    return pen.done()


def _book(width: int, rng: _Rng) -> Image.Image:
    pen, colour = _Pen(width, 75), _bright(rng)
    pen.box(_darker(colour), 2, 4, 98, 74, 3)
    pen.box((245, 240, 225), 8, 4, 96, 68)
    pen.box(colour, 2, 2, 90, 64, 3)
    pen.line((255, 255, 255), 4, (22, 20), (72, 20))
    pen.line((255, 255, 255), 3, (22, 34), (60, 34))
    return pen.done()


def _plant(width: int, rng: _Rng) -> Image.Image:
    pen = _Pen(width, 130)
    for angle in np.linspace(-1.1, 1.1, 7) + rng.uniform(-0.1, 0.1):
        tip = (50 + 46 * np.sin(angle), 85 - 78 * np.cos(angle))
        pen.shape((50, 140 + int(rng.integers(40)), 60), (46, 88), (50 + 24 * np.sin(angle) - 8, 50), tip, (54, 88))
    pen.shape((180, 95, 60), (26, 84), (74, 84), (66, 129), (34, 129))
    return pen.done()


def _bottle(width: int, rng: _Rng) -> Image.Image:
    pen, colour = _Pen(width, 260), _bright(rng)
    pen.box(_darker(colour, 0.7), 36, 0, 64, 90, 6)
    pen.box(_darker(colour, 0.7), 10, 80, 90, 258, 16)
    pen.box((245, 240, 220), 10, 130, 90, 200)
    return pen.done()


def _umbrella(width: int, rng: _Rng) -> Image.Image:
    pen, colour = _Pen(width, 95), _bright(rng)
    pen.draw.pieslice([0, 0, 100 * pen.unit, 100 * pen.unit], 180, 360, fill=colour)
    pen.line((60, 60, 60), 4, (50, 48), (50, 88), (60, 92))
    return pen.done()


_Maker = Callable[[int, _Rng], Image.Image]
WEAPONS: dict[str, _Maker] = {"pistol": _pistol, "rifle": _rifle, "knife": _knife}
"""Break ``weapons``."""
TOYS_AND_TOOLS: dict[str, _Maker] = {
    "toy_pistol": _toy_pistol, "water_pistol": _water_pistol, "hairdryer": _hairdryer, "drill": _drill,
    "knife_on_board": _knife_on_board, "banana": _banana,
}  # fmt: skip
"""Look-alikes of weapons; harmless."""
FOR_SALE: dict[str, _Maker] = {"pills": _pills, "powder": _powder, "cash": _cash}
"""Harmless alone; with an offer in words they break ``illegal_goods``."""
CLUTTER: dict[str, _Maker] = {
    "ball": _ball, "cup": _cup, "phone": _phone, "book": _book, "plant": _plant, "bottle": _bottle,
    "umbrella": _umbrella,
}  # fmt: skip
"""Merely there."""
_MAKERS = {**WEAPONS, **TOYS_AND_TOOLS, **FOR_SALE, **CLUTTER}


def sprite(name: str, width_pixels: int, rng: _Rng) -> Image.Image:
    """The thing called ``name``, ``width_pixels`` wide, slightly turned, mirrored half of the time."""
    image = _MAKERS[name](max(4, width_pixels), rng)
    if rng.random() < 0.5:
        image = ImageOps.mirror(image)
    return image.rotate(float(rng.uniform(-12, 12)), Image.Resampling.BILINEAR, expand=True)
