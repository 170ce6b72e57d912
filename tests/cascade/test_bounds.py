"""Every bound against brute force or exact enumeration, and its properties."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tidegate.cascade.bounds import (
    binomial_cdf,
    binomial_tail,
    finite_index,
    hypergeometric_upper,
    lower_bound,
    minimum_positives,
    recall_at_index,
    upper_bound,
    wilks_index,
)
from tidegate.errors import UsageError


def binomial_sum(k: int, n: int, p: float) -> float:
    return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))


@pytest.mark.parametrize("n", [1, 2, 7, 30])
@pytest.mark.parametrize("p", [0.01, 0.3, 0.9])
def test_binomial_tails_are_the_textbook_sums(n: int, p: float) -> None:
    for k in range(-1, n + 2):
        assert float(binomial_cdf(k, n, p)) == pytest.approx(binomial_sum(min(k, n), n, p), abs=1e-12)
        assert float(binomial_tail(k, n, p)) == pytest.approx(1 - binomial_sum(min(k, n + 1) - 1, n, p), abs=1e-12)


@pytest.mark.parametrize("recall", [0.5, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("delta", [0.01, 0.05, 0.2])
def test_wilks_index_is_the_largest_that_the_binomial_sum_allows(recall: float, delta: float) -> None:
    for m in range(160):
        allowed = [k for k in range(m) if binomial_sum(k, m, 1 - recall) <= delta * (1 + 1e-12)]
        assert int(wilks_index(m, recall, delta)) == (allowed[-1] if allowed else -1)


def test_wilks_index_by_enumeration_of_all_samples_from_a_population_with_ties() -> None:
    """Population scores 0, 1, 1, 2, 3, 3, 3, 4 drawn m = 4 times: the exact failure rate stays within delta."""
    population, m, recall, delta = [0, 1, 1, 2, 3, 3, 3, 4], 4, 0.6, 0.3
    k = int(wilks_index(m, recall, delta))
    assert k >= 0
    failures = 0
    for sample in itertools.product(population, repeat=m):
        tau = sorted(sample)[k]
        failures += sum(score >= tau for score in population) / len(population) < recall
    assert failures / len(population) ** m <= delta


def test_minimum_positives_of_the_design_note() -> None:
    assert [minimum_positives(g, 0.05) for g in (0.9, 0.95, 0.98)] == [29, 59, 149]


@settings(deadline=None)
@given(st.floats(0.5, 0.99), st.floats(0.001, 0.3))
def test_minimum_positives_is_the_first_with_an_index(recall: float, delta: float) -> None:
    m = minimum_positives(recall, delta)
    assert int(wilks_index(m, recall, delta)) >= 0
    assert int(wilks_index(m - 1, recall, delta)) == -1


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 3000), st.floats(0.5, 0.99), st.floats(0.001, 0.3), st.floats(1.0, 2.0))
def test_wilks_index_is_monotone_in_m_in_delta_and_in_the_target(m: int, g: float, delta: float, more: float) -> None:
    k = int(wilks_index(m, g, delta))
    assert int(wilks_index(m + 1, g, delta)) >= k
    assert int(wilks_index(m, g, min(0.9, delta * more))) >= k
    assert int(wilks_index(m, min(0.999, g ** (1 / more)), delta)) <= k


@pytest.mark.parametrize("m", [29, 60, 500])
def test_recall_at_index_solves_the_binomial_equation(m: int) -> None:
    for k in range(0, 10, 3):
        bound = float(recall_at_index(m, k, 0.05))
        assert float(binomial_cdf(k, m, 1 - bound)) == pytest.approx(0.05)
    k = int(wilks_index(m, 0.9, 0.05))
    assert float(recall_at_index(m, k, 0.05)) >= 0.9
    assert float(recall_at_index(m, -1, 0.05)) == 0.0


@pytest.mark.parametrize("n", [1, 4, 11])
def test_one_sided_bounds_cover_at_every_rate_by_enumeration(n: int) -> None:
    for rate in np.linspace(0.01, 0.99, 40):
        below = sum(stats.binom.pmf(k, n, rate) for k in range(n + 1) if float(upper_bound(k, n, 0.1)) < rate)
        above = sum(stats.binom.pmf(k, n, rate) for k in range(n + 1) if float(lower_bound(k, n, 0.1)) > rate)
        assert below <= 0.1 + 1e-9
        assert above <= 0.1 + 1e-9
    assert float(lower_bound(0, 0, 0.1)) == 0.0
    assert float(upper_bound(0, 0, 0.1)) == 1.0


@pytest.mark.parametrize("size", [5, 12])
def test_hypergeometric_upper_covers_for_every_population_by_enumeration_of_samples(size: int) -> None:
    audited, delta = size // 2, 0.2
    for positives in range(size + 1):
        population = [1] * positives + [0] * (size - positives)
        samples = list(itertools.combinations(population, audited))
        failures = sum(hypergeometric_upper(sum(s), audited, size, delta) < positives for s in samples)
        assert failures / len(samples) <= delta


def test_hypergeometric_upper_of_a_full_audit_is_what_was_found() -> None:
    assert hypergeometric_upper(3, 10, 10, 0.05) == 3
    assert hypergeometric_upper(0, 0, 10, 0.05) == 10
    with pytest.raises(UsageError, match="found <= audited"):
        hypergeometric_upper(4, 3, 10, 0.05)


@pytest.mark.parametrize("audited_found", [True, False])
def test_finite_index_holds_for_every_population_by_enumeration(audited_found: bool) -> None:
    """All audits of n = 8 of 12 videos, for every number of positives: recall of the collection itself."""
    size, n, recall, delta = 12, 8, 0.7, 0.3
    for positives in range(size + 1):
        failures = total = 0
        for sample in itertools.combinations(range(size), n):  # positives are items 0 .. positives - 1, by score
            found = [item for item in sample if item < positives]
            total += 1
            k = finite_index(len(found), n, size, recall, delta, audited_found=audited_found)
            if k < 0:
                continue
            tau = found[k]
            caught = {item for item in range(positives) if item >= tau} | (set(found) if audited_found else set())
            failures += len(caught) < recall * positives - 1e-9
        assert failures / total <= delta + 1e-9, (positives, failures, total)


def test_finite_index_is_never_behind_the_stream_index_where_much_was_audited() -> None:
    for m in (40, 80, 150):
        assert finite_index(m, 10_000, 20_000, 0.9, 0.05) >= int(wilks_index(m, 0.9, 0.05))
    assert finite_index(50, 100, 100, 0.9, 0.05) >= 4
    assert finite_index(0, 100, 1000, 0.9, 0.05) == -1


def test_large_populations_use_the_dominating_binomial() -> None:
    k = finite_index(3000, 60_000, 10_000_000, 0.9, 0.05)
    assert 0 < k <= int(wilks_index(3000, 0.9, 0.05))
