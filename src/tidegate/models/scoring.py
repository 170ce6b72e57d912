"""``ClassifierStage``: a checkpoint as a stage of a cascade, a callable from clips to scores.

Enters: clips that hold what ``request`` asked for. Leaves: one ``Score`` a clip, in order; of a model for several
issues also one a clip and issue. A score is the softmax
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

from tidegate.errors import ConfigError, ScoringError
from tidegate.models.batch import ClipFeatures
from tidegate.models.build import Model
from tidegate.models.card import Card
from tidegate.models.checkpoint import checkpoint_hash, load_checkpoint, load_thresholds
from tidegate.models.processor import ClipProcessor
from tidegate.types import Clip, ClipRequest, Score

__all__ = ["ClassifierStage", "issue_probabilities", "load_stage", "score_features"]


def issue_probabilities(
    model: Model, processor: ClipProcessor, features: Sequence[ClipFeatures], *, device: str = "cpu"
) -> list[list[float]]:
    """Probability of violation, a row an item and a column an issue; NaN where the forward pass gave none."""
    with torch.inference_mode():
        logits = model(processor.collate(features).to(device)).float()
        values: list[list[float]] = logits.softmax(dim=-1)[..., 1].reshape(len(features), -1).tolist()
    return values


def score_features(
    model: Model, processor: ClipProcessor, features: Sequence[ClipFeatures], *, device: str = "cpu"
) -> list[float]:
    """Probability of violating the model's first issue for each item; NaN where the forward pass gave none."""
    return [row[0] for row in issue_probabilities(model, processor, features, device=device)]


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassifierStage:
    """A trained model that scores clips. Safe to call from one thread at a time."""

    name: str
    """Stage name, ``base`` or ``large``."""
    issue: str
    """The issue that calling the stage scores, one of ``issues``."""
    model: Model
    processor: ClipProcessor
    card: Card
    identity: str
    """Checkpoint name and content hash; ``Score.model``."""
    thresholds: Mapping[str, Any] | None = None
    """Content of ``thresholds.json`` that concerns ``issue``."""
    device: str = "cpu"
    batch_size: int = 8
    """Clips of one forward pass."""

    def __post_init__(self) -> None:
        if self.issue not in self.issues:
            raise ConfigError(f"{self.identity}: expected an issue among {list(self.issues)}, got {self.issue!r}")

    @property
    def issues(self) -> tuple[str, ...]:
        """All issues that the model scores, in the order of its heads."""
        return self.model.config.issues

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
        """Parameters of the model; of an export, of the model that was exported."""
        exported = getattr(self.model, "exported_parameters", 0)
        return exported or sum(parameter.numel() for parameter in self.model.parameters())

    def __call__(self, clips: Sequence[Clip]) -> list[Score]:
        """Scores of the clips under ``issue``, in order."""
        position = self.issues.index(self.issue)
        return [row[position] for row in self.scores_by_issue(clips)]

    def scores_by_issue(self, clips: Sequence[Clip]) -> list[tuple[Score, ...]]:
        """For each clip one score an issue, in the order of ``issues``; one forward pass gives them all."""
        starts = range(0, len(clips), self.batch_size)
        return [row for start in starts for row in self._scores(clips[start : start + self.batch_size])]

    def _scores(self, clips: Sequence[Clip]) -> Iterator[tuple[Score, ...]]:
        started = time.perf_counter()
        features = self.processor.features(clips)
        for clip, item in zip(clips, features, strict=True):
            if set(item.missing) == set(self.processor.config.modalities):
                raise ScoringError(f"{clip.video_id}: expected at least one of {item.missing}, the clip has none")
        try:
            rows = issue_probabilities(self.model, self.processor, features, device=self.device)
        except RuntimeError as error:
            raise ScoringError(f"forward pass of {self.identity} failed on {len(clips)} clips: {error}") from error
        share = (time.perf_counter() - started) / len(clips)
        for clip, item, values in zip(clips, features, rows, strict=True):
            if not all(map(math.isfinite, values)):
                raise ScoringError(f"{clip.video_id}: expected a finite score from {self.identity}, got {values}")
            yield tuple(
                Score(
                    value=min(1.0, max(0.0, value)),
                    stage=self.name,
                    issue=issue,
                    model=self.identity,
                    missing=item.missing,
                    cost_seconds=share / len(values),
                )
                for issue, value in zip(self.issues, values, strict=True)
            )


def _thresholds_of(values: dict[str, Any] | None, issue: str) -> dict[str, Any] | None:
    """The part of ``thresholds.json`` that concerns an issue; further issues stand under ``issues``."""
    if values is None or values.get("issue", issue) == issue:
        return values
    other: dict[str, Any] | None = values.get("issues", {}).get(issue)
    return other


def load_stage(
    folder: Path | str,
    *,
    name: str,
    issue: str | None = None,
    device: str = "cpu",
    batch_size: int = 8,
    num_threads: int | None = None,
) -> ClassifierStage:
    """The stage of a checkpoint folder, base or AVLM.

    ``issue``: which of the model's issues calling the stage scores; None: the first. ``num_threads`` sets torch's
    threads for the whole process.
    """
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    model, processor, card = load_checkpoint(folder)
    issue = issue or model.config.issue
    return ClassifierStage(
        name=name,
        issue=issue,
        model=model.to(device),
        processor=processor,
        card=card,
        identity=f"{card.name}@{checkpoint_hash(folder)}",
        thresholds=_thresholds_of(load_thresholds(folder), issue),
        device=device,
        batch_size=batch_size,
    )
