"""Production's own escalations, and audits below the deployed threshold → a new certificate for almost nothing.

Everything at or above the deployed ``tau`` was scored by the large model anyway, so the audit is needed *below* it
only. The one unknown is A, the positives that lie below.

``certify_window`` promises recall over the videos of the window itself. The positives above are known by name, A
has an exact hypergeometric upper bound at level delta, and then *every* threshold's recall is known at once: no
correction for choosing among them, and the deployed threshold may rise as far as the promise allows.
``certify_stream`` promises it for the traffic to come, and spends small parts of delta on the sampling noise of
what lies above.

The audit below must be uniform (one known rate, by a hash of the video id), and independent of the scores.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.cascade import bounds
from tidegate.cascade.certificates import FROZEN, SAME, Certificate, Missing, finished, read_audit, share_at
from tidegate.errors import UsageError
from tidegate.evaluation.arrays import checked_scores

__all__ = ["Window", "certify_stream", "certify_window", "read_window"]

FloatArray = npt.NDArray[np.float64]
SMALL_PART = 0.05  # of delta, for each of the two bounds that certify_stream adds


@dataclass(frozen=True, kw_only=True, eq=False)
class Window:
    """A stretch of production under one deployed threshold."""

    deployed_tau: float
    lam: float
    above: FloatArray
    """Base scores of the escalated items that the large model flagged, ascending."""
    size: int
    """All items of the window."""
    below: int
    """Items of the window below the deployed threshold."""
    audited: int
    """Those of them that were audited, uniformly."""
    missed: FloatArray
    """Base scores of the audited ones that the large model flagged, ascending."""
    traffic: FloatArray
    """Base scores of all items of the window."""


def read_window(
    traffic: npt.ArrayLike,
    base: npt.ArrayLike,
    large: npt.ArrayLike,
    *,
    deployed_tau: float,
    lam: float,
    ids: Sequence[Hashable] | npt.NDArray[Any] | None = None,
) -> Window:
    """Check a window: ``traffic`` = base scores of all items; ``base, large`` = the items that the large model scored.

    All items at or above ``deployed_tau`` must be among the scored ones; those below are the audit.
    """
    everything = checked_scores(traffic, name="traffic", probability=True)
    scored = read_audit(base, large, ids=ids)
    escalated = scored.base >= deployed_tau
    wanted, came = int((everything >= deployed_tau).sum()), int(escalated.sum())
    if wanted != came:
        raise UsageError(
            f"expected large-model scores of all {wanted} items with base >= {deployed_tau}, got {came}: "
            "a window with unscored escalations cannot be certified"
        )
    below, audited = len(everything) - wanted, len(scored) - came
    if audited > below:
        raise UsageError(f"expected at most {below} audited items below the deployed threshold, got {audited}")
    flagged = scored.large >= lam
    return Window(
        deployed_tau=deployed_tau,
        lam=lam,
        above=np.sort(scored.base[escalated & flagged]),
        size=len(everything),
        below=below,
        audited=audited,
        missed=np.sort(scored.base[~escalated & flagged]),
        traffic=everything,
    )


def _raised(window: Window, allowed_between: float) -> float:
    """Highest threshold with at most ``allowed_between`` known positives between the deployed one and it."""
    k = math.floor(allowed_between + 1e-9)
    if k < 0:
        return -math.inf
    return float(window.above[k]) if k < len(window.above) else math.inf


def _certificate(window: Window, tau: float, *, recall: float, delta: float, upper: float, assume: str) -> Certificate:
    certified = -math.inf < tau < math.inf
    tau = tau if certified else -math.inf
    rate = f"{len(window.missed)} of {window.audited} audits below it were positive, so at most {upper:.1f} were missed"
    if certified:
        reason, missing = f"{len(window.above)} positives lie above the deployed threshold; {rate}", Missing()
    else:
        allowed = (1.0 - recall) * len(window.above) / recall
        audits = math.ceil(math.log(1 / delta) * window.below / max(allowed, 1e-300)) if len(window.above) else None
        further = None if audits is None else max(0, audits - window.audited)
        reason = (
            f"not shown, everything is escalated: {rate}, where {allowed:.1f} are allowed; "
            f"about {'an unknown number of' if further is None else further} more clean audits are needed"
        )
        missing = Missing(audits=further)
    certificate = Certificate(
        kind="recall",
        certified=certified,
        tau=tau,
        lam=window.lam,
        delta=delta,
        target_recall=recall,
        precision=None,
        recall_bound=recall if certified else 1.0,
        precision_bound=None,
        share_escalated=share_at(window.traffic, tau),
        n_audit=window.audited,
        n_positives=len(window.above) + len(window.missed),
        n_flagged=0,
        reason=reason,
        missing=missing,
        assumptions=(f"audits below the deployed threshold are uniform; {assume}", FROZEN),
    )
    return finished(certificate, read_audit(window.above, window.above))


def certify_window(window: Window, *, target_recall: float, delta: float) -> Certificate:
    """Threshold at or above the deployed one whose recall over this window's videos is at least the target."""
    bounds.checked_probability(target_recall=target_recall, delta=delta)
    upper = bounds.hypergeometric_upper(len(window.missed), window.audited, window.below, delta)
    allowed = (1.0 - target_recall) * (len(window.above) + upper) - upper
    tau = _raised(window, allowed)
    assume = f"the promise is about the {window.size} videos of the window"
    return _certificate(window, tau, recall=target_recall, delta=delta, upper=float(upper), assume=assume)


def certify_stream(window: Window, *, target_recall: float, delta: float) -> Certificate:
    """The same for the traffic to come, of which the window is taken as an independent sample.

    Three bounds that fail together with probability at most delta: the rate of positives below (most of delta), the
    rate of positives above, and the share of those that lie under the new threshold (Wilks).
    """
    bounds.checked_probability(target_recall=target_recall, delta=delta)
    part = SMALL_PART * delta
    if window.audited == 0 or not len(window.above):
        return _certificate(
            window, -math.inf, recall=target_recall, delta=delta, upper=float(window.below), assume=SAME
        )
    miss_rate = float(bounds.upper_bound(len(window.missed), window.audited, delta - 3 * part))
    below_share = float(bounds.upper_bound(window.below, window.size, part))
    caught = float(bounds.lower_bound(len(window.above), window.size, part))
    missed = miss_rate * below_share
    between = (1.0 - target_recall) - target_recall * missed / caught
    tau = -math.inf
    if between > 0:
        k = int(bounds.wilks_index(len(window.above), 1.0 - between, part)) if between < 1 else len(window.above) - 1
        tau = float(window.above[k]) if k >= 0 else window.deployed_tau
    return _certificate(window, tau, recall=target_recall, delta=delta, upper=missed * window.size, assume=SAME)
