"""Several issues at once: a head each on one trunk, labels that may be missing, a score an issue."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from model_samples import LLAVA, RESNET, WHISPER, XLM_R, make_clip
from torch.nn import functional

from tidegate.errors import CheckpointError, ConfigError
from tidegate.models import Card, load_checkpoint, load_stage, save_checkpoint, save_thresholds
from tidegate.models.avlm import Avlm
from tidegate.models.configs import AvlmConfig, MultiTowerConfig
from tidegate.models.heads import MISSING_LABEL, masked_cross_entropy
from tidegate.models.multitower import MultiTower
from tidegate.models.processor import ClipProcessor

CARD = Card(name="several", issue="icd")


def several(kind: str) -> Avlm | MultiTower:
    torch.manual_seed(0)
    issues = {"issue": "icd", "more_issues": ("ucc", "quality")}
    if kind == "avlm":
        return Avlm(AvlmConfig(vision_language=LLAVA, audio=WHISPER, **issues)).eval()  # type: ignore[arg-type]
    return MultiTower(MultiTowerConfig(vision=RESNET, audio=WHISPER, text=XLM_R, **issues)).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["avlm", "towers"])
def test_one_forward_pass_scores_every_issue(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    processor = request.getfixturevalue("processor" if kind == "avlm" else "towers_processor")
    model, clips = several(kind), [make_clip(1), make_clip(2, audio_seconds=0)]
    with torch.inference_mode():
        logits = model(processor.collate(processor.features(clips)))
        embedding = model.embed(processor.collate(processor.features(clips)))
        by_hand = embedding @ model.head.weight[2:4].T + model.head.bias[2:4]
    assert logits.shape == (2, 3, 2)
    np.testing.assert_allclose(logits[:, 1], by_hand, atol=1e-6)
    save_checkpoint(model, processor, tmp_path / "several", CARD)
    stage = load_stage(tmp_path / "several", name="large", issue="ucc")
    rows = stage.scores_by_issue(clips)
    assert [[score.issue for score in row] for row in rows] == [["icd", "ucc", "quality"]] * 2
    assert rows[1][2].missing == ("audio",)
    np.testing.assert_allclose(
        [[score.value for score in row] for row in rows], logits.softmax(dim=-1)[..., 1], atol=1e-6
    )
    scores = stage(clips)
    assert [(score.issue, score.value) for score in scores] == [("ucc", row[1].value) for row in rows]


def test_checkpoint_and_card_carry_the_issues(tmp_path: Path, processor: ClipProcessor) -> None:
    folder = tmp_path / "several"
    save_checkpoint(several("avlm"), processor, folder, CARD)
    model, _, card = load_checkpoint(folder)
    assert model.config.issues == ("icd", "ucc", "quality")
    assert card.more_issues == ("ucc", "quality")
    assert "icd, ucc, quality" in (folder / "README.md").read_text()
    with pytest.raises(ConfigError, match="expected an issue among \\['icd', 'ucc', 'quality'\\], got 'other'"):
        load_stage(folder, name="large", issue="other")
    with pytest.raises(CheckpointError, match="card of an issue"):
        save_checkpoint(model, processor, tmp_path / "wrong", Card(name="wrong", issue="other"))


def test_thresholds_of_each_issue_are_found(tmp_path: Path, processor: ClipProcessor) -> None:
    folder = tmp_path / "several"
    save_checkpoint(several("avlm"), processor, folder, CARD)
    ucc = {"issue": "ucc", "flag_threshold": 0.7}
    save_thresholds(folder, {"issue": "icd", "flag_threshold": 0.4, "issues": {"ucc": ucc}})
    found = {name: load_stage(folder, name="large", issue=name).thresholds for name in ("icd", "ucc", "quality")}
    assert found["icd"] is not None
    assert (found["icd"]["flag_threshold"], found["ucc"], found["quality"]) == (0.4, ucc, None)


def test_config_of_one_issue_written_before_there_were_several_still_loads(
    tmp_path: Path, avlm: Avlm, processor: ClipProcessor
) -> None:
    folder = tmp_path / "old"
    save_checkpoint(avlm, processor, folder, CARD)
    for name, key in (("config.json", "model"), ("card.json", None)):
        values = json.loads((folder / name).read_text())
        for field in ("more_issues", "audio_tokens", "language_head"):
            (values[key] if key else values).pop(field, None)
        (folder / name).write_text(json.dumps(values))
    clip = make_clip(1)
    with torch.inference_mode():
        expected = avlm(processor.collate(processor.features([clip]))).softmax(dim=-1)[0, 1]
    stage = load_stage(folder, name="large")
    assert stage.issues == ("icd",)
    assert stage([clip])[0].value == pytest.approx(float(expected), abs=1e-6)


def test_tokenizer_of_another_vocabulary_is_named(tmp_path: Path, processor: ClipProcessor) -> None:
    small = {**LLAVA, "text_config": {**LLAVA["text_config"], "vocab_size": 50}}
    save_checkpoint(
        Avlm(AvlmConfig(issue="icd", vision_language=small, audio=WHISPER)), processor, tmp_path / "x", CARD
    )
    with pytest.raises(CheckpointError, match="at most 50 tokens"):
        load_checkpoint(tmp_path / "x")


def test_loss_of_complete_labels_of_one_issue_is_cross_entropy() -> None:
    logits_BK, labels_B = torch.randn(6, 2), torch.tensor([0, 1, 1, 0, 0, 1])
    weights_K = torch.tensor([1.0, 3.0])
    expected = functional.cross_entropy(logits_BK, labels_B, weight=weights_K, label_smoothing=0.1)
    found = masked_cross_entropy(logits_BK, labels_B, weights_K[None], smoothing=0.1)
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_missing_labels_take_no_part_in_the_loss_or_its_gradient() -> None:
    logits_BIK = torch.randn(4, 3, 2, requires_grad=True)
    labels_BI = torch.tensor([[1, MISSING_LABEL, MISSING_LABEL], [0, 1, -1], [1, -1, -1], [0, 0, -1]])
    loss = masked_cross_entropy(logits_BIK, labels_BI)
    expected = (
        functional.cross_entropy(logits_BIK[:, 0], labels_BI[:, 0])
        + functional.cross_entropy(logits_BIK[[1, 3], 1], labels_BI[[1, 3], 1])
    ) / 2
    np.testing.assert_allclose(loss.detach(), expected.detach(), atol=1e-7)
    loss.backward()
    assert logits_BIK.grad is not None
    reached = logits_BIK.grad.abs().sum(dim=-1) > 0
    assert reached.tolist() == (labels_BI != MISSING_LABEL).tolist()


def test_batch_without_any_label_gives_a_loss_of_zero() -> None:
    logits_BIK = torch.randn(2, 2, 2, requires_grad=True)
    loss = masked_cross_entropy(logits_BIK, torch.full((2, 2), MISSING_LABEL))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert logits_BIK.grad is not None
    assert float(logits_BIK.grad.abs().max()) == 0.0


def test_labels_of_another_shape_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"\(4, 2\), got \(4, 3\)"):
        masked_cross_entropy(torch.zeros(4, 2, 2), torch.zeros(4, 3, dtype=torch.int64))


def test_a_head_learns_from_its_own_labels_alone(processor: ClipProcessor) -> None:
    model = several("avlm").train()
    batch = processor.collate(processor.features([make_clip(1), make_clip(2)]))
    labels_BI = torch.tensor([[1, -1, -1], [0, -1, -1]])
    masked_cross_entropy(model(batch), labels_BI).backward()
    assert model.head.weight.grad is not None
    assert model.head.weight.grad.abs().sum(dim=1).gt(0).tolist() == [True, True, False, False, False, False]


def test_issue_of_a_one_issue_model_can_be_replaced(avlm: Avlm) -> None:
    assert replace(avlm.config, issue="ucc").issues == ("ucc",)
