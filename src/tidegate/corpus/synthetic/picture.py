"""A plan becomes frames.

Enters: a ``VideoPlan``. Leaves: uint8 RGB frames, and where in them the visible evidence lies. Why this method:
whatever stands still (place, sprites, texts) is painted once; a frame is a crop of the place plus a few pastes and
polygons, about one millisecond.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import pi, sin

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from tidegate.corpus.synthetic.acts import Stage, draw_act, event_shares
from tidegate.corpus.synthetic.config import FRAME_RATE
from tidegate.corpus.synthetic.figures import BENIGN_SOLOS, VIOLENT_PAIRS, Body, draw_figure, pair_poses, solo_pose
from tidegate.corpus.synthetic.lexicon import lexicon
from tidegate.corpus.synthetic.plan import VideoPlan, rng_of
from tidegate.corpus.synthetic.scenes import paint_scene
from tidegate.corpus.synthetic.sprites import sprite
from tidegate.corpus.synthetic.typeset import draw_line, draw_wrapped

__all__ = ["Layer", "Picture", "compose"]

_MARGIN = 16
_FramesHWC = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A still image that lies in or over the picture for a while."""

    image: Image.Image
    left: int
    top: int
    start_seconds: float
    end_seconds: float
    name: str
    evidence: bool = False
    sway_pixels: float = 0.0
    phase: float = 0.0

    def paste(self, frame: Image.Image, t: float) -> None:
        """Lay it on ``frame`` at ``t`` seconds."""
        if self.start_seconds <= t < self.end_seconds:
            across = round(self.sway_pixels * sin(2.1 * t + self.phase))
            down = round(0.7 * self.sway_pixels * sin(1.7 * t + 2 * self.phase))
            frame.paste(self.image, (self.left + across, self.top + down), self.image)

    def box(self, size: tuple[int, int]) -> list[float]:
        """x, y, width, height over the frame's size."""
        wide, high = size
        return [
            round(v, 4) for v in (self.left / wide, self.top / high, self.image.width / wide, self.image.height / high)
        ]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """All that is needed to draw any frame of one video."""

    plan: VideoPlan
    place: Image.Image
    behind: tuple[Layer, ...]
    """Sprites behind the people."""
    front: tuple[Layer, ...]
    """Evidence, then overlays."""
    bodies: tuple[Body, Body]
    contact_seconds: tuple[float, ...]
    """Instants at which a pair touches."""
    centre: float
    phase: float
    facing: int
    car: tuple[int, int, int]
    camera_phases: tuple[float, ...]

    @property
    def size(self) -> tuple[int, int]:
        return self.plan.width, self.plan.height

    def frames(self) -> Iterator[_FramesHWC]:
        """Every frame in order."""
        for number in range(round(self.plan.duration_seconds * FRAME_RATE)):
            yield self._frame(number / FRAME_RATE)

    def _frame(self, t: float) -> _FramesHWC:
        x, y = self._camera(t)
        frame = self.place.crop(
            (_MARGIN + x, _MARGIN + y, _MARGIN + x + self.plan.width, _MARGIN + y + self.plan.height)
        )
        for layer in self.behind:
            layer.paste(frame, t)
        self._people(ImageDraw.Draw(frame), t)
        for layer in self.front:
            layer.paste(frame, t)
        if self.plan.noise.blur_pixels:
            frame = frame.filter(ImageFilter.GaussianBlur(self.plan.noise.blur_pixels))
        return np.asarray(frame)

    def _camera(self, t: float) -> tuple[int, int]:
        reach, pace = (7.0, 9.0) if self.plan.noise.shaky else (2.0, 1.3)
        a, b, c, d = self.camera_phases
        return (
            round(reach * (0.6 * sin(pace * t + a) + 0.4 * sin(2.3 * pace * t + b))),
            round(reach * (0.6 * sin(1.2 * pace * t + c) + 0.4 * sin(1.9 * pace * t + d))),
        )

    def _people(self, canvas: ImageDraw.ImageDraw, t: float) -> None:
        plan = self.plan
        if plan.act:
            stage = Stage(
                canvas=canvas,
                width=plan.width,
                ground=ground_share(plan) * plan.height,
                tall=figure_height(self.size),
                body=self.bodies[0],
                colour=self.car,
            )
            draw_act(stage, plan.act, t / plan.duration_seconds, backwards=plan.act_backwards)
        if not plan.action:
            return
        tall, ground = figure_height(self.size), ground_share(plan) * plan.height
        feet = (self.centre * plan.width, ground)
        if plan.action in BENIGN_SOLOS:
            pose = solo_pose(plan.action, t, self.phase, 0.0, self.facing)
            draw_figure(canvas, self.bodies[0], pose, (feet[0] + pose.x * tall, feet[1]), tall)
            return
        poses = pair_poses(plan.action, t, self.contact_seconds, self.phase)
        for body, pose in zip(self.bodies, poses, strict=True):
            turned = pose if self.facing > 0 else pose.mirrored()
            draw_figure(canvas, body, turned, (feet[0] + turned.x * tall, feet[1]), tall)

    def evidence(self) -> list[dict[str, object]]:
        """Span, box and name of what violates in the picture alone, or takes part in a conjunction."""
        seconds = self.plan.duration_seconds
        found: list[dict[str, object]] = [
            {"what": layer.name, "span": [layer.start_seconds, layer.end_seconds], "box": layer.box(self.size)}
            for layer in self.front
            if layer.evidence
        ]
        if self.plan.action in VIOLENT_PAIRS:
            span = [max(0.0, self.contact_seconds[0] - 0.2), min(seconds, self.contact_seconds[-1] + 0.7)]
            found.append({"what": self.plan.action, "span": span, "box": self._pair_box()})
        if self.plan.act and not self.plan.act_backwards:
            shares = event_shares(self.plan.act, backwards=False)
            events = {
                name: [round(start * seconds, 3), round(end * seconds, 3)] for name, (start, end) in shares.items()
            }
            found.append({"what": self.plan.act, "span": [0.0, seconds], "box": [0.0, 0.3, 1.0, 0.7], "events": events})
        return found

    def _pair_box(self) -> list[float]:
        """Where the pair acts, with the ground that it gives."""
        tall, ground = figure_height(self.size), ground_share(self.plan)
        reach = 0.95 * tall / self.plan.width
        left, right = max(0.0, self.centre - reach), min(1.0, self.centre + reach)
        top = max(0.0, ground - 1.15 * tall / self.plan.height)
        return [round(v, 4) for v in (left, top, right - left, ground + 0.04 - top)]


def figure_height(size: tuple[int, int]) -> float:
    """Pixels from feet to head of a usual figure in a frame of ``size`` (width, height)."""
    width, height = size
    return min(0.62 * height, 0.6 * width)


def ground_share(plan: VideoPlan) -> float:
    """Where people stand, over the frame's height: above the lower third when there is one."""
    return 0.79 if plan.lower_third else 0.91


def compose(plan: VideoPlan) -> Picture:
    """Paint what stands still and choose what moves."""
    shared = np.random.Generator(np.random.PCG64(plan.source.scene_seed))
    size = (plan.width + 2 * _MARGIN, plan.height + 2 * _MARGIN)
    place = paint_scene(plan.source.scene, size, shared)
    bodies = (Body.draw(shared), Body.draw(shared))
    rng = rng_of(plan.seed, "video", plan.index, 1)
    things = [_thing_layer(plan, number, rng) for number in range(len(plan.things))]
    overlays = [*_lower_third(plan, rng), *_sticker(plan, rng)]
    first = float(rng.uniform(0.22, 0.4)) * plan.duration_seconds
    contacts = tuple(first + np.cumsum([0.0, *rng.uniform(0.6, 1.0, int(rng.integers(0, 3)))]))
    facing, centre = (1 if rng.random() < 0.5 else -1), float(rng.uniform(0.34, 0.46))
    return Picture(
        plan=plan,
        place=place,
        behind=tuple(layer for layer in things if not layer.evidence),
        front=(*(layer for layer in things if layer.evidence), *overlays),
        bodies=bodies if rng.random() < 0.5 else (bodies[1], bodies[0]),
        contact_seconds=tuple(float(at) for at in contacts),
        centre=centre if facing > 0 else 1 - centre,
        phase=float(rng.uniform(0, 2 * pi)),
        facing=facing,
        car=tuple(int(c) for c in rng.integers(30, 226, 3)),  # type: ignore[arg-type]
        camera_phases=tuple(float(p) for p in rng.uniform(0, 2 * pi, 4)),
    )


def _thing_layer(plan: VideoPlan, number: int, rng: np.random.Generator) -> Layer:
    thing = plan.things[number]
    image = sprite(thing.name, round(thing.share * max(plan.width, plan.height)), rng)
    left = int(np.clip(thing.x * plan.width - image.width / 2, 3, max(3, plan.width - image.width - 3)))
    top = int(np.clip(thing.y * plan.height - image.height / 2, 3, max(3, plan.height - image.height - 3)))
    return Layer(
        image=image,
        left=left,
        top=top,
        start_seconds=round(thing.start * plan.duration_seconds, 3),
        end_seconds=round(thing.end * plan.duration_seconds, 3),
        name=thing.name,
        evidence=thing.evidence,
        sway_pixels=float(rng.uniform(0, 3)),
        phase=float(rng.uniform(0, 2 * pi)),
    )


def _ink(
    mask: npt.NDArray[np.uint8], colour: tuple[int, int, int], pad: int, plate: tuple[int, int, int, int]
) -> Image.Image:
    image = Image.new("RGBA", (mask.shape[1] + 2 * pad, mask.shape[0] + 2 * pad), (0, 0, 0, 0))
    ImageDraw.Draw(image).rounded_rectangle([0, 0, image.width - 1, image.height - 1], pad, fill=plate)
    alpha = Image.fromarray(mask)
    image.paste(Image.new("RGBA", alpha.size, (*colour, 255)), (pad, pad), alpha)
    return image


def _sticker(plan: VideoPlan, rng: np.random.Generator) -> list[Layer]:
    em, low, dark = float(rng.uniform(15, 23)), rng.random() < 0.5, rng.random() < 0.5
    low = low and not (plan.action or plan.act)
    colour = tuple(int(c) for c in (rng.integers(0, 90, 3) if dark else rng.integers(190, 256, 3)))
    plate = (*((240, 240, 235) if dark else (20, 20, 25)), int(rng.integers(110, 256)))
    if plan.sticker is None:
        return []
    mask = draw_wrapped(plan.sticker.text, plan.sticker.script, em, round(0.86 * plan.width))
    image = _ink(mask, colour, 5, plate)  # type: ignore[arg-type]
    top = (0.58 if plan.lower_third else 0.8) if low else 0.08
    start, end = plan.sticker_stay
    return [
        Layer(
            image=image,
            left=(plan.width - image.width) // 2,
            top=int(np.clip(top * plan.height, 0, max(0, plan.height - image.height))),
            start_seconds=round(start * plan.duration_seconds, 3),
            end_seconds=round(end * plan.duration_seconds, 3),
            name="sticker",
            evidence="sticker" in (plan.kind, plan.conjunction_channel),
        )
    ]


def _lower_third(plan: VideoPlan, rng: np.random.Generator) -> list[Layer]:
    hue = int(rng.integers(150, 226))
    if plan.lower_third is None:
        return []
    language = lexicon()[plan.source.language]
    high = max(26, round(0.11 * min(plan.height, 260)))
    news = plan.lower_third == "news"
    colour = (hue, 18, 28, 255) if news else (235, 235, 240, 210)
    image = Image.new("RGBA", (plan.width if news else round(0.6 * plan.width), high), colour)
    word = language.news if news else plan.source.creator[:7]
    mask = Image.fromarray(draw_line(word, language.script if news else "Latn", high * 0.52))
    image.paste(
        Image.new("RGBA", mask.size, (255, 255, 255, 255) if news else (20, 20, 30, 255)),
        (8, (high - mask.height) // 2),
        mask,
    )
    if news:
        ImageDraw.Draw(image).rectangle([0, 0, plan.width, 2], fill=(255, 255, 255, 255))
    top = round(plan.height * 0.8)
    return [
        Layer(image=image, left=0, top=top, start_seconds=0.0, end_seconds=plan.duration_seconds, name=plan.lower_third)
    ]
