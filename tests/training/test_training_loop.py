"""The loop: it learns, repeats itself under one seed, resumes to the same weights, and stops at a NaN by name."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from training_samples import PROCESSOR, VISION_ONLY, bright_or_dark

from tidegate.models.multitower import MultiTower
from tidegate.models.processor import ClipProcessor
from tidegate.training.loop import FitResult, TrainingDiverged, fit
from tidegate.training.losses import IGNORED, AuxiliaryHeads, class_weights
from tidegate.training.recipes import OptimiserConfig
from tidegate.training.schedule import rate_factor

torch.set_num_threads(1)
CONFIG = OptimiserConfig(epochs=4, batch_size=8, learning_rate=3e-3, warmup_fraction=0.2)


def run(config: OptimiserConfig = CONFIG, **options: object) -> tuple[MultiTower, FitResult]:
    torch.manual_seed(0)
    model = MultiTower(VISION_ONLY)
    train, validation = bright_or_dark(48, 1, auxiliary=True), bright_or_dark(20, 2)
    result = fit(model, ClipProcessor(PROCESSOR, None), train, validation, config, seed=5, **options)  # type: ignore[arg-type]
    return model, result


def same(first: MultiTower, second: MultiTower) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def test_loop_learns_a_learnable_task_and_logs_every_epoch(tmp_path: Path) -> None:
    _, result = run(log=tmp_path / "metrics.jsonl")
    assert result.history[-1]["validation_auc"] > 0.95
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3]


def test_same_seed_gives_the_same_weights() -> None:
    assert same(run()[0], run()[0])


def test_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, _ = run()

    def stop(record: dict[str, float]) -> None:
        if record["epoch"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(resume=tmp_path / "run.pt", on_epoch=stop)
    resumed, result = run(resume=tmp_path / "run.pt")
    assert len(result.history) == 4
    assert same(whole, resumed)


def test_loss_that_is_not_finite_stops_with_step_and_video_ids() -> None:
    def poison(item: object, rng: np.random.Generator) -> object:
        return item

    torch.manual_seed(0)
    model = MultiTower(VISION_ONLY)
    with torch.no_grad():
        model.head.weight.fill_(float("nan"))
    with pytest.raises(TrainingDiverged, match=r"step 0: .*v1-\d+"):
        fit(
            model,
            ClipProcessor(PROCESSOR, None),
            bright_or_dark(16, 1),
            bright_or_dark(8, 2),
            CONFIG,
            change=poison,
        )
    assert TrainingDiverged.code == "training_diverged"


def test_training_stops_when_validation_no_longer_improves() -> None:
    _, result = run(replace(CONFIG, epochs=12, patience=2, learning_rate=1e-2))
    assert len(result.history) == result.best_epoch + 3 or len(result.history) == 12


def test_training_that_only_makes_it_worse_ends_with_the_weights_it_began_with() -> None:
    good, _ = run()
    before = {name: tensor.clone() for name, tensor in good.state_dict().items()}
    validation = bright_or_dark(20, 2)
    spoilt = bright_or_dark(48, 1)
    spoilt = replace(spoilt, labels=1 - spoilt.labels)
    config = replace(CONFIG, learning_rate=3e-2)
    result = fit(good, ClipProcessor(PROCESSOR, None), spoilt, validation, config, keep_initial=True)
    assert result.best_epoch == -1
    assert all(torch.equal(tensor, before[name]) for name, tensor in good.state_dict().items())


def test_averaged_weights_are_what_is_kept() -> None:
    plain, _ = run()
    averaged, _ = run(replace(CONFIG, ema_decay=0.9))
    assert not same(plain, averaged)


def test_rate_rises_and_then_falls_to_a_hundredth() -> None:
    factors = [rate_factor(step, 100, 0.1) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == pytest.approx(1.0)
    assert factors[-1] == pytest.approx(0.01, abs=1e-3)
    assert all(later <= earlier for earlier, later in pairwise(factors[10:]))


def test_class_weights_balance_or_follow_the_setting() -> None:
    labels = np.array([0, 0, 0, 1])
    np.testing.assert_allclose(class_weights(labels, None), [4 / 6, 2.0])
    np.testing.assert_allclose(class_weights(labels, 3.0), [1.0, 3.0])


def test_auxiliary_loss_ignores_items_without_target() -> None:
    heads = AuxiliaryHeads(4, {"kind": 3})
    embedding = torch.randn(2, 4)
    both = heads(embedding[:1], {"kind": torch.tensor([1])})
    one_ignored = heads(embedding, {"kind": torch.tensor([1, IGNORED])})
    assert both.item() == pytest.approx(one_ignored.item())
    assert heads(embedding, {"kind": torch.tensor([IGNORED, IGNORED])}).item() == 0.0
