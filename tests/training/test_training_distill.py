"""A student follows its teacher: the loss in closed form, without labels, and from checkpoint to checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import entropy, spearmanr
from training_samples import PROCESSOR, RESNET, VISION_ONLY, ListTable, bright_or_dark, small_corpus

from tidegate.corpus.manifest import Manifest, read_manifest, write_manifest
from tidegate.errors import CheckpointError
from tidegate.models.card import Card
from tidegate.models.checkpoint import save_checkpoint
from tidegate.models.configs import MultiTowerConfig
from tidegate.models.multitower import MultiTower
from tidegate.models.processor import ClipProcessor
from tidegate.training.distill import distilled, log_odds, teacher_log_odds
from tidegate.training.loop import fit, score_rows
from tidegate.training.losses import MISSING_LABEL, soft_sums, soft_totals
from tidegate.training.recipes import OptimiserConfig, TrainRecipe
from tidegate.training.stage import train_stage

torch.set_num_threads(1)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_loss_is_the_scaled_divergence_from_the_teacher(temperature: float) -> None:
    logits, odds = torch.randn(6, 1, 2, dtype=torch.float64), torch.randn(6, 1, dtype=torch.float64) * 3
    teacher = torch.stack([torch.zeros(6), odds[:, 0]], dim=-1).div(temperature).softmax(-1)
    student = logits[:, 0].div(temperature).softmax(-1)
    expected = temperature**2 * entropy(teacher.numpy(), student.numpy(), axis=1).sum()
    assert float(soft_sums(logits, odds, temperature)[0]) == pytest.approx(expected)


def test_soft_loss_is_nothing_where_the_student_agrees_and_where_the_teacher_is_silent() -> None:
    odds = torch.tensor([[2.0], [float("nan")]])
    logits = torch.tensor([[[0.5, 2.5]], [[9.0, -9.0]]], requires_grad=True)
    loss = soft_sums(logits, odds, 2.0).sum()
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-6)
    assert torch.isfinite(logits.grad).all()  # type: ignore[arg-type]
    assert float(logits.grad.abs().max()) < 1e-6  # type: ignore[union-attr]
    assert soft_totals(odds).tolist() == [1.0]


def test_log_odds_invert_the_sigmoid_and_stay_finite() -> None:
    scores = np.array([0.0, 0.2, 0.9, 1.0, np.nan])
    odds = log_odds(scores)
    np.testing.assert_allclose(1 / (1 + np.exp(-odds[1:3])), scores[1:3])
    assert np.isfinite(odds[[0, 3]]).all()
    assert np.isnan(odds[4])


def test_student_without_one_label_ranks_as_its_teacher_does() -> None:
    """The teacher says how bright a clip is, in degrees that no label tells."""
    given, validation = bright_or_dark(64, 1), bright_or_dark(24, 2)
    degrees = np.random.default_rng(0).uniform(-1, 1, 64)
    items = tuple(
        replace(given.table[row], frames_THWC=np.full((2, 16, 16, 3), 128 + 120 * degrees[row], dtype=np.uint8))
        for row in range(64)
    )
    train = replace(given, table=ListTable(given.table.video_ids, items))
    odds = dict(zip(train.table.video_ids, 3 * degrees, strict=True))
    unlabelled = replace(distilled(train, odds), labels=np.full(64, MISSING_LABEL, dtype=np.int64))
    torch.manual_seed(0)
    model, processor = MultiTower(VISION_ONLY), ClipProcessor(PROCESSOR, None)
    config = OptimiserConfig(epochs=6, batch_size=8, learning_rate=5e-3, soft_weight=1.0, temperature=1.0)
    result = fit(model, processor, unlabelled, validation, config)
    assert result.history[-1]["loss"] < 0.5 * result.history[0]["loss"]
    scores = score_rows(model, processor, train.table, range(64))
    assert spearmanr(scores, degrees).statistic > 0.95


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A corpus of which one training video is unlabelled, and a teacher's checkpoint."""
    folder = tmp_path_factory.mktemp("distill")
    manifest = read_manifest(small_corpus(folder, 12))
    first = next(entry for entry in manifest if entry.split == "train")
    entries = tuple(replace(entry, labels={}) if entry is first else entry for entry in manifest)
    write_manifest(Manifest(entries=entries), folder / "manifest.csv")
    torch.manual_seed(0)
    save_checkpoint(
        MultiTower(VISION_ONLY), ClipProcessor(PROCESSOR, None), folder / "teacher", Card(name="t", issue="icd")
    )
    return folder / "manifest.csv", folder / "teacher"


def test_recipe_trains_on_unlabelled_videos_of_a_teacher_and_the_card_says_so(taught: tuple[Path, Path]) -> None:
    data, teacher = taught
    recipe = TrainRecipe(
        name="student",
        model=MultiTowerConfig(issue="icd", vision=RESNET),
        processor=PROCESSOR,
        optimiser=OptimiserConfig(epochs=1, batch_size=2),
    )
    result = train_stage(data, data.parent / "student", recipe, teacher=teacher)
    readme = (result.folder / "README.md").read_text()
    assert "distilled: the soft scores of the checkpoint teacher" in readme
    assert "4 training videos" in readme
    alone = train_stage(data, data.parent / "alone", recipe)
    assert "3 training videos" in (alone.folder / "README.md").read_text()


def test_teacher_of_another_issue_is_refused(taught: tuple[Path, Path]) -> None:
    data, teacher = taught
    with pytest.raises(CheckpointError, match="'ucc'"):
        teacher_log_odds(teacher, read_manifest(data).entries, ("ucc",), data.parent / "cache")
