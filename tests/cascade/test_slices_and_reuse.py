"""Groups that hold together, reuse of production's escalations, thresholds per region, recall in production."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.cascade import (
    Stratum,
    certify_slices,
    certify_stream,
    certify_window,
    neyman,
    pooled_recall,
    read_audit,
    read_window,
    region_thresholds,
    verify_slices,
)
from tidegate.cascade.production import certified_missed
from tidegate.cascade.regions import fit_concentration
from tidegate.cascade.slices import holm
from tidegate.errors import UsageError


def slow_holm(p_values: list[float], delta: float) -> list[bool]:
    rejected = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[index] > delta / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0.01, 0.5))
def test_holm_is_the_step_down_of_its_definition(p_values: list[float], delta: float) -> None:
    assert holm(p_values, delta).tolist() == slow_holm(p_values, delta)


def regional(rng: np.random.Generator, n: int, regions: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    region = rng.integers(0, regions, n)
    positive = rng.random(n) < 0.15
    z = rng.normal(size=n) + (2.5 - 0.2 * region) * positive
    return 1 / (1 + np.exp(2 - z)), positive.astype(float), region


def test_thresholds_of_all_certified_regions_hold_together() -> None:
    rng = np.random.default_rng(0)
    base, large, region = regional(rng, 200_000)
    true = [np.sort(base[(region == r) & (large == 1)]) for r in range(6)]
    failures, certified, trials = 0, 0, 250
    for _ in range(trials):
        b, s, r = regional(rng, 3000)
        found = certify_slices(read_audit(b, s), r, lam=0.5, target_recall=0.9, delta=0.1)
        broken = [
            c.certified and np.searchsorted(true[int(g)], c.tau) / len(true[int(g)]) > 0.1 for g, c in found.items()
        ]
        certified += sum(c.certified for c in found.values())
        failures += any(broken)
    assert certified > trials
    assert failures / trials <= 0.1 + 2 * math.sqrt(0.09 / trials)


def test_regions_that_cannot_be_certified_cost_the_others_nothing() -> None:
    base, large = np.linspace(0, 1, 300), np.ones(300)
    alone = certify_slices(read_audit(base, large), ["FR"] * 300, lam=0.5, target_recall=0.9, delta=0.05)
    small = [f"R{i}" for i in range(50)]
    both = certify_slices(
        read_audit(np.append(base, np.full(50, 0.5)), np.ones(350)),
        ["FR"] * 300 + small,
        lam=0.5,
        target_recall=0.9,
        delta=0.05,
    )
    assert both["FR"].tau == alone["FR"].tau
    assert not any(both[name].certified for name in small)
    assert "holds together" in both["FR"].assumptions[-1]


def test_a_frozen_threshold_is_tested_in_every_region_with_few_false_claims() -> None:
    rng = np.random.default_rng(1)
    failures, trials = 0, 250
    for _ in range(trials):  # region 0 keeps the promise, regions 1 to 5 miss it by a hair
        region = rng.integers(0, 6, 3000)
        base = np.where(rng.random(3000) < np.where(region == 0, 0.02, 0.101), 0.1, 0.9)
        tests = verify_slices(read_audit(base, np.ones(3000)), region, tau=0.5, lam=0.5, target_recall=0.9, delta=0.1)
        assert next(t for t in tests if t.group == 0).holds
        failures += any(t.holds for t in tests if t.group != 0)
    assert failures / trials <= 0.1 + 2 * math.sqrt(0.09 / trials)


def test_slices_refuse_groups_of_another_length() -> None:
    audit = read_audit([0.1], [0.2])
    with pytest.raises(UsageError, match="expected 1 values"):
        certify_slices(audit, ["a", "b"], lam=0.5, target_recall=0.9, delta=0.05)
    with pytest.raises(UsageError, match="expected 1 values"):
        verify_slices(audit, [], tau=0.5, lam=0.5, target_recall=0.9, delta=0.05)


def production(rng: np.random.Generator, n: int, audits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Base scores of all traffic, large scores, and which items the large model scored (tau 0.3 deployed)."""
    positive = rng.random(n) < 0.05
    base = 1 / (1 + np.exp(2 - rng.normal(size=n) - 2.5 * positive))
    scored = base >= 0.3
    below = np.flatnonzero(~scored)
    scored[rng.choice(below, size=audits, replace=False)] = True
    return base, positive.astype(float), scored


@pytest.mark.parametrize("method", [certify_window, certify_stream])
def test_reuse_of_escalations_keeps_the_promise(method) -> None:
    rng = np.random.default_rng(2)
    future_base, future_large, _ = production(rng, 200_000, 1)
    failures, certified, trials = 0, 0, 150
    for _ in range(trials):
        base, large, scored = production(rng, 20_000, 2000)
        window = read_window(base, base[scored], large[scored], deployed_tau=0.3, lam=0.5)
        certificate = method(window, target_recall=0.6, delta=0.1)
        certified += certificate.certified
        if method is certify_window:
            failures += (base[large == 1] >= certificate.tau).mean() < 0.6
        else:
            failures += (future_base[future_large == 1] >= certificate.tau).mean() < 0.6
    assert certified > trials / 2
    assert failures / trials <= 0.1 + 2 * math.sqrt(0.09 / trials)


def test_window_bound_by_enumeration_of_every_audit() -> None:
    """8 items below, 3 of them positive, 4 audited; 6 positives above: all 70 audits."""
    below, above = np.array([0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08]), np.linspace(0.5, 0.9, 6)
    positive = np.array([1, 0, 0, 1, 0, 0, 1, 0])
    failures = total = 0
    for audit in itertools.combinations(range(8), 4):
        base = np.concatenate([above, below[list(audit)]])
        large = np.concatenate([np.ones(6), positive[list(audit)]])
        window = read_window(np.concatenate([below, above]), base, large, deployed_tau=0.4, lam=0.5)
        tau = certify_window(window, target_recall=0.5, delta=0.25).tau
        caught = (above >= tau).sum() + ((below >= tau) & (positive == 1)).sum()
        failures += caught / 9 < 0.5
        total += 1
    assert failures / total <= 0.25


def test_more_clean_audits_below_raise_the_threshold() -> None:
    above, below = np.linspace(0.5, 0.9, 300), np.linspace(0.0, 0.4, 5000)
    traffic = np.concatenate([above, below])
    taus = []
    for audits in (0, 1000, 3000, 5000):
        base = np.concatenate([above, below[:audits]])
        large = np.concatenate([np.ones(300), np.zeros(audits)])
        taus.append(
            certify_window(
                read_window(traffic, base, large, deployed_tau=0.45, lam=0.5), target_recall=0.9, delta=0.05
            ).tau
        )
    assert taus == sorted(taus)
    assert (taus[0], taus[-1]) == (-math.inf, above[30])


def test_windows_with_unscored_escalations_are_refused() -> None:
    with pytest.raises(UsageError, match="expected large-model scores of all 2 items"):
        read_window([0.5, 0.6, 0.1], [0.5, 0.1], [1.0, 0.0], deployed_tau=0.4, lam=0.5)
    with pytest.raises(UsageError, match="at most 0 audited items below"):
        read_window([0.5], [0.5, 0.1], [1.0, 0.0], deployed_tau=0.4, lam=0.5)


def test_too_few_audits_below_say_how_many_more() -> None:
    window = read_window(
        np.append(np.linspace(0, 0.3, 1000), [0.8] * 50), [0.8] * 50, [1.0] * 50, deployed_tau=0.5, lam=0.5
    )
    for method in (certify_window, certify_stream):
        certificate = method(window, target_recall=0.9, delta=0.05)
        assert not certificate.certified
        assert certificate.missing.audits is not None
        assert "more clean audits are needed" in certificate.reason


def test_partial_pooling_beats_both_extremes_when_regions_differ() -> None:
    rng = np.random.default_rng(3)
    errors: dict[str, list[float]] = {"partial": [], "own": [], "pooled": []}
    for _ in range(12):
        centre = rng.normal(0.0, 0.6, 120)
        region = np.repeat(np.arange(120), rng.integers(3, 60, 120))
        base = 1 / (1 + np.exp(-rng.normal(centre[region], 1.0)))
        truth = 1 / (1 + np.exp(-(centre - 1.2816)))  # the true 10 % quantile of each region's positives
        found = region_thresholds(read_audit(base, np.ones(len(base))), region, lam=0.5, target_recall=0.9)
        pooled = float(np.quantile(base, 0.1))
        for entry in found:
            own = base[region == entry.region]
            errors["partial"].append((entry.tau - truth[int(entry.region)]) ** 2)
            errors["own"].append((np.quantile(own, 0.1, method="lower") - truth[int(entry.region)]) ** 2)
            errors["pooled"].append((pooled - truth[int(entry.region)]) ** 2)
    assert np.mean(errors["partial"]) < np.mean(errors["own"])
    assert np.mean(errors["partial"]) < np.mean(errors["pooled"])


def test_regions_show_the_estimate_and_the_certificate_where_the_data_bear_it() -> None:
    rng = np.random.default_rng(4)
    base, large, region = regional(rng, 4000)
    names = [["US", "JP", "FR", "DE", "BR", "IN"][r] for r in region] + ["AQ"] * 3
    found = region_thresholds(
        read_audit(np.append(base, [0.2, 0.3, 0.4]), np.append(large, [1, 1, 0])), names, lam=0.5, target_recall=0.9
    )
    by_name = {entry.region: entry for entry in found}
    assert by_name["US"].certified_tau is not None
    assert by_name["AQ"].certified_tau is None
    assert 0 < by_name["AQ"].own_weight < by_name["US"].own_weight < 1
    assert math.isfinite(by_name["AQ"].tau)
    with pytest.raises(UsageError, match="at least one positive"):
        region_thresholds(read_audit([0.1], [0.1]), ["US"], lam=0.5, target_recall=0.9)


def test_concentration_is_large_for_like_regions_and_small_for_unlike_ones() -> None:
    rng = np.random.default_rng(5)
    m = np.full(200, 40)
    alike = fit_concentration(rng.binomial(m, 0.1), m)
    unlike = fit_concentration(rng.binomial(m, rng.beta(0.5, 4.5, 200)), m)
    assert alike > 100
    assert 2 < unlike < 12
    assert fit_concentration([3], [10]) == 1e6


def test_neyman_gives_most_audits_to_large_and_uncertain_strata() -> None:
    given_audits = neyman([100_000, 10_000, 100], [0.0001, 0.05, 0.5], 1000)
    assert given_audits.sum() == 1000
    expected = np.array([100_000 * math.sqrt(1e-4), 10_000 * math.sqrt(0.0475), 50])
    assert given_audits / 1000 == pytest.approx(expected / expected.sum(), abs=0.01)
    assert neyman([5, 5], [0.1, 0.1], 100).tolist() == [5, 5]
    with pytest.raises(UsageError, match="budget"):
        neyman([5, 5], [0.1, 0.1], 1)


def test_bound_on_missed_positives_by_enumeration() -> None:
    first, second = [1, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0]
    failures = total = 0
    for a, b in itertools.product(itertools.combinations(first, 3), itertools.combinations(second, 3)):
        strata = [
            Stratum(name="a", size=5, audited=3, positives=sum(a)),
            Stratum(name="b", size=6, audited=3, positives=sum(b)),
        ]
        failures += certified_missed(strata, 0.3) < 3
        total += 1
    assert failures / total <= 0.3


def test_production_recall_intervals_cover_at_low_prevalence() -> None:
    rng = np.random.default_rng(6)
    sizes, rates = np.array([100_000, 20_000, 5_000]), np.array([0.0001, 0.002, 0.03])
    audits = neyman(sizes.tolist(), rates.tolist(), 3000)
    covered = certified = 0
    trials = 120
    for seed in range(trials):
        missed = rng.binomial(sizes, rates)
        found = [int(rng.hypergeometric(m, s - m, n)) for m, s, n in zip(missed, sizes, audits, strict=True)]
        strata = [
            Stratum(name=str(i), size=int(s), audited=int(n), positives=x)
            for i, (s, n, x) in enumerate(zip(sizes, audits, found, strict=True))
        ]
        result = pooled_recall(strata, caught=800, delta=0.1, draws=1500, seed=seed)
        truth = 800 / (800 + missed.sum())
        covered += result.recall.low <= truth <= result.recall.high
        certified += result.certified_recall <= truth
    assert covered / trials >= 0.9 - 2 * math.sqrt(0.09 / trials)
    assert certified / trials >= 0.9 - 2 * math.sqrt(0.09 / trials)


def test_production_recall_of_a_full_audit_is_exact_and_of_none_is_open() -> None:
    full = pooled_recall([Stratum(name="all", size=50, audited=50, positives=10)], caught=30)
    assert (full.recall.low, full.recall.high, full.certified_recall) == (0.75, 0.75, 0.75)
    none = pooled_recall([Stratum(name="all", size=50, audited=0, positives=0)], caught=30)
    assert none.certified_recall == 30 / 80
    assert none.recall.low == pytest.approx(30 / 80, rel=0.02)
    with pytest.raises(UsageError, match="positives <= audited"):
        Stratum(name="x", size=5, audited=2, positives=3)
    with pytest.raises(UsageError, match="at least one stratum"):
        pooled_recall([], caught=1)
