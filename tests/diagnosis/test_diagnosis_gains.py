"""Gains, Shapley values, transfer ratios and plans against brute force and re-scored runs."""

from __future__ import annotations

import dataclasses
from itertools import permutations

import numpy as np
import pytest
from scipy import stats
from small_world import World, WorldScorer

from tidegate.diagnosis import TAXONOMY, DiagnosisConfig, diagnose
from tidegate.diagnosis.gains import GainsConfig, gains
from tidegate.diagnosis.interventions import REGISTRY, Context, of_class
from tidegate.diagnosis.plan import carry_out, read_plan, write_plan
from tidegate.diagnosis.score_table import read_scores, write_scores
from tidegate.diagnosis.shapley import shapley_of_changes, shapley_values
from tidegate.diagnosis.transfer import TransferRatios
from tidegate.diagnosis.weighting import item_weights
from tidegate.errors import ConfigError, UsageError

QUICK = DiagnosisConfig(num_samples=20)


def f1(labels, flagged):
    return 2 * (labels & flagged).sum() / (labels.sum() + flagged.sum())


def run(fault, **kwargs):
    world = World(fault=fault, seed=1, cascade=fault == "C1", **kwargs)
    return world, diagnose(world.table(), WorldScorer(world), config=QUICK)


def test_registry_and_taxonomy_name_the_same_interventions():
    named = {name for kind in TAXONOMY.values() for name in kind.interventions}
    assert named == set(REGISTRY)
    for failure, kind in TAXONOMY.items():
        assert {one.name for one in of_class(failure)} == set(kind.interventions)


@pytest.mark.parametrize(("fault", "name"), [
    ("C1", "lower_tau"), ("C8", "enhancement"), ("C10", "policy_text"), ("M2", "retry_serving"), ("C9", "translate"),
])
def test_the_right_cure_is_recommended_and_its_gain_is_what_re_scoring_everything_gives(fault, name):
    world, found = run(fault)
    ranked = gains(found, config=GainsConfig(order="gain"))
    gain = next(one for one in ranked if one.name == name)
    assert {"C1": "lower_tau_slice"}.get(fault, name) in [one.name for one in ranked[:3]] or gain in ranked[:3]
    probe = {"C1": "force_full", "C8": "clean", "C10": "policy_other", "M2": "retry", "C9": "translated_recognised"}
    after = world.scores(probe[fault]) >= 0.5
    labels = world.label == 1
    real = f1(labels, after) - f1(labels, found.table.flagged)
    assert gain.f1.low - 0.03 <= real <= gain.f1.high + 0.03
    assert gain.measured
    assert gain.cured > 5 * max(1.0, gain.broken) - 120


def test_a_sample_of_right_items_stands_for_all_of_them():
    _, found = run("C8")
    scores = found.table.probes["clean"]
    weights, filled = item_weights(found.table, scores)
    right = ~found.table.errors
    assert weights[right].sum() == pytest.approx(right.sum(), rel=0.01)
    assert np.isfinite(filled[weights > 0]).all()


def test_training_is_a_share_of_the_ceiling_and_says_so():
    _, found = run("C12")
    gain = next(one for one in gains(found) if one.name == "collect_similar")
    assert not gain.measured
    assert np.isnan(gain.broken)
    assert 0 < gain.f1.estimate < gain.ceiling_f1
    better = GainsConfig(ratios=TransferRatios(seen={"collect_similar": (40.0, 4.0)}))
    more = next(one for one in gains(found, config=better) if one.name == "collect_similar")
    assert more.f1.estimate > gain.f1.estimate


def test_commands_of_trainings_are_commands_of_this_program():
    context = Context(data="my data/m.parquet", checkpoint="c", base="b", out="o")
    line = REGISTRY["distil"].command(context)
    assert line.startswith("tidegate train base --data 'my data/m.parquet'")
    assert "--teacher c" in line


def test_shapley_values_are_the_mean_over_all_orders():
    rng = np.random.default_rng(0)
    names = ("a", "b", "c", "d")
    worth = {}
    def value(subset):
        return worth.setdefault(subset, float(rng.normal()) if subset else 0.0)
    found = shapley_values(names, value)
    slow = dict.fromkeys(names, 0.0)
    for order in permutations(names):
        for place, name in enumerate(order):
            slow[name] += (value(frozenset(order[: place + 1])) - value(frozenset(order[:place]))) / 24
    assert found == pytest.approx(slow)
    assert sum(found.values()) == pytest.approx(value(frozenset(names)))
    with pytest.raises(UsageError, match="at most"):
        shapley_values(tuple("abcdefghijklm"), lambda subset: 0.0)


def test_fixes_that_do_the_same_share_their_worth():
    world, found = run("C8")
    full = dataclasses.replace(found.table, probes={"clean": world.scores("clean")})
    change = REGISTRY["enhancement"].apply(full, np.zeros(len(full)))
    twice = shapley_of_changes(full, {"first": change, "second": change})
    assert twice["first"] == pytest.approx(twice["second"])


def test_transfer_ratio_is_the_beta_posterior():
    ratios = TransferRatios()
    for realised in (0.04, 0.05, 0.01):
        ratios = ratios.updated("distil", realised=realised, ceiling=0.1)
    a, b = 1.5 + 2 * (0.4 + 0.5 + 0.1), 1.5 + 2 * (0.6 + 0.5 + 0.9)
    found = ratios.ratio("distil", level=0.9)
    assert found.estimate == pytest.approx(a / (a + b))
    assert (found.low, found.high) == pytest.approx(tuple(stats.beta.ppf([0.05, 0.95], a, b)))
    assert ratios.updated("distil", realised=1.0, ceiling=0.0) == ratios


def test_transfer_ratios_survive_their_file(tmp_path):
    ratios = TransferRatios().updated("distil", realised=0.02, ceiling=0.1)
    ratios.save(tmp_path / "r.json")
    assert TransferRatios.load(tmp_path / "r.json") == ratios
    (tmp_path / "r.json").write_text("{}")
    with pytest.raises(ConfigError, match="transfer ratios"):
        TransferRatios.load(tmp_path / "r.json")


def test_plan_is_written_read_and_carried_out(tmp_path):
    _, found = run("C8")
    write_scores(found.table, tmp_path / "run.parquet")
    plan = tmp_path / "plan.toml"
    write_plan(plan, gains(found), run=tmp_path / "run.parquet", out=tmp_path / "after", context=Context())
    read = read_plan(plan)
    assert {"enhancement", "augmentation"} <= {step.name for step in read.steps}
    done = {one.name: one for one in carry_out(read, only=("enhancement", "augmentation"))}
    assert done["augmentation"].command.startswith("tidegate train avlm")
    after = read_scores(tmp_path / "after" / "enhancement" / "scores.parquet")
    before = dict(zip(found.table.ids.tolist(), found.table.errors.tolist(), strict=True))
    assert after.errors.sum() < sum(before[name] for name in after.ids.tolist())
    with pytest.raises(UsageError, match="steps of the plan"):
        carry_out(read, only=("nonsense",))


@pytest.mark.parametrize(("text", "said"), [
    ("run = 1", "expected run and out"), ("run = 'a'\nout = 'b'", "at least one"), ("= ", "not TOML"),
    ("run = 'a'\nout = 'b'\n[[intervention]]\nname = 'x'", "expected an intervention among"),
    ("run = 'a'\nout = 'b'\n[[intervention]]\nname = 'distil'\npredicted_f1 = [1]", "predicted_f1"),
    ("run = 'a'\nout = 'b'\n[[intervention]]\nname = 'distil'\nbad = 1", "unknown keys"),
])
def test_a_wrong_plan_is_refused_with_what_was_expected(tmp_path, text, said):
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_plan(tmp_path / "p.toml")


def test_suspected_labels_are_listed_for_people(tmp_path):
    _, found = run("C11")
    write_scores(found.table, tmp_path / "run.parquet")
    write_plan(tmp_path / "p.toml", gains(found), run=tmp_path / "run.parquet", out=tmp_path / "o", context=Context())
    carry_out(read_plan(tmp_path / "p.toml"), only=("relabel",))
    lines = (tmp_path / "o" / "relabel" / "relabel.csv").read_text().splitlines()
    assert lines[0] == "id,label,suggested,score,posterior"
    assert len(lines) > 50
