"""Attribution, regions, drift and slices against textbook tests and simulated coverage."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats
from small_world import World, WorldScorer

from tidegate.diagnosis import DiagnosisConfig, FailureClass, ProbeTable, diagnose
from tidegate.diagnosis.attribution import compare_runs, holm, mcnemar, odds_ratio
from tidegate.diagnosis.drift import FACTORS, drift_between
from tidegate.diagnosis.ledger import LedgerEntry, append, coverage, ratios_from, read_ledger
from tidegate.diagnosis.reference import Reference, hash_similarity, nearest, with_reference
from tidegate.diagnosis.regions import posterior_draws, regions_of
from tidegate.diagnosis.slices import check_labels, failure_clusters, failure_slices
from tidegate.errors import ConfigError, UsageError

QUICK = DiagnosisConfig(num_samples=20)


def plain(labels, scores, **slices):
    n = len(labels)
    return ProbeTable(ids=np.arange(n).astype(str), labels=np.asarray(labels), scores=np.asarray(scores, float),
                      thresholds=np.full(n, 0.5), sources=np.arange(n).astype(str), slices=slices)


@pytest.mark.parametrize(("cured", "broken"), [(0, 0), (5, 1), (12, 12), (30, 4)])
def test_mcnemar_is_the_exact_binomial_test(cured, broken):
    n = cured + broken
    slow = min(1.0, 2 * sum(stats.binom.pmf(k, n, 0.5) for k in range(min(cured, broken) + 1)))
    assert mcnemar(cured, broken) == pytest.approx(slow if n else 1.0)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_odds_ratio_is_woolfs():
    found, p = odds_ratio(10, 5, 8, 20, level=0.95)
    cells = np.array([10.5, 5.5, 8.5, 20.5])
    log = np.log(cells[0] * cells[3] / cells[1] / cells[2])
    half = 1.959964 * np.sqrt((1 / cells).sum())
    assert (found.low, found.high) == pytest.approx((np.exp(log - half), np.exp(log + half)))
    assert 0 < p < 0.05


def test_a_cure_is_claimed_for_its_class_and_a_placebo_is_not():
    world = World(fault="C8", seed=2, n=1500)
    before = diagnose(world.table(), WorldScorer(world), config=QUICK)
    healed = dataclasses.replace(before.table, scores=world.scores("clean"), probes={})
    world.severity = 0.0
    again = diagnose(dataclasses.replace(healed), WorldScorer(world), config=QUICK)
    rng = np.random.default_rng(0)
    shaken = dataclasses.replace(before.table, scores=np.clip(before.table.scores + rng.normal(0, 0.08, 1500), 0, 1),
                                 probes={})
    found = compare_runs(before.table, healed, diagnosis=before, diagnosis_after=again, placebo=shaken,
                         classes=(FailureClass.CORRUPTION, FailureClass.TEMPORAL), num_samples=80)
    claims = {claim.failure.value: claim for claim in found.claims}
    assert claims["C8"].claimed, claims["C8"].why
    assert not claims["C6"].claimed
    assert found.p_value < 1e-6
    assert found.f1_gain.low > 0
    assert found.cured > 5 * found.broken
    nothing = compare_runs(before.table, shaken, diagnosis=before, classes=(FailureClass.CORRUPTION,), num_samples=80)
    assert not nothing.claims[0].claimed
    assert any("No placebo" in text for text in nothing.notes)


def test_runs_over_other_items_cannot_be_compared():
    first = plain([0, 1], [0.1, 0.9])
    with pytest.raises(UsageError, match="same items"):
        compare_runs(first, dataclasses.replace(first, ids=np.array(["x", "y"])))


def test_ledger_calibrates_predictions_and_names_a_torn_line(tmp_path):
    file = tmp_path / "l.jsonl"
    entry = LedgerEntry(intervention="distil", realised_f1=0.05, realised_low=0.02, realised_high=0.08,
                        predicted_f1=0.06, predicted_low=0.01, predicted_high=0.1, ceiling_f1=0.1, claimed=("C1",))
    append(file, entry)
    append(file, dataclasses.replace(entry, realised_f1=0.2))
    entries = read_ledger(file)
    assert [one.realised_f1 for one in entries] == [0.05, 0.2]
    assert entries[0].claimed == ("C1",)
    assert coverage(entries).estimate == 0.5
    assert ratios_from(entries).beta("distil") == pytest.approx((1.5 + 2 * 0.5 + 2, 1.5 + 2 * 0.5))
    file.write_text(file.read_text() + "{")
    with pytest.raises(ConfigError, match="line 3"):
        read_ledger(file)
    assert read_ledger(tmp_path / "none.jsonl") == ()


def test_shrunken_intervals_of_small_regions_cover():
    rng, held, total = np.random.default_rng(0), 0, 0
    for _ in range(30):
        true = rng.beta(14, 6, 60)
        n = rng.integers(2, 60, 60)
        draws, _ = posterior_draws(rng.binomial(n, true), n, num_draws=800, seed=int(rng.integers(1e6)))
        low, high = np.quantile(draws, [0.05, 0.95], axis=0)
        held, total = held + int(((low <= true) & (true <= high)).sum()), total + 60
    assert 0.87 <= held / total <= 0.94


def test_two_lucky_items_do_not_make_the_best_region():
    rng = np.random.default_rng(0)
    region = np.array(["BIG"] * 400 + ["TINY"] * 2 + ["LOW"] * 200 + ["MID"] * 300)
    rate = np.where(region == "BIG", 0.9, np.where(region == "LOW", 0.5, np.where(region == "MID", 0.75, 1.0)))
    scores = np.where(rng.random(len(region)) < rate, 0.9, 0.1)
    found = {row.region: row for row in regions_of(plain(np.ones(len(region), int), scores, region=region)).rows}
    assert found["TINY"].raw == 1.0
    assert found["TINY"].shrunken.estimate < found["BIG"].shrunken.estimate
    assert found["TINY"].shrunken.high - found["TINY"].shrunken.low > 0.2
    assert found["LOW"].gap_to_best.low > 0.2
    assert "more labelled items" in found["TINY"].collect
    with pytest.raises(UsageError, match="expected a column"):
        regions_of(plain([0, 1], [0.1, 0.9]))


def period(rng, n, *, mix, positive, miss, alarm):
    region = rng.choice(["A", "B"], n, p=mix)
    place = (region == "B").astype(int)
    labels = (rng.random(n) < np.asarray(positive)[place]).astype(int)
    wrong = rng.random(n) < np.where(labels == 1, np.asarray(miss)[place], np.asarray(alarm)[place])
    return plain(labels, np.where((labels == 1) ^ wrong, 0.9, 0.1), region=region)


@pytest.mark.parametrize(("changed", "factor"), [
    ({"mix": [0.2, 0.8]}, "traffic mix"), ({"positive": [0.7, 0.7]}, "label rate"), ({"miss": [0.5, 0.6]}, "model"),
])
def test_drift_is_put_down_to_what_changed(changed, factor):
    rng = np.random.default_rng(0)
    usual = {"mix": [0.8, 0.2], "positive": [0.3, 0.3], "miss": [0.2, 0.5], "alarm": [0.02, 0.2]}
    found = drift_between(period(rng, 4000, **usual), period(rng, 4000, **(usual | changed)), num_samples=60)
    assert sum(part.estimate for part in found.factors.values()) == pytest.approx(found.after - found.before)
    assert found.change.estimate == pytest.approx(found.after - found.before)
    assert found.factors[factor].low > 0
    assert abs(found.factors[factor].estimate) > 3 * max(
        abs(found.factors[name].estimate) for name in FACTORS if name != factor)


def test_slice_of_two_values_is_described():
    rng = np.random.default_rng(0)
    n = 3000
    language, device = rng.choice(["en", "hi", "ar"], n), rng.choice(["web", "app"], n)
    labels = rng.integers(0, 2, n)
    bad = rng.random(n) < np.where((language == "hi") & (device == "web"), 0.5, 0.08)
    found = failure_slices(plain(labels, np.where((labels == 1) ^ bad, 0.9, 0.1), language=language, device=device))
    assert "hi" in found[0].description
    assert "web" in found[0].description
    assert found[0].rate.low > found[0].rate_elsewhere
    assert failure_slices(plain(labels, labels * 0.8 + 0.1, language=language)) == ()


def test_clusters_of_errors_carry_the_words_of_their_metadata():
    rng = np.random.default_rng(0)
    n = 240
    kind = np.repeat(["night", "day"], n // 2)
    points = rng.normal(0, 0.3, (n, 6)) + np.where(kind == "night", 2.0, -2.0)[:, None]
    table = dataclasses.replace(plain(np.ones(n, int), np.full(n, 0.1), light=kind), embeddings_ND=points)
    found = failure_clusters(table)
    assert len(found) == 2
    assert sum(one.errors for one in found) == n
    assert any("night" in one.description for one in found)


def test_flipped_labels_are_suspected_by_peers_that_never_saw_them():
    rng = np.random.default_rng(0)
    n = 600
    labels = rng.integers(0, 2, n)
    points = rng.normal(0, 1, (n, 4)) + 2.5 * labels[:, None]
    flipped = rng.random(n) < 0.08
    given = np.where(flipped, 1 - labels, labels)
    table = dataclasses.replace(plain(given, np.full(n, 0.5)), embeddings_ND=points)
    suspects = check_labels(table).suspects
    assert np.isin(np.flatnonzero(flipped), suspects).mean() > 0.85
    assert flipped[suspects].mean() > 0.7
    with pytest.raises(UsageError, match="peer scores or embeddings"):
        check_labels(plain(given, np.full(n, 0.5)))


def test_distance_and_duplicates_come_from_the_training_items():
    rng = np.random.default_rng(0)
    train = rng.normal(0, 1, (300, 8)) + 3
    own = np.vstack([train[:5] * 1.0000001, rng.normal(0, 1, (45, 8)) + 3, rng.normal(0, 1, (5, 8)) - 3])
    distance, similarity = nearest(own, train)
    slow = (own / np.linalg.norm(own, axis=1, keepdims=True)) @ (train / np.linalg.norm(train, axis=1, keepdims=True)).T
    assert similarity == pytest.approx(slow.max(axis=1))
    assert distance == pytest.approx(1 - np.sort(slow, axis=1)[:, -5:].mean(axis=1))
    table = dataclasses.replace(plain(np.tile([0, 1], 28)[:55], np.full(55, 0.4)), embeddings_ND=own)
    found = with_reference(table, Reference(embeddings_MD=train, labels=np.tile([0, 1], 150))).features
    assert (found["duplicate_similarity"] >= 0.95).tolist() == [True] * 5 + [False] * 50
    assert found["knn_distance"][-5:].min() > found["knn_distance"][:50].max()


def test_hashes_of_one_picture_are_alike_and_of_two_are_not():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (2, 256)).astype(np.uint8)
    near = bits[0].copy()
    near[:20] ^= 1
    texts = np.array([np.packbits(row).tobytes().hex() for row in (bits[0], near, bits[1])])
    found = hash_similarity(texts, texts[:1])
    assert found[0] == 1.0
    assert found[1] > 0.95 > found[2]
    assert np.isnan(hash_similarity(np.array([""]), texts)).all()
