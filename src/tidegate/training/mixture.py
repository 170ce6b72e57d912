"""What a training split is made of: which of its videos are seen more often, and which take a modality of others.

Enters: the training examples with their entries, and a recipe. Leaves: the examples that the loop sees, and sentences
that say what was done to them, for the console and the card.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tidegate.corpus.manifest import Entry
from tidegate.errors import ConfigError
from tidegate.models.scoring import ClassifierStage, load_stage
from tidegate.training.emphasis import EmphasisConfig, emphasised_ids, repeated
from tidegate.training.evidence import MODALITY_OF_TASK
from tidegate.training.examples import Examples
from tidegate.training.loop import score_rows
from tidegate.training.recipes import TrainRecipe
from tidegate.training.swapping import swaps_of
from tidegate.types import Modality

__all__ = ["Mixture", "check_mixture", "mixed"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixture:
    """Training examples as the loop sees them."""

    examples: Examples
    notes: tuple[str, ...] = ()
    """What was done to them, in words."""


def check_mixture(
    recipe: TrainRecipe, modalities: Sequence[Modality], *, init: Path | None, live: bool, taught: bool
) -> None:
    """``ConfigError`` for what cannot be, before anything is decoded. ``modalities``: what the model uses."""
    unseen = [name for name in recipe.swap.wanted if name not in modalities]
    if unseen:
        raise ConfigError(f"expected modalities that the model uses to be swapped, got {', '.join(unseen)}")
    if recipe.swap.wanted and taught:
        raise ConfigError("expected no swapped modalities with a teacher: its scores are of the clips as they are")
    if recipe.emphasis.missed_at is None:
        return
    if init is None or live or recipe.fusion is not None:
        raise ConfigError(
            "expected a checkpoint to start from, a feature cache and no other fusion to know which videos it misses"
        )


def mixed(examples: Examples, entries: Sequence[Entry], recipe: TrainRecipe, *, init: Path | None) -> Mixture:
    """The examples with emphasis and swaps as the recipe has them; as they are if it has none."""
    examples, notes = _emphasised(examples, entries, recipe, init)
    by_id = {entry.video_id: entry for entry in entries}
    own = [by_id[video_id] for video_id in _ids(examples)]
    swaps = swaps_of(own, recipe.model.issues, recipe.swap, MODALITY_OF_TASK)
    if swaps is None:
        return Mixture(examples=examples, notes=tuple(notes))
    return Mixture(examples=replace(examples, swaps=swaps), notes=(*notes, swaps.told))


def _ids(examples: Examples) -> list[str]:
    return [examples.table.video_ids[int(row)] for row in examples.rows]


def _emphasised(
    examples: Examples, entries: Sequence[Entry], recipe: TrainRecipe, init: Path | None
) -> tuple[Examples, list[str]]:
    config = recipe.emphasis
    if not config.asked:
        return examples, []
    chosen = emphasised_ids(entries, config)
    if config.missed_at is not None and init is not None:
        chosen |= _missed(examples, load_stage(init, name="start", issue=recipe.model.issue), config.missed_at)
    video_ids = _ids(examples)
    count = len(chosen.intersection(video_ids))
    said = f"{count} of {len(video_ids)} training videos are seen {config.times} times an epoch ({_criteria(config)})"
    return _picked(examples, repeated(video_ids, chosen, config.times)), [said]


def _criteria(config: EmphasisConfig) -> str:
    listed = [] if config.ids is None else [f"listed in {config.ids.name}"]
    missed = [] if config.missed_at is None else [f"missed at base precision {config.missed_at} %"]
    return ", ".join([*listed, *config.where, *missed])


def _missed(examples: Examples, stage: ClassifierStage, p_base: str) -> set[str]:
    """Violating videos that a checkpoint scores below its threshold of a base precision."""
    tau = (stage.thresholds or {}).get("escalate", {}).get(p_base)
    if tau is None:
        raise ConfigError(f"{stage.identity}: expected a threshold for a base precision of {p_base} %, found none")
    place = stage.issues.index(stage.issue)
    scores = score_rows(stage.model, stage.processor, examples.table, examples.rows.tolist())
    low = scores.reshape(len(scores), -1)[:, place] < tau
    found = {name for name, is_low, label in zip(_ids(examples), low, examples.labels_by_issue[:, 0], strict=True)
             if is_low and label == 1}  # fmt: skip
    if not found:
        raise ConfigError(
            f"{stage.identity}: expected violating training videos below {tau:.3g} to emphasise, found none: "
            f"it misses nothing that it was trained on; list ids of new training videos instead"
        )
    return found


def _picked(examples: Examples, numbers: npt.NDArray[np.int64]) -> Examples:
    return replace(
        examples,
        rows=examples.rows[numbers],
        labels=examples.labels[numbers],
        auxiliary={task: column[numbers] for task, column in examples.auxiliary.items()},
        soft=None if examples.soft is None else examples.soft[numbers],
    )
