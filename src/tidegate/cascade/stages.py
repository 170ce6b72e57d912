"""Clips → scores: the contract of a stage, and the kinds of stage that need no model in this process.

A stage is anything that is callable on a batch of clips and gives one ``Score`` for each, in order: a model in
process, a client of a remote server, a plain function, or a table of cached scores. It says what it wants to see
(``request``), so that whoever decodes reads no more than that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from tidegate.errors import ScoringError
from tidegate.types import Clip, ClipRequest, Score

__all__ = ["CachedStage", "FunctionStage", "Stage", "score_batch"]


@runtime_checkable
class Stage(Protocol):
    """What the cascade asks of a model."""

    @property
    def name(self) -> str:
        """E.g. ``base``; the cascade's ``StageSpec`` refers to it."""
        ...

    @property
    def issue(self) -> str:
        """What is scored, e.g. ``icd``."""
        ...

    @property
    def request(self) -> ClipRequest:
        """What of a video this stage wants to see."""
        ...

    def __call__(self, clips: Sequence[Clip], /) -> list[Score]:
        """One score a clip, in order."""
        ...


@dataclass(frozen=True, kw_only=True)
class FunctionStage:
    """A stage out of any function from clips to probabilities, such as a foreign model or a remote call."""

    name: str
    issue: str
    function: Callable[[Sequence[Clip]], Sequence[float]]
    """Gives a probability in [0, 1] for each clip, in order."""
    model: str
    """Identity of the model behind the function; it is written into every score."""
    request: ClipRequest = field(default_factory=ClipRequest)
    cost_seconds: float = 0.0
    """Model time per clip, where it is known."""

    def __call__(self, clips: Sequence[Clip], /) -> list[Score]:
        values = [float(value) for value in self.function(clips)]
        if len(values) != len(clips):
            raise ScoringError(f"stage {self.name}: expected {len(clips)} scores, got {len(values)}")
        return [self._score(clip, value) for clip, value in zip(clips, values, strict=True)]

    def _score(self, clip: Clip, value: float) -> Score:
        if not 0.0 <= value <= 1.0:
            raise ScoringError(f"stage {self.name}: expected a score in [0, 1] for {clip.video_id}, got {value}")
        return Score(
            value=value,
            stage=self.name,
            issue=self.issue,
            model=self.model,
            missing=clip.missing,
            cost_seconds=self.cost_seconds,
        )


@dataclass(frozen=True, kw_only=True)
class CachedStage:
    """A stage that looks its scores up by video id: replay, backtests, calibration."""

    name: str
    issue: str
    scores: Mapping[str, Score]
    request: ClipRequest = field(default_factory=lambda: ClipRequest(num_frames=0, audio=False))

    def __call__(self, clips: Sequence[Clip], /) -> list[Score]:
        absent = [clip.video_id for clip in clips if clip.video_id not in self.scores]
        if absent:
            raise ScoringError(f"stage {self.name}: expected a cached score for every clip, got none for {absent[:3]}")
        return [self.scores[clip.video_id] for clip in clips]


def score_batch(stage: Stage, clips: Sequence[Clip]) -> list[Score]:
    """The stage's scores, checked: one a clip, under the stage's own name."""
    scores = stage(clips)
    if len(scores) != len(clips):
        raise ScoringError(f"stage {stage.name}: expected {len(clips)} scores, got {len(scores)}")
    foreign = next((score for score in scores if score.stage != stage.name), None)
    if foreign is not None:
        raise ScoringError(f"stage {stage.name}: expected scores under its own name, got one of {foreign.stage!r}")
    return scores
