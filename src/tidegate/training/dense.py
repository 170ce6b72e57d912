"""Warm-up of the vision tower with one target a patch: what each patch of a drawing shows.

Enters: a count and a seed. Leaves: weights of a SigLIP tower whose last hidden states, which are what the AVLM
reads, tell weapons from toys, blows from hugs, pouring from igniting. Why patches: forty-nine targets a picture
instead of one teach a transformer from random weights some twenty times faster than the picture's label does.
Drawings are the corpus generator's, with more things in each than a corpus video has, under seeds that no corpus
uses.

Shape legend: N pictures, P patches, K classes, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import sin
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from transformers import PreTrainedModel, SiglipVisionConfig, SiglipVisionModel

from tidegate.corpus.synthetic.acts import event_shares
from tidegate.corpus.synthetic.picture import Layer, Picture, compose
from tidegate.corpus.synthetic.plan import ACTS, Thing, VideoPlan
from tidegate.corpus.synthetic.sprites import CLUTTER, FOR_SALE, TOYS_AND_TOOLS, WEAPONS
from tidegate.evaluation import roc_auc
from tidegate.models.configs import ProcessorConfig
from tidegate.models.frames import normalise, resize_frames
from tidegate.training.evidence import ACTIONS
from tidegate.training.features import Progress
from tidegate.training.recipes import OptimiserConfig
from tidegate.training.schedule import rate_factor
from tidegate.training.warmup import drawn_plans

__all__ = ["PATCH_CLASSES", "Drawings", "draw_pictures", "train_patches"]

_EVENTS = tuple(event for act in ACTS for event in act.split("_"))
_THINGS = (*WEAPONS, *TOYS_AND_TOOLS, *FOR_SALE, *CLUTTER)
PATCH_CLASSES = (*_THINGS, *ACTIONS, *_EVENTS, "sticker", "news", "name")
"""What a patch can show; several at once."""
_MIN_PIXELS = 10
_BLANK = (1, 2, 3)


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawings:
    """Pictures and what their patches show."""

    frames_NSS3: npt.NDArray[np.uint8]
    shown_NPK: npt.NDArray[np.bool_]


def _crowded(plan: VideoPlan, rng: np.random.Generator) -> VideoPlan:
    """The plan with three to six things of any kind, and any action or act."""
    things = tuple(
        Thing(
            name=_THINGS[int(rng.integers(len(_THINGS)))],
            share=float(rng.uniform(0.06, 0.32)),
            x=float(rng.uniform(0.1, 0.9)),
            y=float(rng.uniform(0.15, 0.85)),
        )
        for _ in range(int(rng.integers(3, 7)))
    )
    acting = rng.random() < 0.25
    return replace(
        plan,
        things=things,
        act=ACTS[int(rng.integers(len(ACTS)))] if acting else None,
        act_backwards=bool(rng.random() < 0.5),
        action=None if acting else ACTIONS[int(rng.integers(len(ACTIONS)))],
    )


def _instant(picture: Picture, rng: np.random.Generator) -> float:
    """Any time; for a pair, mostly near its contact, where the action shows."""
    seconds = picture.plan.duration_seconds
    if picture.plan.act is None and rng.random() < 0.7:
        return float(np.clip(rng.choice(picture.contact_seconds) + rng.uniform(-0.2, 0.6), 0, seconds))
    return float(rng.uniform(0, seconds))


def _stamp(ids: Image.Image, layer: Layer, t: float) -> None:
    """Paste the layer's class where ``Layer.paste`` pastes its picture."""
    if layer.name in PATCH_CLASSES and layer.start_seconds <= t < layer.end_seconds:
        across = round(layer.sway_pixels * sin(2.1 * t + layer.phase))
        down = round(0.7 * layer.sway_pixels * sin(1.7 * t + 2 * layer.phase))
        mask = layer.image.getchannel("A").point(lambda alpha: 255 * (alpha > 100))
        ids.paste(1 + PATCH_CLASSES.index(layer.name), (layer.left + across, layer.top + down), mask)


def _people(picture: Picture, t: float) -> str | None:
    """The action or event that is to be seen at ``t``."""
    plan = picture.plan
    if plan.act is None:
        return plan.action
    share = t / plan.duration_seconds
    events = event_shares(plan.act, backwards=plan.act_backwards)
    return next((name for name, (start, end) in events.items() if start <= share <= end), None)


def _shown(picture: Picture, t: float, side: int, patch: int) -> npt.NDArray[np.bool_]:
    ids = Image.new("L", picture.size, 0)
    for layer in picture.behind:
        _stamp(ids, layer, t)
    if (name := _people(picture, t)) is not None:
        blank = Image.new("RGB", picture.size, _BLANK)
        picture._people(ImageDraw.Draw(blank), t)
        drawn = (np.asarray(blank) != _BLANK).any(axis=2)
        ids.paste(1 + PATCH_CLASSES.index(name), (0, 0), Image.fromarray((255 * drawn).astype(np.uint8)))
    for layer in picture.front:
        _stamp(ids, layer, t)
    small, grid = np.asarray(ids.resize((side, side), Image.Resampling.NEAREST)), side // patch
    tiles_PX = small.reshape(grid, patch, grid, patch).transpose(0, 2, 1, 3).reshape(grid * grid, -1)
    counts = (tiles_PX[:, :, None] == np.arange(1, len(PATCH_CLASSES) + 1)).sum(axis=1)
    return np.asarray(counts >= _MIN_PIXELS)


def draw_pictures(
    count: int, processor: ProcessorConfig, patch: int, folder: Path, *, seed: int, progress: Progress | None = None
) -> Drawings:
    """``count`` pictures; kept in ``folder``."""
    frames_path, shown_path = folder / "frames.npy", folder / "shown.npy"
    if not shown_path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        frames, shown = [], []
        for done, plan in enumerate(drawn_plans(count, seed), start=1):
            rng = np.random.default_rng([seed, plan.index])
            picture = compose(_crowded(plan, rng))
            t = _instant(picture, rng)
            frames.append(resize_frames(picture._frame(t)[None], processor)[0])
            shown.append(_shown(picture, t, processor.image_size, patch))
            if progress is not None:
                progress(done, count)
        np.save(frames_path, np.stack(frames))
        np.save(shown_path, np.stack(shown))
    return Drawings(frames_NSS3=np.load(frames_path), shown_NPK=np.load(shown_path))


def _loss(logits_NPK: Tensor, shown_NPK: Tensor) -> Tensor:
    """Binary cross-entropy summed over classes; what is there weighs three times what is not."""
    weights = 1.0 + 2.0 * shown_NPK
    return nn.functional.binary_cross_entropy_with_logits(logits_NPK, shown_NPK, weight=weights) * len(PATCH_CLASSES)


def _hidden(tower: PreTrainedModel, pixels: Tensor) -> Tensor:
    hidden_NPD: Tensor = tower(pixels, output_hidden_states=True).hidden_states[-1]
    return hidden_NPD


def _weapon_auc(tower: PreTrainedModel, head: nn.Linear, drawings: Drawings, processor: ProcessorConfig) -> float:
    """How well the largest patch score of any weapon tells pictures with weapons from those without."""
    weapons = [PATCH_CLASSES.index(name) for name in WEAPONS]
    with torch.inference_mode():
        scores = torch.cat(
            [
                head(_hidden(tower, normalise([drawings.frames_NSS3[start : start + 64]], processor)))
                .amax(dim=1)[:, weapons]
                .amax(dim=1)
                for start in range(0, len(drawings.frames_NSS3), 64)
            ]
        )
    labels = drawings.shown_NPK[:, :, weapons].any(axis=(1, 2)).astype(np.int64)
    return roc_auc(labels, scores.numpy())


def train_patches(
    vision: Mapping[str, Any],
    processor: ProcessorConfig,
    drawings: Drawings,
    config: OptimiserConfig,
    *,
    seed: int = 0,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> PreTrainedModel:
    """A vision tower of configuration ``vision`` that names what patches show."""
    torch.manual_seed(seed)
    tower = SiglipVisionModel(SiglipVisionConfig(**{k: v for k, v in vision.items() if k != "model_type"}))
    head = nn.Linear(tower.config.hidden_size, len(PATCH_CLASSES))
    parameters = [*tower.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    held = min(500, len(drawings.frames_NSS3) // 5)
    count = len(drawings.frames_NSS3) - held
    validation = Drawings(frames_NSS3=drawings.frames_NSS3[-held:], shown_NPK=drawings.shown_NPK[-held:])
    steps, step = max(1, count // config.batch_size), 0
    for epoch in range(config.epochs):
        rng, total = np.random.default_rng([seed, epoch]), 0.0
        tower.train()
        for chosen in np.array_split(rng.permutation(count), steps):
            for group in optimiser.param_groups:
                factor = rate_factor(step, steps * config.epochs, config.warmup_fraction)
                group["lr"] = config.learning_rate * factor
            frames, shown = _changed(drawings.frames_NSS3[chosen], drawings.shown_NPK[chosen], rng)
            loss = _loss(head(_hidden(tower, normalise([frames], processor))), torch.from_numpy(shown).float())
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, config.clip_norm)
            optimiser.step()
            total, step = total + float(loss.detach()), step + 1
        tower.eval()
        auc = _weapon_auc(tower, head, validation, processor)
        if on_epoch is not None:
            record = {"epoch": float(epoch), "loss": total / steps, "validation_auc": auc}
            on_epoch({**record, "validation_ap": float("nan"), "seconds": float("nan")})
    return tower


def _changed(
    frames_NSS3: npt.NDArray[np.uint8], shown_NPK: npt.NDArray[np.bool_], rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Half of the batches mirrored, all of another brightness."""
    table = np.clip(np.arange(256) * rng.uniform(0.8, 1.2), 0, 255).astype(np.uint8)
    frames = table[frames_NSS3]
    if rng.random() < 0.5:
        return frames, shown_NPK
    grid = int(shown_NPK.shape[1] ** 0.5)
    mirrored = shown_NPK.reshape(len(shown_NPK), grid, grid, -1)[:, :, ::-1].reshape(shown_NPK.shape)
    return frames[:, :, ::-1], mirrored
