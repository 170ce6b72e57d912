"""Contrasts find the slice that errs more, agree with scipy's Welch test, and say nothing of what is not there."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats
from small_world import World, WorldScorer

from tidegate.diagnosis import ProbeTable
from tidegate.diagnosis.contrasts import contrast_names, contrasts, worst_slice
from tidegate.diagnosis.signatures import log_odds


def table_with(wrong_in: tuple[str, ...], *, n: int = 1200, rate: float = 0.05, extra: float = 0.15) -> ProbeTable:
    rng = np.random.default_rng(0)
    region = rng.choice(list("abcdefgh"), n)
    labels = rng.integers(0, 2, n)
    wrong = rng.random(n) < rate + extra * np.isin(region, wrong_in)
    scores = np.where((labels == 1) ^ wrong, 0.8, 0.2) + rng.normal(0, 0.05, n)
    return ProbeTable(ids=np.arange(n).astype(str), labels=labels, scores=np.clip(scores, 0.01, 0.99),
                      thresholds=np.full(n, 0.5), sources=np.arange(n).astype(str),
                      slices={"region": region, "period": rng.choice(["first", "second"], n)})


def named(table: ProbeTable) -> dict[str, float]:
    return dict(zip(contrast_names(), contrasts(table).tolist(), strict=True))


def test_every_name_has_a_number_and_no_name_comes_twice():
    assert len(set(contrast_names())) == len(contrast_names()) == len(contrasts(World(seed=1).table()))


def test_the_worst_slice_joins_the_values_that_err():
    table = table_with(("b", "e", "g"))
    inside, where = worst_slice(table)
    assert set(table.slices["region"][inside].tolist()) == {"b", "e", "g"}
    assert where[2] == 3.0
    assert where[0] > 2.0
    assert named(table)["surplus:region"] == 1.0


def test_without_a_surplus_the_slice_stands_out_little():
    assert worst_slice(table_with((), extra=0.0))[1][0] < worst_slice(table_with(("b",)))[1][0] / 1.5


def test_contrasts_are_scipys_welch_on_a_root_scale():
    world = World(fault="C8", seed=3)
    table = world.table()
    table = dataclasses.replace(table, probes={"clean": WorldScorer(world).score(np.arange(len(table)), "clean")})
    found = named(table)
    moved = log_odds(table, table.probes["clean"]) - log_odds(table, table.scores)
    violating, wrong = table.labels == 1, table.errors
    expected = stats.ttest_ind(moved[wrong & violating], moved[~wrong & violating], equal_var=False).statistic
    assert found["misses:clean"] == pytest.approx(min(8.0, np.sign(expected) * np.sqrt(abs(expected))), rel=1e-3)
    peers = np.abs(table.features["peer_score"] - table.labels)
    expected = stats.ttest_ind(peers[wrong], peers[~wrong], equal_var=False).statistic
    assert found["errors:peers_against"] == pytest.approx(np.sign(expected) * np.sqrt(abs(expected)), rel=1e-3)


def test_the_widest_value_of_a_column_is_the_one_that_brute_force_finds():
    table = table_with(("b",))
    score = log_odds(table, table.scores)
    found = named(table)["region:violating"]
    best = 0.0
    for name in np.unique(table.slices["region"]):
        here = table.slices["region"] == name
        of = table.labels == 1
        t = stats.ttest_ind(score[here & of], score[~here & of], equal_var=False).statistic
        best = t if abs(t) > abs(best) else best
    assert found == pytest.approx(np.sign(best) * np.sqrt(abs(best)), rel=0.02)  # variances over n, not n - 1


def test_right_items_of_a_slice_speak_too():
    table = table_with(("c",))
    rng = np.random.default_rng(1)
    moved = table.scores + np.where((table.slices["region"] == "c") & ~table.errors, 0.1, 0.0) * (0.5 - table.labels)
    moved = np.clip(moved + rng.normal(0, 0.01, len(table)), 0.01, 0.99)
    table = dataclasses.replace(table, probes={"noise_mild": moved})
    found = named(table)
    assert found["slice_right:noise_mild"] < -3.0
    assert abs(found["slice:noise_mild"]) < 2.0


@pytest.mark.parametrize("case", ["empty", "one class", "no columns", "all failed"])
def test_what_is_not_there_is_nought(case):
    table = table_with(("a",), n=0 if case == "empty" else 200)
    if case == "one class":
        table = dataclasses.replace(table, labels=np.ones(200, dtype=np.int64))
    if case == "no columns":
        table = dataclasses.replace(table, slices={})
    if case == "all failed":
        table = dataclasses.replace(table, scores=np.full(200, np.nan))
    values = contrasts(table)
    assert np.isfinite(values).all()
    assert named(table)["misses:clean"] == 0.0
    if case == "no columns":
        assert not worst_slice(table)[0].any()
