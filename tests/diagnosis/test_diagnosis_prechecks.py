"""Pre-checks overrule the judge where a record proves a cause; the threshold of ``none``; smaller runs; past misses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tidegate.bench.diagnosis_fit import StoredRun, StoredScorer, part_of
from tidegate.bench.diagnosis_fit_gains import PastRun, coverage_out_of_fold, fit_ratios
from tidegate.diagnosis.diagnose import diagnose
from tidegate.diagnosis.gains import GainsConfig, gains
from tidegate.diagnosis.learned import none_bias_of, toward_none
from tidegate.diagnosis.table import ProbeTable
from tidegate.diagnosis.taxonomy import FailureClass
from tidegate.diagnosis.transfer import TransferRatios, shipped_ratios


def table_of(*, harmful: bool, copies: int = 0) -> ProbeTable:
    """600 items, one in ten noted; the notes go with errors, or with nothing."""
    rng, count = np.random.default_rng(0), 600
    labels = rng.integers(0, 2, count)
    noted = rng.random(count) < 0.1
    wrong = (rng.random(count) < 0.05) | (noted & harmful & (rng.random(count) < 0.8))
    similarity = np.where(np.arange(count) < copies, 0.99, 0.3)
    return ProbeTable(
        ids=np.arange(count).astype(str), labels=labels, scores=np.where((labels == 1) != wrong, 0.8, 0.2),
        thresholds=np.full(count, 0.5), sources=np.arange(count).astype(str),
        notes=np.where(noted, "truncated", ""), features={"duplicate_similarity": similarity},
    )  # fmt: skip


def test_notes_on_errors_prove_serving_and_harmless_notes_do_not() -> None:
    found = diagnose(table_of(harmful=True))
    assert found.top == "M2"
    assert sum(dict(found.ranking).values()) == pytest.approx(1.0)
    noted = found.table.notes[found.classified.rows] != ""  # type: ignore[index]
    named = np.array([one is FailureClass.SERVING for one in found.likeliest])
    assert named[noted].all()
    np.testing.assert_allclose(found.classified.posterior_EC.sum(axis=1), 1.0)
    assert diagnose(table_of(harmful=False)).top != "M2"


def test_copies_in_training_prove_leakage() -> None:
    assert diagnose(table_of(harmful=False, copies=60)).top == "M1"
    assert diagnose(table_of(harmful=False, copies=2)).top != "M1"


def test_the_bias_of_none_keeps_quiet_runs_quiet() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1.0, 1.0, 1.0], 200)
    classes, truth = ("C1", "C2", "none"), ["none"] * 100 + ["C1"] * 100
    bias = none_bias_of(probabilities, classes, truth)
    named = [max(told := toward_none(dict(zip(classes, row, strict=True)), bias), key=told.__getitem__)
             for row in probabilities[:100]]
    assert sum(name != "none" for name in named) <= 5
    assert sum(toward_none({"C1": 0.7, "none": 0.3}, 2.0).values()) == pytest.approx(1.0)


def test_a_part_of_a_run_keeps_items_and_their_probes_together() -> None:
    table = table_of(harmful=True)
    kept = {"clean": np.arange(600.0)}
    scorer = StoredScorer(kept=kept)
    whole = StoredRun(truth="M2", family="fitting", world=1, extra_errors=40, table=table, scorer=scorer,
                      harmed=table.errors)
    part = part_of(whole, 200)
    assert len(part.table) == 200
    assert part.scorer.score(np.arange(200), "clean").astype(int).astype(str).tolist() == part.table.ids.tolist()
    assert part.extra_errors == round(40 * part.harmed.sum() / whole.harmed.sum())


def test_past_misses_widen_intervals_and_cover_out_of_fold(tmp_path: Path) -> None:
    found = diagnose(table_of(harmful=True))
    plain = gains(found, config=GainsConfig(num_samples=20))
    rng = np.random.default_rng(1)
    runs = [PastRun(world=w, predicted=plain, realised={"placebo": 0.01} | {
        gain.name: 0.01 + 0.3 * gain.ceiling_f1 + float(rng.normal(0, 0.02)) for gain in plain}) for w in range(40)]
    ratios = fit_ratios(runs)
    assert ratios.placebo_f1 == pytest.approx(0.01)
    assert coverage_out_of_fold(runs) == pytest.approx(0.9, abs=0.06)
    ratios.save(tmp_path / "r.json")
    assert TransferRatios.load(tmp_path / "r.json") == ratios
    wide = {gain.name: gain for gain in gains(found, config=GainsConfig(num_samples=20, ratios=ratios))}
    for gain in plain:
        if gain.measured:
            assert wide[gain.name].f1.low <= gain.f1.low
            assert wide[gain.name].f1.estimate == gain.f1.estimate
    assert dataclasses.is_dataclass(shipped_ratios())
