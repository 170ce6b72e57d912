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
    issues: tuple[str, ...],
    cache: Path,
    *,
    workers: int = 2,
    progress: Progress | None = None,
) -> tuple[dict[str, npt.NDArray[np.float64]], FeatureTable]:
    """The teacher's log-odds of a violation of each issue ``(I,)`` by video id, and the features it read.

    Labels play no part. An issue that the teacher does not score is NaN; one that scores none of them is a
    ``CheckpointError``. Videos that do not decode are not among the results.
    """
    model, processor, _ = load_checkpoint(teacher)
    known = model.config.issues
    if not set(issues) & set(known):
        raise CheckpointError(f"expected a teacher of one of {list(issues)} in {teacher}, found {list(known)}")
    table = load_features(entries, processor, cache, workers=workers, progress=progress)
    scores = score_rows(model, processor, table, range(len(table))).reshape(len(table), -1)
    odds = np.full((len(table), len(issues)), np.nan)
    for place, issue in enumerate(issues):
        if issue in known:
            odds[:, place] = log_odds(scores[:, known.index(issue)])
    return dict(zip(table.video_ids, odds, strict=True)), table


def distilled(examples: Examples, odds: Mapping[str, npt.ArrayLike]) -> Examples:
    """The examples with the teacher's log-odds as soft targets; NaN for a video that the teacher has not scored.

    ``odds``: by video id, a number, or ``(I,)`` of several issues.
    """
    videos = [examples.table.video_ids[int(row)] for row in examples.rows]
    silent = np.full(examples.labels.shape[1:], np.nan)
    soft = [
        np.asarray(odds[video], dtype=np.float64).reshape(silent.shape) if video in odds else silent for video in videos
    ]
    return replace(examples, soft=np.asarray(soft, dtype=np.float64))
