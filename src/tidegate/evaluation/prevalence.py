"""Rates measured on a test set → precision at another prevalence.

Recall and false positive rate do not depend on how many violations there are; precision does. At recall .7, a precision
of .9 needs a false positive rate of 7.8e-2 at 50 % prevalence and of 7.9e-4 at 1 %: a balanced test set says nothing
about production until its precision is transported there. Valid when only the share of violations differs, not their
kind.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from tidegate.errors import UsageError
from tidegate.evaluation.ranking import precision_recall_curve

__all__ = ["recall_at_transported_precision", "required_false_positive_rate", "transported_precision"]


def _checked_prevalence(prevalence: float) -> None:
    if not 0.0 < prevalence < 1.0:
        raise UsageError(f"prevalence: expected a value in (0, 1), got {prevalence}")


def transported_precision(*, recall: float, false_positive_rate: float, prevalence: float) -> float:
    """Precision that these rates give at this share of positives; NaN when nothing is flagged."""
    _checked_prevalence(prevalence)
    caught, alarms = recall * prevalence, false_positive_rate * (1 - prevalence)
    return caught / (caught + alarms) if caught + alarms > 0 else math.nan


def required_false_positive_rate(*, recall: float, precision: float, prevalence: float) -> float:
    """Largest false positive rate at which ``precision`` holds at ``prevalence``."""
    _checked_prevalence(prevalence)
    if not 0.0 < precision <= 1.0:
        raise UsageError(f"precision: expected a value in (0, 1], got {precision}")
    return recall * prevalence * (1 - precision) / (precision * (1 - prevalence))


def recall_at_transported_precision(
    labels: npt.ArrayLike, scores: npt.ArrayLike, target: float, *, prevalence: float
) -> float:
    """Largest recall over all thresholds whose precision, transported to ``prevalence``, reaches ``target``."""
    _checked_prevalence(prevalence)
    curve = precision_recall_curve(labels, scores)
    negatives = curve.n - curve.n_positives
    if curve.n_positives == 0 or negatives == 0:
        return math.nan
    alarms = (curve.num_flagged - curve.true_positives) / negatives * (1 - prevalence)
    caught = curve.recall * prevalence
    with np.errstate(invalid="ignore"):
        reaching = caught / (caught + alarms) >= target
    return float(curve.recall[reaching].max(initial=0.0))
