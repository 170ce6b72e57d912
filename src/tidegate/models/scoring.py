"""``ClassifierStage``: a checkpoint as a stage of a cascade, a callable from clips to scores.

Enters: clips that hold what ``request`` asked for. Leaves: one ``Score`` a clip, in order. A score is the softmax
probability of the violating class. A non-finite result, or a clip that has none of the model's modalities, is a
``ScoringError``: there is no sentinel score.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tidegate.errors import ScoringError
from tidegate.models.batch import ClipFeatures
from tidegate.models.build import Model
from tidegate.models.card import Card
from tidegate.models.checkpoint import checkpoint_hash, load_checkpoint, load_thresholds
from tidegate.models.processor import ClipProcessor
from tidegate.types import Clip, ClipRequest, Score

__all__ = ["ClassifierStage", "load_stage", "score_features"]


def score_features(
    model: Model, processor: ClipProcessor, features: Sequence[ClipFeatures], *, device: str = "cpu"
) -> list[float]:
    """Probability of the violating class for each item; NaN where the forward pass gave none."""
    with torch.inference_mode():
        logits_BK = model(processor.collate(features).to(device)).float()
        probabilities: list[float] = logits_BK.softmax(dim=-1)[:, 1].tolist()
    return probabilities


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassifierStage:
    """A trained model that scores clips. Safe to call from one thread at a time."""

    name: str
    """Stage name, ``base`` or ``large``."""
    issue: str
    model: Model
    processor: ClipProcessor
    card: Card
    identity: str
    """Checkpoint name and content hash; ``Score.model``."""
    thresholds: Mapping[str, Any] | None = None
    """Content of ``thresholds.json``."""
    device: str = "cpu"
    batch_size: int = 8
    """Clips of one forward pass."""

    @property
    def request(self) -> ClipRequest:
        """What must be decoded of a video."""
        return self.processor.request

    @property
    def notice(self) -> str | None:
        """What every view of this stage's verdicts must say."""
        return self.card.notice

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def __call__(self, clips: Sequence[Clip]) -> list[Score]:
        """Scores of the clips, in order."""
        starts = range(0, len(clips), self.batch_size)
        return [score for start in starts for score in self._scores(clips[start : start + self.batch_size])]

    def _scores(self, clips: Sequence[Clip]) -> Iterator[Score]:
        started = time.perf_counter()
        features = self.processor.features(clips)
        for clip, item in zip(clips, features, strict=True):
            if set(item.missing) == set(self.processor.config.modalities):
                raise ScoringError(f"{clip.video_id}: expected at least one of {item.missing}, the clip has none")
        try:
            values = score_features(self.model, self.processor, features, device=self.device)
        except RuntimeError as error:
            raise ScoringError(f"forward pass of {self.identity} failed on {len(clips)} clips: {error}") from error
        share = (time.perf_counter() - started) / len(clips)
        for clip, item, value in zip(clips, features, values, strict=True):
            if not math.isfinite(value):
                raise ScoringError(f"{clip.video_id}: expected a finite score from {self.identity}, got {value}")
            yield Score(
                value=min(1.0, max(0.0, value)),
                stage=self.name,
                issue=self.issue,
                model=self.identity,
                missing=item.missing,
                cost_seconds=share,
            )


def load_stage(
    folder: Path | str, *, name: str, device: str = "cpu", batch_size: int = 8, num_threads: int | None = None
) -> ClassifierStage:
    """The stage of a checkpoint folder, base or AVLM. ``num_threads`` sets torch's threads for the whole process."""
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    model, processor, card = load_checkpoint(folder)
    return ClassifierStage(
        name=name,
        issue=model.config.issue,
        model=model.to(device),
        processor=processor,
        card=card,
        identity=f"{card.name}@{checkpoint_hash(folder)}",
        thresholds=load_thresholds(folder),
        device=device,
        batch_size=batch_size,
    )
