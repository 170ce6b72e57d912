"""Fresh labels now and then → thresholds re-tuned in small, explained steps (COEF-VQ, section 2.2.3: "adjusted
recurrently").

A tuner that follows every estimate chases noise, and one that may jump can open the gate at a bad batch. So a
change smaller than the hysteresis is not made, a change is never larger than ``max_step``, thresholds never rise
above the certified one, and in shadow mode everything is computed and reported and nothing changes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy.typing as npt

from tidegate.errors import ConfigError
from tidegate.evaluation import threshold_at_precision
from tidegate.evaluation.arrays import checked_labels, checked_scores, same_length

__all__ = ["DynamicTuner", "TunerConfig", "TunerStep"]


@dataclass(frozen=True, kw_only=True)
class TunerConfig:
    """How the tuner moves."""

    base_precision: float
    """P_base: the threshold aims at the lowest score where the base's precision on fresh labels reaches it."""
    hysteresis: float = 0.02
    """Wanted changes smaller than this (in score) are not made."""
    max_step: float = 0.05
    """Largest change of the threshold in one step."""
    min_positives: int = 30
    """With fewer positive labels in the batch nothing changes."""
    highest: float = 1.0
    """Upper limit of the threshold; the certified tau where there is one."""
    lowest: float = 0.0
    """Lower limit of the threshold."""
    shadow: bool = False
    """Report what would change, change nothing."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.hysteresis < math.inf or not 0.0 < self.max_step < math.inf:
            raise ConfigError(f"expected hysteresis >= 0 and max_step > 0, got {self.hysteresis} and {self.max_step}")
        if self.lowest > self.highest:
            raise ConfigError(f"expected lowest <= highest, got {self.lowest} and {self.highest}")
        if not 0.0 < self.base_precision < 1.0:
            raise ConfigError(f"base_precision: expected a value in (0, 1), got {self.base_precision}")


@dataclass(frozen=True, kw_only=True)
class TunerStep:
    """One re-tuning: what was wanted, what would change, what changed."""

    before: float
    wanted: float
    """Where the fresh labels put the threshold; ``inf`` when no threshold reaches the precision."""
    proposed: float
    """After hysteresis, step limit and bounds."""
    after: float
    """The threshold in force; equal to ``before`` in shadow mode."""
    n_labels: int
    n_positives: int
    reason: str


@dataclass
class DynamicTuner:
    """Holds a threshold and its history."""

    config: TunerConfig
    tau: float
    history: list[TunerStep] = field(default_factory=list)

    def step(self, labels: npt.ArrayLike, scores: npt.ArrayLike) -> TunerStep:
        """Re-tune from a batch of fresh labels."""
        truth, values = checked_labels(labels), checked_scores(scores, probability=True)
        same_length(labels=truth, scores=values)
        positives = int(truth.sum())
        wanted = threshold_at_precision(truth, values, self.config.base_precision)
        proposed, reason = self._proposal(wanted, positives)
        after = self.tau if self.config.shadow else proposed
        if self.config.shadow and proposed != self.tau:
            reason = f"shadow mode, nothing changes: {reason}"
        step = TunerStep(
            before=self.tau,
            wanted=wanted,
            proposed=proposed,
            after=after,
            n_labels=len(truth),
            n_positives=positives,
            reason=reason,
        )
        self.tau = after
        self.history.append(step)
        return step

    def _proposal(self, wanted: float, positives: int) -> tuple[float, str]:
        config = self.config
        if positives < config.min_positives:
            return self.tau, f"{positives} positive labels, at least {config.min_positives} are needed: no change"
        goal = min(max(wanted, config.lowest), config.highest)
        held = f", held at the limit {goal:.3f}" if goal != wanted else ""
        change = goal - self.tau
        if abs(change) < config.hysteresis:
            return self.tau, f"wanted {wanted:.3f}{held}: the change is within hysteresis {config.hysteresis:g}"
        if abs(change) > config.max_step:
            return (
                self.tau + math.copysign(config.max_step, change),
                f"wanted {wanted:.3f}{held}: one step of at most {config.max_step:g} towards it",
            )
        return goal, f"wanted {wanted:.3f}{held}: set"
