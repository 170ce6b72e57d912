"""Counts over all outcomes of a scan: what the head of the report says.

Enters: outcome records one by one. Leaves: totals, the share that reached a later stage, a histogram of first-stage
scores, cost by stage. Constant memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["HISTOGRAM_BINS", "Summary"]

HISTOGRAM_BINS = 20
STATUSES = ("removed", "remained", "ignored", "failed")


@dataclass
class Summary:
    """Running totals; feed it with :meth:`add`."""

    videos: int = 0
    escalated: int = 0
    decided: int = 0
    duration_seconds: float = 0.0
    cost_seconds: float = 0.0
    by_status: Counter[str] = field(default_factory=Counter)
    by_error: Counter[str] = field(default_factory=Counter)
    by_region: Counter[str] = field(default_factory=Counter)
    stage_cost_seconds: Counter[str] = field(default_factory=Counter)
    stage_calls: Counter[str] = field(default_factory=Counter)
    first_stage_histogram: list[int] = field(default_factory=lambda: [0] * HISTOGRAM_BINS)

    def add(self, outcome: Mapping[str, Any]) -> None:
        """Count one outcome record (``Outcome.to_dict()``)."""
        self.videos += 1
        self.by_status[outcome["status"]] += 1
        self.duration_seconds += outcome.get("duration_seconds") or 0.0
        self.cost_seconds += outcome.get("cost_seconds") or 0.0
        if outcome.get("error"):
            self.by_error[outcome["error"]] += 1
        self.by_region[(outcome.get("context") or {}).get("region") or "unknown"] += 1
        if outcome.get("decision"):
            self.decided += 1
            self.escalated += bool(outcome["decision"]["escalated"])
        scores = outcome.get("scores") or ()
        for score in scores:
            self.stage_calls[score["stage"]] += 1
            self.stage_cost_seconds[score["stage"]] += score["cost_seconds"]
        if scores:
            self.first_stage_histogram[min(int(scores[0]["value"] * HISTOGRAM_BINS), HISTOGRAM_BINS - 1)] += 1

    @property
    def escalated_share(self) -> float | None:
        """Share of decided videos that a later stage looked at (the paper's QPS ratio); None when none was decided."""
        return self.escalated / self.decided if self.decided else None

    @property
    def statuses(self) -> list[tuple[str, int]]:
        return [(status, self.by_status[status]) for status in STATUSES]

    @property
    def histogram_heights(self) -> list[float]:
        """Heights in [0, 1] on a square-root scale, so that rare high scores stay visible."""
        highest = max(self.first_stage_histogram) or 1
        return [(count / highest) ** 0.5 for count in self.first_stage_histogram]
