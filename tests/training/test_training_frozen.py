"""Models over kept tower outputs score as whole models do, and a kept table reads back as it was written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_samples import RESNET, ListTable

from tidegate.errors import ConfigError
from tidegate.models.avlm import Avlm
from tidegate.models.batch import ClipFeatures
from tidegate.models.build import Model, build_model
from tidegate.models.configs import AvlmConfig, MultiTowerConfig, ProcessorConfig
from tidegate.models.processor import ClipProcessor
from tidegate.models.tokens import build_tokenizer
from tidegate.training.frozen import FrozenProcessor, fit_frozen, frozen_towers, open_frozen, run_towers, write_frozen
from tidegate.training.loop import Examples, score_rows
from tidegate.training.recipes import OptimiserConfig, tiny_base, whisper_encoder
from tidegate.training.towers import transplant_base

SIGLIP: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
TEXT: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "pad_token_id": 0,
}
LLAVA = {
    "model_type": "llava_onevision",
    "vision_config": {**SIGLIP, "vision_use_head": False},
    "text_config": {**TEXT, "model_type": "qwen2", "num_key_value_heads": 2},
    "video_token_index": 3,
    "image_token_index": 3,
}
XLM_R = {**TEXT, "model_type": "xlm-roberta", "max_position_embeddings": 64}
WHISPER = whisper_encoder(32, 1, 2, 16)
MODELS = {
    "late": AvlmConfig(issue="icd", vision_language=LLAVA, audio=WHISPER),
    "early": AvlmConfig(issue="icd", vision_language=LLAVA, audio=WHISPER, fusion="early"),
    "none": AvlmConfig(issue="icd", vision_language=LLAVA, audio=None, fusion="none"),
    "base": MultiTowerConfig(issue="icd", vision=SIGLIP, audio=WHISPER, text=XLM_R),
    "unpooled": MultiTowerConfig(issue="icd", vision={**SIGLIP, "vision_use_head": False}, text=XLM_R),
}


def _clips(count: int = 6) -> Examples:
    """Clips of noise; one without audio, one without frames."""
    rng = np.random.default_rng(0)
    items = [
        ClipFeatures(
            frames_THWC=None if number == 1 else rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8),
            mel_MF=None if number == 0 else rng.standard_normal((16, 200)).astype(np.float32),
            num_mel_frames=0 if number == 0 else 150,
            token_ids=rng.integers(5, 60, 4),
        )
        for number in range(count)
    ]
    labels = np.arange(count) % 2
    table = ListTable(tuple(f"v{number}" for number in range(count)), tuple(items))
    return Examples(table=table, rows=np.arange(count), labels=labels)


def _model(name: str) -> tuple[Model, ClipProcessor]:
    torch.manual_seed(0)
    config = MODELS[name]
    tokenizer = build_tokenizer([["one two three"]], 300)
    processor = ProcessorConfig(
        modalities=config.modalities,
        num_frames=2,
        image_size=32,
        audio_seconds=2,
        num_mel_bins=16,
        video_tokens_per_frame=4 if isinstance(config, AvlmConfig) else 0,
        prompt_suffix="</s>",
    )
    return build_model(config).eval(), ClipProcessor(processor, tokenizer)


@pytest.mark.parametrize("name", list(MODELS))
def test_scores_over_kept_tower_outputs_equal_the_whole_models(name: str, tmp_path: Path) -> None:
    model, processor = _model(name)
    clips = _clips()
    if "audio" not in model.config.modalities:
        items = [replace(item, mel_MF=None, num_mel_frames=0) for item in clips.table.items]  # type: ignore[attr-defined]
        clips = replace(clips, table=ListTable(clips.table.video_ids, tuple(items)))
    whole = score_rows(model, processor, clips.table, clips.rows.tolist())
    write_frozen(run_towers(model, processor, clips), tmp_path / "towers")
    kept = open_frozen(tmp_path / "towers")
    with frozen_towers(model):
        found = score_rows(model, FrozenProcessor(processor.config, processor.tokenizer), kept, range(len(kept)))
    assert kept.video_ids == clips.table.video_ids
    assert found == pytest.approx(whole, abs=1e-3), "patches are kept as float16"
    assert len(set(np.round(whole, 6))) == len(whole)


@pytest.mark.parametrize("name", ["late", "base"])
def test_frozen_training_changes_what_reads_the_towers_and_never_the_towers(name: str) -> None:
    model, processor = _model(name)
    clips = _clips(16)
    kept = run_towers(model, processor, clips)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    part = Examples(table=kept, rows=clips.rows, labels=clips.labels)
    config = OptimiserConfig(epochs=2, batch_size=8, learning_rate=1e-2)
    fit_frozen(model, processor, part, part, config, dropout=0.0)
    changed = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
    vision = "vision_language.vision_tower." if isinstance(model, Avlm) else "towers.vision.encoder.e"
    hearing = "audio.encoder." if isinstance(model, Avlm) else "towers.audio.encoder."
    reader = "vision_language.language_model." if isinstance(model, Avlm) else "towers.vision.encoder.head."
    assert not [key for key in changed if key.startswith((vision, hearing))]
    assert [key for key in changed if key.startswith(reader)]
    assert [key for key in changed if key.startswith("head.")]


def test_a_vision_tower_without_patches_to_keep_is_refused() -> None:
    model = build_model(MultiTowerConfig(issue="icd", vision=RESNET))
    processor = ClipProcessor(ProcessorConfig(modalities=("vision",), num_frames=2, image_size=32), None)
    clips = _clips()
    items = [replace(item, mel_MF=None, num_mel_frames=0) for item in clips.table.items]  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="SigLIP"):
        run_towers(model, processor, replace(clips, table=ListTable(clips.table.video_ids, tuple(items))))


def test_the_tiny_base_takes_over_the_tiny_avlms_towers() -> None:
    """Same sizes in both recipes; the pooling alone is new."""
    from tidegate.models.multitower import MultiTower
    from tidegate.training.recipes import tiny_avlm

    torch.manual_seed(1)
    large, base = build_model(tiny_avlm().model), build_model(tiny_base().model)
    assert isinstance(large, Avlm)
    assert isinstance(base, MultiTower)
    hearing = MultiTower(MultiTowerConfig(issue="icd", audio=tiny_avlm().model.audio))
    vision = large.vision_language.vision_tower.state_dict()
    transplant_base(base, vision=vision, audio=hearing)
    taken = base.towers.get_submodule("vision.encoder").state_dict()
    assert all(torch.equal(taken[name], tensor) for name, tensor in vision.items())
    heard = base.towers.get_submodule("audio").state_dict()
    assert all(torch.equal(heard[name], tensor) for name, tensor in hearing.towers["audio"].state_dict().items())
