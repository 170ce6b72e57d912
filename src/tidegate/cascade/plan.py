"""A promise that is wanted → how many audits, positives and labels it needs, before any of them is bought.

A recall promise needs positives: at least ``ln delta / ln(1 - eps)`` of them, and more when the base model's true
recall at the wanted threshold is only a little above the target. Positives come at the rate of prevalence, so the
audit costs about ``ln(1/delta) / (eps * pi)`` calls of the large model, whatever the length of the stream.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tidegate.cascade import bounds
from tidegate.errors import UsageError

__all__ = ["AuditPlan", "audit_plan", "labels_for_precision", "positives_for_power"]

MOST_POSITIVES = 5_000_000


@dataclass(frozen=True, kw_only=True)
class AuditPlan:
    """What to buy."""

    target_recall: float
    delta: float
    prevalence: float
    """Share of items that the large model flags."""
    power: float
    expected_recall: float
    """True recall at which the promise should come out with probability ``power``."""
    min_positives: int
    """With fewer, no threshold can be certified at all."""
    positives: int
    """Enough for ``power``."""
    min_audits: int
    """Expected audits until ``min_positives``."""
    audits: int
    """Audits after which ``positives`` have come with probability ``power``."""
    large_model_calls: int
    """One for every audit."""
    labels: int | None
    """Labels on flagged items for the precision promise; None when none was asked for."""
    lower_limit_audits: int
    """ln(1/delta) / (eps * prevalence): no method that holds for all distributions needs fewer."""


def _power(m: int, recall: float, delta: float, expected: float) -> float:
    k = int(bounds.wilks_index(m, recall, delta))
    return float(bounds.binomial_cdf(k, m, 1.0 - expected)) if k >= 0 else 0.0


def positives_for_power(*, target_recall: float, expected_recall: float, delta: float, power: float = 0.8) -> int:
    """Fewest positives with which a threshold of true recall ``expected_recall`` passes with probability ``power``.

    The power is a saw-tooth in the number of positives; this is the first number that reaches it.
    """
    bounds.checked_probability(target_recall=target_recall, expected_recall=expected_recall, delta=delta, power=power)
    if expected_recall <= target_recall:
        raise UsageError(f"expected_recall: expected more than the target {target_recall}, got {expected_recall}")
    start, size = bounds.minimum_positives(target_recall, delta), 4096
    while start < MOST_POSITIVES:
        m = np.arange(start, start + size)
        k = bounds.wilks_index(m, target_recall, delta)
        passing = np.flatnonzero(bounds.binomial_cdf(k, m, 1.0 - expected_recall) >= power)
        if len(passing):
            return int(m[passing[0]])
        start += size
    raise UsageError(
        f"expected_recall: {expected_recall} is so near to {target_recall} that no audit can tell them apart"
    )


def labels_for_precision(*, precision: float, expected_precision: float, delta: float, power: float = 0.8) -> int:
    """Fewest labelled flagged items with which a true ``expected_precision`` shows ``precision`` with that power."""
    if expected_precision <= precision:
        raise UsageError(f"expected_precision: expected more than the target {precision}, got {expected_precision}")
    return positives_for_power(target_recall=precision, expected_recall=expected_precision, delta=delta, power=power)


def audit_plan(
    *,
    prevalence: float,
    eps: float,
    delta: float = 0.05,
    power: float = 0.8,
    expected_recall: float | None = None,
    precision: float | None = None,
    expected_precision: float | None = None,
) -> AuditPlan:
    """The audit that a promise of recall loss at most ``eps`` needs at this prevalence.

    ``expected_recall`` None: a third of the allowed loss is what the wanted threshold really loses.
    """
    bounds.checked_probability(prevalence=prevalence, eps=eps, delta=delta, power=power)
    recall = 1.0 - eps
    expected = 1.0 - eps / 3.0 if expected_recall is None else expected_recall
    positives = positives_for_power(target_recall=recall, expected_recall=expected, delta=delta, power=power)
    fewest = bounds.minimum_positives(recall, delta)
    labels = None
    if precision is not None:
        better = (2 * precision + 1) / 3 if expected_precision is None else expected_precision
        labels = labels_for_precision(precision=precision, expected_precision=better, delta=delta, power=power)
    audits = positives + int(stats.nbinom.ppf(power, positives, prevalence))
    return AuditPlan(
        target_recall=recall,
        delta=delta,
        prevalence=prevalence,
        power=power,
        expected_recall=expected,
        min_positives=fewest,
        positives=positives,
        min_audits=math.ceil(fewest / prevalence - 1e-9),
        audits=audits,
        large_model_calls=audits,
        labels=labels,
        lower_limit_audits=math.ceil(math.log(1 / delta) / (eps * prevalence) - 1e-9),
    )
