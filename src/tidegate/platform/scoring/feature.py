"""Scores that somebody else computed: read from a feature, no model here.

Enters: items with features. Leaves: a decision by one threshold. For platforms whose models run elsewhere and write
their scores to a cache, and for measuring the platform without models. A missing score is a failure of the item, never
zero; it is tried again a few times, because the score may be late.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tidegate.errors import ScoringError
from tidegate.platform.contracts import Dead, Decided, Scored, ScoringItem
from tidegate.platform.scoring.context import ScoringContext
from tidegate.types import Decision, Score

__all__ = ["FeatureScorer", "FeatureScorerSettings", "open_feature_scorer"]


@dataclass(frozen=True, kw_only=True)
class FeatureScorerSettings:
    """``[scoring] kind = "feature"``."""

    feature: str = "cache.base_score"
    """Name of the feature that holds the score, as ``service.feature`` or a name that events bring themselves."""
    issue: str = "icd"
    """What is scored; the policy's clauses refer to it."""
    stage: str = "base"
    """Name under which the score is recorded."""
    flag_threshold: float = 0.5
    """Score at or over which a video is flagged, unless the policy's clause says otherwise."""
    model: str = "elsewhere"
    """Identity of the model that computed the scores, for the records."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.flag_threshold <= 1.0:
            raise ValueError(f"flag_threshold: expected a score in [0, 1], got {self.flag_threshold}")


def open_feature_scorer(settings: FeatureScorerSettings, context: ScoringContext) -> FeatureScorer:
    """The scorer of a configuration."""
    return FeatureScorer(settings)


class FeatureScorer:
    """Scores by a feature."""

    def __init__(self, settings: FeatureScorerSettings | None = None) -> None:
        self._settings = settings or FeatureScorerSettings()

    def score_many(self, items: Sequence[ScoringItem]) -> Sequence[Scored]:
        feature = self._settings.feature
        return [self._scored(item, item.features.get(feature)) for item in items]

    def _scored(self, item: ScoringItem, value: object) -> Scored:
        settings = self._settings
        if value is None:
            reason = f"expected feature {settings.feature}, which is missing"
            return Dead("score_missing", reason, retryable=True)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
            return Dead(ScoringError.code, f"expected {settings.feature} in [0, 1], got {value!r}")
        score = Score(value=float(value), stage=settings.stage, issue=settings.issue, model=settings.model)
        return Decided(_decision(score, settings.flag_threshold, item.event.region), (score,))

    def close(self) -> None:
        """Nothing is held."""


def _decision(score: Score, threshold: float, region: str | None) -> Decision:
    flagged = score.value >= threshold
    return Decision(
        issue=score.issue, score=score.value, flagged=flagged, threshold=threshold, stage=score.stage,
        escalated=False, route="last_stage", reason="scored elsewhere", region=region,
    )
