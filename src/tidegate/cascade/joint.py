"""Recall *and* precision in one finite-sample promise, and the choice of ``lam``.

The claim for a pair (tau, lam): recall loss against the large model alone is at most eps **and** the cascade's
precision is at least p. Its negation is "recall is too low *or* precision is too low", and a negation that is a
union is rejected by rejecting every part at the *full* level delta (intersection-union test; Berger, 1982):
whichever part is true, its own test is fooled with probability at most delta. So delta is not split between the two
promises.

Thresholds are walked upwards from a start that the test data did not choose, and the walk ends at the first tau
where either test fails (fixed sequence; Maurer et al., 1995). To certify anything false the walk must pass the
*first* false pair on its path, which happens with probability at most delta, however many thresholds follow. The
path is a continuum, so ties and the audit's own scores as candidates need no correction. The recall part of the
walk alone is Wilks' order statistic.

``lam`` and the start come from a selection split that the tests never see; a ``lam`` given by the caller costs no
split.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.cascade import bounds
from tidegate.cascade.certificates import (
    FROZEN,
    SAME,
    UNIFORM,
    Audit,
    Certificate,
    Missing,
    certify_recall,
    finished,
    read_audit,
    share_at,
    too_few,
)
from tidegate.errors import UsageError
from tidegate.evaluation.arrays import checked_scores

__all__ = ["Walk", "certify", "certify_joint", "certify_precision", "choose_operating_point", "walk"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
SPLIT_STREAM = 0x71DE  # keeps the split apart from whatever else a caller draws with the same small seed
LARGEST_SELECTION = 100_000  # items beyond which a larger selection split no longer improves the choice


@dataclass(frozen=True, kw_only=True)
class Walk:
    """Where the walk over thresholds ended."""

    steps: int
    """Thresholds certified, the start included; 0 when the start itself failed."""
    tau: float
    """Highest certified threshold; ``-inf`` when none is above the start ``-inf``."""
    recall_held: bool
    """Whether the recall test held where the walk ended; False: it is what ended the walk."""
    precision_held: bool
    right: int
    """Rightly flagged items at or above ``tau``."""
    flagged: int
    m: int
    """Positives (rightly flagged items) in all."""


def walk(base: FloatArray, right: IntArray, *, recall: float, precision: float, delta: float, start: float) -> Walk:
    """Walk tau upwards over the flagged items' scores while both exact tests reject at level delta."""
    order = np.argsort(base, kind="stable")
    values, truth = base[order], right[order]
    m = int(truth.sum())
    first = np.flatnonzero(np.diff(values, prepend=-math.inf) > 0) if len(values) else np.zeros(0, dtype=np.int64)
    caught_before = np.concatenate([[0], np.cumsum(truth)])
    allowed = int(bounds.wilks_index(m, recall, delta))
    reachable = first[(values[first] > start) & (caught_before[first] <= allowed)]
    begin = int(np.searchsorted(values, start, side="left"))
    places = np.concatenate([[begin], reachable])
    below = caught_before[places]
    recall_ok = (below <= allowed) | (places == begin) & (start == -math.inf)
    p_values = bounds.precision_p_value(m - below, len(values) - places, precision)
    precision_ok = (p_values <= delta) & (len(values) > places)
    failing = np.flatnonzero(~(recall_ok & precision_ok))
    steps = int(failing[0]) if len(failing) else len(places)
    at = places[max(steps - 1, 0)]
    tau = start if steps <= 1 else float(values[at])
    return Walk(
        steps=steps,
        tau=tau,
        recall_held=bool(recall_ok[min(steps, len(places) - 1)]) and steps < len(places),
        precision_held=bool(precision_ok[min(steps, len(places) - 1)]),
        right=int(m - caught_before[at]),
        flagged=int(len(values) - at),
        m=m,
    )


def choose_operating_point(
    audit: Audit, *, recall: float | None, precision: float, delta: float, test_size: int, most_candidates: int = 100
) -> tuple[float, float]:
    """From the selection split: the lowest lam whose tests should pass on the test split, and the walk's start.

    Candidates are the large-model scores of what is rightly flagged; a lam between two of them flags only more wrongly.
    One is judged at its estimated precision less one standard error, with the counts that the test split is
    expected to have. Without a candidate that should pass, the one with the best chance is taken.
    """
    labelled = audit.labels
    if labelled is None or len(audit) == 0:
        return math.inf, -math.inf
    usable = audit.large > audit.large[labelled < 0].max(initial=-math.inf)
    order = np.argsort(-audit.large[usable], kind="stable")
    large, base = audit.large[usable][order], audit.base[usable][order]
    right = labelled[usable][order] == 1
    candidates = np.unique(large[right])
    if len(candidates) > most_candidates:
        candidates = candidates[np.linspace(0, len(candidates) - 1, most_candidates).astype(np.int64)]
    best, best_p, start_of_best = math.inf, math.inf, -math.inf
    scale = test_size / len(audit)
    for lam, count in zip(candidates, np.searchsorted(-large, -candidates, side="right"), strict=True):
        start = _start(base[:count][right[:count]], recall)
        inside = base[:count] >= start
        n, x = int(np.count_nonzero(inside)), int(np.count_nonzero(inside & right[:count]))
        rate = (x + 0.5) / (n + 1)
        careful = max(0.0, rate - math.sqrt(rate * (1 - rate) / (n + 1)))
        p_value = float(bounds.precision_p_value(math.floor(careful * n * scale), math.floor(n * scale), precision))
        if p_value <= delta:
            return float(lam), start
        if p_value < best_p:
            best, best_p, start_of_best = float(lam), p_value, start
    return best, start_of_best


def _start(positives: FloatArray, recall: float | None) -> float:
    """A start well below the threshold to come: a third of the allowed loss; ``-inf`` when too few say where."""
    if recall is None:
        return -math.inf
    k = math.floor((1.0 - recall) * len(positives) / 3.0)
    return float(np.partition(positives, k)[k]) if k >= 3 else -math.inf


def _split(audit: Audit, share: float, seed: int) -> tuple[Audit, Audit]:
    chosen = np.random.default_rng([SPLIT_STREAM, seed]).random(len(audit)) < share
    return _part(audit, chosen), _part(audit, ~chosen)


def _part(audit: Audit, mask: npt.NDArray[np.bool_]) -> Audit:
    labels = None if audit.labels is None else audit.labels[mask]
    return Audit(base=audit.base[mask], large=audit.large[mask], labels=labels)


def _joint_reason(
    ended: Walk, *, lam: float, recall: float, precision: float, delta: float, n: int
) -> tuple[str, Missing]:
    if ended.steps >= 1 and ended.tau > -math.inf:
        what = "precision" if ended.recall_held else "recall"
        counts = f"{ended.right} of the {ended.flagged} audited items that the cascade flags are right"
        return f"both tests hold at every step up to tau, where {what} ends the walk; {counts}", Missing()
    needed = bounds.minimum_positives(recall, delta)
    if ended.m < needed:
        reason, missing = too_few(ended.m, n, recall, delta)
        return f"{reason}. Counted are rightly flagged items of the test split at lam {lam:g}", missing
    labels = labels_needed(ended.right, ended.flagged, precision, delta)
    lower = float(bounds.lower_bound(ended.right, ended.flagged, delta))
    hope = f"at that rate, {labels} more labels would show it" if labels else "that rate would not show it"
    return (
        f"precision ≥ {precision:g} at lam {lam:g} is not shown where the walk begins: {ended.right} of "
        f"{ended.flagged} are right, lower bound {lower:.3f}; {hope}. Everything is escalated",
        Missing(labels=labels),
    )


def labels_needed(right: int, flagged: int, precision: float, delta: float) -> int:
    """Further labels after which the rate seen would pass the precision test; 0 when it never would."""
    if flagged == 0:
        return math.ceil(math.log(delta) / math.log(precision))
    rate = right / flagged
    if rate <= precision:
        return 0
    low, high = flagged, flagged
    while float(bounds.precision_p_value(math.floor(rate * high), high, precision)) > delta:
        high *= 2
    while high - low > 1:
        middle = (low + high) // 2
        passes = float(bounds.precision_p_value(math.floor(rate * middle), middle, precision)) <= delta
        low, high = (low, middle) if passes else (middle, high)
    return max(0, high - flagged)


def certify_joint(
    audit: Audit,
    *,
    target_recall: float,
    precision: float,
    delta: float,
    lam: float | None = None,
    traffic: npt.ArrayLike | None = None,
    selection_share: float = 0.3,
    seed: int = 0,
) -> Certificate:
    """Recall loss ≤ 1 - target_recall and precision ≥ ``precision``, together with probability 1 - delta."""
    bounds.checked_probability(target_recall=target_recall, precision=precision, delta=delta)
    if audit.labels is None:
        return _unlabelled(audit, recall=target_recall, precision=precision, delta=delta, lam=lam)
    test, lam_used, start = _selected(
        audit, recall=target_recall, precision=precision, delta=delta, lam=lam, share=selection_share, seed=seed
    )
    truth = test.positives(lam_used)
    flagged = test.large >= lam_used
    ended = walk(
        test.base[flagged],
        truth[flagged].astype(np.int64),
        recall=target_recall,
        precision=precision,
        delta=delta,
        start=start,
    )
    certified = ended.steps >= 1 and ended.tau > -math.inf
    tau = ended.tau if certified else -math.inf
    reason, missing = _joint_reason(
        ended, lam=lam_used, recall=target_recall, precision=precision, delta=delta, n=len(test)
    )
    scores = audit.base if traffic is None else checked_scores(traffic, name="traffic", probability=True)
    lower = float(bounds.lower_bound(ended.right, ended.flagged, delta))
    certificate = Certificate(
        kind="joint",
        certified=certified,
        tau=tau,
        lam=lam_used,
        delta=delta,
        target_recall=target_recall,
        precision=precision,
        recall_bound=target_recall if certified else 1.0,
        precision_bound=precision if certified else lower,
        share_escalated=share_at(scores, tau),
        n_audit=len(audit),
        n_positives=ended.m,
        n_flagged=ended.flagged,
        reason=reason,
        missing=missing,
        assumptions=(UNIFORM, FROZEN if lam is not None else _split_note(selection_share), SAME),
    )
    return finished(certificate, audit)


def _unlabelled(
    audit: Audit, *, recall: float | None, precision: float, delta: float, lam: float | None
) -> Certificate:
    """Nothing can be said about precision without labels; says how many at least are needed."""
    used = 0.5 if lam is None else lam
    labels = bounds.minimum_positives(precision, delta)
    flagged = int((audit.large >= used).sum())
    reason = (
        f"no labels: everything is escalated. Precision ≥ {precision:g} at delta {delta:g} needs labels on all flagged "
        f"items of the audit ({flagged} at lam {used:g}), and at least {labels}, all of them right"
    )
    certificate = Certificate(
        kind="precision" if recall is None else "joint",
        certified=False,
        tau=-math.inf,
        lam=used,
        delta=delta,
        target_recall=recall,
        precision=precision,
        recall_bound=1.0,
        precision_bound=None,
        share_escalated=1.0,
        n_audit=len(audit),
        n_positives=flagged,
        n_flagged=flagged,
        reason=reason,
        missing=Missing(labels=max(labels, flagged)),
        assumptions=(UNIFORM, FROZEN, SAME),
    )
    return finished(certificate, audit)


def _split_note(share: float) -> str:
    return (
        f"models were frozen before the audit; lam was chosen on a random {share:.0%} of it that the tests do not use"
    )


def _selected(
    audit: Audit,
    *,
    recall: float | None,
    precision: float,
    delta: float,
    lam: float | None,
    share: float,
    seed: int,
) -> tuple[Audit, float, float]:
    """The items that the tests use, lam and the walk's start."""
    if lam is not None:
        return audit, lam, -math.inf
    bounds.checked_probability(selection_share=share)
    selection, test = _split(audit, min(share, LARGEST_SELECTION / max(1, len(audit))), seed)
    chosen, start = choose_operating_point(
        selection, recall=recall, precision=precision, delta=delta, test_size=len(test)
    )
    return test, chosen, start


def certify_precision(
    audit: Audit,
    *,
    precision: float,
    delta: float,
    lam: float | None = None,
    selection_share: float = 0.3,
    seed: int = 0,
) -> Certificate:
    """Precision ≥ ``precision`` of what the large model flags at lam; everything is escalated."""
    bounds.checked_probability(precision=precision, delta=delta)
    if audit.labels is None:
        return _unlabelled(audit, recall=None, precision=precision, delta=delta, lam=lam)
    test, lam_used, _ = _selected(
        audit, recall=None, precision=precision, delta=delta, lam=lam, share=selection_share, seed=seed
    )
    right, flagged = int(test.positives(lam_used).sum()), int((test.large >= lam_used).sum())
    certified = flagged > 0 and float(bounds.precision_p_value(right, flagged, precision)) <= delta
    lower = float(bounds.lower_bound(right, flagged, delta))
    labels = 0 if certified else labels_needed(right, flagged, precision, delta)
    verdict = (
        "shown" if certified else f"not shown ({labels} more labels would, at the rate seen)" if labels else "not shown"
    )
    certificate = Certificate(
        kind="precision",
        certified=certified,
        tau=-math.inf,
        lam=lam_used,
        delta=delta,
        target_recall=None,
        precision=precision,
        recall_bound=1.0,
        precision_bound=lower,
        share_escalated=1.0,
        n_audit=len(audit),
        n_positives=right,
        n_flagged=flagged,
        reason=f"{right} of {flagged} flagged items are right, lower bound {lower:.3f}: "
        f"precision ≥ {precision:g} is {verdict}",
        missing=Missing(labels=labels),
        assumptions=(UNIFORM, FROZEN if lam is not None else _split_note(selection_share), SAME),
    )
    return finished(certificate, audit)


def certify(
    base: npt.ArrayLike,
    large: npt.ArrayLike,
    labels: npt.ArrayLike | None = None,
    *,
    target_recall: float | None = None,
    precision: float | None = None,
    delta: float = 0.05,
    lam: float | None = None,
    traffic: npt.ArrayLike | None = None,
    ids: Sequence[Hashable] | npt.NDArray[Any] | None = None,
    tuning_ids: Iterable[Hashable] | None = None,
    propensities: npt.ArrayLike | None = None,
    selection_share: float = 0.3,
    seed: int = 0,
) -> Certificate:
    """Certify recall, precision or both from a uniform audit.

    ``lam`` None: 0.5 for a recall promise alone; chosen on a selection split when a precision is promised.
    """
    audit = read_audit(base, large, labels, ids=ids, tuning_ids=tuning_ids, propensities=propensities)
    if lam is not None and not 0.0 <= lam <= 1.0:
        raise UsageError(f"lam: expected a value in [0, 1], got {lam}")
    if target_recall is None and precision is None:
        raise UsageError("expected target_recall, precision or both, got neither")
    if precision is None:
        assert target_recall is not None
        return certify_recall(
            audit, lam=0.5 if lam is None else lam, target_recall=target_recall, delta=delta, traffic=traffic
        )
    if target_recall is None:
        return certify_precision(
            audit, precision=precision, delta=delta, lam=lam, selection_share=selection_share, seed=seed
        )
    return certify_joint(
        audit,
        target_recall=target_recall,
        precision=precision,
        delta=delta,
        lam=lam,
        traffic=traffic,
        selection_share=selection_share,
        seed=seed,
    )
