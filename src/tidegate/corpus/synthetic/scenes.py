"""Where a video plays: six kinds of place, painted once per video.

Enters: the kind, a size, a random generator. Leaves: an RGB Pillow image, a little larger than the frame so that the
camera can move over it. Colours, furniture and grain come from the generator, so that no two sources look alike.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

__all__ = ["paint_scene"]

_Rng = np.random.Generator
_Colour = tuple[int, int, int]


def _colour(rng: _Rng, low: int, high: int) -> _Colour:
    return int(rng.integers(low, high)), int(rng.integers(low, high)), int(rng.integers(low, high))


def _gradient(size: tuple[int, int], top: _Colour, bottom: _Colour) -> Image.Image:
    width, height = size
    rows = np.linspace(0, 1, height)[:, None] * (np.array(bottom) - np.array(top)) + np.array(top)
    return Image.fromarray(np.repeat(rows[:, None].astype(np.uint8), width, axis=1))


def _room(size: tuple[int, int], rng: _Rng) -> Image.Image:
    width, height = size
    floor = round(height * rng.uniform(0.66, 0.78))
    image = _gradient(size, _colour(rng, 120, 235), _colour(rng, 100, 210))
    draw = ImageDraw.Draw(image)
    draw.rectangle([0, floor, width, height], fill=_colour(rng, 60, 160))
    left, top, wide, high = (
        rng.uniform(0.05, 0.6),
        rng.uniform(0.08, 0.25),
        rng.uniform(0.2, 0.35),
        rng.uniform(0.2, 0.3),
    )
    box = [left * width, top * height, (left + wide) * width, (top + high) * height]
    draw.rectangle(box, fill=_colour(rng, 150, 255), outline=_colour(rng, 30, 120), width=4)
    draw.line([(box[0] + box[2]) / 2, box[1], (box[0] + box[2]) / 2, box[3]], fill=(240, 240, 240), width=3)
    x = rng.uniform(0, 0.6) * width
    draw.rounded_rectangle(
        [x, floor - 0.12 * height, x + 0.4 * width, floor + 0.07 * height], 8, fill=_colour(rng, 40, 200)
    )
    return image


def _street(size: tuple[int, int], rng: _Rng) -> Image.Image:
    width, height = size
    road = round(height * rng.uniform(0.68, 0.78))
    image = _gradient(size, _colour(rng, 90, 200), _colour(rng, 170, 250))
    draw = ImageDraw.Draw(image)
    x = 0.0
    while x < width:
        wide, top, wall = rng.uniform(30, 80), rng.uniform(0.1, 0.5) * height, _colour(rng, 70, 190)
        draw.rectangle([x, top, x + wide, road], fill=wall)
        for row in np.arange(top + 10, road - 16, 22):
            for column in np.arange(x + 6, x + wide - 10, 16):
                draw.rectangle(
                    [column, row, column + 8, row + 11], fill=(230, 220, 150) if rng.random() < 0.4 else (50, 60, 80)
                )
        x += wide
    grey = int(rng.integers(55, 100))
    draw.rectangle([0, road, width, height], fill=(grey, grey, grey + 4))
    for dash in range(0, width, 50):
        draw.line([dash, (road + height) / 2, dash + 24, (road + height) / 2], fill=(220, 220, 200), width=3)
    return image


def _grass(size: tuple[int, int], rng: _Rng) -> Image.Image:
    width, height = size
    horizon = round(height * rng.uniform(0.5, 0.7))
    image = _gradient(size, (90, 150, int(rng.integers(200, 250))), (200, 225, 245))
    draw = ImageDraw.Draw(image)
    green = int(rng.integers(110, 170))
    for _ in range(int(rng.integers(2, 6))):
        x, high = rng.uniform(0, width), rng.uniform(50, 110)
        draw.rectangle([x - 4, horizon - high * 0.5, x + 4, horizon + 4], fill=(90, 62, 40))
        draw.ellipse(
            [x - high * 0.32, horizon - high, x + high * 0.32, horizon - high * 0.3], fill=(40, green - 30, 50)
        )
    draw.rectangle([0, horizon, width, height], fill=(70, green, 60))
    for _ in range(120):
        x, y = rng.uniform(0, width), rng.uniform(horizon, height)
        draw.line([x, y, x + 2, y - 6], fill=(60, int(green * rng.uniform(0.7, 1.2)), 50), width=1)
    return image


def _texture(size: tuple[int, int], rng: _Rng) -> Image.Image:
    cells = int(rng.integers(3, 14))
    low = rng.integers(0, 256, (cells, cells, 3)).astype(np.uint8)
    image = Image.fromarray(low).resize(size, Image.Resampling.BICUBIC)
    return Image.blend(image, Image.new("RGB", size, _colour(rng, 60, 200)), float(rng.uniform(0.4, 0.75)))


def _kitchen(size: tuple[int, int], rng: _Rng) -> Image.Image:
    width, height = size
    counter = round(height * rng.uniform(0.6, 0.72))
    tile, joint = _colour(rng, 160, 245), _colour(rng, 110, 160)
    image = Image.new("RGB", size, tile)
    draw = ImageDraw.Draw(image)
    step = int(rng.integers(18, 34))
    for x in range(0, width, step):
        draw.line([x, 0, x, counter], fill=joint, width=1)
    for y in range(0, counter, step):
        draw.line([0, y, width, y], fill=joint, width=1)
    draw.rectangle([0, counter, width, height], fill=_colour(rng, 60, 170))
    draw.rectangle([0, counter, width, counter + 10], fill=_colour(rng, 150, 230))
    draw.rectangle([width * 0.1, 0, width * 0.9, height * 0.13], fill=_colour(rng, 70, 190))
    left = rng.uniform(0.05, 0.7) * width
    draw.rounded_rectangle([left, counter - 36, left + 54, counter], 6, fill=_colour(rng, 60, 200))
    return image


def _stage(size: tuple[int, int], rng: _Rng) -> Image.Image:
    width, height = size
    image = _gradient(size, _colour(rng, 5, 50), _colour(rng, 30, 90))
    light = Image.new("RGB", size, (0, 0, 0))
    draw = ImageDraw.Draw(light)
    for _ in range(int(rng.integers(2, 5))):
        x, foot = rng.uniform(0, width), rng.uniform(0, width)
        draw.polygon([(x, 0), (foot - 45, height), (foot + 45, height)], fill=_colour(rng, 30, 150))
    return Image.blend(image, light, 0.5)


_SCENES = {"room": _room, "street": _street, "grass": _grass, "texture": _texture, "kitchen": _kitchen, "stage": _stage}


def paint_scene(kind: str, size: tuple[int, int], rng: _Rng) -> Image.Image:
    """A place of this ``kind``, ``size`` = (width, height) pixels, with grain."""
    image = np.asarray(_SCENES[kind](size, rng), np.int16)
    grain = rng.normal(0, rng.uniform(1, 5), (size[1], size[0], 1))
    return Image.fromarray(np.clip(image + grain, 0, 255).astype(np.uint8))
