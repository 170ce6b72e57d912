"""Published checkpoints in every layout that is in use, and what is said of those that cannot be used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import LLAVA, PROCESSOR, SIGLIP, WHISPER, XLM_R, make_clip
from safetensors.torch import load_file, save_file
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    SiglipConfig,
    SiglipModel,
    WhisperConfig,
    WhisperModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from tidegate.errors import CheckpointError, ConfigError
from tidegate.models.avlm import Avlm
from tidegate.models.batch import Batch
from tidegate.models.compose import compose_avlm, compose_towers
from tidegate.models.configs import ProcessorConfig
from tidegate.models.frames import normalise, resize_frames
from tidegate.models.processor import ClipProcessor
from tidegate.models.tokens import build_tokenizer
from tidegate.types import TextSpan


def config_of(cls: Any, values: dict[str, Any]) -> Any:
    return cls(**{key: value for key, value in values.items() if key != "model_type"})


def published(folder: Path, values: dict[str, Any], tokenizer: Any) -> LlavaOnevisionForConditionalGeneration:
    """A folder as the hub holds it."""
    torch.manual_seed(0)
    model = LlavaOnevisionForConditionalGeneration(config_of(LlavaOnevisionConfig, values)).eval()
    model.save_pretrained(folder)
    size = values["vision_config"]["image_size"]
    image = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3, "size": {"height": size, "width": size}}
    (folder / "preprocessor_config.json").write_text(json.dumps(image))
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": {"content": "<pad>"}}))
    return model


@pytest.fixture
def llava(tmp_path: Path, tokenizer: Any) -> Path:
    published(tmp_path / "llava", LLAVA, tokenizer)
    return tmp_path / "llava"


def first_release_names(name: str) -> str:
    """Names of the files on the hub, which were written before the trunk became ``model``."""
    if name.startswith("lm_head"):
        return f"language_model.{name}"
    name = name.removeprefix("model.").replace("language_model.", "language_model.model.")
    return name.replace("vision_tower.", "vision_tower.vision_model.") if "vision_model" not in name else name


@pytest.mark.parametrize("layout", ["as saved today", "names of the first release", "shards with an index"])
@pytest.mark.parametrize("tied", [False, True])
def test_every_layout_gives_the_reference_logits(layout: str, tied: bool, tmp_path: Path, tokenizer: Any) -> None:
    folder = tmp_path / "llava"
    values = {**LLAVA, "text_config": {**LLAVA["text_config"], "tie_word_embeddings": tied}}
    reference = published(folder, values, tokenizer)
    if layout == "shards with an index":
        reference.save_pretrained(folder, max_shard_size="40KB")
        (folder / "model.safetensors").unlink(missing_ok=True)
        assert len(list(folder.glob("model-*.safetensors"))) > 1
    elif layout == "names of the first release":
        state = {first_release_names(name): tensor.contiguous() for name, tensor in reference.state_dict().items()}
        if tied:
            del state["language_model.lm_head.weight"]
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    model, processor, _ = compose_avlm(vl=str(folder), language_head=True, num_frames=3)
    batch = processor.collate(processor.features([make_clip(1), make_clip(2, text="a longer title for this clip")]))
    assert batch.pixels_NCHW is not None
    with torch.inference_mode():
        expected = reference(
            input_ids=batch.token_ids_BL,
            attention_mask=batch.token_mask_BL,
            pixel_values_videos=batch.pixels_NCHW.unflatten(0, (2, 3)),
        ).logits[:, -1]
        np.testing.assert_allclose(model.eval().token_logits(model.hidden(batch)), expected, atol=1e-5)


def test_frames_pool_to_196_tokens_and_a_newline_as_at_7b(tokenizer: Any, tmp_path: Path) -> None:
    vision = {**SIGLIP, "image_size": 384, "patch_size": 14, "vision_use_head": False, "num_hidden_layers": 1}
    reference = published(tmp_path / "llava", {**LLAVA, "vision_config": vision}, tokenizer)
    model, processor, _ = compose_avlm(vl=str(tmp_path / "llava"), num_frames=2)
    assert processor.config.video_tokens_per_frame == 196
    batch = processor.collate(processor.features([make_clip(1, frames=2)]))
    assert batch.token_ids_BL is not None
    assert batch.pixels_NCHW is not None
    assert int((batch.token_ids_BL == LLAVA["video_token_index"]).sum()) == 2 * 196 + 1
    with torch.inference_mode():
        features = reference.model.get_video_features(batch.pixels_NCHW[None], return_dict=True).pooler_output
        tokens = model.eval().video_tokens(batch)
        assert tokens is not None
        np.testing.assert_allclose(tokens, features[0], atol=1e-6)
        expected = reference.model(
            input_ids=batch.token_ids_BL,
            attention_mask=batch.token_mask_BL,
            pixel_values_videos=batch.pixels_NCHW[None],
        ).last_hidden_state[:, -1]
        np.testing.assert_allclose(model.hidden(batch), expected, atol=1e-5)


def test_whisper_without_a_head_and_early_fusion_load_by_folder(llava: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    WhisperModel(config_of(WhisperConfig, WHISPER)).save_pretrained(tmp_path / "whisper")
    model = Avlm.from_pretrained(
        vl=str(llava), audio=str(tmp_path / "whisper"), fusion="early", audio_tokens=4, more_issues=("ucc",)
    )
    reference = WhisperModel.from_pretrained(tmp_path / "whisper").eval().get_encoder()
    mel_BMF = torch.randn(1, 32, 200)
    with torch.inference_mode():
        expected = reference(mel_BMF).last_hidden_state.mean(dim=1)
        assert model.audio is not None
        heard = model.eval().audio(Batch(size=1, mel_BMF=mel_BMF, audio_positions_B=torch.tensor([100])))  # type: ignore[misc]
        np.testing.assert_allclose(heard, expected, atol=1e-6)
    assert (model.config.issues, model.config.audio_tokens) == (("icd", "ucc"), 4)


def test_weights_load_in_half_precision(llava: Path) -> None:
    model = Avlm.from_pretrained(vl=str(llava), dtype="bfloat16")
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    rotary = model.vision_language.language_model.rotary_emb.inv_freq
    assert rotary.dtype == torch.float32
    assert torch.equal(rotary, Avlm.from_pretrained(vl=str(llava)).vision_language.language_model.rotary_emb.inv_freq)
    with pytest.raises(ConfigError, match="int4"):
        Avlm.from_pretrained(vl=str(llava), dtype="int4")


def test_siglip_gives_its_vision_and_its_text_tower(tmp_path: Path, tokenizer: Any) -> None:
    text = {"vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "max_position_embeddings": 16, "pad_token_id": 2}
    torch.manual_seed(0)
    reference = SiglipModel(SiglipConfig(vision_config=dict(SIGLIP), text_config=text)).eval()
    folder = tmp_path / "siglip"
    reference.save_pretrained(folder)
    image = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3, "size": {"height": 48, "width": 48}}
    (folder / "preprocessor_config.json").write_text(json.dumps(image))
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    model, processor, _ = compose_towers(vision=str(folder), text=str(folder), num_frames=3)
    batch = processor.collate(processor.features([make_clip(1, text="hi"), make_clip(2, text="good morning again")]))
    assert batch.token_ids_BL is not None
    padded = torch.full((2, 16), 2)
    for row, ids, mask in zip(padded, batch.token_ids_BL, batch.token_mask_BL, strict=True):  # type: ignore[arg-type]
        row[: int(mask.sum())] = ids[mask.bool()]
    with torch.inference_mode():
        seen = reference.vision_model(batch.pixels_NCHW).pooler_output.unflatten(0, (2, 3)).mean(dim=1)
        read = reference.text_model(input_ids=padded).pooler_output
        np.testing.assert_allclose(model.eval().embed(batch), torch.cat([seen, read], dim=-1), atol=1e-5)


def drop_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def pickle_instead(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    drop_weights(folder)


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def lose_a_shard(folder: Path) -> None:
    LlavaOnevisionForConditionalGeneration.from_pretrained(folder).save_pretrained(folder, max_shard_size="40KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    sorted(folder.glob("model-*.safetensors"))[0].unlink()


def other_vocabulary(folder: Path) -> None:
    (folder / "tokenizer.json").write_text(
        build_tokenizer([f"wordy{n} sentence{n}" for n in range(90)] * 2, 400).to_str()
    )


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model": {}')


def lose_a_tensor(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    del state[next(name for name in state if "multi_modal_projector" in name)]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def other_shapes(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    values["text_config"]["hidden_size"] = 64
    (folder / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_weights, "safetensors"),
        (pickle_instead, "safetensors"),
        (truncate, "LLaVA-OneVision"),
        (lose_a_shard, "LLaVA-OneVision"),
        (lose_a_tensor, "multi_modal_projector"),
        (other_shapes, "shape|size"),
        (other_vocabulary, "at most 320 tokens"),
        (no_tokenizer, "tokenizer.json"),
    ],
)
def test_damaged_source_is_refused_with_what_was_expected(
    damage: Callable[[Path], None], message: str, llava: Path
) -> None:
    damage(llava)
    with pytest.raises(CheckpointError, match=message) as caught:
        compose_avlm(vl=str(llava))
    assert str(llava) in str(caught.value)


def test_tower_of_the_wrong_kind_is_named(llava: Path, tmp_path: Path) -> None:
    XLMRobertaModel(config_of(XLMRobertaConfig, XLM_R)).save_pretrained(tmp_path / "xlmr")
    with pytest.raises(CheckpointError, match=r"image encoder.*XLMRoberta"):
        compose_towers(vision=str(tmp_path / "xlmr"))
    with pytest.raises(CheckpointError, match=r"model_type 'whisper'.*found 'llava_onevision'"):
        Avlm.from_pretrained(vl=str(llava), audio=str(llava))
    shutil.rmtree(llava)
    with pytest.raises(CheckpointError, match="llava"):
        Avlm.from_pretrained(vl=str(llava))


@pytest.mark.parametrize("size", [(180, 320), (500, 333)])
def test_frames_equal_llava_onevisions_own_resize_of_a_frame(size: tuple[int, int]) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    config = ProcessorConfig(modalities=("vision",), image_size=112)
    published_one = LlavaOnevisionImageProcessorPil(size={"height": 112, "width": 112})
    # The first patch of the any-resolution form is the whole picture squashed; video frames are only ever that.
    expected = np.stack([published_one(frame, return_tensors="np")["pixel_values"][0, 0] for frame in frames])
    found = normalise([resize_frames(frames, config)], config)
    mean, std = np.asarray(published_one.image_mean), np.asarray(published_one.image_std)
    rescaled = found.permute(0, 2, 3, 1).numpy() * 0.5 + 0.5
    np.testing.assert_allclose(((rescaled - mean) / std).transpose(0, 3, 1, 2), expected, atol=1e-4)


@pytest.mark.parametrize("title", ["<video>", "</s><s><pad> <video><video>"])
def test_special_tokens_in_a_title_are_letters(title: str, avlm: Avlm, processor: ClipProcessor) -> None:
    clip = replace(make_clip(1), texts=(TextSpan("title", title),))
    batch = processor.collate(processor.features([clip]))
    assert batch.token_ids_BL is not None
    assert int((batch.token_ids_BL == LLAVA["video_token_index"]).sum()) == 3 * PROCESSOR.video_tokens_per_frame + 1
    assert int((batch.token_ids_BL == 2).sum()) == 1
    with torch.inference_mode():
        assert torch.isfinite(avlm(batch)).all()
