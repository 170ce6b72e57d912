"""The benchmark's scores, its resuming, and the runs that the classifier is fitted on."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tidegate.bench import diagnosis as bench
from tidegate.bench.diagnosis_fit import load_run, out_of_fold, save_run
from tidegate.bench.diagnosis_rivals import always_threshold, largest_slice, recommended, single_best_probe
from tidegate.bench.diagnosis_runs import CachingScorer
from tidegate.bench.diagnosis_score import regret, score
from tidegate.bench.processes import shared
from tidegate.diagnosis.learned import PreparedRun
from tidegate.diagnosis.planted import fitting
from tidegate.diagnosis.planted.cases import plant
from tidegate.diagnosis.planted.fault import Fault
from tidegate.diagnosis.table import ProbeTable
from tidegate.diagnosis.taxonomy import FailureClass


def row(truth: str, named: str, family: str = "fitting", **more: Any) -> dict[str, Any]:
    ranking = [[name, 0.5] for name in dict.fromkeys((named, "C7", "C8", truth))]
    plain = {
        "family": family, "truth": truth, "also": "", "world": 1, "severity": 2, "extra_errors": 50, "ranking": ranking,
        "calls_per_error": 10.0, "items_found": 0.5, "rivals": dict.fromkeys(bench_rivals(), "C2"),
    }  # fmt: skip
    return plain | more


def bench_rivals() -> list[str]:
    from tidegate.bench.diagnosis_rivals import RIVALS

    return list(RIVALS)


GAINS = {"placebo": 0.5, "more_frames": 0.10, "resolution": 0.04, "slice_threshold": 0.0, "deduplicate": 0.0}
PREDICTED = {"more_frames": [0.09, 0.05, 0.15, True, 0.1], "resolution": [0.05, 0.045, 0.06, True, 0.1]}


def test_scores_count_what_was_named() -> None:
    rows = [
        row("C6", "C6"), row("C6", "C1"), row("C1", "C1"), row("C2", "C6", extra_errors=3),
        row("C3", "C3", "held_out"), row("none", "none", "none"), row("none", "C5", "decoy"),
        row("C6", "C6", "and", also="C7"), row("C6", "C1", "and", also="C9"),
    ]  # fmt: skip
    found = score(rows)
    assert found["top1"]["value"] == pytest.approx(2 / 3)
    assert found["top1_small_ones_too"]["value"] == pytest.approx(1 / 2)
    assert found["heldout_top1"]["value"] == 1.0
    assert found["false_alarm"] == pytest.approx({"value": 0.5, "low": 0.5, "high": 0.5, "n": 2})
    assert found["and_both_in_top3"]["value"] == 0.5
    assert found["runs_too_small_to_count"] == 1
    assert found["by_harm"][1]["fitting"] == pytest.approx(2 / 3)
    assert found["by_harm"][1]["fitting runs"] == 3
    assert found["by_harm"][0]["fitting runs"] == 0
    assert found["confusion"]["C6"] == {"C6": 1, "C1": 1}
    assert found["rivals"]["always the threshold"]["top1"] == 0.0


def test_regret_compares_with_the_best_that_was_really_run() -> None:
    one = row("C6", "C6", realised=GAINS, predicted=PREDICTED, recommended="resolution")
    assert regret(one, "more_frames") == 0.0
    assert regret(one, "resolution") == pytest.approx(0.6)
    assert regret(one, None) == 1.0
    assert np.isnan(regret(row("M1", "M1", realised=GAINS), "resolution"))
    found = score([one])
    assert found["median_regret"]["value"] == pytest.approx(0.6)
    assert found["interval_coverage"]["value"] == 0.5
    assert found["rank_correlation"]["value"] == pytest.approx(1.0)


def test_rivals_name_what_they_look_at() -> None:
    rng, count = np.random.default_rng(0), 600
    labels = rng.integers(0, 2, count)
    region = rng.choice(["A", "B", "C"], count)
    scores = np.where(labels == 1, 0.9, 0.1)
    wrong = (region == "A") & (rng.random(count) < 0.5)
    scores = np.where(wrong, 1 - scores, scores)
    cured = np.where(wrong & (rng.random(count) < 0.9), 1 - scores, scores)
    table = ProbeTable(
        ids=np.arange(count).astype(str), labels=labels, scores=scores, thresholds=np.full(count, 0.5),
        sources=np.arange(count).astype(str), slices={"region": region}, probes={"frames_more": cured},
    )  # fmt: skip
    assert always_threshold(table) == "C2"
    assert largest_slice(table) == "C9"
    assert single_best_probe(table) == "C6"
    assert recommended("C6") == "more_frames"
    assert recommended("none") is None


def test_a_stopped_benchmark_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def fake(fault: Fault, config: object) -> dict[str, Any]:
        ran.append(fault.truth)
        made = row(fault.truth, fault.truth, fault.family, also=fault.also, world=fault.world, seconds=0.0)
        return made | {"key": bench.key_of(fault)}

    monkeypatch.setattr(bench, "run_fault", fake)
    first = bench.run_diagnosis_benchmark(tmp_path, seeds=1)
    total = len(ran)
    assert first.scores["runs"] == total > 28
    path = tmp_path / "quick.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(lines[:-3]) + '\n{"key": "torn', encoding="utf-8")
    again = bench.run_diagnosis_benchmark(tmp_path, seeds=1)
    assert len(ran) == total + 3
    assert again.scores["top1"]["value"] == first.scores["top1"]["value"] == 1.0
    assert "≥ .85" in bench.render(again)
    json.dumps(again.to_dict())


def test_kept_runs_come_back_as_they_were(tmp_path: Path) -> None:
    fault = Fault(
        truth="C8", injectors=(fitting.INJECTORS[FailureClass.CORRUPTION],), severity=3, share=0.5, seed=5,
        family="fitting", world=3,
    )  # fmt: skip
    case = plant(fault)
    save_run(tmp_path / "run.npz", case)
    stored = load_run(tmp_path / "run.npz")
    assert (stored.truth, stored.world, stored.extra_errors) == ("C8", 3, case.extra_errors)
    assert np.array_equal(stored.table.scores, case.table.scores, equal_nan=True)
    errors = np.flatnonzero(case.table.errors)[:30]
    np.testing.assert_allclose(stored.scorer.score(errors, "clean"), case.scorer.score(errors, "clean"), atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["run.npz"]


def test_a_caching_scorer_asks_once() -> None:
    asked: list[int] = []

    class Counting:
        probes = frozenset({"null"})

        def score(self, rows: Any, probe: str) -> Any:
            asked.extend(rows.tolist())
            return rows.astype(float)

    scorer = CachingScorer(Counting(), 10)
    scorer.score(np.array([1, 2]), "null")
    assert scorer.score(np.array([2, 3]), "null").tolist() == [2.0, 3.0]
    assert asked == [1, 2, 3]


def test_faults_are_scored_out_of_fold_by_size_and_probing() -> None:
    def prepared(fault: str, *, extra: int = 50, fully: bool = True, items: int = 2400) -> PreparedRun:
        return PreparedRun(fault=fault, group=1, extra_errors=extra, items=items, fully=fully, run_F=np.zeros(1),
                           errors_EF=np.zeros((0, 1)), due_E=np.zeros(0, dtype=bool))

    runs = [prepared("C6"), prepared("C6"), prepared("C6", extra=3), prepared("none"), prepared("none"),
            prepared("C1", fully=False), prepared("M1", extra=0, items=600)]
    said = [{"C6": 0.95, "none": 0.05}, {"none": 0.5, "C6": 0.3, "C1": 0.2}, {"none": 1.0}, {"none": 1.0},
            {"C1": 0.9, "none": 0.1}, {"C6": 0.4, "C7": 0.3, "C8": 0.2, "C1": 0.1}, {"M1": 1.0}]
    full, in_part, small, _ = out_of_fold(runs, said)
    assert [(one["items"], one["probed"]) for one in (full, in_part, small)] == [
        (2400, "fully"), (2400, "adaptively"), (600, "fully")]
    assert (full["faults"], full["first"], full["in three"]) == (2, 0.5, 1.0)
    assert (full["without a fault"], full["false alarms"]) == (2, 0.5)
    assert full["sure"] == pytest.approx(4 / 5)
    assert full["sure and right"] == pytest.approx(2 / 4)
    assert (in_part["first"], in_part["in three"], in_part["faults"]) == (0.0, 0.0, 1)
    assert (small["faults"], small["first"]) == (1, 1.0)
    assert np.isnan(small["false alarms"])


def test_shared_work_comes_back_in_order_and_may_be_left(tmp_path: Path) -> None:
    told = [tmp_path / f"{number}" for number in range(6)]
    for path in told:
        path.write_text(path.name, encoding="utf-8")
    assert list(shared(Path.read_text, told, 2)) == list(shared(Path.read_text, told, 1)) == list("012345")
    with closing(shared(Path.read_text, told, 2)) as texts:
        assert next(texts) == "0"
    assert list(shared(Path.read_text, [], 2)) == []


def test_an_error_in_a_worker_is_raised(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(shared(Path.read_text, [tmp_path / "a", tmp_path / "b"], 2))
