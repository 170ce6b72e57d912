"""Gains: what each intervention would bring to this run, what it would break, and at which cost.

Enters: a ``Diagnosis``. Leaves: a ``Gain`` an intervention, best first. What can be computed from the run is computed:
the change is applied to *all* items in scope, right ones too (a sample of them stands for the rest, by weight), with a
threshold fitted on other sources. For what needs training, and for probes that were not run, the gain is the ceiling
(all errors of its classes put right) times a transfer ratio learnt from past interventions. Intervals speak of another
sample of the same size, because that is where a gain will be measured.

Shape legend: N items, B resamples, S sources.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tidegate.diagnosis.classify import CLASSES
from tidegate.diagnosis.diagnose import Diagnosis
from tidegate.diagnosis.interventions import REGISTRY, Change, Context, Intervention
from tidegate.diagnosis.table import Floats, ProbeTable
from tidegate.diagnosis.taxonomy import FailureClass
from tidegate.diagnosis.thresholds import cross_fitted
from tidegate.diagnosis.transfer import TransferRatios
from tidegate.diagnosis.weighting import item_weights
from tidegate.evaluation import Interval

__all__ = ["Gain", "GainsConfig", "gains", "known_change", "suspicion"]

Bools = npt.NDArray[np.bool_]
_MIN_TO_REFIT = 50
"""Right items that must be known under a change before a threshold is fitted to it: few ones would promise anything."""


@dataclass(frozen=True, kw_only=True)
class GainsConfig:
    """How gains are estimated and ranked."""

    num_samples: int = 200
    """Resamples of the intervals."""
    level: float = 0.9
    """Level of the intervals."""
    seed: int = 0
    """Seed of the resamples."""
    order: Literal["gain_per_cost", "gain"] = "gain_per_cost"
    """What recommendations are ranked by."""
    ratios: TransferRatios = field(default_factory=TransferRatios)
    """What past interventions brought of their ceilings."""
    context: Context = field(default_factory=Context)
    """Names that commands are written with."""


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What one intervention is expected to bring."""

    name: str
    summary: str
    classes: tuple[FailureClass, ...]
    measured: bool
    """True: computed on the run; False: ceiling times transfer ratio."""
    errors: Interval
    """Errors fewer, of all items of the run."""
    f1: Interval
    """Change of F1."""
    ceiling: Interval
    """Errors fewer if all errors of its classes were put right."""
    ceiling_f1: float
    """The same in F1."""
    cured: float
    broken: float
    """Right items that become wrong; NaN where it is not measured."""
    breaks: tuple[str, ...]
    """Slices that lose more than they win, worst first."""
    cost: float
    detail: str
    command: str

    @property
    def per_cost(self) -> float:
        """F1 for each unit of effort."""
        return self.f1.estimate / self.cost

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        values = dataclasses.asdict(self) | {"classes": [c.value for c in self.classes], "per_cost": self.per_cost}
        plain = _plain(values)
        assert isinstance(plain, dict)
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def suspicion(diagnosis: Diagnosis, classes: Iterable[FailureClass]) -> Floats:
    """(N,) posterior that an item is wrong because of one of the classes; 0 for right items."""
    found = np.zeros(len(diagnosis.table))
    columns = [CLASSES.index(failure) for failure in classes]
    found[diagnosis.classified.rows] = diagnosis.classified.posterior_EC[:, columns].sum(axis=1)
    return found


def known_change(table: ProbeTable, change: Change) -> tuple[Change, Floats]:
    """(change with thresholds fitted and unknown strata filled, weights)."""
    weights, scores = item_weights(table, change.scores)
    thresholds = change.thresholds
    sampled = int((np.isfinite(change.scores) & ~table.errors).sum())
    if change.refit and sampled >= _MIN_TO_REFIT:
        thresholds = cross_fitted(dataclasses.replace(table, scores=scores), None, weights=weights)
    return dataclasses.replace(change, scores=scores, thresholds=thresholds, refit=False), weights


def gains(diagnosis: Diagnosis, *, config: GainsConfig | None = None,
          interventions: Iterable[Intervention] | None = None) -> tuple[Gain, ...]:
    """Expected gains of all interventions, best first by ``config.order``."""
    config = config or GainsConfig()
    found = [_gain(diagnosis, one, config) for one in (interventions or REGISTRY.values())]
    key = (lambda gain: gain.per_cost) if config.order == "gain_per_cost" else (lambda gain: gain.f1.estimate)
    return tuple(sorted(found, key=lambda gain: (-round(key(gain), 9), gain.cost, gain.name)))


def _gain(diagnosis: Diagnosis, one: Intervention, config: GainsConfig) -> Gain:
    table, suspected = diagnosis.table, suspicion(diagnosis, one.classes)
    resamples = _source_weights(table, config)
    ceiling_errors, ceiling_f1 = _ceiling(table, suspected, resamples)
    change = one.apply(table, suspected)
    breaks: tuple[str, ...] = ()
    if change is None:
        rng = np.random.default_rng(config.seed)
        ratio = rng.beta(*config.ratios.beta(one.name), size=config.num_samples)
        ratio = np.concatenate([[config.ratios.ratio(one.name).estimate], ratio])
        placebo = config.ratios.placebo_f1 if one.needs_training else 0.0
        errors, f1, cured, broken = ceiling_errors * ratio, ceiling_f1 * ratio + placebo, np.nan, np.nan
        detail = "needs training" if one.needs_training else "the run has no probe for it"
    else:
        change, weights = known_change(table, change)
        errors, f1 = _measured(table, change, weights, resamples)
        cured, broken, breaks = _sides(table, change, weights)
        detail = change.detail
    return Gain(
        name=one.name, summary=one.summary, classes=one.classes, measured=change is not None,
        errors=_interval(errors, config), f1=_as_past(_interval(f1, config), one.name, config),
        ceiling=_interval(ceiling_errors, config),
        ceiling_f1=float(ceiling_f1[0]), cured=float(cured), broken=float(broken), breaks=breaks, cost=one.cost,
        detail=detail, command=one.command(config.context),
    )


def _source_weights(table: ProbeTable, config: GainsConfig) -> Floats:
    """(B + 1, N) item weights: all ones, then resampled sources."""
    rng = np.random.default_rng(config.seed)
    _, codes = np.unique(table.sources, return_inverse=True)
    units = int(codes.max()) + 1 if len(codes) else 0
    rows = [np.ones(len(table))]
    rows += [np.bincount(rng.integers(0, units, units), minlength=units)[codes].astype(float)
             for _ in range(config.num_samples if units else 0)]
    return np.asarray(rows)


def _interval(values: Floats, config: GainsConfig) -> Interval:
    """Estimate and prediction interval: deviations widened by the root of two, for another sample has its own noise."""
    tail = (1 - config.level) / 2
    centre, draws = float(values[0]), values[1:][np.isfinite(values[1:])]
    low, high = np.quantile(draws - draws.mean(), [tail, 1 - tail]) if len(draws) else (np.nan, np.nan)
    middle = float(draws.mean()) if len(draws) else centre
    return Interval(estimate=centre, low=middle + float(low) * 2**0.5, high=middle + float(high) * 2**0.5,
                    level=config.level, method="cluster bootstrap, for a new sample", n_clusters=len(values) - 1)


def _as_past(interval: Interval, name: str, config: GainsConfig) -> Interval:
    """At least as wide as past predictions of the intervention missed."""
    low, high = config.ratios.misses_f1.get(name, (0.0, 0.0))
    return dataclasses.replace(interval, low=min(interval.low, interval.estimate + low),
                               high=max(interval.high, interval.estimate + high))


def _f1(weights_BN: Floats, flagged: Floats, labels: Floats) -> Floats:
    caught = weights_BN @ (flagged * labels)
    total = weights_BN @ flagged + weights_BN @ labels
    score: Floats = np.divide(2 * caught, total, out=np.zeros_like(total), where=total > 0)
    return score


def _ceiling(table: ProbeTable, suspected: Floats, resamples: Floats) -> tuple[Floats, Floats]:
    """(errors fewer, F1 more) when every suspected error is put right, in each resample."""
    labels, flagged = (table.labels == 1).astype(float), (table.flagged & np.isfinite(table.scores)).astype(float)
    right = flagged + suspected * (labels - flagged)
    return resamples @ suspected, _f1(resamples, right, labels) - _f1(resamples, flagged, labels)


def _measured(table: ProbeTable, change: Change, weights: Floats, resamples: Floats) -> tuple[Floats, Floats]:
    """(errors fewer, F1 more) under a change, in each resample."""
    flagged = (np.nan_to_num(change.scores, nan=-np.inf) >= change.thresholds).astype(float)
    labels = ((table.labels if change.labels is None else change.labels) == 1).astype(float)
    failed = np.isnan(change.scores) & np.isnan(table.scores)
    kept = np.ones(len(table)) if change.kept is None else change.kept.astype(float)
    wrong = np.where(failed, 1.0, flagged != labels) * kept
    before, truth = table.flagged.astype(float), (table.labels == 1).astype(float)
    errors = resamples @ table.errors.astype(float) - (resamples * weights) @ wrong
    return errors, _f1(resamples * weights * kept, flagged, labels) - _f1(resamples, before, truth)


def _sides(table: ProbeTable, change: Change, weights: Floats) -> tuple[float, float, tuple[str, ...]]:
    """(errors cured, right items broken, slices that lose) under a change."""
    flagged = np.nan_to_num(change.scores, nan=-np.inf) >= change.thresholds
    labels = table.labels if change.labels is None else change.labels
    wrong = (flagged != (labels == 1)) | np.isnan(change.scores)
    decided = np.ones(len(table), dtype=np.bool_) if change.kept is None else change.kept
    cured = weights * (table.errors & (~wrong | ~decided))
    broken = weights * (~table.errors & wrong & decided)
    losing = []
    for name, column in table.slices.items():
        values, codes = np.unique(column, return_inverse=True)
        lost = np.bincount(codes, broken - cured, minlength=len(values))
        noise = np.sqrt(np.bincount(codes, (broken + cured) * np.maximum(weights, 1.0), minlength=len(values)))
        losing += [(float(lost[v]), f"{name} {values[v]}: {lost[v]:.0f} more errors")
                   for v in np.flatnonzero((lost > 2 * noise) & (lost >= 3) & (values != ""))]
    return float(cured.sum()), float(broken.sum()), tuple(text for _, text in sorted(losing, reverse=True)[:5])
