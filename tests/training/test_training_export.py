"""Exports: what is deployed scores as what was trained, on real videos, and is loaded like any checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_samples import RESNET, VISION_ONLY, small_corpus
from typer.testing import CliRunner

from tidegate.cli import app
from tidegate.errors import CheckpointError, ConfigError, ManifestError
from tidegate.models import (
    Avlm,
    AvlmConfig,
    Card,
    ClipProcessor,
    MultiTower,
    MultiTowerConfig,
    ProcessorConfig,
    build_tokenizer,
    checkpoint_hash,
    load_stage,
    save_checkpoint,
    save_thresholds,
)
from tidegate.training.export import ExportConfig, export_merged, export_stage
from tidegate.training.lora import adapt, save_adapter
from tidegate.training.recipes import AdapterConfig
from tidegate.types import AudioChunk, Clip, FrameBatch, Span, TextSpan

pytest.importorskip("openvino")
CARD = Card(name="base", issue="icd")
WHISPER: dict[str, Any] = {
    "model_type": "whisper", "d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32,
    "num_mel_bins": 32, "max_source_positions": 100, "vocab_size": 8, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 3, "decoder_layers": 1, "decoder_attention_heads": 1,
    "decoder_ffn_dim": 4,
}  # fmt: skip
XLM_R: dict[str, Any] = {
    "model_type": "xlm-roberta", "vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip


def make_clip(number: int, *, frames: int = 2, audio: bool = True, text: str = "good morning") -> Clip:
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 256, (frames, 20, 30, 3), dtype=np.uint8)
    samples = (0.1 * rng.standard_normal(16_000)).astype(np.float32)
    return Clip(
        video_id=f"clip{number}",
        span=Span(0.0, 2.0),
        frames=FrameBatch(frames_THWC=pixels, pts_seconds=np.arange(frames) * 1.0) if frames else None,
        audio=AudioChunk(samples=samples, sample_rate_hz=16_000) if audio else None,
        texts=(TextSpan("title", text, "en"),) if text else (),
    )


CLIPS = [make_clip(1), make_clip(2, frames=1, text="hi"), make_clip(3, frames=0), make_clip(4, audio=False, text="")]


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vision") / "base"
    processor = ClipProcessor(ProcessorConfig(modalities=("vision",), num_frames=2, image_size=16), None)
    save_checkpoint(MultiTower(VISION_ONLY), processor, folder, CARD)
    save_thresholds(folder, {"issue": "icd", "flag_threshold": 0.4})
    return folder


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("towers") / "base"
    config = MultiTowerConfig(issue="icd", more_issues=("ucc",), vision=RESNET, audio=WHISPER, text=XLM_R)
    processor = ClipProcessor(
        ProcessorConfig(
            modalities=("vision", "audio", "text"), num_frames=2, image_size=16, audio_seconds=2, num_mel_bins=32,
            prompt_prefix="<s>", prompt_suffix="</s>",
        ),
        build_tokenizer(["good morning"], 280),
    )  # fmt: skip
    save_checkpoint(MultiTower(config), processor, folder, CARD)
    return folder


def scores_of(folder: Path, clips: list[Clip]) -> list[list[float]]:
    stage = load_stage(folder, name="base")
    return [[score.value for score in row] for row in stage.scores_by_issue(clips)]


def test_onnx_export_scores_as_the_model_and_loads_as_a_stage(vision: Path, tmp_path: Path) -> None:
    out = tmp_path / "onnx"
    result = export_stage(vision, out, ExportConfig(backend="onnx"))
    assert result.max_score_difference < 1e-5
    clips = [CLIPS[0], CLIPS[1]]
    np.testing.assert_allclose(scores_of(out, clips), scores_of(vision, clips), atol=1e-5)
    stage, trained = load_stage(out, name="base"), load_stage(vision, name="base")
    assert (stage.thresholds, stage.request) == (trained.thresholds, trained.request)
    assert stage.num_parameters == trained.num_parameters
    assert stage.identity != trained.identity
    assert "exported from base@" in (out / "README.md").read_text()


@pytest.mark.long
@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_export_of_three_towers_scores_every_mix_of_modalities_as_the_model(
    backend: str, towers: Path, tmp_path: Path
) -> None:
    out = tmp_path / backend
    export_stage(towers, out, ExportConfig(backend=backend))  # type: ignore[arg-type]
    np.testing.assert_allclose(scores_of(out, CLIPS), scores_of(towers, CLIPS), atol=1e-5)
    alone = [scores_of(out, [clip])[0] for clip in CLIPS]
    np.testing.assert_allclose(alone, scores_of(towers, CLIPS), atol=1e-5)


@pytest.mark.long
def test_int8_is_calibrated_and_compared_on_real_videos(vision: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    data, out = small_corpus(tmp_path / "corpus"), tmp_path / "int8"
    arguments = ["export", "--checkpoint", vision, "--out", out, "--to", "openvino", "--int8", "--data", data, "--json"]
    result = CliRunner().invoke(app, [*map(str, arguments), "--workers", "1"])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["comparison"]["videos"] == 6
    assert 0 < record["max_score_difference"] < 0.2
    stage = load_stage(out, name="base")
    assert stage.thresholds is not None
    assert stage.thresholds["n"] == 6
    assert "scored by the export itself" in stage.thresholds["measured_on"]
    with pytest.raises(CheckpointError, match="lose at most -2"):
        export_stage(vision, out, ExportConfig(int8=True, max_auc_loss=-2.0), data=data)
    assert load_stage(out, name="base").identity == stage.identity


@pytest.fixture(scope="module")
def exported(vision: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "base"
    export_stage(vision, out, ExportConfig(backend="onnx"))
    return out


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("vision.onnx", None, "vision.onnx"),
        ("vision.onnx", b"nonsense", "vision.onnx"),
        ("model.safetensors", b"", "model.safetensors"),
        ("config.json", {"backend": "abacus"}, "abacus"),
        ("config.json", {"graphs": {"vision": "../base/vision.onnx"}}, "one file in the folder"),
        ("config.json", {"graphs": {}}, "one file in the folder"),
        ("config.json", {"class": "Avlm"}, "Avlm|keys"),
    ],
)
def test_damaged_export_is_named(name: str, damage: Any, message: str, exported: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "base"
    shutil.copytree(exported, folder)
    if damage is None:
        (folder / name).unlink()
    elif isinstance(damage, bytes):
        (folder / name).write_bytes(damage)
    else:
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**values, **damage}))
    with pytest.raises(CheckpointError, match=message):
        load_stage(folder, name="base")


def test_identity_follows_the_graph(exported: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "base"
    shutil.copytree(exported, folder)
    assert checkpoint_hash(folder) == checkpoint_hash(exported)
    path = folder / "vision.onnx"
    path.write_bytes(path.read_bytes() + b"\x00")
    assert checkpoint_hash(folder) != checkpoint_hash(exported)


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(vision: Path, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="int8"):
        export_stage(vision, tmp_path / "out", ExportConfig(int8=True))
    with pytest.raises(CheckpointError, match="an export"):
        export_stage(exported, tmp_path / "out", ExportConfig())
    with pytest.raises(CheckpointError, match="expected an AVLM"):
        export_merged(vision, None, tmp_path / "out")
    with pytest.raises(ConfigError, match="abacus"):
        ExportConfig(backend="abacus")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
    result = CliRunner().invoke(app, ["export", "--checkpoint", str(tmp_path / "no"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "checkpoint_error: expected a checkpoint folder" in result.output


def avlm(fusion: str) -> tuple[Avlm, ClipProcessor]:
    torch.manual_seed(1)
    vision = {"model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
              "num_attention_heads": 2, "image_size": 32, "patch_size": 16, "vision_use_head": False}  # fmt: skip
    text = {"model_type": "qwen2", "vocab_size": 300, "hidden_size": 16, "intermediate_size": 32,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0}  # fmt: skip
    llava = {"model_type": "llava_onevision", "vision_config": vision, "text_config": text, "video_token_index": 3,
             "image_token_index": 4}  # fmt: skip
    config = AvlmConfig(issue="icd", vision_language=llava, audio=WHISPER, fusion=fusion, language_head=True)  # type: ignore[arg-type]
    settings = ProcessorConfig(
        modalities=("vision", "audio", "text"), num_frames=2, image_size=32, audio_seconds=2, num_mel_bins=32,
        video_tokens_per_frame=1, prompt_suffix="</s>",
    )  # fmt: skip
    return Avlm(config).eval(), ClipProcessor(settings, build_tokenizer(["good morning"], 280))


@pytest.mark.parametrize("fusion", ["late", "early"])
def test_merged_adapter_scores_as_the_adapter_and_loads_in_plain_transformers(fusion: str, tmp_path: Path) -> None:
    from transformers import LlavaOnevisionForConditionalGeneration
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    model, processor = avlm(fusion)
    save_checkpoint(model, processor, tmp_path / "large", replace(CARD, name="large"))
    adapted = adapt(model, AdapterConfig(rank=4, alpha=8))
    with torch.no_grad():
        for name, parameter in adapted.model.named_parameters():
            if "lora_B" in name or name.startswith("head."):
                parameter.normal_(std=0.2)
    save_adapter(adapted, tmp_path / "lora")
    batch = processor.collate(processor.features([CLIPS[0]]))
    with torch.inference_mode():
        expected = adapted.model.eval()(batch).softmax(dim=-1)[0, 1]
        plain_before = load_stage(tmp_path / "large", name="large")([CLIPS[0]])[0].value
    result = export_merged(tmp_path / "large", tmp_path / "lora", tmp_path / "merged")
    value = load_stage(tmp_path / "merged", name="large")([CLIPS[0]])[0].value
    assert value == pytest.approx(float(expected), abs=1e-5)
    assert abs(value - plain_before) > 1e-4
    assert result.max_score_difference < 1e-5
    parts = tmp_path / "merged" / "transformers"
    vl = LlavaOnevisionForConditionalGeneration.from_pretrained(parts / "vl").eval()
    whisper = WhisperEncoder.from_pretrained(parts / "audio").eval()
    rest = load_file(parts / "head.safetensors")
    with torch.inference_mode():
        heard = whisper(batch.mel_BMF).last_hidden_state[:, :50].mean(dim=1)
        if fusion == "late":
            hidden = vl.model(
                input_ids=batch.token_ids_BL,
                attention_mask=batch.token_mask_BL,
                pixel_values_videos=batch.pixels_NCHW[None],  # type: ignore[index]
            ).last_hidden_state[:, -1]
            logits = torch.cat([hidden, heard], dim=-1) @ rest["head.weight"].T + rest["head.bias"]
            assert float(logits.softmax(dim=-1)[0, 1]) == pytest.approx(value, abs=1e-5)
        else:
            assert {"audio_projector.linear_1.weight", "audio_projector.linear_2.weight"} <= set(rest)
        assert vl.lm_head.weight.shape == (300, 16)
