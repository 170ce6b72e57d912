"""Certificates: coverage by simulation in every hard case, refusal of bad input, what is missing when data lack."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.cascade import CertifiedRule, certify, certify_finite, certify_recall, read_audit
from tidegate.cascade.bounds import wilks_index
from tidegate.cascade.joint import walk
from tidegate.errors import UsageError

World = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray, np.ndarray]]


def gauss(
    rng: np.random.Generator, n: int, *, prevalence: float = 0.1, blind: float = 0.0, decimals: int | None = None
):
    """Base score, large score, label; the large model errs; a blind spot hides positives from the base."""
    label = rng.random(n) < prevalence
    z = rng.normal(size=n) + 2.5 * label
    z = np.where(label & (rng.random(n) < blind), rng.normal(size=n) - 1.0, z)
    base, large = 1 / (1 + np.exp(2 - z)), 1 / (1 + np.exp(2 - rng.normal(size=n) - 4 * label))
    if decimals is not None:
        base, large = np.round(base, decimals), np.round(large, decimals)
    return base, large, label.astype(int)


WORLDS: dict[str, World] = {
    "gauss": gauss,
    "rare": lambda rng, n: gauss(rng, n, prevalence=0.02),
    "blind spot": lambda rng, n: gauss(rng, n, blind=0.08),
    "ties": lambda rng, n: gauss(rng, n, decimals=1),
    "all tied": lambda rng, n: (np.full(n, 0.5), *gauss(rng, n)[1:]),
    "all positive": lambda rng, n: (rng.random(n), np.ones(n), np.ones(n, dtype=int)),
    "all negative": lambda rng, n: (rng.random(n), np.zeros(n), np.zeros(n, dtype=int)),
}


@pytest.mark.parametrize("world", WORLDS, ids=str)
@pytest.mark.parametrize("n", [0, 1, 5, 20, 200])
def test_promises_hold_in_small_audits(world: str, n: int) -> None:
    failure_rates_are_within_delta(WORLDS[world], n, trials=120)


@pytest.mark.long
@pytest.mark.parametrize("world", WORLDS, ids=str)
@pytest.mark.parametrize("n", [20, 200, 1000, 4000])
def test_promises_hold_in_many_trials(world: str, n: int) -> None:
    failure_rates_are_within_delta(WORLDS[world], n, trials=1000, population=1_000_000)


def failure_rates_are_within_delta(
    world: World, n: int, *, trials: int, delta: float = 0.1, population: int = 100_000
) -> None:
    """``population`` items stand for the distribution: so many that their own chance error is far below an audit's."""
    rng = np.random.default_rng(n)
    base, large, label = world(rng, population)
    failures = {"recall": 0, "true positives": 0, "precision": 0, "joint": 0}
    for seed in range(trials):
        b, s, y = world(rng, n)
        recall = certify(b, s, target_recall=0.8, delta=delta)
        failures["recall"] += recall.certified and (base[large >= 0.5] >= recall.tau).mean() < 0.8
        caught = certify(b, s, y, target_recall=0.8, delta=delta)
        right = (large >= 0.5) & (label == 1)
        failures["true positives"] += caught.certified and (base[right] >= caught.tau).mean() < 0.8
        precise = certify(b, s, y, precision=0.7, delta=delta, seed=seed)
        failures["precision"] += precise.certified and label[large >= precise.lam].mean() < 0.7
        joint = certify(b, s, y, target_recall=0.8, precision=0.7, delta=delta, seed=seed)
        flagged = large >= joint.lam
        if joint.certified:
            lost = (base[flagged & (label == 1)] < joint.tau).mean()
            failures["joint"] += lost > 0.2 or label[flagged & (base >= joint.tau)].mean() < 0.7
    limit = delta + 2 * math.sqrt(delta * (1 - delta) / trials)
    assert all(count / trials <= limit for count in failures.values()), failures


def test_recall_threshold_is_the_order_statistic_of_the_positives() -> None:
    rng = np.random.default_rng(0)
    base, large, _ = gauss(rng, 3000)
    certificate = certify(base, large, target_recall=0.9)
    positives = np.sort(base[large >= 0.5])
    assert certificate.tau == positives[int(wilks_index(len(positives), 0.9, 0.05))]
    assert certificate.recall_bound >= 0.9
    assert certificate.share_escalated == pytest.approx((base >= certificate.tau).mean())
    assert (certificate.n_audit, certificate.n_positives) == (3000, len(positives))


def test_labels_turn_the_promise_into_one_about_true_positives() -> None:
    base, large, label = gauss(np.random.default_rng(1), 3000)
    assert certify(base, large, label, target_recall=0.9).n_positives == int(((large >= 0.5) & (label == 1)).sum())


@pytest.mark.parametrize("n", [0, 1, 20])
def test_too_little_data_escalates_everything_and_says_how_much_is_missing(n: int) -> None:
    base, large, label = gauss(np.random.default_rng(2), n)
    for certificate in (
        certify(base, large, target_recall=0.95),
        certify(base, large, label, target_recall=0.95, precision=0.9),
    ):
        assert not certificate.certified
        assert (certificate.tau, certificate.share_escalated, certificate.recall_bound) == (-math.inf, 1.0, 1.0)
        assert "too few positives: everything is escalated" in certificate.reason
        assert certificate.missing.positives == 59 - certificate.n_positives
        with pytest.raises(UsageError, match="expected a certified threshold"):
            certificate.guarantee()


def test_missing_audits_are_counted_at_the_rate_of_positives_seen() -> None:
    certificate = certify(np.full(100, 0.5), [0.9] * 10 + [0.1] * 90, target_recall=0.9)
    assert (certificate.missing.positives, certificate.missing.audits) == (19, 190)
    assert certify([0.5], [0.1], target_recall=0.9).missing.audits is None


def test_unreached_precision_says_how_many_labels_would_show_it() -> None:
    base, large, label = np.linspace(0, 1, 60), np.ones(60), np.array([1] * 50 + [0] * 10)
    certificate = certify(base, large, label, target_recall=0.9, precision=0.8, lam=0.5)
    assert not certificate.certified
    assert certificate.precision_bound is not None
    assert certificate.precision_bound < 0.8
    assert certificate.missing.labels > 0
    more = certificate.missing.labels + 60
    enough = np.arange(more) < round(more * 50 / 60)
    shown = certify(np.linspace(0, 1, more), np.ones(more), enough.astype(int), precision=0.8, lam=0.5)
    assert shown.certified


def test_certificates_travel_as_guarantee_and_rule_and_json() -> None:
    base, large, label = gauss(np.random.default_rng(3), 4000)
    certificate = certify(base, large, label, target_recall=0.9, precision=0.7)
    assert certificate.certified
    rule = certificate.rule(view_limit=10, policy_hash="p")
    assert isinstance(rule, CertifiedRule)
    assert (rule.tau, rule.guarantee.certificate_id, rule.guarantee.policy_hash) == (
        certificate.tau,
        certificate.certificate_id,
        "p",
    )
    record = json.loads(json.dumps(certificate.to_dict(), allow_nan=False))
    assert record["certified"] is True
    assert record["escalate_everything"] is False
    nothing = json.loads(json.dumps(certify([], [], target_recall=0.9).to_dict(), allow_nan=False))
    assert (nothing["tau"], nothing["escalate_everything"]) == (None, True)


def test_certificate_ids_depend_on_the_data_and_on_the_promise() -> None:
    base, large, _ = gauss(np.random.default_rng(4), 2000)
    first = certify(base, large, target_recall=0.9)
    assert first.certificate_id == certify(base, large, target_recall=0.9).certificate_id
    assert first.certificate_id != certify(base, large, target_recall=0.8).certificate_id
    base[0] = 0.123
    assert first.certificate_id != certify(base, large, target_recall=0.9).certificate_id


def slow_walk(base: np.ndarray, right: np.ndarray, recall: float, precision: float, delta: float) -> float:
    """The definition: certify -inf, then each distinct score upwards, until a test fails."""
    from scipy import stats

    m, best = int(right.sum()), -math.inf
    for tau in [-math.inf, *sorted(set(base))]:
        inside = base >= tau
        below = int((right[~inside] == 1).sum())
        recall_shown = tau == -math.inf or stats.binom.cdf(below, m, 1 - recall) <= delta
        precision_shown = stats.binom.sf(right[inside].sum() - 1, inside.sum(), precision) <= delta
        if not (recall_shown and precision_shown):
            break
        best = tau
    return best


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 9)), min_size=1, max_size=60))
def test_walk_is_the_fixed_sequence_of_its_definition(items: list[tuple[int, int]]) -> None:
    base = np.array([score for score, _ in items]) / 12
    right = np.array([digit > 0 for _, digit in items]).astype(np.int64)
    ended = walk(base, right, recall=0.7, precision=0.6, delta=0.2, start=-math.inf)
    assert ended.tau == slow_walk(base, right, 0.7, 0.6, 0.2)


def test_joint_walk_without_a_precision_to_fear_is_wilks() -> None:
    base = np.random.default_rng(5).random(300)
    ended = walk(base, np.ones(300, dtype=np.int64), recall=0.9, precision=0.5, delta=0.05, start=-math.inf)
    assert ended.tau == np.sort(base)[int(wilks_index(300, 0.9, 0.05))]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 400), st.floats(0.6, 0.97), st.floats(0.01, 0.3), st.floats(1.0, 2.0))
def test_thresholds_are_monotone_in_delta_and_in_the_targets(
    seed: int, n: int, recall: float, delta: float, more: float
) -> None:
    base, large, label = gauss(np.random.default_rng(seed), n, prevalence=0.5)
    for wanted in ({}, {"precision": 0.5, "lam": 0.5}):
        first = certify(base, large, label, target_recall=recall, delta=delta, **wanted)
        looser = certify(base, large, label, target_recall=recall, delta=min(0.6, delta * more), **wanted)
        stricter = certify(base, large, label, target_recall=recall ** (1 / more), delta=delta, **wanted)
        assert looser.tau >= first.tau >= stricter.tau
        assert looser.share_escalated <= first.share_escalated <= stricter.share_escalated


def test_more_audits_of_the_same_kind_raise_the_threshold() -> None:
    base = np.arange(100) / 100
    taus = [certify(np.tile(base, copies), np.ones(100 * copies), target_recall=0.9).tau for copies in (1, 2, 4, 16)]
    assert taus == sorted(taus)
    assert taus[-1] > taus[0]


def test_finite_collections_need_fewer_escalations_where_much_was_audited() -> None:
    rng = np.random.default_rng(6)
    base, large, _ = gauss(rng, 4000)
    audit = read_audit(base[:2000], large[:2000])
    stream = certify_recall(audit, lam=0.5, target_recall=0.9, delta=0.05, traffic=base)
    fixed = certify_finite(audit, lam=0.5, target_recall=0.9, delta=0.05, size=4000, traffic=base)
    assert fixed.share_escalated < stream.share_escalated
    with pytest.raises(UsageError, match="at least the 2000 audited"):
        certify_finite(audit, lam=0.5, target_recall=0.9, delta=0.05, size=1999)


def test_finite_promise_holds_for_the_collection_itself() -> None:
    rng = np.random.default_rng(7)
    base, large, _ = gauss(rng, 3000)
    positive, failures, trials = large >= 0.5, 0, 300
    for _ in range(trials):
        drawn = rng.permutation(3000)[:1000]
        certificate = certify_finite(
            read_audit(base[drawn], large[drawn]), lam=0.5, target_recall=0.9, delta=0.1, size=3000
        )
        caught = base >= certificate.tau
        caught[drawn] = True
        failures += caught[positive].mean() < 0.9
    assert failures / trials <= 0.1 + 2 * math.sqrt(0.09 / trials)


GOOD = ([0.1, 0.2], [0.3, 0.9])


@pytest.mark.parametrize(
    ("arguments", "settings_", "message"),
    [
        (([math.nan, 0.2], [0.3, 0.9]), {}, "base: expected finite numbers, got nan at position 0"),
        (([0.1, 0.2], [0.3, math.inf]), {}, "large: expected finite numbers, got inf at position 1"),
        (([0.1, 1.2], [0.3, 0.9]), {}, r"base: expected values in \[0, 1\], got 1.2"),
        (([0.1], [0.3, 0.9]), {}, "one length"),
        ((*GOOD, [0, 2]), {}, "expected 0 or 1"),
        ((*GOOD, [0]), {}, "one length"),
        (GOOD, {"ids": ["a", "a"]}, "expected distinct ones, got 1 repeated"),
        (GOOD, {"ids": ["a", "b"], "tuning_ids": ["b", "c"]}, "1 items are in both .such as 'b'"),
        (GOOD, {"tuning_ids": ["b"]}, "expected the audit's ids as well"),
        (GOOD, {"ids": ["a"]}, "expected 2 values"),
        (GOOD, {"propensities": [1.0, 0.1]}, "expected a uniform audit"),
        (GOOD, {"propensities": [0.0, 0.1]}, r"values in \(0, 1\]"),
        (GOOD, {"propensities": [0.1]}, "expected 2 values"),
        (GOOD, {"lam": 1.5}, "lam: expected a value in"),
        (GOOD, {"delta": 0.0}, "delta: expected a value in"),
        (GOOD, {"target_recall": 1.0}, "recall: expected a value in"),
        (GOOD, {"target_recall": None}, "got neither"),
        ((*GOOD, [1, math.nan]), {"lam": 0.5}, "missing for 1"),
    ],
)
def test_bad_audits_are_refused_with_the_reason(arguments: tuple, settings_: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        certify(*arguments, **{"target_recall": 0.9, **settings_})


def test_one_sampling_rate_and_distinct_ids_are_accepted() -> None:
    assert certify(*GOOD, target_recall=0.9, propensities=[0.1, 0.1], ids=["a", "b"], tuning_ids=["c"]).n_audit == 2


def test_precision_without_labels_is_not_certified_and_says_what_is_missing() -> None:
    for wanted in ({"target_recall": 0.9}, {}):
        certificate = certify(*GOOD, precision=0.9, **wanted)
        assert (certificate.certified, certificate.tau, certificate.precision_bound) == (False, -math.inf, None)
        assert "no labels: everything is escalated" in certificate.reason
        assert certificate.missing.labels == 29


def test_labels_may_lack_below_lam() -> None:
    base, large = np.full(100, 0.5), np.array([0.9] * 60 + [0.1] * 40)
    labels = np.array([1.0] * 60 + [math.nan] * 40)
    assert certify(base, large, labels, target_recall=0.9, precision=0.5, lam=0.5).certified
