"""Planted worlds: same seed, same world; a fault harms, its intervention restores; the truth stays hidden."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tidegate.diagnosis.planted import fitting, further, held_out, independent, varied_content, varied_system
from tidegate.diagnosis.planted.cases import FAMILIES, FIRST_TEST_WORLD, FITTED, doubles, faultless, plant, singles
from tidegate.diagnosis.planted.fault import Fault, draw_place
from tidegate.diagnosis.planted.probing import CHANGES, WorldScorer, table_of
from tidegate.diagnosis.planted.retraining import REMEDIES, realised_gains
from tidegate.diagnosis.planted.world import build, quality, start
from tidegate.diagnosis.taxonomy import PROBES, TAXONOMY, FailureClass
from tidegate.errors import UsageError

C = FailureClass
WORLD = 3
PLAIN = [
    (C.CASCADE_DROP, "lower_tau"), (C.THRESHOLD, "slice_threshold"), (C.TEMPORAL, "more_frames"),
    (C.SPATIAL, "resolution"), (C.CORRUPTION, "enhancement"), (C.POLICY, "policy_text"), (C.LABEL, "relabel"),
    (C.SERVING, "retry_serving"),
]  # fmt: skip
TRAINED = [
    (C.MODALITY_IGNORED, "modality_tuning"), (C.CROSS_MODAL, "conflict_data"), (C.LOCALE, "locale_data"),
    (C.NOVELTY, "collect_similar"),
]  # fmt: skip


def fault(failure: FailureClass, family: str = "fitting", severity: int = 3) -> Fault:
    injectors = fitting.INJECTORS if family == "fitting" else held_out.INJECTORS
    return Fault(
        truth=failure.value, injectors=(injectors[failure],), severity=severity, share=0.5, seed=11, family=family,
        world=WORLD,
    )  # fmt: skip


def restored(failure: FailureClass, intervention: str, family: str = "fitting") -> tuple[float, float]:
    """(F1 lost by the fault, F1 regained by the intervention) on test items."""
    case = plant(fault(failure, family))
    clean = quality(build(start(WORLD).copy()))
    return clean - quality(case.system), realised_gains(case.system, 1, [intervention])[intervention]


@pytest.mark.parametrize(("failure", "intervention"), PLAIN, ids=str)
def test_a_fault_harms_and_its_intervention_restores(failure: FailureClass, intervention: str) -> None:
    lost, regained = restored(failure, intervention)
    assert lost > 0.005
    assert regained > 0.3 * lost


@pytest.mark.long
@pytest.mark.parametrize(("failure", "intervention"), TRAINED, ids=str)
def test_a_fault_that_needs_training_is_restored_by_training(failure: FailureClass, intervention: str) -> None:
    lost, regained = restored(failure, intervention)
    assert lost > 0.01
    assert regained > 0.15 * lost


@pytest.mark.long
@pytest.mark.parametrize("failure", [f for f in held_out.INJECTORS if f != C.LEAKAGE], ids=str)
def test_held_out_faults_harm_too(failure: FailureClass) -> None:
    assert plant(fault(failure, "held_out")).extra_errors > 0


@pytest.mark.long
@pytest.mark.parametrize(
    ("family", "failure"), [(name, failure) for name in FITTED if name[-1].isdigit() for failure in FITTED[name]]
)
def test_varied_faults_harm_and_what_their_class_is_cured_by_restores(family: str, failure: FailureClass) -> None:
    injector = FITTED[family][failure]
    case = plant(Fault(truth=failure.value, injectors=(injector,), severity=3, share=0.35, seed=7013, family=family,
                       world=701))  # fmt: skip
    assert case.extra_errors >= 12
    if injector is not varied_system.policy_moved_on:  # its labels follow another policy: no change of the model helps
        assert max(realised_gains(case.system, 1, TAXONOMY[failure].interventions).values()) > 0


def test_an_unharmed_world_is_good_but_errs() -> None:
    system = build(start(WORLD).copy())
    errors = int(table_of(system).errors.sum())
    assert quality(system) > 0.82
    assert errors > 80


def test_the_same_fault_twice_gives_the_same_scores() -> None:
    one, other = (plant(fault(C.TEMPORAL)) for _ in range(2))
    assert np.array_equal(one.table.scores, other.table.scores)
    rows = np.arange(40)
    for probe in ("null", "frames_more", "audio_swap", "clean+frames_more"):
        assert np.array_equal(one.scorer.score(rows, probe), other.scorer.score(rows, probe), equal_nan=True)


def test_diagnosis_cannot_see_the_truth() -> None:
    case = plant(fault(C.LABEL))
    split = case.system.setup.splits["recent"]
    blank = np.full(len(split), -1)
    hidden = replace(split.items, kind=blank, imitates=blank, label=1 - split.items.label)
    blind = replace(case.system, setup=case.system.setup.copy())
    blind.setup.change("recent", items=hidden)
    seen, unseen = case.table, table_of(blind)
    assert np.array_equal(seen.scores, unseen.scores)
    assert np.array_equal(seen.labels, unseen.labels)
    for name, column in seen.features.items():
        assert np.array_equal(column, unseen.features[name]), name
    assert not any("C11" in str(values) for values in (seen.ids, *seen.slices.values()))
    rows = np.arange(60)
    assert np.array_equal(case.scorer.score(rows, "vision_swap"), WorldScorer(blind).score(rows, "vision_swap"))


def test_retry_cures_what_serving_lost_and_nothing_else() -> None:
    case = plant(fault(C.SERVING))
    failed = np.flatnonzero(np.isnan(case.table.scores))
    fine = np.flatnonzero(case.table.notes == "")[:50] if case.table.notes is not None else failed
    assert len(failed) > 100
    assert np.isfinite(case.scorer.score(failed, "retry")).all()
    np.testing.assert_allclose(case.scorer.score(fine, "retry"), case.table.scores[fine], atol=1e-5)


def test_every_class_has_seven_mechanisms_or_more_every_intervention_is_run_every_probe_is_known() -> None:
    classes = set(TAXONOMY)
    assert set(FAMILIES["fitting"]) == set(FAMILIES["held_out"]) == classes
    assert {name for name, injectors in FAMILIES.items() if set(injectors) == classes - {FailureClass.LEAKAGE}} == {
        "further", "varied0", "varied1", "varied2", "independent0"
    }  # fmt: skip
    mechanisms = {injector for family in FAMILIES.values() for injector in family.values()}
    assert len(mechanisms) == 2 * 14 + 4 * 13 + 33
    for failure in classes - {FailureClass.LEAKAGE}:
        assert sum(failure in family for family in FITTED.values()) >= 6
    assert set(REMEDIES) == {name for kind in TAXONOMY.values() for name in kind.interventions}
    assert set(CHANGES) == set(PROBES)


def test_fitting_and_held_out_know_nothing_of_each_other() -> None:
    fitted = (fitting, further, varied_system, varied_content, independent)
    pairs = [(one, "held_out") for one in fitted]
    pairs += [(held_out, one.__name__.rsplit(".", 1)[1]) for one in fitted]
    for module, other in pairs:
        tree = ast.parse(Path(module.__file__ or "").read_text(encoding="utf-8"))
        imported = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        assert not any(name.endswith(other) for name in imported)


def test_slices_have_about_the_share_that_was_asked_for() -> None:
    rng = np.random.default_rng(0)
    items = start(WORLD).splits["test"].items
    for share in (0.05, 0.1, 0.2, 0.35, 0.5):
        place = draw_place(rng, share)
        assert abs(place.rows(items).mean() - share) < 0.3 * share + 0.02


def test_plans_keep_fitting_worlds_and_test_worlds_apart() -> None:
    from tidegate.bench.diagnosis import plan
    from tidegate.bench.diagnosis_fit import fitting_faults
    from tidegate.bench.diagnosis_fit_gains import FIRST_WORLD

    fitted = list(fitting_faults(3))
    assert {one.family for one in fitted} == {*FITTED, "none", "decoy"}
    tested = [one.fault for one in plan(seeds=2, full=True)]
    assert max(one.world for one in fitted) < FIRST_TEST_WORLD <= min(one.world for one in tested)
    assert {one.family for one in tested} == {"fitting", "held_out", "none", "decoy", "and", "or"}
    quiet = {one.world for one in fitted} - {one.world for one in fitted if one.truth != "none"}
    assert quiet == set(range(4, 13))
    with pytest.raises(UsageError, match="at most 150"):
        list(fitting_faults(151))
    assert 150 * 4 < FIRST_WORLD < FIRST_TEST_WORLD
    assert len(list(singles([1], "held_out"))) == 42
    assert all(one.truth == "none" for one in faultless([1, 2]))
    assert all(one.also for one in doubles([1]))
