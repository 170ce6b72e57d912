"""Signatures, thresholds and observations against sums by hand and simulated truths."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from small_world import World, WorldScorer

from tidegate.diagnosis import ProbeTable
from tidegate.diagnosis.observations import concentrated, observe
from tidegate.diagnosis.signatures import effect_of, matched_rate, null_noise, signatures
from tidegate.diagnosis.thresholds import best_slice_thresholds, cross_fitted, folds_of, implied_miss_cost
from tidegate.errors import ConfigError


def small_table(**changes):
    values = {
        "ids": np.array(["a", "b", "c", "d"]), "labels": np.array([1, 1, 0, 0]),
        "scores": np.array([0.9, 0.2, 0.1, 0.8]), "thresholds": np.full(4, 0.5), "sources": np.array(list("wxyz")),
    }
    return ProbeTable(**(values | changes))


def test_effect_counts_cures_breaks_and_movement_towards_the_label():
    table = small_table()
    effect = effect_of(table, np.array([0.4, 0.7, 0.1, np.nan]))
    assert effect.cured.tolist() == [False, True, False, False]
    assert effect.broken.tolist() == [True, False, False, False]
    assert effect.ran.tolist() == [True, True, True, False]
    assert effect.move[1] == pytest.approx(np.log(0.7 / 0.3) - np.log(0.2 / 0.8))
    assert effect.move[0] < 0


def test_failed_item_is_an_error_whatever_its_label_and_a_retry_can_cure_it():
    table = small_table(scores=np.array([0.9, np.nan, 0.1, np.nan]))
    assert table.errors.tolist() == [False, True, False, True]
    assert effect_of(table, np.array([0.9, 0.8, 0.1, 0.2])).cured.tolist() == [False, True, False, True]


def test_arrays_of_unequal_length_and_twice_the_same_id_are_refused():
    with pytest.raises(ConfigError, match="probes"):
        small_table(probes={"null": np.zeros(3)})
    with pytest.raises(ConfigError, match="id twice"):
        small_table(ids=np.array(["a", "a", "c", "d"]))


def test_small_cells_lean_on_the_coarser_cell():
    event = np.array([1, 0, 0, 0, 1], dtype=bool)
    pool = np.ones(5, dtype=bool)
    cells = [np.zeros(5, dtype=np.int64), np.array([0, 0, 0, 0, 1])]
    rate = matched_rate(event, pool, cells, strength=5.0)
    overall = (2 + 0.5) / 6
    assert rate[0] == pytest.approx((1 + 5 * overall) / 9)
    assert rate[4] == pytest.approx((1 + 5 * overall) / 6)


def test_signature_of_a_probe_that_only_shakes_scores_covers_zero_and_of_a_cure_does_not():
    world = World(fault="C8", n=1500, seed=3)
    table = world.table()
    scorer, rows = WorldScorer(world), np.arange(len(table))
    table = dataclasses.replace(table, probes={p: scorer.score(rows, p) for p in ("null", "retry", "clean")})
    found = {one.probe: one for one in signatures(table, num_samples=60)}
    assert found["clean"].excess.low > 0.2
    assert found["retry"].excess.low <= 0.03
    assert abs(found["retry"].excess.estimate) < 0.1
    assert found["clean"].n_errors == int(table.errors.sum())


def test_null_noise_recovers_the_jitter_of_the_world():
    world = World(n=4000, seed=1)
    table = world.table()
    table = dataclasses.replace(table, probes={"null": world.scores("null")})
    assert null_noise(table) == pytest.approx(0.2, rel=0.1)
    assert np.isnan(null_noise(world.table()))


def test_interval_of_a_signature_covers_its_true_value():
    """200 runs of a probe with known shares: cured .3, broken .1, no null probe: the excess is .2."""
    held, rng = 0, np.random.default_rng(5)
    for _ in range(200):
        n = 400
        labels = rng.integers(0, 2, n)
        wrong = rng.random(n) < 0.4
        scores = np.where((labels == 1) ^ wrong, 0.6, 0.4)
        flip = rng.random(n) < np.where(wrong, 0.3, 0.1)
        table = ProbeTable(
            ids=np.arange(n).astype(str), labels=labels, scores=scores, thresholds=np.full(n, 0.5),
            sources=np.arange(n).astype(str), probes={"clean": np.where(flip, 1 - scores, scores)},
        )
        excess = signatures(table, num_samples=100)[0].excess
        held += excess.low <= 0.2 <= excess.high
    assert held >= 178  # 95 % of 200 less three standard errors


def test_folds_keep_a_source_together():
    sources = np.array([f"s{k % 37}" for k in range(400)])
    folds = folds_of(sources)
    assert all(len(set(folds[sources == s].tolist())) == 1 for s in set(sources.tolist()))
    assert len(set(folds.tolist())) == 5


def test_slice_threshold_is_found_on_other_sources_and_noise_gives_none():
    rng = np.random.default_rng(0)
    n = 2000
    labels = rng.integers(0, 2, n)
    region = rng.choice(["A", "B"], n)
    scores = 1 / (1 + np.exp(-(3 * (labels - 0.5) + rng.normal(0, 1, n) - 2.0 * (region == "B"))))
    table = ProbeTable(ids=np.arange(n).astype(str), labels=labels, scores=scores, thresholds=np.full(n, 0.5),
                       sources=np.arange(n).astype(str), slices={"region": region})
    name, thresholds = best_slice_thresholds(table)
    best = 1 / (1 + np.exp(2.0))
    assert name == "region"
    assert np.median(thresholds[region == "B"]) == pytest.approx(best, abs=0.06)
    cured = effect_of(table, scores, thresholds)
    assert cured.cured.sum() > 3 * cured.broken.sum()
    random = dataclasses.replace(table, scores=rng.random(n))
    chance = effect_of(random, random.scores, cross_fitted(random, region, miss_cost=1.0))
    assert abs(int(chance.cured.sum()) - int(chance.broken.sum())) < 3 * np.sqrt(chance.cured.sum() + 9)


def test_threshold_of_a_column_that_goes_with_the_label_is_not_fitted():
    table = World(n=600, seed=2).table()
    assert (cross_fitted(table, table.slices["clause"]) == table.thresholds).all()


def test_a_threshold_put_high_on_purpose_is_read_as_a_cost_not_as_a_fault():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 6000)
    scores = 1 / (1 + np.exp(-(3 * (labels - 0.5) + rng.normal(0, 1, 6000))))
    def cost_at(threshold):
        return implied_miss_cost(ProbeTable(
            ids=np.arange(6000).astype(str), labels=labels, scores=scores, thresholds=np.full(6000, threshold),
            sources=np.arange(6000).astype(str)), share=0.05)
    assert cost_at(0.5) == pytest.approx(1.0, rel=0.3)
    assert cost_at(0.8) < 0.5
    assert cost_at(0.2) > 2


def test_errors_that_gather_in_a_place_are_found_and_evenly_spread_ones_are_not():
    rng = np.random.default_rng(0)
    place = rng.choice([f"r{k}" for k in range(30)], 3000)
    even = rng.random(3000) < 0.1
    assert concentrated(even, np.ones(3000, bool), place) == {}
    gathered = even | ((place == "r3") & (rng.random(3000) < 0.4))
    assert list(concentrated(gathered, np.ones(3000, bool), place)) == ["r3"]


def test_observation_of_what_was_not_probed_is_not_known():
    seen = observe(World(n=400).table())
    assert "cure:clean" not in seen.names
    assert np.isnan(seen.column("cure:clean")).all()
    assert np.isfinite(seen.column("confident")).all()
