"""Cached scores of all stages on a calibration set, and a cost budget → per stage, for which scores to go on
(offline).

Backward induction: at the last stage one stops. Before it, an item goes on where the estimated value of going on
(utility reached under the rules already found, less ``price`` times the further cost) exceeds that of stopping.
Both are estimated as step functions of the stage's score. The shadow price, what a second of model time must be
worth, is found by bisection so that the mean cost meets the budget. The result is a rule per stage like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.cascade.routing import Route
from tidegate.errors import UsageError
from tidegate.evaluation.arrays import FloatArray, checked_scores
from tidegate.types import Score, VideoContext

__all__ = ["PricedPlan", "TableRule", "plan_for_budget", "plan_for_price"]

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class TableRule:
    """Go on where the bin of the score says so."""

    edges: FloatArray
    go_on: BoolArray
    price: float

    def __call__(self, score: Score, context: VideoContext, /) -> Route:
        index = int(np.searchsorted(self.edges, score.value, side="right"))
        escalate = bool(self.go_on[index])
        low = self.edges[index - 1] if index else 0.0
        high = self.edges[index] if index < len(self.edges) else 1.0
        worth = "is" if escalate else "is not"
        return Route(
            escalate=escalate,
            rule="shadow_price",
            reason=f"{score.stage} {score.value:.3f} in [{low:.3f}, {high:.3f}): "
            f"the next stage {worth} worth its cost at a price of {self.price:.3g}",
            threshold=self.price,
        )

    def batch(self, scores: npt.NDArray[np.floating[Any]], views: npt.NDArray[Any] | None = None, /) -> BoolArray:
        return np.asarray(self.go_on[np.searchsorted(self.edges, scores, side="right")])


@dataclass(frozen=True, kw_only=True)
class PricedPlan:
    """Rules of all stages but the last, and what they cost and reach on the calibration set."""

    rules: tuple[TableRule, ...]
    price: float
    mean_cost: float
    mean_utility: float


def plan_for_price(
    scores: Sequence[npt.ArrayLike],
    utilities: Sequence[npt.ArrayLike],
    costs: Sequence[float],
    *,
    price: float,
    num_bins: int = 40,
) -> PricedPlan:
    """Backward induction at a given price. ``utilities[k][i]``: worth of item i decided at stage k (1 = right)."""
    values = [checked_scores(s, name=f"scores of stage {k}", probability=True) for k, s in enumerate(scores)]
    worth = [checked_scores(u, name=f"utilities of stage {k}") for k, u in enumerate(utilities)]
    if len({len(values), len(worth), len(costs)}) > 1 or len({len(a) for a in (*values, *worth)}) > 1:
        raise UsageError("expected scores, utilities and a cost for the same stages and items")
    if not values or not len(values[0]):
        raise UsageError("expected at least one stage and one item")
    reached, spent = worth[-1].copy(), np.zeros(len(worth[-1]))
    rules: list[TableRule] = []
    for k in range(len(values) - 2, -1, -1):
        edges = np.unique(np.quantile(values[k], np.arange(1, num_bins) / num_bins))
        codes = np.searchsorted(edges, values[k], side="right")
        further = spent + costs[k + 1]
        advantage = np.bincount(codes, reached - price * further - worth[k], minlength=len(edges) + 1)
        go_on = advantage > 0
        chosen = go_on[codes]
        reached, spent = np.where(chosen, reached, worth[k]), np.where(chosen, further, 0.0)
        rules.append(TableRule(edges=edges, go_on=go_on, price=price))
    return PricedPlan(
        rules=tuple(reversed(rules)),
        price=price,
        mean_cost=float(costs[0] + spent.mean()),
        mean_utility=float(reached.mean()),
    )


def plan_for_budget(
    scores: Sequence[npt.ArrayLike],
    utilities: Sequence[npt.ArrayLike],
    costs: Sequence[float],
    *,
    mean_cost: float,
    num_bins: int = 40,
    rounds: int = 50,
) -> PricedPlan:
    """The plan of the lowest price whose mean cost per item is within ``mean_cost``."""
    if mean_cost < costs[0]:
        raise UsageError(f"mean_cost: expected at least the first stage's {costs[0]}, got {mean_cost}")
    free = plan_for_price(scores, utilities, costs, price=0.0, num_bins=num_bins)
    if free.mean_cost <= mean_cost:
        return free
    low, high = 0.0, 1.0
    best = plan_for_price(scores, utilities, costs, price=high, num_bins=num_bins)
    while best.mean_cost > mean_cost:
        low, high = high, 4.0 * high
        best = plan_for_price(scores, utilities, costs, price=high, num_bins=num_bins)
    for _ in range(rounds):
        middle = (low + high) / 2.0
        plan = plan_for_price(scores, utilities, costs, price=middle, num_bins=num_bins)
        if plan.mean_cost <= mean_cost:
            best, high = plan, middle
        else:
            low = middle
    return best
