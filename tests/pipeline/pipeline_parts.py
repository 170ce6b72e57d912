"""Real parts for the pipeline's tests: encoded videos, decoder processes, and stages whose answers are known.

``brightness`` is a stage that scores the mean brightness of the frames it sees, so a test decides a video's verdict by
painting it. ``checkpoints`` are small networks with new weights, saved and loaded as any checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from tidegate.cascade import FunctionStage
from tidegate.media import encode_video
from tidegate.models import MultiTowerConfig, ProcessorConfig, build_model, save_checkpoint, save_thresholds
from tidegate.models.card import Card
from tidegate.models.processor import ClipProcessor
from tidegate.pipeline.policy import Clause, Policy, Routing
from tidegate.pipeline.routing import CalibratedStage
from tidegate.pipeline.scanner import ScanSettings
from tidegate.types import AudioChunk, Clip, ClipRequest

BASE_REQUEST = ClipRequest(num_frames=2, exact=False, audio=False, long_edge_pixels=32)
LARGE_REQUEST = ClipRequest(num_frames=4, exact=True, audio=True, long_edge_pixels=64)


def make_video(
    path: Path, brightness: float, *, seconds: float = 1.0, size: tuple[int, int] = (48, 64), audio: bool = True,
    title: str | None = None,
) -> Path:
    """A video of one grey level (0 to 1), 10 frames a second, with a tone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = np.full((max(1, round(seconds * 10)), *size, 3), round(brightness * 255), dtype=np.uint8)
    times = np.arange(int(16_000 * seconds)) / 16_000
    tone = (0.2 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)
    chunk = AudioChunk(samples=tone, sample_rate_hz=16_000) if audio else None
    encode_video(path, frames, Fraction(10), chunk, title=title)
    return path


def brightness_of(clips: Sequence[Clip]) -> list[float]:
    """Mean brightness of each clip's frames."""
    return [float(clip.frames.frames_THWC.mean()) / 255 if clip.frames is not None else 0.0 for clip in clips]


def stage(
    name: str, request: ClipRequest, function: Callable[[Sequence[Clip]], Sequence[float]] = brightness_of
) -> FunctionStage:
    return FunctionStage(name=name, issue="icd", function=function, model=f"brightness-{name}@1", request=request)


POLICY = Policy(
    name="test", version="1", clauses=(Clause(id="bright", issue="icd", title="Too bright"),),
    routing=Routing(rule="precision", tau=0.3),
)
SETTINGS = ScanSettings(workers=1, batch_size=4)


def bright_stages(
    base: Callable[[Sequence[Clip]], Sequence[float]] = brightness_of,
    large: Callable[[Sequence[Clip]], Sequence[float]] = brightness_of,
) -> tuple[CalibratedStage, CalibratedStage]:
    """Base escalates from 0.3, large flags from 0.6."""
    return (
        CalibratedStage(stage=stage("base", BASE_REQUEST, base), flag_threshold=0.9),
        CalibratedStage(stage=stage("large", LARGE_REQUEST, large), flag_threshold=0.6),
    )


def tiny_resnet() -> dict[str, object]:
    return {
        "model_type": "resnet", "num_channels": 3, "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1],
        "layer_type": "basic", "hidden_act": "relu",
    }


def save_tower(folder: Path, *, seed: int, frames: int, exact: bool) -> None:
    torch.manual_seed(seed)
    model = build_model(MultiTowerConfig(issue="icd", vision=tiny_resnet())).eval()
    settings = ProcessorConfig(
        modalities=("vision",), num_frames=frames, exact_frames=exact, long_edge_pixels=64, image_size=32,
        resample="bilinear",
    )
    card = Card(name=f"test-tower-{seed}", issue="icd", notice="Weights are new: the scores mean nothing.", seed=seed)
    save_checkpoint(model, ClipProcessor(settings, None), folder, card)
    thresholds = {"issue": "icd", "flag_threshold": 0.5, "escalate": {"10": 0.0, "50": 0.0}, "entropy": 0.9}
    save_thresholds(folder, thresholds)
