"""Published parts by folder: exactly the published classes and key names, loaded with theirs and with ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import LLAVA, RESNET, WHISPER, XLM_R, make_clip
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    ResNetConfig,
    ResNetForImageClassification,
    ResNetModel,
    SwinConfig,
    SwinModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from tidegate.errors import CheckpointError, ConfigError
from tidegate.models import load_stage, preset, save_checkpoint
from tidegate.models.compose import UNTRAINED_NOTICE, compose_avlm, compose_towers
from tidegate.models.presets import PRESETS, AvlmParts, TowerParts


def config_of(cls: Any, values: dict[str, Any]) -> Any:
    return cls(**{key: value for key, value in values.items() if key != "model_type"})


def image_processor(folder: Path, **extra: object) -> None:
    values = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3, "size": {"height": 48, "width": 48}}
    (folder / "preprocessor_config.json").write_text(json.dumps({**values, **extra}))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """Folders as the hub would hold them, written by transformers' own classes."""
    root = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    LlavaOnevisionForConditionalGeneration(config_of(LlavaOnevisionConfig, LLAVA)).save_pretrained(root / "llava")
    image_processor(root / "llava")
    (root / "llava/tokenizer.json").write_text(tokenizer.to_str())
    (root / "llava/tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>"}))
    WhisperForConditionalGeneration(config_of(WhisperConfig, WHISPER)).save_pretrained(root / "whisper")
    WhisperFeatureExtractor(feature_size=32, chunk_length=2).save_pretrained(root / "whisper")
    ResNetForImageClassification(config_of(ResNetConfig, RESNET)).save_pretrained(root / "resnet")
    image_processor(root / "resnet", size={"shortest_edge": 48}, crop_pct=0.875)
    swin = SwinConfig(image_size=48, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=3)
    SwinModel(swin).save_pretrained(root / "swin")
    image_processor(root / "swin")
    XLMRobertaForMaskedLM(config_of(XLMRobertaConfig, XLM_R)).save_pretrained(root / "xlmr")
    (root / "xlmr/tokenizer.json").write_text(tokenizer.to_str())
    return root


def test_avlm_of_published_folders_equals_the_published_classes(hub: Path) -> None:
    model, processor, card = compose_avlm(issue="icd", vl=str(hub / "llava"), audio=str(hub / "whisper"), num_frames=3)
    model.eval()
    assert (card.notice, processor.config.video_tokens_per_frame) == (UNTRAINED_NOTICE, 4)
    batch = processor.collate(processor.features([make_clip(1)]))
    reference = LlavaOnevisionForConditionalGeneration.from_pretrained(hub / "llava").eval()
    whisper = WhisperForConditionalGeneration.from_pretrained(hub / "whisper").eval()
    with torch.inference_mode():
        hidden = reference.model(
            input_ids=batch.token_ids_BL,
            attention_mask=batch.token_mask_BL,
            pixel_values_videos=batch.pixels_NCHW[None],
        ).last_hidden_state[:, -1]
        heard = whisper.get_encoder()(batch.mel_BMF).last_hidden_state[:, :75].mean(dim=1)
        np.testing.assert_allclose(model.embed(batch), torch.cat([hidden, heard], dim=-1), atol=1e-5)


def test_paper_icd_parts_compose_and_survive_saving(hub: Path, tmp_path: Path) -> None:
    base, processor, card = compose_towers(issue="icd", vision=str(hub / "resnet"), num_frames=3)
    assert (processor.config.resize, processor.config.modalities) == ("crop", ("vision",))
    assert processor.request.audio is False
    reference = ResNetModel.from_pretrained(hub / "resnet").eval()
    batch = processor.collate(processor.features([make_clip(1)]))
    with torch.inference_mode():
        expected = reference(batch.pixels_NCHW).pooler_output.flatten(1).mean(dim=0)
        np.testing.assert_allclose(base.eval().embed(batch)[0], expected, atol=1e-5)
    save_checkpoint(base, processor, tmp_path / "base", card)
    stage = load_stage(tmp_path / "base", name="base")
    assert stage.notice == UNTRAINED_NOTICE
    assert 0 < stage([make_clip(1)])[0].value < 1


def test_paper_ucc_parts_compose_as_a_preset_does(hub: Path) -> None:
    parts = TowerParts(vision=str(hub / "swin"), text=str(hub / "xlmr"), audio=str(hub / "whisper"), num_frames=3)
    stage = parts.load("base", "ucc", "cpu", 8)
    assert stage.processor.config.modalities == ("vision", "audio", "text")
    scores = stage([make_clip(1), make_clip(2, audio_seconds=0, text=None)])
    assert [score.missing for score in scores] == [(), ("audio", "text")]
    assert scores[0].model.endswith("@untrained-head")


def test_avlm_without_audio_is_the_papers_icd_model(hub: Path) -> None:
    stage = AvlmParts(vl=str(hub / "llava"), num_frames=3).load("large", "icd", "cpu", 8)
    assert stage.processor.config.modalities == ("vision", "text")
    assert 0 < stage([make_clip(1)])[0].value < 1


@pytest.mark.parametrize("source", ["nobody/nothing-here", "/no/such/folder"])
def test_source_that_gives_nothing_is_named(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=source):
        compose_avlm(issue="icd", vl=source)
    with pytest.raises(CheckpointError, match=source):
        compose_towers(issue="icd", vision=source)


def test_folder_of_another_class_is_named(hub: Path) -> None:
    with pytest.raises(CheckpointError, match="resnet"):
        compose_avlm(issue="icd", vl=str(hub / "resnet"))


def test_presets_of_the_architecture_are_there() -> None:
    assert set(PRESETS) == {"tiny", "compact", "paper-icd", "paper-ucc"}
    assert PRESETS["paper-ucc"].issue == "ucc"
    assert PRESETS["paper-icd"].large == AvlmParts(vl="llava-hf/llava-onevision-qwen2-7b-ov-hf")
    with pytest.raises(ConfigError, match="huge"):
        preset("huge")


@pytest.mark.parametrize("which", ["base", "large"])
def test_packaged_tiny_checkpoints_load_score_and_carry_their_notice(which: str) -> None:
    stage = preset("tiny").load_stage(which)  # type: ignore[arg-type]
    assert stage.issue == "icd"
    assert stage.notice is not None
    assert "synthetic" in stage.notice
    assert stage.thresholds is not None
    assert 0 < stage.thresholds["flag_threshold"] < 1
    score = stage([make_clip(1, size=180)])[0]
    assert 0 <= score.value <= 1


def test_packaged_checkpoints_are_small() -> None:
    weights = Path(PRESETS["tiny"].base.folder).parent  # type: ignore[union-attr]
    assert sum(path.stat().st_size for path in weights.rglob("*") if path.is_file()) <= 12e6
