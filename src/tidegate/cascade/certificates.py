"""An audit (base scores, large-model scores, perhaps labels) → a threshold with its certificate.

Three promises, each exact in finite samples for any distribution of scores, ties and blind spots included:

- **recall**: of all items that the large model flags (``large >= lam``), at least a share ``target_recall`` has
  ``base >= tau``. Wilks' order statistic. With labels: of those that it flags *rightly*.
- **precision**: of what is flagged, at least a share ``precision`` is right. Exact binomial test.
- **joint**: both at once, with one delta that is *not* split (``joint``).

The cascade's recall loss against the large model alone is at most ``1 - target_recall``. What an audit must be:
items drawn uniformly, independently of their scores, with models and ``lam`` frozen before. Anything else is
refused here or stated in ``assumptions``. Where the data do not bear a promise, ``tau`` is ``-inf`` (everything is
escalated) and the reason says how much is missing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tidegate.cascade import bounds
from tidegate.cascade.routing import CertifiedRule
from tidegate.errors import UsageError
from tidegate.evaluation.arrays import checked_labels, checked_scores, same_length
from tidegate.types import Guarantee

__all__ = ["Audit", "Certificate", "Missing", "certify_finite", "certify_recall", "finished", "read_audit"]

Kind = Literal["recall", "precision", "joint"]
FloatArray = npt.NDArray[np.float64]
UNIFORM = "audit items are independent uniform draws from the traffic that the promise is about"
FROZEN = "base model, large model and lam were frozen before the audit was drawn"
SAME = "the traffic after certification is distributed as the audited traffic (watched by the drift audit)"


@dataclass(frozen=True, kw_only=True, eq=False)
class Audit:
    """Checked arrays of one audit. Build it with ``read_audit``."""

    base: FloatArray
    large: FloatArray
    labels: npt.NDArray[np.int8] | None
    """1 right to flag, 0 wrong, -1 not labelled; None when nothing is labelled."""

    def __len__(self) -> int:
        return len(self.base)

    def positives(self, lam: float) -> npt.NDArray[np.bool_]:
        """What the recall promise is about: flagged by the large model and, where labels exist, rightly so."""
        flagged = self.large >= lam
        if self.labels is None:
            return flagged
        if (self.labels[flagged] < 0).any():
            missing = int((self.labels[flagged] < 0).sum())
            raise UsageError(f"labels: expected one for every item with large >= {lam}, missing for {missing}")
        return np.asarray(flagged & (self.labels == 1))


@dataclass(frozen=True, kw_only=True)
class Missing:
    """What an audit lacks for its promise; zeros where nothing is known to lack."""

    positives: int = 0
    """Further large-model positives needed."""
    audits: int | None = None
    """Expected further audit items at the rate of positives seen; None when none was seen."""
    labels: int = 0
    """Further labels on flagged items needed."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A threshold, what it promises, and what the promise rests on."""

    kind: Kind
    certified: bool
    tau: float
    """Escalate ``base >= tau``; ``-inf`` (everything) when nothing was certified."""
    lam: float
    """The large model flags ``large >= lam``."""
    delta: float
    target_recall: float | None
    precision: float | None
    recall_bound: float
    """Recall against the large model alone that holds with probability 1 - delta; 1 when everything is escalated."""
    precision_bound: float | None
    """Precision that holds with probability 1 - delta at this operating point; None without labels."""
    share_escalated: float
    n_audit: int
    n_positives: int
    n_flagged: int
    """Audit items in the region that the precision test used."""
    reason: str
    missing: Missing = field(default_factory=Missing)
    assumptions: tuple[str, ...] = ()
    certificate_id: str = ""

    @property
    def target(self) -> str:
        """The promise in words."""
        parts = []
        if self.target_recall is not None:
            parts.append(f"recall ≥ {self.target_recall:g} of what the large model finds alone")
        if self.precision is not None:
            parts.append(f"precision ≥ {self.precision:g}")
        return " and ".join(parts)

    def guarantee(self, *, policy_hash: str = "") -> Guarantee:
        """The form that travels with decisions. Only what was certified can be promised."""
        if not self.certified:
            raise UsageError(f"expected a certified threshold, got none: {self.reason}")
        bound = self.recall_bound if self.target_recall is not None else self.precision_bound
        return Guarantee(
            target=self.target,
            delta=self.delta,
            bound=float(bound if bound is not None else math.nan),
            n_audit=self.n_audit,
            n_positives=self.n_positives,
            assumptions=self.assumptions,
            policy_hash=policy_hash,
            certificate_id=self.certificate_id,
        )

    def rule(self, *, view_limit: int | None = None, policy_hash: str = "") -> CertifiedRule:
        """The rule of routing that carries this promise."""
        return CertifiedRule(tau=self.tau, guarantee=self.guarantee(policy_hash=policy_hash), view_limit=view_limit)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: an infinite threshold is null, with ``escalate_everything`` beside it."""
        record = {name: value for name, value in vars(self).items() if name != "missing"}
        record.update(missing=vars(self.missing), escalate_everything=self.tau == -math.inf, target=self.target)
        for name in ("tau", "lam"):
            record[name] = record[name] if math.isfinite(record[name]) else None
        return record


def _checked_ids(ids: Sequence[Hashable] | npt.NDArray[Any] | None, tuning: Iterable[Hashable] | None, n: int) -> None:
    if ids is None:
        if tuning is not None:
            raise UsageError("tuning_ids: expected the audit's ids as well, got none")
        return
    if len(ids) != n:
        raise UsageError(f"ids: expected {n} values, got {len(ids)}")
    seen = set(ids.tolist() if isinstance(ids, np.ndarray) else ids)
    if len(seen) < n:
        raise UsageError(f"ids: expected distinct ones, got {n - len(seen)} repeated in the audit")
    both = seen.intersection(tuning) if tuning is not None else set()
    if both:
        example = min(both, key=str)
        raise UsageError(
            f"ids: expected an audit apart from the tuning data, {len(both)} items are in both (such as {example!r})"
        )


def _checked_propensities(propensities: npt.ArrayLike | None, n: int) -> None:
    if propensities is None:
        return
    values = checked_scores(propensities, name="propensity")
    if len(values) != n:
        raise UsageError(f"propensity: expected {n} values, got {len(values)}")
    if n and (values.min() <= 0 or values.max() > 1):
        raise UsageError(f"propensity: expected values in (0, 1], got {values.min()} to {values.max()}")
    if n and values.min() != values.max():
        raise UsageError(
            f"propensity: expected a uniform audit (one sampling rate), got rates from {values.min():g} to "
            f"{values.max():g}; pass the uniform part only, or use certify_window for production escalations"
        )


def read_audit(
    base: npt.ArrayLike,
    large: npt.ArrayLike,
    labels: npt.ArrayLike | None = None,
    *,
    ids: Sequence[Hashable] | npt.NDArray[Any] | None = None,
    tuning_ids: Iterable[Hashable] | None = None,
    propensities: npt.ArrayLike | None = None,
) -> Audit:
    """Check an audit at the door. NaN in ``labels`` means not labelled (allowed below ``lam`` only)."""
    low = checked_scores(base, name="base", probability=True)
    high = checked_scores(large, name="large", probability=True)
    n = same_length(base=low, large=high, **({} if labels is None else {"labels": np.asarray(labels)}))
    _checked_ids(ids, tuning_ids, n)
    _checked_propensities(propensities, n)
    return Audit(base=low, large=high, labels=None if labels is None else _checked_partial(labels))


def _checked_partial(labels: npt.ArrayLike) -> npt.NDArray[np.int8]:
    array = np.asarray(labels)
    if array.dtype.kind != "f" or not np.isnan(array).any():
        return checked_labels(array).astype(np.int8)
    known = ~np.isnan(array)
    answer = np.full(len(array), -1, dtype=np.int8)
    answer[known] = checked_labels(array[known])
    return answer


def finished(certificate: Certificate, audit: Audit) -> Certificate:
    """The certificate under an id that depends on the audit's data and on everything it says."""
    digest = hashlib.blake2b(digest_size=6)
    for array in (audit.base, audit.large, audit.labels):
        if array is not None:
            digest.update(np.ascontiguousarray(array).data)
    digest.update(json.dumps(certificate.to_dict(), sort_keys=True, default=str).encode())
    return Certificate(**{**vars(certificate), "certificate_id": f"{certificate.kind}-{digest.hexdigest()}"})


def share_at(scores: FloatArray, tau: float) -> float:
    """Share of scores that a threshold escalates; 1 for no scores, since nothing says otherwise."""
    return float(np.count_nonzero(scores >= tau) / len(scores)) if len(scores) else 1.0


def lacking_positives(m: int, n: int, needed: int) -> Missing:
    """How many positives, and audits at the rate seen, are missing."""
    further = max(0, needed - m)
    return Missing(positives=further, audits=math.ceil(further * n / m) if m else None)


def too_few(m: int, n: int, recall: float, delta: float) -> tuple[str, Missing]:
    """The sentence for a recall promise that m positives cannot bear, and what is missing."""
    needed = bounds.minimum_positives(recall, delta)
    missing = lacking_positives(m, n, needed)
    expected = "at an unknown rate of positives" if missing.audits is None else f"about {missing.audits} more audits"
    return (
        f"too few positives: everything is escalated. Recall ≥ {recall:g} at delta {delta:g} needs at least {needed} "
        f"positives in the audit, got {m} of {n} items; {missing.positives} are missing ({expected})",
        missing,
    )


def _order_statistic(values: FloatArray, k: int) -> float:
    return float(np.partition(values, k)[k])


def _recall_certificate(
    audit: Audit,
    *,
    lam: float,
    recall: float,
    delta: float,
    k: int,
    traffic: npt.ArrayLike | None,
    assumptions: tuple[str, ...],
) -> Certificate:
    chosen = audit.base[audit.positives(lam)]
    m, n = len(chosen), len(audit)
    certified = k >= 0
    tau = _order_statistic(chosen, k) if certified else -math.inf
    bound = max(recall, float(bounds.recall_at_index(m, k, delta))) if certified else 1.0
    scores = audit.base if traffic is None else checked_scores(traffic, name="traffic", probability=True)
    share = share_at(scores, tau)
    what = "positives" if audit.labels is None else "true positives"
    if certified:
        reason = f"{k} of {m} audited {what} lie below the threshold; at most {k} may, for recall ≥ {recall:g}"
        missing = Missing()
    else:
        reason, missing = too_few(m, n, recall, delta)
    certificate = Certificate(
        kind="recall",
        certified=certified,
        tau=tau,
        lam=lam,
        delta=delta,
        target_recall=recall,
        precision=None,
        recall_bound=bound,
        precision_bound=None,
        share_escalated=share,
        n_audit=n,
        n_positives=m,
        n_flagged=0,
        reason=reason,
        missing=missing,
        assumptions=assumptions,
    )
    return finished(certificate, audit)


def certify_recall(
    audit: Audit, *, lam: float, target_recall: float, delta: float, traffic: npt.ArrayLike | None = None
) -> Certificate:
    """Wilks' threshold for a stream. ``traffic``: base scores from which the share escalated is counted."""
    bounds.checked_probability(target_recall=target_recall, delta=delta)
    k = int(bounds.wilks_index(int(audit.positives(lam).sum()), target_recall, delta))
    return _recall_certificate(
        audit,
        lam=lam,
        recall=target_recall,
        delta=delta,
        k=k,
        traffic=traffic,
        assumptions=(UNIFORM, FROZEN, SAME),
    )


def certify_finite(
    audit: Audit,
    *,
    lam: float,
    target_recall: float,
    delta: float,
    size: int,
    traffic: npt.ArrayLike | None = None,
    audited_found: bool = True,
) -> Certificate:
    """Threshold for one fixed collection of ``size`` videos, audited without replacement (a back catalogue).

    ``audited_found``: positives that the audit itself found count as caught, whatever their base score.
    """
    m, n = int(audit.positives(lam).sum()), len(audit)
    if n > size:
        raise UsageError(f"size: expected at least the {n} audited items, got {size}")
    k = bounds.finite_index(m, n, size, target_recall, delta, audited_found=audited_found)
    drawn = f"the audit is a uniform sample without replacement of a fixed collection of {size} videos"
    found = ("positives that the audit found are acted on, whatever their base score",) if audited_found else ()
    return _recall_certificate(
        audit,
        lam=lam,
        recall=target_recall,
        delta=delta,
        k=k,
        traffic=traffic,
        assumptions=(drawn, FROZEN, *found),
    )
