"""Gains of what promises most are measured on many items, and nothing that a cause is told by changes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from small_world import World, WorldScorer

from tidegate.diagnosis import DiagnosisConfig, diagnose
from tidegate.diagnosis.confirming import confirm
from tidegate.diagnosis.gains import GainsConfig, gains
from tidegate.diagnosis.probing import ProbingConfig, Spent
from tidegate.diagnosis.score_table import read_scores, write_scores
from tidegate.diagnosis.thresholds import cross_fitted
from tidegate.diagnosis.weighting import STRATUM, item_weights, sample_by_strata, strata_of


def f1(labels, flagged):
    return 2 * (labels & flagged).sum() / (labels.sum() + flagged.sum())


def diagnosed(fault, confirm=3, seed=1, scorer=WorldScorer):
    world = World(fault=fault, seed=seed, n=4000)
    config = DiagnosisConfig(num_samples=20, probing=ProbingConfig(confirm=confirm))
    return world, diagnose(world.table(), scorer(world), config=config)


@pytest.mark.parametrize(("fault", "name", "probe"), [
    ("C8", "enhancement", "clean"), ("C6", "more_frames", "frames_more"), ("C10", "policy_text", "policy_other"),
])
def test_measured_gain_is_near_what_re_scoring_every_item_gives(fault, name, probe):
    def misses(confirm):
        found = []
        for seed in (1, 2, 3):
            world, run = diagnosed(fault, confirm, seed)
            gain = next(one for one in gains(run, config=GainsConfig(num_samples=20)) if one.name == name)
            after, labels = world.scores(probe) >= 0.5, run.table.labels == 1
            found.append(gain.f1.estimate - (f1(labels, after) - f1(labels, run.table.flagged)))
        return np.asarray(found)

    sure, before = misses(3), misses(0)
    assert np.abs(sure).max() < 0.02
    assert np.abs(sure).mean() < np.abs(before).mean()


def test_every_error_and_the_nearest_right_items_are_scored_and_what_a_cause_is_told_by_stays():
    _, before = diagnosed("C8", confirm=0)
    _, found = diagnosed("C8", confirm=1)
    assert list(found.table.applied) == ["clean"]
    known = np.isfinite(found.table.applied["clean"])
    assert known[found.table.errors].all()
    strata = strata_of(found.table)
    assert known[(strata > 0) & (strata <= 2)].all()  # the nearest stratum of either label
    assert known.mean() < 0.6
    assert found.ranking == before.ranking
    assert found.counts == before.counts
    assert found.spent.calls > before.spent.calls
    for name, scores in before.table.probes.items():
        np.testing.assert_array_equal(found.table.probes[name], scores)


def test_nothing_is_asked_where_nothing_is_to_be_won():
    world = World(fault="C8", seed=1)
    table = world.table()
    right = dataclasses.replace(table, labels=table.flagged.astype(np.int64))
    for one, scorer, config in (
        (table, None, ProbingConfig()), (right, WorldScorer(world), ProbingConfig()),
        (table, WorldScorer(world), ProbingConfig(confirm=0)),
    ):
        same, spent = confirm(one, scorer, config)
        assert same is one
        assert spent == Spent()


def test_item_that_a_change_does_not_apply_to_keeps_its_score():
    class Deaf(WorldScorer):
        """Every other item has nothing to clean."""

        def score(self, rows, probe):
            scores = super().score(rows, probe)
            return np.where((rows % 2 == 0) & (probe == "clean"), np.nan, scores)

    _, found = diagnosed("C8", scorer=Deaf)
    applied, even = found.table.applied["clean"], np.arange(len(found.table)) % 2 == 0
    asked = np.isfinite(applied) & even
    assert asked[found.table.errors & even].all()
    np.testing.assert_array_equal(applied[asked], found.table.scores[asked])


def test_sample_by_strata_estimates_what_breaks_without_bias_and_better_than_a_plain_sample():
    table, rng = World(fault="none", seed=4, n=6000).table(), np.random.default_rng(0)
    margin = np.abs(np.log(table.scores / (1 - table.scores)))
    broken = ~table.errors & (rng.normal(0, 0.7, len(table)) > margin)  # a change that shakes all scores alike
    scores = np.where(broken, 1 - table.scores, table.scores)
    right = np.flatnonzero(~table.errors)

    def estimate(rows):
        known = np.full(len(table), np.nan)
        known[rows] = scores[rows]
        weights, filled = item_weights(table, known)
        assert weights[right].sum() == pytest.approx(len(right))
        wrong = (filled >= table.thresholds) != (table.labels == 1)
        return float((weights * (wrong & ~table.errors)).sum())

    sampled = [sample_by_strata(table, np.random.default_rng(seed)) for seed in range(60)]
    ours = np.asarray([estimate(rows) for rows in sampled])
    plain = np.asarray([estimate(np.random.default_rng(seed).choice(right, len(sampled[0]), replace=False))
                        for seed in range(60)])
    assert len(sampled[0]) < 0.25 * len(right)
    assert abs(ours.mean() - broken.sum()) < 3 * ours.std() / 60**0.5 + 0.01 * broken.sum()
    assert ours.std() < 0.9 * plain.std()
    strata, sizes = np.unique(strata_of(table), return_counts=True)
    assert dict(zip(strata.tolist(), sizes.tolist(), strict=True))[1] == STRATUM


def test_threshold_fitted_to_items_that_stand_for_many_does_no_harm_to_all():
    table = World(fault="none", seed=4, n=3000).table()
    right, before, after = np.flatnonzero(~table.errors), table.errors.sum(), []
    for seed in range(12):
        rng, known = np.random.default_rng(seed), np.full(3000, np.nan)
        rows = np.concatenate([np.flatnonzero(table.errors), rng.choice(right, 100, replace=False)])
        known[rows] = table.scores[rows]
        weights, filled = item_weights(table, known)
        fitted = cross_fitted(dataclasses.replace(table, scores=filled), None, weights=weights)
        after.append(((table.scores >= fitted) != (table.labels == 1)).sum())
    assert np.mean(after) <= 1.05 * before


def test_applied_scores_are_kept_in_a_score_file(tmp_path):
    _, found = diagnosed("C8")
    write_scores(found.table, tmp_path / "run.parquet")
    again = read_scores(tmp_path / "run.parquet")
    assert again.applied.keys() == found.table.applied.keys()
    for name, scores in found.table.applied.items():
        np.testing.assert_allclose(again.applied[name], scores, equal_nan=True)
    first, second = ({g.name: g.f1.estimate for g in gains(one, config=GainsConfig(num_samples=5))}
                     for one in (found, diagnose(again, config=DiagnosisConfig(num_samples=20))))
    assert first == pytest.approx(second)
