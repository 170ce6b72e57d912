"""People as jointed figures: a pose at each instant for what they do, and its drawing.

Enters: who (colours), where, and an action with its span. Leaves: shapes on a Pillow canvas. A strike and a dance are
made of the same poses (an arm stretched towards the other, the other leaning away); what tells them apart is when: in
a strike the arm shoots out, the other recoils right after and gives ground; in a dance both sway slowly and come
back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import cos, pi, sin

import numpy as np
from PIL import ImageDraw

__all__ = ["BENIGN_PAIRS", "BENIGN_SOLOS", "VIOLENT_PAIRS", "Body", "Pose", "draw_figure", "pair_poses", "solo_pose"]

VIOLENT_PAIRS = ("strike", "push")
BENIGN_PAIRS = ("dance_pair", "high_five", "hug", "sit_ups")
BENIGN_SOLOS = ("stand", "walk", "wave", "dance", "clap")
_SKIN = ((255, 219, 172), (241, 194, 125), (224, 172, 105), (198, 134, 66), (141, 85, 36), (90, 56, 37))
_Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Body:
    """How a figure looks."""

    skin: _Colour
    shirt: _Colour
    trousers: _Colour
    hair: _Colour
    stature: float
    """Height relative to the scene's usual one, 0.85 to 1.15."""

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Body:
        shirt, trousers, hair = (tuple(int(c) for c in rng.integers(20, 236, 3)) for _ in range(3))
        skin = _SKIN[int(rng.integers(len(_SKIN)))]
        dark = tuple(channel // 4 for channel in hair)
        return cls(skin=skin, shirt=shirt, trousers=trousers, hair=dark, stature=float(rng.uniform(0.85, 1.15)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Pose:
    """Angles in radians; an arm at 0 hangs, at pi/2 points forward (+x for ``facing`` 1), at pi up."""

    x: float
    """Feet, in figure heights from the pair's centre."""
    facing: int = 1
    lean: float = 0.0
    near_arm: float = 0.1
    far_arm: float = -0.1
    near_bend: float = 0.0
    far_bend: float = 0.0
    stride: float = 0.0
    """Legs' opening."""
    fallen: float = 0.0
    """0 upright to 1 flat on the ground, backwards."""

    def mirrored(self) -> Pose:
        """The same pose on the other side, looking the other way."""
        return replace(self, x=-self.x, facing=-self.facing)


def solo_pose(action: str, t: float, phase: float, x: float, facing: int) -> Pose:
    """One figure alone at ``t`` seconds."""
    beat = 2 * pi * t + phase
    if action == "walk":
        return Pose(
            x + 0.35 * facing * (t - 2.5) * 0.5,
            facing,
            0.05,
            0.5 * sin(beat),
            -0.5 * sin(beat),
            stride=0.45 * sin(beat),
        )
    if action == "wave":
        return Pose(x, facing, 0.0, 2.6 + 0.35 * sin(1.4 * beat), -0.1, near_bend=0.3 * sin(1.4 * beat))
    if action == "dance":
        sway = sin(1.1 * beat)
        return Pose(x + 0.08 * sway, facing, 0.15 * sway, 1.5 + sway, -1.2 + sway, 0.6, 0.6, 0.25 * sway)
    if action == "clap":
        meet = 0.2 * abs(sin(1.5 * beat))
        return Pose(x, facing, 0.0, 1.3 + meet, 1.3 - meet, 0.5, 0.5)
    return Pose(x, facing, 0.03 * sin(0.5 * beat))


def _pulse(t: float, at: float, rise: float, fall: float) -> float:
    """0 to 1 in ``rise`` seconds from ``at``, back to 0 in ``fall``."""
    if t < at:
        return 0.0
    return min(1.0, (t - at) / rise) if t < at + rise else max(0.0, 1 - (t - at - rise) / fall)


def _ramp(t: float, start: float, seconds: float) -> float:
    return float(np.clip((t - start) / seconds, 0, 1))


def pair_poses(action: str, t: float, times: tuple[float, ...], phase: float) -> tuple[Pose, Pose]:
    """Two figures that face each other, at ``t`` seconds; ``times`` are the instants of contact."""
    pose = {
        "strike": _strike, "push": _push, "dance_pair": _dance_pair, "high_five": _high_five, "hug": _hug,
        "sit_ups": _sit_ups,
    }[action]  # fmt: skip
    return pose(t, times, phase)


def _strike(t: float, times: tuple[float, ...], phase: float) -> tuple[Pose, Pose]:
    arm = max(_pulse(t, at - 0.1, 0.1, 0.25) for at in times)
    recoil = max(_pulse(t, at + 0.02, 0.08, 0.5) for at in times)
    ground = 0.22 / len(times) * sum(_ramp(t, at, 0.2) for at in times)
    fall = _ramp(t, times[-1] + 0.1, 0.45) if phase > pi else 0.0
    attacker = Pose(-0.24 + ground, 1, 0.1 + 0.2 * arm, 0.4 + 1.15 * arm, 0.7, 1.1 * (1 - arm), 1.0, 0.3)
    return attacker, Pose(0.26 + ground, -1, -0.5 * recoil, 0.3 + 1.2 * recoil, 0.2 + recoil, 0.5, 0.5, 0.2, fall)


def _push(t: float, times: tuple[float, ...], phase: float) -> tuple[Pose, Pose]:
    at = times[0]
    arms = _pulse(t, at - 0.15, 0.15, 0.8)
    back = 0.22 * _ramp(t, at, 0.5)
    fall = _ramp(t, at + 0.2, 0.5)
    pusher = Pose(
        -0.22 + 0.1 * _ramp(t, at - 0.3, 0.3), 1, 0.3 * arms, 0.2 + 1.35 * arms, 0.2 + 1.3 * arms, stride=0.35 * arms
    )
    return pusher, Pose(
        0.24 + back, -1, -0.5 * _pulse(t, at, 0.2, 1), 0.2 + fall, 0.2 + fall, 0.4, 0.4, 0.3 * fall, fall
    )


def _dance_pair(t: float, times: tuple[float, ...], phase: float) -> tuple[Pose, Pose]:
    sway = 0.5 + 0.5 * sin(2 * pi * t / 1.6 + phase)
    drift = 0.15 * sin(2 * pi * t / 3.2 + phase)
    lead = Pose(-0.24 + drift, 1, 0.1 + 0.2 * sway, 0.4 + 1.15 * sway, 0.7, 1.1 * (1 - sway), 1.0, 0.3)
    return lead, Pose(0.26 + drift, -1, -0.5 * sway, 0.3 + 1.2 * sway, 0.2 + sway, 0.5, 0.5, 0.2)


def _high_five(t: float, times: tuple[float, ...], phase: float) -> tuple[Pose, Pose]:
    reach = max(_pulse(t, at - 0.3, 0.3, 0.4) for at in times)
    return (
        Pose(-0.22, 1, 0.08 * reach, 0.2 + 1.9 * reach, 0.1, 0.3 * (1 - reach), 0.2, 0.1),
        Pose(0.22, -1, 0.08 * reach, 0.2 + 1.9 * reach, 0.1, 0.3 * (1 - reach), 0.2, 0.1),
    )


def _hug(t: float, times: tuple[float, ...], phase: float) -> tuple[Pose, Pose]:
    near = _ramp(t, times[0] - 0.6, 0.7) * (1 - _ramp(t, times[-1] + 0.9, 0.6))
    gap = 0.3 - 0.19 * near
    return (
        Pose(-gap, 1, 0.1 * near, 0.2 + 1.3 * near, 0.2 + 1.2 * near, 0.3, 0.3, 0.1),
        Pose(gap, -1, 0.1 * near, 0.2 + 1.3 * near, 0.2 + 1.2 * near, 0.3, 0.3, 0.1),
    )


def _sit_ups(t: float, times: tuple[float, ...], phase: float) -> tuple[Pose, Pose]:
    down = 0.5 - 0.5 * cos(2 * pi * t / 2.4 + phase)
    coach = Pose(-0.3, 1, 0.1, 0.9 + 0.3 * sin(2 * pi * t / 1.2), 0.2, 0.4, 0.2, 0.2)
    return coach, Pose(0.45, -1, -0.2 * down, 0.4, 0.4, 0.6, 0.6, 0.2, 0.35 + 0.65 * down)


def draw_figure(
    canvas: ImageDraw.ImageDraw, body: Body, pose: Pose, feet: tuple[float, float], height: float
) -> tuple[float, float]:
    """Draw ``body`` in ``pose`` with its feet at ``feet`` (pixels); gives the position of the near hand."""
    height *= body.stature
    flat = pose.fallen * 1.45
    axis = pose.lean * pose.facing - flat * pose.facing

    def along(origin: tuple[float, float], angle: float, length: float) -> tuple[float, float]:
        return origin[0] + length * sin(angle), origin[1] - length * cos(angle)

    hip = along((feet[0], feet[1] - 0.04 * height), axis * 0.9, 0.45 * height * (1 - 0.75 * pose.fallen))
    neck = along(hip, axis, 0.34 * height)
    head = along(neck, axis, 0.1 * height)
    torso = (neck, axis * 0.5, pose.facing)
    thick = max(2, round(0.075 * height))
    for side in (1, -1):
        knee = ((hip[0] + feet[0]) / 2 + side * (0.03 + 0.12 * pose.stride) * height, (hip[1] + feet[1]) / 2)
        foot = (feet[0] + side * (0.05 + 0.2 * pose.stride) * height + flat * 0.2 * height * pose.facing, feet[1])
        canvas.line([hip, knee, foot], fill=body.trousers, width=thick, joint="curve")
    _arm(canvas, body, (pose.far_arm, pose.far_bend), torso, height)
    canvas.line([hip, neck], fill=body.shirt, width=round(2.1 * thick))
    radius = 0.078 * height
    canvas.ellipse([head[0] - radius, head[1] - radius * 1.1, head[0] + radius, head[1] + radius * 1.1], fill=body.skin)
    canvas.pieslice(
        [head[0] - radius, head[1] - radius * 1.2, head[0] + radius, head[1] + radius], 180, 360, fill=body.hair
    )
    return _arm(canvas, body, (pose.near_arm, pose.near_bend), torso, height)


def _arm(
    canvas: ImageDraw.ImageDraw,
    body: Body,
    angles: tuple[float, float],
    torso: tuple[tuple[float, float], float, int],
    height: float,
) -> tuple[float, float]:
    """``angles`` of shoulder and elbow; ``torso`` is the neck's place, its turn and the side that it faces."""
    (swing, bend), (neck, turn, facing) = angles, torso
    shoulder = (neck[0], neck[1] + 0.04 * height)
    points = [shoulder]
    for angle in (swing, swing + bend):
        last = points[-1]
        direction = (sin(angle) * facing, cos(angle))
        step = (
            direction[0] * cos(turn) - direction[1] * sin(turn),
            direction[0] * sin(turn) + direction[1] * cos(turn),
        )
        points.append((last[0] + 0.17 * height * step[0], last[1] + 0.17 * height * step[1]))
    thick = max(2, round(0.055 * height))
    canvas.line(points, fill=tuple(int(0.85 * c) for c in body.shirt), width=thick, joint="curve")
    hand = points[-1]
    canvas.ellipse(
        [hand[0] - thick * 0.6, hand[1] - thick * 0.6, hand[0] + thick * 0.6, hand[1] + thick * 0.6], fill=body.skin
    )
    return hand
