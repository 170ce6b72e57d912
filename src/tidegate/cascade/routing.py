"""A stage's score and the video's context → escalate or final, with the threshold and a sentence that says why.

Every rule is a frozen value with one scalar form (``rule(score, context) -> Route``) and one vectorised form
(``rule.batch(scores, views) -> mask``) that agree item by item. A rule that holds a final verdict itself names the
threshold to judge by (below ``tau`` is final *negative*, COEF-VQ v1); otherwise the stage's own flag threshold
judges (confident ones are final either way, COEF-VQ v2). Source: COEF-VQ, arXiv 2412.10435, section 2.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from tidegate.errors import ConfigError
from tidegate.evaluation import threshold_at_precision
from tidegate.types import Guarantee, Score, VideoContext

__all__ = [
    "AnyOf",
    "BudgetRule",
    "CertifiedRule",
    "EntropyRule",
    "LearnedDeferral",
    "PrecisionRule",
    "RegionRule",
    "Route",
    "Rule",
    "ViewRule",
    "binary_entropy",
    "route_batch",
    "thresholds_from_validation",
]

Mask = npt.NDArray[np.bool_]
PRECISIONS = (0.1, 0.2, 0.3, 0.5, 0.6, 0.7)


@dataclass(frozen=True, kw_only=True)
class Route:
    """Where an item goes after a stage, and why."""

    escalate: bool
    rule: str
    """Name of the rule that spoke, e.g. ``precision``; ``promise_suspended`` when a budget overrules a certificate."""
    reason: str
    """A clause a person can read, such as ``base 0.120 < 0.400 (precision threshold)``."""
    threshold: float
    """The limit that the rule compared with, in the rule's own unit."""
    final_threshold: float | None = None
    """Score threshold that judges the item when it is final here; None: the stage's flag threshold."""
    guarantee: Guarantee | None = None


class Rule(Protocol):
    """A rule of routing."""

    def __call__(self, score: Score, context: VideoContext, /) -> Route:
        """Route one item."""
        ...

    def batch(self, scores: npt.NDArray[np.floating[Any]], views: npt.NDArray[Any] | None = None, /) -> Mask:
        """Which items of a batch escalate; ``views`` < 0 or absent means unknown."""
        ...


def binary_entropy(probability: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Predictive entropy of a yes/no answer in bits: 0 when certain, 1 at probability one half."""
    value = np.asarray(probability, dtype=np.float64)
    return np.asarray((special.entr(value) + special.entr(1.0 - value)) / math.log(2.0))


def _not_nan(**limits: float) -> None:
    for name, value in limits.items():
        if math.isnan(value):
            raise ConfigError(f"{name}: expected a number (infinities allowed), got nan")


def _compared(score: Score, tau: float) -> str:
    if tau == -math.inf:
        return f"{score.stage} {score.value:.3f}, no threshold: everything is escalated"
    return f"{score.stage} {score.value:.3f} {'≥' if score.value >= tau else '<'} {tau:.3f}"


def _seen(views: int | None, limit: int | None) -> bool:
    return limit is not None and views is not None and views >= limit


def _seen_batch(views: npt.NDArray[Any] | None, limit: int | None) -> Mask | None:
    return None if limit is None or views is None else np.asarray(views >= limit)


def _reaches(
    rule: PrecisionRule | CertifiedRule, score: Score, context: VideoContext, *, rule_name: str, words: str
) -> Route:
    """Escalated because the score reaches the rule's ``tau``, or its views the limit; else final negative."""
    by_score, by_views = score.value >= rule.tau, _seen(context.views, rule.view_limit)
    reason = f"{_compared(score, rule.tau)} ({words})"
    if by_views and not by_score:
        reason += f", but {context.views} views ≥ {rule.view_limit}"
    return Route(
        escalate=by_score or by_views,
        rule="views" if by_views and not by_score else rule_name,
        reason=reason,
        threshold=rule.tau,
        final_threshold=rule.tau,
        guarantee=rule.guarantee,
    )


def _reaches_batch(
    rule: PrecisionRule | CertifiedRule, scores: npt.NDArray[np.floating[Any]], views: npt.NDArray[Any] | None
) -> Mask:
    mask, seen = np.asarray(scores >= rule.tau), _seen_batch(views, rule.view_limit)
    return mask if seen is None else mask | seen


@dataclass(frozen=True, kw_only=True)
class PrecisionRule:
    """COEF-VQ v1: escalate when the score reaches ``tau`` or views reach a limit; below it is final negative."""

    tau: float
    """Lowest score that is escalated; ``-inf`` escalates everything, ``inf`` nothing."""
    view_limit: int | None = None
    """Escalate whatever has this many views; None: views do not matter."""
    base_precision: float | None = None
    """P_base at which ``tau`` was chosen, for the reason only."""
    guarantee: Guarantee | None = None

    def __post_init__(self) -> None:
        _not_nan(tau=self.tau)

    def __call__(self, score: Score, context: VideoContext, /) -> Route:
        origin = "" if self.base_precision is None else f" for base precision {self.base_precision:.0%}"
        return _reaches(self, score, context, rule_name="precision", words=f"precision threshold{origin}")

    def batch(self, scores: npt.NDArray[np.floating[Any]], views: npt.NDArray[Any] | None = None, /) -> Mask:
        return _reaches_batch(self, scores, views)


@dataclass(frozen=True, kw_only=True)
class CertifiedRule:
    """Escalate when the score reaches a threshold that carries its certificate; below it is final negative."""

    tau: float
    guarantee: Guarantee
    """The promise behind ``tau``; its id is in every reason."""
    view_limit: int | None = None

    def __post_init__(self) -> None:
        _not_nan(tau=self.tau)

    def __call__(self, score: Score, context: VideoContext, /) -> Route:
        promise = f"certificate {self.guarantee.certificate_id or 'without id'}: {self.guarantee.target}"
        return _reaches(self, score, context, rule_name="certified", words=f"certified threshold, {promise}")

    def batch(self, scores: npt.NDArray[np.floating[Any]], views: npt.NDArray[Any] | None = None, /) -> Mask:
        return _reaches_batch(self, scores, views)


@dataclass(frozen=True, kw_only=True)
class EntropyRule:
    """COEF-VQ v2: escalate when the predictive entropy is above a limit; confident items are final either way."""

    max_entropy: float
    """In bits, in [0, 1]: 0 escalates all but the certain, 1 nothing."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.max_entropy <= 1.0:
            raise ConfigError(f"max_entropy: expected bits in [0, 1], got {self.max_entropy}")

    @cached_property
    def half_width(self) -> float:
        """Scores nearer to one half than this are escalated: the entropy limit as a distance."""
        if self.max_entropy in (0.0, 1.0):
            return 0.5 * (1.0 - self.max_entropy)
        limit = self.max_entropy
        return float(optimize.brentq(lambda width: float(binary_entropy(0.5 + width)) - limit, 0.0, 0.5, xtol=1e-15))

    def __call__(self, score: Score, context: VideoContext, /) -> Route:
        escalate = abs(score.value - 0.5) < self.half_width
        entropy = float(binary_entropy(score.value))
        relation = ">" if escalate else "≤"
        return Route(
            escalate=escalate,
            rule="entropy",
            reason=f"{score.stage} {score.value:.3f}, entropy {entropy:.3f} {relation} {self.max_entropy:.3f} bits",
            threshold=self.max_entropy,
        )

    def batch(self, scores: npt.NDArray[np.floating[Any]], views: npt.NDArray[Any] | None = None, /) -> Mask:
        return np.asarray(np.abs(scores - 0.5) < self.half_width)


@dataclass(frozen=True, kw_only=True)
class ViewRule:
    """Escalate what many people see, whatever its score."""

    view_limit: int

    def __call__(self, score: Score, context: VideoContext, /) -> Route:
        escalate = _seen(context.views, self.view_limit)
        views = "views unknown" if context.views is None else f"{context.views} views"
        return Route(
            escalate=escalate,
            rule="views",
            reason=f"{views}, {'at least' if escalate else 'not at least'} {self.view_limit}",
            threshold=float(self.view_limit),
        )

    def batch(self, scores: npt.NDArray[np.floating[Any]], views: npt.NDArray[Any] | None = None, /) -> Mask:
        seen = _seen_batch(views, self.view_limit)
        return np.zeros(len(scores), dtype=bool) if seen is None else seen


@dataclass(frozen=True, kw_only=True)
class BudgetRule:
    """Escalate the highest scores that a budget pays for; says so when that breaks a certificate."""

    tau: float
    """Lowest score that the budget pays for; see ``from_scores``."""
    share: float
    """Share of items that the budget pays for, in [0, 1]."""
    certified: CertifiedRule | None = None
    """The promise that the budget should not break."""

    def __post_init__(self) -> None:
        _not_nan(tau=self.tau)
        if not 0.0 <= self.share <= 1.0:
            raise ConfigError(f"share: expected a value in [0, 1], got {self.share}")

    @classmethod
    def from_scores(cls, scores: npt.ArrayLike, share: float, *, certified: CertifiedRule | None = None) -> BudgetRule:
        """The lowest threshold at which at most ``share`` of these scores escalate (ties go together)."""
        values = np.sort(np.asarray(scores, dtype=np.float64))
        allowed = math.floor(share * len(values) + 1e-9)
        if allowed >= len(values):
            return cls(tau=-math.inf, share=share, certified=certified)
        cut = values[len(values) - allowed - 1]
        above = values[values > cut]
        return cls(tau=float(above[0]) if len(above) else math.inf, share=share, certified=certified)

    @property
    def suspends(self) -> bool:
        """Whether the budget's threshold lies above the certified one, so that the promise cannot hold."""
        return self.certified is not None and self.tau > self.certified.tau

    def __call__(self, score: Score, context: VideoContext, /) -> Route:
        escalate = score.value >= self.tau
        reason = f"{_compared(score, self.tau)} (the budget pays for {self.share:.2%})"
        denied = self.certified is not None and not escalate and score.value >= self.certified.tau
        if denied and self.certified is not None:
            reason += f"; certificate {self.certified.guarantee.certificate_id or 'without id'} is suspended"
        return Route(
            escalate=escalate,
            rule="promise_suspended" if denied else "budget",
            reason=reason,
            threshold=self.tau,
            final_threshold=self.tau,
            guarantee=None if self.certified is None or self.suspends else self.certified.guarantee,
        )

    def batch(self, scores: npt.NDArray[np.floating[Any]], views: npt.NDArray[Any] | None = None, /) -> Mask:
        return np.asarray(scores >= self.tau)


@dataclass(frozen=True, kw_only=True)
class LearnedDeferral:
    """Escalate when the estimated gain of asking the next stage is worth its price (``deferral.GainModel``)."""

    gain: Callable[[npt.NDArray[np.float64], npt.NDArray[Any] | None], npt.NDArray[np.float64]]
    """(scores, views or None) → expected gain of each item."""
    price: float
    """Lowest gain that is worth a call of the next stage."""

    def __call__(self, score: Score, context: VideoContext, /) -> Route:
        views = np.array([-1 if context.views is None else context.views])
        gain = float(self.gain(np.array([score.value]), views)[0])
        escalate = gain >= self.price
        relation = "≥" if escalate else "<"
        return Route(
            escalate=escalate,
            rule="deferral",
            reason=f"{score.stage} {score.value:.3f}, expected gain {gain:.4f} {relation} {self.price:.4f} (its price)",
            threshold=self.price,
        )

    def batch(self, scores: npt.NDArray[np.floating[Any]], views: npt.NDArray[Any] | None = None, /) -> Mask:
        return np.asarray(self.gain(np.asarray(scores, dtype=np.float64), views) >= self.price)


@dataclass(frozen=True)
class AnyOf:
    """Escalate when any rule says so; when none does, the first rule with a verdict of its own judges."""

    rules: tuple[Rule, ...]

    def __post_init__(self) -> None:
        if not self.rules:
            raise ConfigError("AnyOf: expected at least one rule, got none")

    def __call__(self, score: Score, context: VideoContext, /) -> Route:
        routes = [rule(score, context) for rule in self.rules]
        for route in routes:
            if route.escalate:
                return route
        return next((route for route in routes if route.final_threshold is not None), routes[0])

    def batch(self, scores: npt.NDArray[np.floating[Any]], views: npt.NDArray[Any] | None = None, /) -> Mask:
        mask = self.rules[0].batch(scores, views)
        for rule in self.rules[1:]:
            mask = mask | rule.batch(scores, views)
        return mask


@dataclass(frozen=True, kw_only=True)
class RegionRule:
    """A rule per region, and one for all others. Batches are routed region by region by the caller."""

    rules: Mapping[str, Rule]
    default: Rule

    def rule_for(self, region: str | None) -> Rule:
        """The region's own rule, or the default one."""
        return self.default if region is None else self.rules.get(region, self.default)

    def __call__(self, score: Score, context: VideoContext, /) -> Route:
        return self.rule_for(context.region)(score, context)

    def batch(self, scores: npt.NDArray[np.floating[Any]], views: npt.NDArray[Any] | None = None, /) -> Mask:
        raise ConfigError("RegionRule.batch: expected one region a batch; use rule_for(region).batch(...)")


def route_batch(rule: Rule, scores: npt.NDArray[np.floating[Any]], views: npt.NDArray[Any] | None = None) -> Mask:
    """Which items escalate, for arrays of scores (and views, negative = unknown). NaN scores are refused."""
    if scores.ndim != 1:
        raise ConfigError(f"scores: expected one dimension, got shape {scores.shape}")
    if views is not None and len(views) != len(scores):
        raise ConfigError(f"views: expected {len(scores)} values, got {len(views)}")
    if len(scores) and not (scores.min() >= 0.0 and scores.max() <= 1.0):
        raise ConfigError(f"scores: expected finite values in [0, 1], got a range of {scores.min()} to {scores.max()}")
    return rule.batch(scores, views)


def thresholds_from_validation(
    labels: npt.ArrayLike, scores: npt.ArrayLike, precisions: tuple[float, ...] = PRECISIONS
) -> dict[float, float]:
    """``tau(P_base)``: lowest base score at which the base's validation precision reaches P_base (``inf``: never).

    These are point estimates, as in COEF-VQ: they promise nothing. ``certificates.certify`` gives thresholds that do.
    """
    return {precision: threshold_at_precision(labels, scores, precision) for precision in precisions}
