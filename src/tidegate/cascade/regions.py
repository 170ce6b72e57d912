"""Few positives in each of many regions → a threshold per region by partial pooling, and certificates where data bear
them.

A region's own quantile is noise at ten positives, and the pooled one ignores that regions differ. The share of a
region's positives below a threshold is shrunk towards the pooled share with the weight of ``kappa`` imaginary
positives, where kappa is fitted to how much the regions really differ (maximum likelihood of a beta-binomial). The
threshold is the highest score at which the shrunken share stays within the allowed loss: a weighted quantile of own
and pooled scores. It is an estimate and promises nothing; the certificate beside it does, and is missing where the
region has too few.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from tidegate.cascade import bounds
from tidegate.cascade.certificates import Audit, Certificate
from tidegate.cascade.slices import certify_slices
from tidegate.errors import UsageError
from tidegate.evaluation.arrays import FloatArray, group_codes

__all__ = ["RegionThreshold", "fit_concentration", "region_thresholds"]

LARGEST_KAPPA = 1e6


@dataclass(frozen=True, kw_only=True)
class RegionThreshold:
    """One region's threshold: the estimate, and the certificate where there is one."""

    region: Hashable
    tau: float
    """Partial-pooling estimate; promises nothing."""
    certificate: Certificate
    """``certified`` False where the region's own data do not bear the promise."""
    n_positives: int
    own_weight: float
    """Weight of the region's own positives against the pooled ones, in [0, 1]."""

    @property
    def certified_tau(self) -> float | None:
        """The threshold that carries a promise, or None."""
        return self.certificate.tau if self.certificate.certified else None


def fit_concentration(below: npt.ArrayLike, m: npt.ArrayLike) -> float:
    """kappa of the beta-binomial at the pooled rate, by maximum likelihood: large where regions are alike."""
    hits, total = np.asarray(below, dtype=np.float64), np.asarray(m, dtype=np.float64)
    used = total > 0
    hits, total = hits[used], total[used]
    rate = (hits.sum() + 0.5) / (total.sum() + 1.0) if len(total) else 0.5

    def loss(log_kappa: float) -> float:
        a, b = rate * math.exp(log_kappa), (1.0 - rate) * math.exp(log_kappa)
        return -float(np.sum(special.betaln(hits + a, total - hits + b) - special.betaln(a, b)))

    if len(total) < 2:
        return LARGEST_KAPPA
    found = optimize.minimize_scalar(loss, bounds=(math.log(0.5), math.log(LARGEST_KAPPA)), method="bounded")
    return float(math.exp(found.x))


def _weighted_quantile(own: FloatArray, pooled: FloatArray, own_weight: float, loss: float) -> float:
    """Highest score with at most ``loss`` of the mixture of own and pooled positives strictly below it."""
    values = np.concatenate([own, pooled])
    mass = np.concatenate(
        [
            np.full(len(own), own_weight / max(len(own), 1)),
            np.full(len(pooled), (1.0 - own_weight) / len(pooled)),
        ]
    )
    order = np.argsort(values, kind="stable")
    values, mass = values[order], mass[order]
    first = np.flatnonzero(np.diff(values, prepend=-math.inf) > 0)
    strictly_below = np.concatenate([[0.0], np.cumsum(mass)])[first]
    return float(values[first[np.flatnonzero(strictly_below <= loss + 1e-12)[-1]]])


def region_thresholds(
    audit: Audit,
    regions: Sequence[Hashable] | npt.NDArray[Any],
    *,
    lam: float,
    target_recall: float,
    delta: float = 0.05,
) -> tuple[RegionThreshold, ...]:
    """A threshold for every region of the audit, the region with the most positives first."""
    bounds.checked_probability(target_recall=target_recall, delta=delta)
    positive = audit.positives(lam)
    if not positive.any():
        raise UsageError("expected at least one positive over all regions, got none")
    names, codes = group_codes(regions)
    certificates = certify_slices(audit, regions, lam=lam, target_recall=target_recall, delta=delta)
    scores, owner = audit.base[positive], codes[positive]
    loss = 1.0 - target_recall
    pooled_tau = _weighted_quantile(scores[:0], scores, 0.0, loss)
    m = np.bincount(owner, minlength=len(names))
    below = np.bincount(owner[scores < pooled_tau], minlength=len(names))
    kappa = fit_concentration(below, m)
    answer = []
    for code, name in enumerate(names):
        weight = float(m[code] / (m[code] + kappa))
        answer.append(
            RegionThreshold(
                region=name,
                tau=_weighted_quantile(scores[owner == code], scores, weight, loss),
                certificate=certificates[name],
                n_positives=int(m[code]),
                own_weight=weight,
            )
        )
    return tuple(sorted(answer, key=lambda entry: (-entry.n_positives, str(entry.region))))
