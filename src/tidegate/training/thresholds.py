"""Thresholds of a stage, chosen on validation data only; they travel with its checkpoint as ``thresholds.json``.

Enters: validation labels and scores. Leaves: ``flag_threshold`` (largest F1), ``flag_at_precision`` (lowest score whose
precision reaches 60, 70, 80, 90 %), ``escalate``: P_base → tau, the lowest score whose validation precision reaches
P_base (arXiv 2412.10435, section 2.2), and the score interval of the entropy rule.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.cascade.routing import binary_entropy
from tidegate.evaluation import best_f1, threshold_at_precision

__all__ = ["PRECISION_PERCENT", "P_BASE_PERCENT", "choose_thresholds"]

PRECISION_PERCENT = (60, 70, 80, 90)
P_BASE_PERCENT = (10, 20, 30, 40, 50, 60, 70)
_ENTROPY_SHARE = 0.2


def _finite(threshold: float) -> float | None:
    return threshold if math.isfinite(threshold) else None


def choose_thresholds(
    issue: str, labels: npt.NDArray[np.int64], scores: npt.NDArray[np.float64], *, measured_on: str
) -> dict[str, Any]:
    """Content of ``thresholds.json``. A precision that no threshold reaches is null."""
    at = {
        percent: threshold_at_precision(labels, scores, percent / 100)
        for percent in (*PRECISION_PERCENT, *P_BASE_PERCENT)
    }
    return {
        "issue": issue,
        "flag_threshold": _finite(best_f1(labels, scores)[1]),
        "flag_at_precision": {str(percent): _finite(at[percent]) for percent in PRECISION_PERCENT},
        "escalate": {str(percent): _finite(at[percent]) for percent in P_BASE_PERCENT},
        "entropy": float(np.quantile(binary_entropy(scores), 1 - _ENTROPY_SHARE)),
        "entropy_meaning": f"bits; the {_ENTROPY_SHARE:.0%} most uncertain validation scores lie at or above it",
        "measured_on": measured_on,
        "n": len(labels),
        "n_positives": int(labels.sum()),
    }
