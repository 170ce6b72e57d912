"""A metric and its data → an interval: exact binomial, Wilson, and the (paired, cluster) bootstrap.

Clips cut from one source, or uploads of one person, are not independent, so what is resampled is the cluster
(source, uploader), never the clip: an interval over clips would be too narrow. Two models are compared on the *same*
resamples (paired), which removes the noise that they share; with 30 positives the standard deviation of R@P90 is .15,
and only the paired comparison tells anything. Percentile intervals (Efron & Tibshirani, 1993, chapters 13 and 16).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from tidegate.errors import UsageError
from tidegate.evaluation.arrays import FloatArray, IntArray, group_codes, same_length

__all__ = ["Interval", "bootstrap_interval", "clopper_pearson", "paired_bootstrap", "wilson"]

Groups = Sequence[Hashable] | npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate and how far it may be off."""

    estimate: float
    low: float
    high: float
    level: float
    method: str
    n_clusters: int
    """Independent units: clusters where given, else items."""
    n_undefined: int = 0
    """Resamples on which the metric is undefined (such as one class only), left out of the interval."""

    def __str__(self) -> str:
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}]"


def clopper_pearson(successes: int, trials: int, *, level: float = 0.95) -> Interval:
    """Exact binomial interval: covers with at least ``level`` for every true rate."""
    if not 0 <= successes <= trials:
        raise UsageError(f"expected 0 <= successes <= trials, got {successes} of {trials}")
    tail = (1 - level) / 2
    low = float(stats.beta.ppf(tail, successes, trials - successes + 1)) if successes else 0.0
    high = float(stats.beta.ppf(1 - tail, successes + 1, trials - successes)) if successes < trials else 1.0
    estimate = successes / trials if trials else math.nan
    return Interval(estimate=estimate, low=low, high=high, level=level, method="clopper-pearson", n_clusters=trials)


def wilson(successes: int, trials: int, *, level: float = 0.95) -> Interval:
    """Wilson's score interval: near the nominal level on average, also for rates near 0 and 1."""
    if not 0 <= successes <= trials:
        raise UsageError(f"expected 0 <= successes <= trials, got {successes} of {trials}")
    if trials == 0:
        return Interval(estimate=math.nan, low=0.0, high=1.0, level=level, method="wilson", n_clusters=0)
    z = float(stats.norm.ppf((1 + level) / 2))
    rate = successes / trials
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    low, high = max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half))
    return Interval(estimate=rate, low=low, high=high, level=level, method="wilson", n_clusters=trials)


def _resampler(n: int, clusters: Groups | None) -> tuple[int, Callable[[np.random.Generator], IntArray]]:
    """Number of independent units, and a function that draws the item indices of one resample."""
    if clusters is None:
        return n, lambda rng: rng.integers(0, n, size=n)
    names, codes = group_codes(clusters)
    order = np.argsort(codes, kind="stable")
    sizes = np.bincount(codes, minlength=len(names))
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])

    def draw(rng: np.random.Generator) -> IntArray:
        chosen = rng.integers(0, len(names), size=len(names))
        lengths = sizes[chosen]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        picked: IntArray = order[np.repeat(starts[chosen], lengths) + within]
        return picked

    return len(names), draw


def _interval(estimate: float, values: FloatArray, *, level: float, method: str, units: int) -> Interval:
    defined = values[~np.isnan(values)]
    tail = (1 - level) / 2
    low, high = np.quantile(defined, [tail, 1 - tail]) if len(defined) else (math.nan, math.nan)
    return Interval(
        estimate=estimate,
        low=float(low),
        high=float(high),
        level=level,
        method=method,
        n_clusters=units,
        n_undefined=len(values) - len(defined),
    )


def bootstrap_interval(
    metric: Callable[..., float],
    *arrays: npt.ArrayLike,
    clusters: Groups | None = None,
    num_samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of ``metric(*arrays)``; with ``clusters``, whole clusters are resampled."""
    columns = [np.asarray(array) for array in arrays]
    named = {f"array {i}": column for i, column in enumerate(columns)}
    n = same_length(**named, **({} if clusters is None else {"clusters": clusters}))
    if n == 0:
        raise UsageError("expected at least one item to resample, got none")
    units, draw = _resampler(n, clusters)
    rng = np.random.default_rng(seed)
    values = np.empty(num_samples)
    for i in range(num_samples):
        chosen = draw(rng)
        values[i] = metric(*(column[chosen] for column in columns))
    method = "bootstrap" if clusters is None else "cluster bootstrap"
    return _interval(metric(*columns), values, level=level, method=method, units=units)


def paired_bootstrap(
    metric: Callable[[Any, Any], float],
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    baseline_scores: npt.ArrayLike,
    *,
    clusters: Groups | None = None,
    num_samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of ``metric(labels, scores) - metric(labels, baseline_scores)`` on common resamples."""

    def difference(truth: Any, ours: Any, theirs: Any) -> float:
        return metric(truth, ours) - metric(truth, theirs)

    result = bootstrap_interval(
        difference, labels, scores, baseline_scores, clusters=clusters, num_samples=num_samples, level=level, seed=seed
    )
    return Interval(**{**vars(result), "method": f"paired {result.method}"})
