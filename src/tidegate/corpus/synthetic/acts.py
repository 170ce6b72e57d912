"""Acts of two events whose order decides: told forwards they break the policy, backwards they do not.

Enters: an instant and the act. Leaves: shapes on a Pillow canvas. Both directions show the same two events for the
same time, so that no single frame, and no bag of frames, tells them apart: a fire that is put out grows and burns as
long as one that was lit, and is out once the pouring starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sin

import numpy as np
from PIL import ImageDraw

from tidegate.corpus.synthetic.figures import Body, Pose, draw_figure

__all__ = ["Stage", "draw_act", "event_shares"]

_FIRST, _SECOND = (0.06, 0.47), (0.53, 0.94)
_Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Where an act plays and who plays it."""

    canvas: ImageDraw.ImageDraw
    width: float
    """Of the frame, in pixels."""
    ground: float
    """Height of the ground, in pixels from the top."""
    tall: float
    """Height of a usual figure, in pixels."""
    body: Body
    colour: tuple[int, int, int]
    """Of the car or the can."""


def event_shares(act: str, *, backwards: bool) -> dict[str, tuple[float, float]]:
    """Name of each event to its stretch of the video, as shares of the duration."""
    events = act.split("_")
    first, second = reversed(events) if backwards else events
    return {first: _FIRST, second: _SECOND}


def draw_act(stage: Stage, act: str, share: float, *, backwards: bool) -> None:
    """Draw the act at ``share`` of the video's duration."""
    events = event_shares(act, backwards=backwards)
    progress = {name: (share - start) / (end - start) for name, (start, end) in events.items()}
    if act == "drink_drive":
        _drink_drive(stage, progress, on_foot=share >= 0.5 if backwards else share < 0.5)
    else:
        _pour_ignite(stage, share, progress, backwards=backwards)


def _drink_drive(stage: Stage, progress: dict[str, float], *, on_foot: bool) -> None:
    tall, canvas = stage.tall, stage.canvas
    if on_foot:
        sip = float(np.clip(2.4 * sin(pi * float(np.clip(progress["drink"], 0, 1))), 0, 1))
        pose = Pose(0, 1, -0.08 * sip, 0.3 + 1.1 * sip, -0.1, 0.3 + 1.5 * sip, 0.2)
        hand = draw_figure(canvas, stage.body, pose, (0.5 * stage.width, stage.ground), tall)
        tip = (hand[0] - 0.02 * tall, hand[1] - 0.17 * tall)
        canvas.line([hand, tip], fill=(30, 110, 50), width=max(3, round(0.07 * tall)))
        neck = (tip[0] - 0.01 * tall, tip[1] - 0.07 * tall)
        canvas.line([tip, neck], fill=(30, 90, 40), width=max(2, round(0.03 * tall)))
    if 0 <= progress["drive"] <= 1:
        _car(stage, (-0.4 + 1.8 * progress["drive"]) * stage.width, 0.62 * tall)


def _car(stage: Stage, x: float, unit: float) -> None:
    canvas, body, ground = stage.canvas, stage.body, stage.ground

    def at(*points: _Point) -> list[_Point]:
        return [(x + across * unit, ground - up * unit) for across, up in points]

    canvas.rounded_rectangle([*at((-1.1, 0.62)), *at((1.1, 0.15))], 6, fill=stage.colour)
    canvas.polygon(at((-0.7, 0.6), (-0.45, 1.05), (0.4, 1.05), (0.75, 0.6)), fill=stage.colour)
    canvas.polygon(at((-0.58, 0.6), (-0.38, 0.98), (0.35, 0.98), (0.6, 0.6)), fill=(190, 220, 235))
    canvas.ellipse(at((0.02, 0.92), (0.28, 0.62)), fill=body.skin)
    canvas.pieslice(at((0.02, 0.95), (0.28, 0.66)), 180, 360, fill=body.hair)
    for wheel in (-0.62, 0.62):
        canvas.ellipse(at((wheel - 0.22, 0.34), (wheel + 0.22, -0.1)), fill=(25, 25, 28))
        canvas.ellipse(at((wheel - 0.1, 0.22), (wheel + 0.1, 0.02)), fill=(160, 160, 165))


def _pour_ignite(stage: Stage, share: float, progress: dict[str, float], *, backwards: bool) -> None:
    tall, canvas = stage.tall, stage.canvas
    pile = (0.6 * stage.width, stage.ground - 0.03 * tall)
    pouring = 0 <= progress["pour"] <= 1
    pose = Pose(0, 1, 0.08, 1.35 if pouring else 0.4, 0.0, 0.1, 0.1, 0.1)
    hand = draw_figure(canvas, stage.body, pose, (pile[0] - 0.62 * tall, stage.ground), tall)
    for tilt in (-1, 1):
        left = (pile[0] - 0.26 * tall, pile[1] + 0.03 * tall * tilt)
        right = (pile[0] + 0.26 * tall, pile[1] - 0.05 * tall * tilt)
        canvas.line([left, right], fill=(95, 62, 36), width=max(3, round(0.07 * tall)))
    if pouring:
        _can(stage, hand, pile, progress["pour"])
    doused = backwards and share >= _SECOND[0]
    if progress["ignite"] >= 0 and not doused:
        _flame(canvas, pile, tall * min(1.0, 0.4 + 3 * progress["ignite"]), share)


def _can(stage: Stage, hand: _Point, pile: _Point, progress: float) -> None:
    (x, y), unit, canvas = hand, 0.11 * stage.tall, stage.canvas
    corners = ((-1, -0.4), (1, -1.2), (1.7, 0.6), (-0.3, 1.4))
    canvas.polygon([(x + across * unit, y + down * unit) for across, down in corners], fill=stage.colour)
    spout = (x + 1.9 * unit, y + 0.8 * unit)
    canvas.line([(x + 1.5 * unit, y - 0.2 * unit), spout], fill=stage.colour, width=max(2, round(0.4 * unit)))
    for drop in range(6):
        fall = (drop / 6 + 6 * progress) % 1
        at = (spout[0] + (pile[0] - spout[0]) * fall, spout[1] + (pile[1] - spout[1]) * fall**1.5)
        canvas.ellipse([at[0] - 2, at[1] - 3, at[0] + 2, at[1] + 3], fill=(150, 200, 235))


def _flame(canvas: ImageDraw.ImageDraw, pile: _Point, tall: float, share: float) -> None:
    for colour, wide, high in (
        ((240, 90, 20), 0.26, 0.55),
        ((255, 170, 30), 0.18, 0.4),
        ((255, 235, 120), 0.09, 0.24),
    ):
        flicker = 1 + 0.2 * sin(97 * share + 9 * wide)
        points = [(pile[0] - wide * tall, pile[1])]
        for step, reach in ((-0.5, 0.55), (-0.15, 1.0), (0.12, 0.6), (0.4, 0.85)):
            sway = 0.05 * sin(131 * share + 7 * step) * tall
            points.append((pile[0] + step * 1.6 * wide * tall + sway, pile[1] - high * reach * flicker * tall))
        canvas.polygon([*points, (pile[0] + wide * tall, pile[1])], fill=colour)
