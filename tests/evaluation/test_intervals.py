"""Intervals: exact ones against enumeration, bootstrap against simulated coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tidegate.errors import UsageError
from tidegate.evaluation import bootstrap_interval, clopper_pearson, paired_bootstrap, roc_auc, slice_metric, wilson


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_clopper_pearson_covers_at_every_rate_by_exact_enumeration(n: int) -> None:
    intervals = [clopper_pearson(k, n, level=0.9) for k in range(n + 1)]
    for rate in np.linspace(0, 1, 101):
        covered = sum(
            stats.binom.pmf(k, n, rate) for k, i in enumerate(intervals) if i.low - 1e-12 <= rate <= i.high + 1e-12
        )
        assert covered >= 0.9 - 1e-9


def test_wilson_matches_scipy() -> None:
    for k, n in [(0, 10), (3, 10), (10, 10), (1, 1000)]:
        expected = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
        ours = wilson(k, n)
        assert (ours.low, ours.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_intervals_of_nothing_are_everything() -> None:
    assert (clopper_pearson(0, 0).low, clopper_pearson(0, 0).high) == (0.0, 1.0)
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)
    with pytest.raises(UsageError, match="successes"):
        clopper_pearson(3, 2)


def test_bootstrap_of_a_mean_covers_about_its_level() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        interval = bootstrap_interval(np.mean, rng.normal(size=60), num_samples=200, seed=trial)
        covered += interval.low <= 0.0 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99


def test_cluster_bootstrap_is_wider_than_the_item_bootstrap_when_clips_of_one_source_agree() -> None:
    rng = np.random.default_rng(2)
    source = np.repeat(np.arange(20), 10)
    values = rng.normal(size=20)[source] + 0.1 * rng.normal(size=200)
    items = bootstrap_interval(np.mean, values)
    clusters = bootstrap_interval(np.mean, values, clusters=source)
    assert (clusters.high - clusters.low) > 2 * (items.high - items.low)
    assert (clusters.n_clusters, items.n_clusters) == (20, 200)


def test_cluster_bootstrap_with_one_item_per_cluster_is_the_item_bootstrap() -> None:
    values = np.random.default_rng(3).normal(size=30)
    items = bootstrap_interval(np.mean, values, seed=5)
    clusters = bootstrap_interval(np.mean, values, clusters=[f"c{i}" for i in range(30)], seed=5)
    assert (items.low, items.high) == (clusters.low, clusters.high)


def test_paired_bootstrap_sees_a_difference_that_separate_intervals_miss() -> None:
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 2, 150)
    weak = rng.normal(labels, 1.5)
    strong = weak + 0.3 * labels
    paired = paired_bootstrap(roc_auc, labels, strong, weak, num_samples=300)
    separate = bootstrap_interval(roc_auc, labels, strong, num_samples=300)
    assert paired.low > 0
    assert paired.high - paired.low < separate.high - separate.low
    assert paired.method == "paired bootstrap"


def test_resamples_without_a_positive_are_counted_not_guessed() -> None:
    interval = bootstrap_interval(roc_auc, [1, 0, 0, 0], [0.9, 0.1, 0.2, 0.3], num_samples=200)
    assert interval.n_undefined > 0
    assert math.isfinite(interval.low)


def test_slices_keep_groups_without_positives() -> None:
    slices = slice_metric(roc_auc, [0, 1, 0, 0], [0.1, 0.9, 0.2, 0.3], ["EU", "EU", "JP", "EU"], num_samples=50)
    assert [(s.group, s.n, s.n_positives) for s in slices] == [("EU", 3, 1), ("JP", 1, 0)]
    assert slices[0].interval is not None
    assert math.isnan(slices[1].value)
    assert slices[1].interval is None


def test_slice_of_everything_is_the_metric() -> None:
    rng = np.random.default_rng(6)
    labels, scores = rng.integers(0, 2, 50), rng.random(50)
    (only,) = slice_metric(roc_auc, labels, scores, ["all"] * 50)
    assert only.value == roc_auc(labels, scores)
