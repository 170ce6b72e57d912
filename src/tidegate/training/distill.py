"""Distillation: a cheap stage learns from the large model's soft scores.

Enters: a teacher's checkpoint folder and manifest entries, labelled or not. Leaves: examples whose ``soft`` holds the
teacher's log-odds; ``OptimiserConfig.soft_weight`` and ``temperature`` say how much they count. Why: a score of .6
says more than a label, and unlabelled videos cost nothing but the teacher's time (Hinton et al. 2015).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tidegate.corpus.manifest import Entry
from tidegate.errors import CheckpointError
from tidegate.models.checkpoint import load_checkpoint
from tidegate.training.examples import Examples
from tidegate.training.features import FeatureTable, Progress, load_features
from tidegate.training.loop import score_rows

__all__ = ["distilled", "log_odds", "teacher_log_odds"]

_CERTAIN = 1e-6
"""Scores are kept this far from 0 and 1, so that log-odds stay finite (within +-13.8)."""


def log_odds(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """log(p / (1 - p)); a score that is NaN stays NaN: no teacher's word."""
    held = np.clip(scores, _CERTAIN, 1.0 - _CERTAIN)
    odds: npt.NDArray[np.float64] = np.log(held) - np.log1p(-held)
    return odds


def teacher_log_odds(
    teacher: Path,
    entries: Sequence[Entry],
    issue: str,
    cache: Path,
    *,
    workers: int = 2,
    progress: Progress | None = None,
) -> tuple[dict[str, float], FeatureTable]:
    """The teacher's log-odds of a violation of ``issue`` by video id, and the features it read; labels play no part.

    A teacher of another issue is a ``CheckpointError``. Videos that do not decode are not among the results.
    """
    model, processor, _ = load_checkpoint(teacher)
    if model.config.issue != issue:
        raise CheckpointError(f"expected a teacher of issue {issue!r} in {teacher}, found {model.config.issue!r}")
    table = load_features(entries, processor, cache, workers=workers, progress=progress)
    odds = log_odds(score_rows(model, processor, table, range(len(table))))
    return dict(zip(table.video_ids, odds.tolist(), strict=True)), table


def distilled(examples: Examples, odds: Mapping[str, float]) -> Examples:
    """The examples with the teacher's log-odds as soft targets; NaN for a video that the teacher has not scored."""
    videos = [examples.table.video_ids[int(row)] for row in examples.rows]
    return replace(examples, soft=np.asarray([odds.get(video_id, np.nan) for video_id in videos], dtype=np.float64))
