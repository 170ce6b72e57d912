"""Edits by which people re-upload what is not theirs, and the honest looks that resemble them.

Enters: frames (T, H, W, 3) of a published video and its audio. Leaves: edited frames and audio, and the edit's
parameters. The list is that of the paper's unoriginal-content task: crop, mirror, border, logo, speed, re-encode,
screen recording, reaction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import pi, sin
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter
from scipy.signal import resample_poly

from tidegate.corpus.synthetic.figures import Body
from tidegate.corpus.synthetic.typeset import draw_line

__all__ = ["EDITS", "NATIVE_LOOKS", "Footage", "Rng"]

Rng = np.random.Generator
_Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, eq=False)
class Footage:
    """A video in memory on its way through edits."""

    frames_THWC: _Frames
    samples: npt.NDArray[np.float32]
    crf: int
    """Quality at which it will be written."""
    handle: str
    """Account name that a logo shows."""


Edit = Callable[[Footage, Rng], tuple[Footage, dict[str, Any]]]


def _each(footage: Footage, change: Callable[[Image.Image, int], Image.Image]) -> Footage:
    frames = [np.asarray(change(Image.fromarray(frame), number)) for number, frame in enumerate(footage.frames_THWC)]
    return replace(footage, frames_THWC=np.stack(frames))


def _crop(footage: Footage, rng: Rng) -> tuple[Footage, dict[str, Any]]:
    keep, x, y = float(rng.uniform(0.7, 0.9)), float(rng.random()), float(rng.random())

    def change(image: Image.Image, _: int) -> Image.Image:
        left, top = x * (1 - keep) * image.width, y * (1 - keep) * image.height
        return image.resize(
            image.size, Image.Resampling.BILINEAR, (left, top, left + keep * image.width, top + keep * image.height)
        )

    return _each(footage, change), {"keep": round(keep, 3)}


def _mirror(footage: Footage, rng: Rng) -> tuple[Footage, dict[str, Any]]:
    return replace(footage, frames_THWC=np.ascontiguousarray(footage.frames_THWC[:, :, ::-1])), {}


def _border(footage: Footage, rng: Rng) -> tuple[Footage, dict[str, Any]]:
    scale, blurred = float(rng.uniform(0.7, 0.88)), rng.random() < 0.4
    colour = tuple(int(c) for c in rng.integers(0, 256, 3))

    def change(image: Image.Image, _: int) -> Image.Image:
        back = Image.new("RGB", image.size, colour)
        if blurred:
            tiny = image.resize((image.width // 8, image.height // 8), Image.Resampling.BOX)
            back = tiny.filter(ImageFilter.GaussianBlur(2)).resize(image.size, Image.Resampling.BICUBIC)
        inner = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
        back.paste(inner, ((image.width - inner.width) // 2, (image.height - inner.height) // 2))
        return back

    return _each(footage, change), {"scale": round(scale, 3), "blurred": blurred}


def _logo(footage: Footage, rng: Rng) -> tuple[Footage, dict[str, Any]]:
    high, wide = footage.frames_THWC.shape[1:3]
    mask = Image.fromarray(draw_line(f"@{footage.handle}", "Latn", float(rng.uniform(10, 16))))
    badge = Image.new("RGBA", (mask.width + mask.height + 8, mask.height + 4), (0, 0, 0, 0))
    colour = tuple(int(c) for c in rng.integers(140, 256, 3))
    ImageDraw.Draw(badge).ellipse([1, 1, mask.height + 2, mask.height + 2], fill=(*colour, 230))
    badge.paste(Image.new("RGBA", mask.size, (255, 255, 255, 255)), (mask.height + 6, 2), mask)
    left = int(rng.choice([4, max(4, wide - badge.width - 4)]))
    top = int(rng.choice([4, high - badge.height - 4, high // 2]))

    def change(image: Image.Image, _: int) -> Image.Image:
        image.paste(badge, (left, top), badge)
        return image

    return _each(footage, change), {"handle": footage.handle}


def _speed(footage: Footage, rng: Rng) -> tuple[Footage, dict[str, Any]]:
    up, down = ((5, 4), (6, 5), (4, 5), (5, 6))[int(rng.integers(4))]
    count = len(footage.frames_THWC) * down // up
    order = np.minimum(np.arange(count) * up // down, len(footage.frames_THWC) - 1)
    samples = resample_poly(footage.samples, down, up).astype(np.float32)
    return replace(footage, frames_THWC=footage.frames_THWC[order], samples=samples), {"factor": up / down}


def _re_encode(footage: Footage, rng: Rng) -> tuple[Footage, dict[str, Any]]:
    crf = int(rng.integers(34, 41))
    return replace(footage, crf=crf), {"crf": crf}


def _screen_recording(footage: Footage, rng: Rng) -> tuple[Footage, dict[str, Any]]:
    high, wide = footage.frames_THWC.shape[1:3]
    slant = rng.uniform(-0.07, 0.07, 8) * np.tile([wide, high], 4)
    corners = np.array([0, 0, 0, high, wide, high, wide, 0]) + slant * [-1, -1, -1, 1, 1, 1, 1, -1]
    y, x = np.mgrid[0:high, 0:wide]
    angle, period = rng.uniform(-0.3, 0.3), rng.uniform(3, 7)
    moire = 1 + 0.12 * np.sin(2 * pi * (x * np.sin(angle) + y * np.cos(angle)) / period) * np.sin(
        2 * pi * x / (9 * period)
    )
    dimming = float(rng.uniform(0.6, 0.85))
    tint = np.array([1.0, 1.0, 1.0]) + rng.uniform(-0.08, 0.08, 3)
    gain = (dimming * moire)[:, :, None] * tint

    def change(image: Image.Image, number: int) -> Image.Image:
        seen = image.transform(
            image.size, Image.Transform.QUAD, tuple(corners), Image.Resampling.BILINEAR, fillcolor=(12, 12, 14)
        )
        pulse = 1 + 0.04 * sin(2.1 * number)
        return Image.fromarray(np.clip(np.asarray(seen) * gain * pulse, 0, 255).astype(np.uint8))

    return _each(footage, change), {"dimming": round(dimming, 3)}


def _reaction(footage: Footage, rng: Rng) -> tuple[Footage, dict[str, Any]]:
    high, wide = footage.frames_THWC.shape[1:3]
    side = round(0.34 * min(high, wide))
    body, wall = Body.draw(rng), tuple(int(c) for c in rng.integers(80, 230, 3))
    left = int(rng.choice([4, wide - side - 4]))
    top = int(rng.choice([4, high - side - 4]))

    def change(image: Image.Image, number: int) -> Image.Image:
        image.paste(_watcher(side, body, wall, number), (left, top))
        return image

    return _each(footage, change), {"corner": [left > wide / 2, top > high / 2]}


def _watcher(side: int, body: Body, wall: tuple[int, ...], number: int) -> Image.Image:
    """Head and shoulders of somebody who watches and talks."""
    image = Image.new("RGB", (side, side), wall)
    draw = ImageDraw.Draw(image)
    x, y, radius = side * (0.5 + 0.03 * sin(0.4 * number)), side * (0.42 + 0.02 * sin(0.9 * number)), side * 0.22
    draw.ellipse([x - 0.42 * side, 0.68 * side, x + 0.42 * side, 1.5 * side], fill=body.shirt)
    draw.ellipse([x - radius, y - radius * 1.2, x + radius, y + radius * 1.2], fill=body.skin)
    draw.pieslice([x - radius, y - radius * 1.3, x + radius, y + radius], 180, 360, fill=body.hair)
    for eye in (-0.4, 0.4):
        draw.ellipse([x + eye * radius - 2, y - 1, x + eye * radius + 2, y + 3], fill=(20, 20, 20))
    gape = 1 + 0.12 * side * abs(sin(1.3 * number)) * 0.5
    draw.ellipse([x - 0.3 * radius, y + 0.5 * radius, x + 0.3 * radius, y + 0.5 * radius + gape], fill=(120, 30, 30))
    draw.rectangle([0, 0, side - 1, side - 1], outline=(250, 250, 250), width=2)
    return image


EDITS: dict[str, Edit] = {
    "crop": _crop, "mirror": _mirror, "border": _border, "logo": _logo, "speed": _speed, "re_encode": _re_encode,
    "screen_recording": _screen_recording, "reaction": _reaction,
}  # fmt: skip
"""What makes a copy."""
NATIVE_LOOKS: dict[str, Edit] = {"border": _border, "logo": _logo, "reaction": _reaction, "re_encode": _re_encode}
"""What honest originals have too: a frame of their own, their own logo, a presenter in the corner, low quality."""
