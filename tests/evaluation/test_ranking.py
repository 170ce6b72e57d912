"""Ranking metrics against scikit-learn and against the textbook sum."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.errors import UsageError
from tidegate.evaluation import (
    average_precision,
    best_f1,
    confusion_at,
    f1_score,
    precision_recall_curve,
    recall_at_precision,
    roc_auc,
    threshold_at_precision,
)

ITEMS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8)), min_size=1, max_size=40)


def split(items: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = zip(*items, strict=True)
    return np.array(labels), np.array(scores) / 8


@settings(max_examples=200, deadline=None)
@given(ITEMS)
def test_roc_auc_is_the_share_of_ordered_pairs_with_ties_as_half(items: list[tuple[int, int]]) -> None:
    labels, scores = split(items)
    wins = [(p > n) + 0.5 * (p == n) for p in scores[labels == 1] for n in scores[labels == 0]]
    auc = roc_auc(labels, scores)
    if not wins:
        assert math.isnan(auc)
    else:
        assert auc == pytest.approx(np.mean(wins))
        assert auc == pytest.approx(reference.roc_auc_score(labels, scores))


@settings(max_examples=200, deadline=None)
@given(ITEMS)
def test_average_precision_agrees_with_scikit_learn(items: list[tuple[int, int]]) -> None:
    labels, scores = split(items)
    if labels.sum() == 0:
        assert math.isnan(average_precision(labels, scores))
    else:
        assert average_precision(labels, scores) == pytest.approx(reference.average_precision_score(labels, scores))


@settings(max_examples=200, deadline=None)
@given(ITEMS)
def test_every_point_of_the_curve_is_the_count_at_its_threshold(items: list[tuple[int, int]]) -> None:
    labels, scores = split(items)
    curve = precision_recall_curve(labels, scores)
    assert list(curve.thresholds) == sorted(set(scores), reverse=True)
    for threshold, precision, recall in zip(curve.thresholds, curve.precision, curve.recall, strict=True):
        flagged = scores >= threshold
        assert precision == pytest.approx(labels[flagged].mean())
        if labels.any():
            assert recall == pytest.approx(labels[flagged].sum() / labels.sum())


@settings(max_examples=200, deadline=None)
@given(ITEMS, st.sampled_from([0.1, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]))
def test_oracle_recall_at_precision_is_the_maximum_over_all_thresholds(items: list[tuple[int, int]], p: float) -> None:
    labels, scores = split(items)
    best = 0.0
    for threshold in set(scores):
        flagged = scores >= threshold
        if labels.any() and labels[flagged].mean() >= p:
            best = max(best, labels[flagged].sum() / labels.sum())
    result = recall_at_precision(labels, scores, p)
    assert result.meaning == "oracle"
    if labels.any():
        assert result.recall == pytest.approx(best)
        assert result.held or result.recall == 0.0


def test_deployed_recall_uses_the_threshold_of_validation_and_may_miss_the_target() -> None:
    validation = ([0, 1, 1], [0.2, 0.5, 0.9])
    result = recall_at_precision([0, 0, 1, 1], [0.1, 0.6, 0.7, 0.3], 0.9, validation=validation)
    assert (result.meaning, result.threshold, result.recall, result.precision) == ("deployed", 0.5, 0.5, 0.5)
    assert not result.held
    assert (result.n_positives, result.prevalence) == (2, 0.5)


def test_deployed_recall_is_never_above_oracle_recall_when_its_precision_holds() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        labels = rng.integers(0, 2, 200)
        scores = np.clip(rng.normal(labels, 1.0), -3, 4)
        half = slice(0, 100), slice(100, 200)
        deployed = recall_at_precision(
            labels[half[1]], scores[half[1]], 0.7, validation=(labels[half[0]], scores[half[0]])
        )
        if deployed.held:
            assert deployed.recall <= recall_at_precision(labels[half[1]], scores[half[1]], 0.7).recall


def test_unreachable_precision_flags_nothing() -> None:
    assert threshold_at_precision([0, 0, 1], [0.9, 0.8, 0.1], 0.5) == math.inf
    result = recall_at_precision([0, 0, 1], [0.9, 0.8, 0.1], 0.5)
    assert result.recall == 0.0
    assert math.isnan(result.precision)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30))
def test_f1_agrees_with_scikit_learn(items: list[tuple[int, int]]) -> None:
    labels, flagged = zip(*items, strict=True)
    assert f1_score(labels, flagged) == pytest.approx(reference.f1_score(labels, flagged, zero_division=0))


@settings(max_examples=100, deadline=None)
@given(ITEMS)
def test_best_f1_is_the_maximum_and_its_threshold_reaches_it(items: list[tuple[int, int]]) -> None:
    labels, scores = split(items)
    value, threshold = best_f1(labels, scores)
    assert value == pytest.approx(max(confusion_at(labels, scores, t).f1 for t in set(scores)))
    assert confusion_at(labels, scores, threshold).f1 == pytest.approx(value)


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 2], [0.1, 0.2], "expected 0 or 1, got .*2.* at position 1"),
        ([0, float("nan")], [0.1, 0.2], "expected 0 or 1"),
        ([0, 1], [0.1, float("nan")], "expected finite numbers, got nan at position 1"),
        ([0, 1], [0.1, float("inf")], "expected finite numbers"),
        ([0, 1, 1], [0.1, 0.2], "one length"),
        ([[0, 1]], [0.1, 0.2], "one dimension"),
        (["a", "b"], [0.1, 0.2], "expected 0 or 1"),
        ([0, 1], ["a", "b"], "expected numbers"),
    ],
)
def test_bad_arrays_are_refused_with_what_was_expected(labels: list, scores: list, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        roc_auc(labels, scores)
