"""An audit and a group per item → certificates for groups that hold *together* (every one of them at once).

Two questions, two methods, both exact:

- "choose a threshold for every region": Wilks at delta / R, where R counts the regions that could be certified at
  all at that level. The number of positives of a region says nothing about their scores, so leaving out regions by
  it is free.
- "does this frozen threshold hold in every region": Holm's step-down over the exact p-values (Holm, 1979),
  uniformly stronger than Bonferroni.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.cascade import bounds
from tidegate.cascade.certificates import Audit, Certificate, certify_recall
from tidegate.errors import UsageError
from tidegate.evaluation.arrays import group_codes

__all__ = ["SliceTest", "certify_slices", "holm", "verify_slices"]


@dataclass(frozen=True, kw_only=True)
class SliceTest:
    """Whether a frozen threshold keeps its promise in one group."""

    group: Hashable
    holds: bool
    """Shown, together with all other groups that are shown, with probability 1 - delta. False is "not shown"."""
    p_value: float
    below: int
    """Audited positives below the threshold."""
    n_positives: int
    n_audit: int


def holm(p_values: npt.ArrayLike, delta: float) -> npt.NDArray[np.bool_]:
    """Which hypotheses Holm's step-down rejects at family-wise level delta."""
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    passed = values[order] <= delta / np.arange(len(values), 0, -1)
    rejected = np.zeros(len(values), dtype=bool)
    rejected[order] = np.logical_and.accumulate(passed)
    return rejected


def _certifiable(positives: npt.NDArray[np.int64], recall: float, delta: float) -> int:
    """Largest R such that R groups can each be certified at delta / R; at least 1."""
    ranked = np.sort(positives)[::-1]
    smallest = recall ** ranked.astype(np.float64)
    counts = np.arange(1, len(ranked) + 1)
    possible = np.flatnonzero(smallest <= delta / counts)
    return int(counts[possible[-1]]) if len(possible) else 1


def certify_slices(
    audit: Audit,
    groups: Sequence[Hashable] | npt.NDArray[Any],
    *,
    lam: float,
    target_recall: float,
    delta: float,
) -> dict[Hashable, Certificate]:
    """A threshold per group; all certified ones hold together with probability 1 - delta."""
    bounds.checked_probability(target_recall=target_recall, delta=delta)
    if len(groups) != len(audit):
        raise UsageError(f"groups: expected {len(audit)} values, got {len(groups)}")
    names, codes = group_codes(groups)
    positives = np.bincount(codes[audit.positives(lam)], minlength=len(names))
    level = delta / _certifiable(positives, target_recall, delta)
    note = f"holds together with all other certified groups: each was tested at delta {level:g}"
    answer: dict[Hashable, Certificate] = {}
    for code, name in enumerate(names):
        inside = codes == code
        part = Audit(
            base=audit.base[inside],
            large=audit.large[inside],
            labels=None if audit.labels is None else audit.labels[inside],
        )
        own = certify_recall(part, lam=lam, target_recall=target_recall, delta=level)
        answer[name] = replace(own, delta=delta, assumptions=(*own.assumptions, note))
    return answer


def verify_slices(
    audit: Audit,
    groups: Sequence[Hashable] | npt.NDArray[Any],
    *,
    tau: float,
    lam: float,
    target_recall: float,
    delta: float,
) -> tuple[SliceTest, ...]:
    """Test a threshold that was frozen before the audit in every group, with Holm's correction."""
    bounds.checked_probability(target_recall=target_recall, delta=delta)
    if len(groups) != len(audit):
        raise UsageError(f"groups: expected {len(audit)} values, got {len(groups)}")
    names, codes = group_codes(groups)
    positive = audit.positives(lam)
    m = np.bincount(codes[positive], minlength=len(names))
    below = np.bincount(codes[positive & (audit.base < tau)], minlength=len(names))
    p_values = np.where(m > 0, bounds.recall_p_value(below, m, target_recall), 1.0)
    shown = holm(p_values, delta)
    sizes = np.bincount(codes, minlength=len(names))
    return tuple(
        SliceTest(
            group=name,
            holds=bool(shown[code]),
            p_value=float(p_values[code]),
            below=int(below[code]),
            n_positives=int(m[code]),
            n_audit=int(sizes[code]),
        )
        for code, name in enumerate(names)
    )
