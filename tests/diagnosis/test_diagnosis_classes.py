"""Planted faults of the small world are recognised, items of the fault are told from others, nothing is nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from small_world import World, WorldScorer

from tidegate.diagnosis import TAXONOMY, DiagnosisConfig, FailureClass, ProbeTable, diagnose
from tidegate.diagnosis.adaptive import ProbingConfig, probe_run
from tidegate.diagnosis.classify import CLASSES, RulesConfig
from tidegate.diagnosis.hypotheses import HYPOTHESES
from tidegate.diagnosis.learned import PlantedRun, fit, load_classifier, prepare, probed_fully
from tidegate.errors import CheckpointError

QUICK = DiagnosisConfig(num_samples=20)
FAULTS = [name for name in (c.value for c in FailureClass) if name not in ("undetermined", "C2")]


def diagnosed(fault, *, seed=1, config=QUICK, **kwargs):
    world = World(fault=fault, seed=seed, cascade=fault == "C1", **kwargs)
    table = world.table()
    return world, diagnose(table, WorldScorer(world), config=config)


@pytest.mark.parametrize("fault", FAULTS)
def test_rules_name_the_planted_class_first(fault):
    _, found = diagnosed(fault)
    assert found.top == fault


def test_slice_threshold_fault_is_among_the_first_three():
    _, found = diagnosed("C2", seed=0)
    assert "C2" in [name for name, _ in found.ranking[:3]]


@pytest.mark.parametrize("fault", ["M2", "C1", "C4", "C6", "C7", "C8", "C9", "C11", "C12"])
def test_errors_of_the_fault_are_told_from_others(fault):
    world, found = diagnosed(fault)
    mine = np.array([c.value == fault for c in found.likeliest])
    hit = world.hit[found.classified.rows]
    assert mine[hit].mean() > 0.6
    assert mine[~hit].mean() < (0.55 if fault == "C11" else 0.3)  # hard items are hard for peers too


def test_posterior_sums_to_one_and_counts_add_up_to_the_errors():
    _, found = diagnosed("C6")
    assert np.allclose(found.classified.posterior_EC.sum(axis=1), 1.0)
    assert sum(count.estimate for count in found.counts.values()) == pytest.approx(len(found.classified.rows))
    assert all(count.low <= count.estimate + 1e-9 for count in found.counts.values() if count.estimate > 1)
    assert sum(probability for _, probability in found.ranking) == pytest.approx(1.0)


def test_adaptive_probing_asks_less_and_finds_the_same():
    _world, adaptive = diagnosed("C8")
    _, everything = diagnosed("C8", config=dataclasses.replace(QUICK, probing=ProbingConfig(order="all")))
    assert adaptive.top == everything.top == "C8"
    assert adaptive.spent.calls < 0.7 * everything.spent.calls
    assert adaptive.calls_per_error == pytest.approx(adaptive.spent.calls / len(adaptive.classified.rows))


def test_a_table_probed_before_gives_the_same_diagnosis_without_a_scorer():
    _, first = diagnosed("C4")
    again = diagnose(first.table, config=QUICK)
    assert again.ranking == first.ranking
    assert again.spent.calls == 0


def test_causes_that_only_together_explain_errors_are_found_by_pairs():
    class Both(World):
        def logit(self, probe=None):
            parts = set((probe or "").split("+"))
            cured = {"frames_more", "crops"} <= parts
            usual = super().logit("null" if probe and "+" in probe else probe)
            lost = self.hit & (self.channel == 1) & (self.label == 1)
            half = bool(parts & {"frames_more", "crops"})
            return usual - np.where(lost, 1.5 * self.evidence[:, 1] * (0.0 if cured else 0.9 if half else 1.0), 0.0)

    class Combining(WorldScorer):
        combines = True

    world = Both(fault="none", share=0.9, seed=1)
    found = diagnose(world.table(), Combining(world), config=QUICK)
    pairs = {frozenset((a.value, b.value)) for a, b, _ in found.together}
    assert frozenset(("C6", "C7")) in pairs


@pytest.mark.parametrize(("change", "said"), [
    ({"labels": 1}, "All labels are violating"), ({"labels": 0}, "All labels are harmless"),
    ({"probes": {}}, "Scores only"), ({"failed": 1}, "have no score"),
])
def test_what_limits_a_diagnosis_is_said(change, said):
    table = World(n=200, seed=1).table()
    if "labels" in change:
        table = dataclasses.replace(table, labels=np.full(200, change["labels"]))
    if "failed" in change:
        table = dataclasses.replace(table, scores=np.where(np.arange(200) < 5, np.nan, table.scores))
    assert any(said in text for text in diagnose(table, config=QUICK).conclusions)


def test_three_errors_and_none_are_diagnosed_without_a_verdict_on_shares():
    table = World(n=300, seed=1).table()
    errors = np.flatnonzero(table.errors)
    kept = np.setdiff1d(np.arange(300), errors[3:])
    few = ProbeTable(ids=table.ids[kept], labels=table.labels[kept], scores=table.scores[kept],
                     thresholds=table.thresholds[kept], sources=table.sources[kept])
    found = diagnose(few, config=QUICK)
    assert any("Only 3 errors" in text for text in found.conclusions)
    kept = np.setdiff1d(kept, errors)
    clean = ProbeTable(ids=table.ids[kept], labels=table.labels[kept], scores=table.scores[kept],
                       thresholds=table.thresholds[kept], sources=table.sources[kept])
    assert diagnose(clean, config=QUICK).top == "none"


def test_modality_that_never_occurs_is_named():
    world = World(n=300, seed=1)
    probes = {"audio_mute": np.full(300, np.nan), "null": world.scores("null")}
    table = dataclasses.replace(world.table(), probes=probes)
    assert any("nothing can be concluded about it" in t and "audio" in t for t in diagnose(table).conclusions)


def test_every_hypothesis_speaks_of_a_known_class_and_of_probabilities():
    assert {h.failure for h in HYPOTHESES} == set(TAXONOMY) - {FailureClass.LEAKAGE}
    assert all(0 < p < 1 for h in HYPOTHESES for p in h.expects.values())


@pytest.fixture(scope="module")
def planted():
    runs = []
    for fault in ("none", "C4", "C8", "C11"):
        for seed in range(4):
            world = World(fault=fault, seed=seed, n=500, share=0.35)
            table, _ = probe_run(world.table(), WorldScorer(world), ProbingConfig(max_controls=60), rules=RulesConfig())
            run = PlantedRun(table=table, fault=fault, caused=world.hit & table.errors, group=seed)
            runs.append(prepare(run, max_errors=60))
    return runs


def test_fitted_classifier_recognises_new_runs_and_survives_its_file(planted, tmp_path):
    fitted, said = fit(planted, notes="test")
    assert len(said) == len(planted)
    assert all(sum(one.values()) == pytest.approx(1.0) for one in said)
    fitted.save(tmp_path / "c.safetensors")
    loaded = load_classifier(tmp_path / "c.safetensors")
    right = 0
    for fault in ("none", "C4", "C8", "C11"):
        for seed in (50, 51):
            world = World(fault=fault, seed=seed, n=500, share=0.35)
            found = diagnose(world.table(), WorldScorer(world), classifier=loaded, config=QUICK)
            right += found.top == fault
            same = diagnose(found.table, classifier=fitted, config=QUICK)
            assert dict(same.ranking)[fault] == pytest.approx(dict(found.ranking)[fault], abs=0.02)
    assert right >= 6
    assert loaded.notes == "test"
    assert len(loaded.run.classes) == 4
    assert set(loaded.error.classes) <= {c.value for c in CLASSES}


def test_an_unclear_run_gets_every_probe_and_a_settled_one_does_not(planted):
    fitted, _ = fit(planted)

    def with_level(settled):
        world = World(fault="C8", seed=70, n=500, share=0.35)
        config = dataclasses.replace(QUICK, probing=ProbingConfig(max_controls=60, settled=settled))
        return diagnose(world.table(), WorldScorer(world), classifier=fitted, config=config)

    never, always = with_level(0.0), with_level(1.0)
    assert not probed_fully(never.table)
    assert probed_fully(always.table)
    assert always.spent.calls > never.spent.calls
    assert always.spent.calls == pytest.approx(sum(always.spent.by_probe.values()))
    at = dict(never.ranking)[never.top]
    assert with_level(at * 0.99).spent.calls == never.spent.calls
    assert with_level(min(1.0, at * 1.01)).spent.calls == always.spent.calls


def test_full_probing_is_told_from_probing_in_part():
    world = World(fault="C8", seed=1)
    probed = {order: probe_run(world.table(), WorldScorer(world), ProbingConfig(order=order), rules=RulesConfig())[0]
              for order in ("all", "adaptive")}
    assert probed_fully(probed["all"])
    assert not probed_fully(probed["adaptive"])
    assert not probed_fully(world.table())


def test_a_file_that_is_no_classifier_is_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="expected a classifier"):
        load_classifier(tmp_path / "x.safetensors")
