"""Counts → exact one-sided bounds and order statistics, for any distribution of scores.

- ``wilks_index``: the largest k such that the k-th smallest score (0-based) of m positives has, with probability 1
  - delta, at least a share g of all positives at or above it (Wilks, 1941). Exact for continuous scores, on the
  safe side with ties.
- Clopper-Pearson bounds invert the exact binomial test; the hypergeometric ones invert sampling without
  replacement.
- ``finite_index``: Wilks for a finite population. Among M positives of which m were audited at random, more than d
  unaudited ones lie below the k-th audited one exactly when at most k of the d + 1 + k lowest positives were
  audited.

Nothing here is asymptotic. All functions take arrays where that is useful to simulations.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from tidegate.errors import UsageError

__all__ = [
    "binomial_cdf",
    "binomial_tail",
    "checked_probability",
    "finite_index",
    "hypergeometric_upper",
    "lower_bound",
    "minimum_positives",
    "precision_p_value",
    "recall_at_index",
    "recall_p_value",
    "upper_bound",
    "wilks_index",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
EXACT_MARGIN = 1e-12  # a binomial sum that equals delta up to rounding counts as equal
LARGEST_ENUMERATED = 20_000  # numbers of positives up to which finite_index looks at every worst case


def checked_probability(**values: float) -> None:
    """Refuse values outside (0, 1)."""
    for name, value in values.items():
        if not 0.0 < value < 1.0:
            raise UsageError(f"{name}: expected a value in (0, 1), got {value}")


def binomial_cdf(k: npt.ArrayLike, n: npt.ArrayLike, p: npt.ArrayLike) -> FloatArray:
    """P(Bin(n, p) <= k), exact; 0 for k < 0."""
    count, trials = np.asarray(k, dtype=np.float64), np.asarray(n, dtype=np.float64)
    inside = special.betainc(np.maximum(trials - count, 1e-300), np.maximum(count, 0.0) + 1.0, 1.0 - np.asarray(p))
    return np.where(count < 0, 0.0, np.where(count >= trials, 1.0, inside))


def binomial_tail(k: npt.ArrayLike, n: npt.ArrayLike, p: npt.ArrayLike) -> FloatArray:
    """P(Bin(n, p) >= k), exact; 1 for k <= 0."""
    count, trials = np.asarray(k, dtype=np.float64), np.asarray(n, dtype=np.float64)
    inside = special.betainc(np.maximum(count, 1e-300), np.maximum(trials - count, 0.0) + 1.0, np.asarray(p))
    return np.where(count <= 0, 1.0, np.where(count > trials, 0.0, inside))


def wilks_index(m: npt.ArrayLike, recall: float, delta: float) -> IntArray:
    """Largest k with BinomCDF(k; m, 1 - recall) <= delta; -1 where there is none (too few positives)."""
    checked_probability(recall=recall, delta=delta)
    positives = np.asarray(m, dtype=np.int64)
    guess = np.asarray(stats.binom.ppf(delta, positives, 1.0 - recall)).astype(np.int64)
    candidates = [guess + 1, guess, guess - 1, guess - 2]
    limit = delta * (1.0 + EXACT_MARGIN)
    fits = [(binomial_cdf(k, positives, 1.0 - recall) <= limit) & (k < positives) for k in candidates]
    return np.asarray(np.maximum(np.select(fits, candidates, -1), -1), dtype=np.int64)


def recall_at_index(m: npt.ArrayLike, k: npt.ArrayLike, delta: float) -> FloatArray:
    """Recall that the k-th smallest of m positive scores certifies: solves BinomCDF(k; m, 1 - recall) = delta."""
    checked_probability(delta=delta)
    positives, index = np.asarray(m, dtype=np.float64), np.asarray(k, dtype=np.float64)
    inverse = special.betaincinv(np.maximum(positives - index, 1e-300), np.maximum(index, 0.0) + 1.0, delta)
    return np.where((index < 0) | (positives <= index), 0.0, inverse)


def recall_p_value(below: npt.ArrayLike, m: npt.ArrayLike, recall: float) -> FloatArray:
    """p-value of "recall < target" when ``below`` of m audited positives lie below the threshold."""
    return binomial_cdf(below, m, 1.0 - recall)


def precision_p_value(right: npt.ArrayLike, n: npt.ArrayLike, precision: float) -> FloatArray:
    """p-value of "precision < target" when ``right`` of n flagged items are right."""
    return binomial_tail(right, n, precision)


def lower_bound(successes: npt.ArrayLike, trials: npt.ArrayLike, delta: float) -> FloatArray:
    """Clopper-Pearson lower bound of a rate at level 1 - delta (one-sided)."""
    count, total = np.asarray(successes, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    inverse = special.betaincinv(np.maximum(count, 1e-300), np.maximum(total - count, 0.0) + 1.0, delta)
    return np.where(count <= 0, 0.0, inverse)


def upper_bound(successes: npt.ArrayLike, trials: npt.ArrayLike, delta: float) -> FloatArray:
    """Clopper-Pearson upper bound of a rate at level 1 - delta (one-sided)."""
    count, total = np.asarray(successes, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    return 1.0 - lower_bound(total - count, total, delta)


@functools.lru_cache(maxsize=4096)
def hypergeometric_upper(found: int, audited: int, size: int, delta: float) -> int:
    """Upper bound at level 1 - delta of the positives among ``size`` items, ``found`` among ``audited`` random ones.

    The largest K for which seeing so few is not rarer than delta: P(Hypergeom(size, K, audited) <= found) > delta.
    """
    if not 0 <= found <= audited <= size:
        raise UsageError(f"expected 0 <= found <= audited <= size, got {found}, {audited}, {size}")
    low, high = found, size - (audited - found)
    while low < high:
        middle = (low + high + 1) // 2
        if stats.hypergeom.cdf(found, size, middle, audited) > delta:
            low = middle
        else:
            high = middle - 1
    return low


def minimum_positives(recall: float, delta: float) -> int:
    """Fewest positives that can certify ``recall`` at all: those with recall ** m <= delta."""
    checked_probability(recall=recall, delta=delta)
    m = max(1, math.ceil(math.log(delta) / math.log(recall) - 1e-9))
    return m if recall**m <= delta * (1.0 + EXACT_MARGIN) else m + 1


def _broken_at(counts: IntArray, recall: float) -> IntArray:
    """Fewest misses that break the promise, by the number of positives in the population."""
    return np.asarray(np.floor((1.0 - recall) * counts + 1e-9).astype(np.int64) + 1)


def _worst_counts(fewest: int, most: int, recall: float) -> IntArray:
    """Of all numbers of positives that the same number of misses breaks, the largest: there the audit sees least."""
    counts = np.arange(fewest, most + 1)
    return np.asarray(counts[np.append(np.diff(_broken_at(counts, recall)) > 0, True)])


def _worst_case(k: int, m: int, recall: float, counts: IntArray, audited_found: bool) -> float:
    """Largest failure probability over these numbers of positives in the population."""
    lowest = _broken_at(counts, recall) + (k if audited_found else 0)
    possible = lowest <= counts - (m - k if audited_found else 0)
    if not possible.any():
        return 0.0
    return float(stats.hypergeom.cdf(k, counts[possible], lowest[possible], m).max())


def _dominated_index(m: int, recall: float, level: float) -> int:
    """The binomial index where it is no larger than the hypergeometric one: k = 0, or k <= mean - 1 (Uhlmann, 1966)."""
    k = int(wilks_index(m, recall, level))
    return k if k <= 0 else min(k, max(0, math.floor(m * (1.0 - recall) - 1.0)))


@functools.lru_cache(maxsize=4096)
def finite_index(
    m: int, n: int, size: int, recall: float, delta: float, *, audited_found: bool = True, share: float = 0.02
) -> int:
    """Wilks for ``size`` items of which n were audited without replacement and m were positive; -1: too few.

    The unknown number M of positives is bounded at level ``share * delta`` (Berger & Boos, 1994) and the worst M below
    that bound counts. ``audited_found``: positives that the audit itself found are caught whatever their score.
    """
    checked_probability(recall=recall, delta=delta, share=share)
    if m <= 0:
        return -1
    most = hypergeometric_upper(m, n, size, share * delta)
    level = (1.0 - share) * delta
    if most > LARGEST_ENUMERATED:
        return _dominated_index(m, recall, level)
    counts = _worst_counts(m, most, recall)
    low, high = -1, m - 1
    while low < high:
        middle = (low + high + 1) // 2
        if _worst_case(middle, m, recall, counts, audited_found) <= level:
            low = middle
        else:
            high = middle - 1
    return low
