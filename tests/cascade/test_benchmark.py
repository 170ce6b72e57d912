"""The benchmark's rivals are what they claim to be, and its report is complete."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tidegate.bench.cascade import render, run_cascade_benchmark
from tidegate.bench.cascade_families import FAMILIES, Population, make_population
from tidegate.bench.cascade_rivals import (
    _bargain_threshold,
    bargain_package,
    lotus,
    plug_in,
    supg_importance,
    supg_uniform,
)
from tidegate.errors import UsageError


@pytest.fixture(scope="module")
def population() -> Population:
    return make_population("gauss d'=2.5, 10.0%", size=5000, seed=1)


def slow_recall_threshold(scores: np.ndarray, mass: np.ndarray, target: float) -> float:
    """Highest sampled positive score that keeps the target, by trying all of them."""
    total = mass.sum()
    if total == 0:
        return -math.inf
    keeping = [t for t in set(scores[mass > 0]) if mass[scores >= t].sum() >= target * total * (1 - 1e-12)]
    return max(keeping)


def slow_correction(above: np.ndarray, below: np.ndarray, n: int, delta: float) -> float:
    width = math.sqrt(2 * math.log(2 / delta)) / math.sqrt(n)
    upper = above.mean() + width * above.std() if len(above) else 0.0
    lower = below.mean() - width * below.std() if len(below) else 0.0
    return 1.0 if upper + lower <= 0 else min(1.0, upper / (upper + lower))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("method", ["plug-in", "supg", "lotus"])
def test_rivals_on_uniform_samples_are_their_published_formulas(population: Population, method: str, seed: int) -> None:
    chosen = np.random.default_rng(seed).integers(0, len(population), size=800)
    scores, mass = population.base[chosen], population.label[chosen].astype(float)
    first = slow_recall_threshold(scores, mass, 0.9)
    above = scores >= first
    rival, target = plug_in, 0.9
    if method == "supg":
        rival = supg_uniform
        target = slow_correction(np.where(above, mass, 0), np.where(above, 0, mass), 800, 0.05)
    elif method == "lotus":
        rival, target = lotus, slow_correction(mass[above], mass[~above], 800, 0.05)
    tau, _ = rival(population, 800, 0.9, 0.05, np.random.default_rng(seed))
    assert tau == slow_recall_threshold(scores, mass, target)


def test_importance_weights_make_the_positive_mass_unbiased(population: Population) -> None:
    weights, _ = population.root_weights
    assert weights.sum() == pytest.approx(1.0)
    rng = np.random.default_rng(2)
    drawn = rng.choice(len(population), size=200_000, p=weights)
    mass = population.label[drawn] / (len(population) * weights[drawn])
    assert mass.mean() == pytest.approx(population.label.mean(), rel=0.03)
    tau, found = supg_importance(population, 2000, 0.9, 0.05, rng)
    assert population.label[found].all()
    assert population.recall(tau) > 0.8


@pytest.mark.parametrize("seed", range(4))
def test_array_form_of_bargain_is_the_package(population: Population, seed: int) -> None:
    pytest.importorskip("BARGAIN")

    class Seeded:
        def integers(self, high: int) -> int:
            return seed

    tau, found = bargain_package(population, 600, 0.9, 0.05, Seeded())  # type: ignore[arg-type]
    np.random.seed(seed)
    drawn = np.random.choice(len(population), 600, replace=True)
    positive = drawn[population.label[drawn] == 1]
    place = _bargain_threshold(positive, 0.9, 0.05)
    assert tau == population.base[place]
    assert set(found) == {item for item in positive if item < place}


@pytest.mark.parametrize("family", FAMILIES)
def test_families_have_the_prevalence_and_the_order_they_say(family: str) -> None:
    made = make_population(family, size=20_000, seed=0)
    assert (np.diff(made.base) >= 0).all()
    assert made.base.min() >= 0
    assert made.base.max() <= 1
    if "%" in family and "d'" in family:
        assert made.label.mean() == pytest.approx(float(family.split(", ")[1].rstrip("%")) / 100, abs=1e-4)
    tau = float(made.base[15_000])
    assert made.recall(tau) == pytest.approx((made.base[made.label == 1] >= tau).mean())
    assert made.share(tau) == pytest.approx((made.base >= tau).mean())


def test_report_of_a_small_run_is_complete_json_and_text() -> None:
    report = run_cascade_benchmark(quick=True, trials=4, only=("cost", "budget", "ranking"))
    record = json.loads(json.dumps(report.to_dict()))
    assert {row["method"] for row in record["cost"]} >= {"plug-in", "BARGAIN", "ours (stream)", "ours (collection)"}
    assert all(row["violated"] == 0 for row in record["budget"])
    text = render(report)
    assert "plug-in" in text
    assert "Budget on bursty traffic" in text


def test_rankings_can_be_compared_on_a_file_of_real_scores(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label = rng.random(3000) < 0.2
    sound = rng.normal(2.0 * label, 1.0)
    columns = {
        "video_id": [str(i) for i in range(3000)],
        "base": 1 / (1 + np.exp(1 - rng.normal(label, 1.0))),
        "large": label * 0.8 + 0.1,
        "feature_sound": sound,
    }
    pl.DataFrame(columns).write_parquet(tmp_path / "s.parquet")
    report = run_cascade_benchmark(quick=True, only=("ranking",), scores=tmp_path / "s.parquet")
    share = {row.ranking: row.share_escalated for row in report.ranking}
    assert share["learned deferral (flags)"] < share["base score"]
    pl.DataFrame(columns).drop("feature_sound").write_parquet(tmp_path / "t.parquet")
    with pytest.raises(UsageError, match="expected columns named feature_"):
        run_cascade_benchmark(quick=True, only=("ranking",), scores=tmp_path / "t.parquet")
