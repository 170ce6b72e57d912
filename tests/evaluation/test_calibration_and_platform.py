"""Calibration error, proper scores, transported precision, platform metrics, tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.errors import UsageError
from tidegate.evaluation import (
    brier_score,
    calibration_error,
    cost_per_thousand,
    debiased_calibration_error,
    log_score,
    markdown_table,
    overturn_rate,
    qps_ratio,
    recall_at_transported_precision,
    reliability,
    required_false_positive_rate,
    summarise,
    summary_table,
    transported_precision,
    view_weighted_recall,
    views_before_action,
    violating_view_rate,
)


def test_calibration_error_is_the_textbook_sum_over_bins() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.random(500)
    labels = (rng.random(500) < probabilities**2).astype(int)
    expected = 0.0
    for low in np.arange(10) / 10:
        inside = (probabilities >= low) & (probabilities < low + 0.1)
        if inside.any():
            expected += inside.mean() * abs(labels[inside].mean() - probabilities[inside].mean())
    assert calibration_error(labels, probabilities, num_bins=10) == pytest.approx(expected, abs=1e-9)


def test_debiased_error_of_a_calibrated_model_is_nearer_zero_than_the_plain_one() -> None:
    rng = np.random.default_rng(1)
    plain, debiased = [], []
    for _ in range(100):
        probabilities = rng.random(300)
        labels = rng.random(300) < probabilities
        plain.append(calibration_error(labels, probabilities, bins="equal_mass"))
        debiased.append(debiased_calibration_error(labels, probabilities))
    assert np.mean(debiased) < 0.6 * np.mean(plain)


def test_debiased_error_finds_a_real_error() -> None:
    rng = np.random.default_rng(2)
    probabilities = rng.random(20000)
    labels = rng.random(20000) < np.clip(probabilities + 0.1, 0, 1)
    assert debiased_calibration_error(labels, probabilities) == pytest.approx(0.1, abs=0.02)


def test_equal_mass_bins_hold_equal_counts_and_keep_ties_together() -> None:
    diagram = reliability(np.zeros(100), np.arange(100) / 100, num_bins=4, bins="equal_mass")
    assert list(diagram.count) == [25, 25, 25, 25]
    tied = reliability([0, 1, 0, 1], [0.5, 0.5, 0.5, 0.5], num_bins=4, bins="equal_mass")
    assert (list(tied.count), list(tied.positive_rate)) == ([4], [0.5])


def test_proper_scores_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    labels, probabilities = rng.integers(0, 2, 100), rng.uniform(0.01, 0.99, 100)
    assert brier_score(labels, probabilities) == pytest.approx(reference.brier_score_loss(labels, probabilities))
    assert log_score(labels, probabilities) == pytest.approx(reference.log_loss(labels, probabilities))
    assert log_score([1], [0.0]) == math.inf


def test_probabilities_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match=r"\[0, 1\], got 1.5"):
        brier_score([1], [1.5])
    with pytest.raises(UsageError, match="at least one"):
        brier_score([], [])


@settings(deadline=None)
@given(st.floats(0.01, 1), st.floats(0.01, 1), st.floats(0.001, 0.9))
def test_required_false_positive_rate_gives_exactly_the_precision(
    recall: float, precision: float, prevalence: float
) -> None:
    rate = required_false_positive_rate(recall=recall, precision=precision, prevalence=prevalence)
    back = transported_precision(recall=recall, false_positive_rate=rate, prevalence=prevalence)
    assert back == pytest.approx(precision)


def test_figures_of_the_design_note_on_prevalence() -> None:
    assert required_false_positive_rate(recall=0.7, precision=0.9, prevalence=0.5) == pytest.approx(7.8e-2, rel=0.01)
    assert required_false_positive_rate(recall=0.7, precision=0.9, prevalence=0.01) == pytest.approx(7.9e-4, rel=0.01)


def test_transport_to_the_own_prevalence_changes_nothing() -> None:
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 2, 300)
    scores = rng.normal(labels, 1)
    own = recall_at_transported_precision(labels, scores, 0.7, prevalence=float(labels.mean()))
    rare = recall_at_transported_precision(labels, scores, 0.7, prevalence=0.01)
    from tidegate.evaluation import recall_at_precision

    assert own == pytest.approx(recall_at_precision(labels, scores, 0.7).recall)
    assert rare < own


def test_violating_view_rate_and_view_weighted_recall_weigh_by_views() -> None:
    labels, removed, views = [1, 1, 0], [1, 0, 0], [900, 100, 9000]
    assert violating_view_rate(labels, views) == 0.1
    assert view_weighted_recall(labels, removed, views) == 0.9
    assert views_before_action(labels, removed, [40, 0, 0]) == 40
    assert views_before_action(labels, removed, [40, 0, 0], quantile=0.5) == 40
    assert math.isnan(violating_view_rate([], []))


def test_platform_rates() -> None:
    assert qps_ratio([1, 0, 0, 0]) == 0.25
    assert cost_per_thousand([0.1, 0.3]) == pytest.approx(200)
    assert overturn_rate(n_overturned=1, n_appealed=4) == 0.25
    assert math.isnan(overturn_rate(n_overturned=0, n_appealed=0))
    with pytest.raises(UsageError, match="overturned"):
        overturn_rate(n_overturned=2, n_appealed=1)
    with pytest.raises(UsageError, match=">= 0"):
        violating_view_rate([1], [-1])


def test_summary_table_shows_both_meanings_and_counts() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, 80)
    scores = rng.normal(labels, 1)
    entry = summarise("base", labels, scores, validation=(labels[:40], scores[:40]), num_samples=50)
    assert [r.meaning for r in entry.recalls] == ["deployed"] * 4 + ["oracle"] * 4
    table = summary_table([entry])
    assert "R@P90 |" in table
    assert "R@P90* |" in table
    assert f"| {entry.n_positives} |" in table
    assert markdown_table([{"a": float("nan"), "b": 1}]).splitlines()[-1] == "| – | 1 |"
