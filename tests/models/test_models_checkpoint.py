"""Checkpoint folders: what is saved comes back, what is broken is named, a crash leaves the last good one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from model_samples import make_clip
from safetensors.torch import load_file, save_file

from tidegate.errors import CheckpointError, ScoringError
from tidegate.models import load_stage
from tidegate.models.avlm import Avlm
from tidegate.models.card import Card
from tidegate.models.checkpoint import (
    checkpoint_hash,
    load_checkpoint,
    load_thresholds,
    save_checkpoint,
    save_thresholds,
)
from tidegate.models.multitower import MultiTower
from tidegate.models.processor import ClipProcessor

CARD = Card(
    name="sample", issue="icd", notice="Not for production.", seed=3, command="tidegate train", notes=("a note",)
)


@pytest.fixture
def folder(tmp_path: Path, avlm: Avlm, processor: ClipProcessor) -> Path:
    save_checkpoint(avlm, processor, tmp_path / "large", CARD)
    return tmp_path / "large"


@pytest.mark.parametrize("kind", ["avlm", "towers"])
def test_scores_survive_saving_and_loading(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(kind)
    processor = request.getfixturevalue("processor" if kind == "avlm" else "towers_processor")
    clips = [make_clip(1), make_clip(2, audio_seconds=0)]
    with torch.inference_mode():
        before = model(processor.collate(processor.features(clips))).softmax(dim=-1)[:, 1].tolist()
    save_checkpoint(model, processor, tmp_path / kind, CARD)
    stage = load_stage(tmp_path / kind, name="large")
    scores = stage(clips)
    np.testing.assert_allclose([score.value for score in scores], before, atol=1e-6)
    assert [score.missing for score in scores] == [(), ("audio",)]
    assert {score.model for score in scores} == {f"sample@{checkpoint_hash(tmp_path / kind)}"}
    assert all(score.stage == "large" and score.issue == "icd" and score.cost_seconds > 0 for score in scores)
    assert (stage.notice, stage.request) == ("Not for production.", processor.request)


def test_half_precision_storage_is_half_as_big_and_scores_the_same(
    tmp_path: Path, avlm: Avlm, processor: ClipProcessor, folder: Path
) -> None:
    save_checkpoint(avlm, processor, tmp_path / "half", CARD, half=True)
    sizes = [(path / "model.safetensors").stat().st_size for path in (folder, tmp_path / "half")]
    assert sizes[1] < 0.55 * sizes[0]
    values = [load_stage(path, name="large")([make_clip(1)])[0].value for path in (folder, tmp_path / "half")]
    assert values[0] == pytest.approx(values[1], abs=1e-3)


def test_card_thresholds_and_page_come_back(folder: Path) -> None:
    assert load_checkpoint(folder)[2] == CARD
    assert load_thresholds(folder) is None
    save_thresholds(folder, {"issue": "icd", "flag_threshold": 0.4})
    assert load_thresholds(folder) == {"issue": "icd", "flag_threshold": 0.4}
    assert load_stage(folder, name="large").thresholds == {"issue": "icd", "flag_threshold": 0.4}
    assert "Not for production." in (folder / "README.md").read_text()


def test_identity_follows_the_weights_and_not_the_card(
    folder: Path, avlm: Avlm, processor: ClipProcessor, tmp_path: Path
) -> None:
    save_checkpoint(avlm, processor, tmp_path / "same", Card(name="other", issue="icd"))
    assert checkpoint_hash(tmp_path / "same") == checkpoint_hash(folder)
    with torch.no_grad():
        avlm.head.bias += 0.1
    save_checkpoint(avlm, processor, tmp_path / "changed", CARD)
    assert checkpoint_hash(tmp_path / "changed") != checkpoint_hash(folder)


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json", "card.json"]
)
@pytest.mark.parametrize("damage", ["gone", "truncated"])
def test_missing_or_truncated_file_is_named(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(folder)


def test_missing_and_extra_tensors_are_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    state = load_file(path)
    state["stranger"] = state.pop("head.bias")
    save_file(state, path)
    with pytest.raises(CheckpointError, match=r"head\.bias.*stranger"):
        load_checkpoint(folder)


def test_tensor_of_another_shape_is_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file({**load_file(path), "head.bias": torch.zeros(7)}, path)
    with pytest.raises(CheckpointError, match=r"head\.bias of shape \(2,\), found \(7,\)"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("config.json", "class", "Oracle", "Oracle"),
        ("config.json", "format", "pickle", "tidegate-checkpoint-1"),
        ("config.json", "model", {"colour": 1}, "colour"),
        ("preprocessor_config.json", "processor_class", "Other", "ClipProcessor"),
        ("preprocessor_config.json", "colour", 1, "colour"),
        ("card.json", "colour", 1, "colour"),
        ("tokenizer.json", "model", None, "tokenizer"),
    ],
)
def test_wrong_contents_are_named(folder: Path, file: str, key: str, value: object, message: str) -> None:
    values = json.loads((folder / file).read_text())
    if file == "tokenizer.json":
        del values[key]
    else:
        values[key] = value
    (folder / file).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


def test_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        load_stage(tmp_path / "nowhere", name="base")


def test_crash_while_saving_leaves_the_last_good_checkpoint(
    folder: Path, avlm: Avlm, processor: ClipProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = checkpoint_hash(folder)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with torch.no_grad():
        avlm.head.bias += 1
    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(avlm, processor, folder, CARD)
    monkeypatch.undo()
    assert checkpoint_hash(folder) == before
    load_checkpoint(folder)


def test_non_finite_score_is_an_error_that_names_the_video(folder: Path, avlm: Avlm, processor: ClipProcessor) -> None:
    with torch.no_grad():
        avlm.head.bias.fill_(float("nan"))
    save_checkpoint(avlm, processor, folder, CARD)
    with pytest.raises(ScoringError, match="clip7"):
        load_stage(folder, name="large")([make_clip(7)])


def test_clip_with_none_of_the_modalities_is_an_error(
    tmp_path: Path, towers: MultiTower, towers_processor: ClipProcessor
) -> None:
    save_checkpoint(towers, towers_processor, tmp_path / "base", CARD)
    stage = load_stage(tmp_path / "base", name="base")
    with pytest.raises(ScoringError, match="clip9"):
        stage([make_clip(9, frames=0, audio_seconds=0, text=None)])
    assert stage([]) == []


def test_stage_splits_large_requests_into_batches(folder: Path) -> None:
    clips = [make_clip(number) for number in range(5)]
    small, large = load_stage(folder, name="large", batch_size=2), load_stage(folder, name="large", batch_size=8)
    np.testing.assert_allclose(
        [score.value for score in small(clips)], [score.value for score in large(clips)], atol=1e-6
    )
