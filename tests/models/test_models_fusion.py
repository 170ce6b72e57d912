"""Early, late and no fusion of audio: what reaches the decision, what is masked, what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from model_samples import LLAVA, WHISPER, make_clip
from torch import nn

from tidegate.errors import ConfigError
from tidegate.models.avlm import Avlm
from tidegate.models.configs import AvlmConfig
from tidegate.models.pooling import mean_of_stretches
from tidegate.models.processor import ClipProcessor
from tidegate.types import Clip

FUSIONS = [("late", 1), ("early", 1), ("early", 5)]


def build(fusion: str, audio_tokens: int) -> Avlm:
    torch.manual_seed(0)
    config = AvlmConfig(
        issue="icd",
        vision_language=LLAVA,
        audio=WHISPER,
        fusion=fusion,  # type: ignore[arg-type]
        audio_tokens=audio_tokens,
    )
    model = Avlm(config).eval()
    nn.init.normal_(model.audio.absent_D)  # type: ignore[union-attr]
    return model


def logits(model: Avlm, processor: ClipProcessor, *clips: Clip) -> torch.Tensor:
    with torch.inference_mode():
        return model(processor.collate(processor.features(clips)))


@pytest.mark.parametrize(("fusion", "audio_tokens"), FUSIONS)
def test_gradient_reaches_the_audio_tower_and_the_other_towers(
    fusion: str, audio_tokens: int, processor: ClipProcessor
) -> None:
    model = build(fusion, audio_tokens).train()
    model(processor.collate(processor.features([make_clip(1), make_clip(2, audio_seconds=0)])))[:, 1].sum().backward()
    assert model.audio is not None
    parts = {
        "audio": model.audio.encoder.conv1.weight,
        "no audio": model.audio.absent_D,
        "vision": model.vision_language.multi_modal_projector.linear_1.weight,
        "language": model.vision_language.language_model.layers[0].mlp.up_proj.weight,
    }
    if model.audio_projector is not None:
        parts["audio projector"] = model.audio_projector.linear_1.weight
    for name, weight in parts.items():
        assert weight.grad is not None, name
        assert float(weight.grad.abs().max()) > 0, name


@pytest.mark.parametrize(("fusion", "audio_tokens"), FUSIONS)
def test_logits_change_when_only_the_audio_is_swapped(fusion: str, audio_tokens: int, processor: ClipProcessor) -> None:
    model, clip = build(fusion, audio_tokens), make_clip(1)
    swapped = replace(clip, audio=make_clip(2).audio)
    absent = replace(clip, audio=None)
    values = [logits(model, processor, item) for item in (clip, swapped, absent)]
    assert float((values[0] - values[1]).abs().max()) > 1e-5
    assert float((values[0] - values[2]).abs().max()) > 1e-4


@pytest.mark.parametrize(("fusion", "audio_tokens"), FUSIONS)
def test_mixed_batch_scores_each_clip_as_alone_and_records_what_is_missing(
    fusion: str, audio_tokens: int, processor: ClipProcessor
) -> None:
    model = build(fusion, audio_tokens)
    clips = [
        make_clip(1, text="hi"),
        make_clip(2, audio_seconds=0, text="a much longer title about nothing at all"),
        make_clip(3, audio_seconds=0.1, frames=0),
        make_clip(4, text=None),
    ]
    assert [item.missing for item in processor.features(clips)] == [(), ("audio",), ("vision",), ("text",)]
    alone = torch.cat([logits(model, processor, clip) for clip in clips])
    np.testing.assert_allclose(logits(model, processor, *clips), alone, atol=1e-5)


def test_early_fusion_puts_the_projected_audio_last_in_the_language_models_input(processor: ClipProcessor) -> None:
    model = build("early", 1)
    batch = processor.collate(processor.features([make_clip(1, audio_seconds=1.0)]))
    with torch.inference_mode():
        inputs = model.inputs(batch)
        prompt = replace(model.config, audio=None, fusion="none")
        plain = Avlm(prompt, vision_language=model.vision_language).inputs(batch)
        heard = model.audio.encoder(batch.mel_BMF).last_hidden_state[:, :50].mean(dim=1)  # type: ignore[union-attr]
        projected = model.audio_projector(heard[:, None])  # type: ignore[misc]
    np.testing.assert_allclose(inputs.embeds_BLD[:, :-1], plain.embeds_BLD, atol=1e-6)
    np.testing.assert_allclose(inputs.embeds_BLD[:, -1:], projected, atol=1e-6)
    assert model.width == LLAVA["text_config"]["hidden_size"]


def test_of_a_clip_without_audio_only_the_learnt_token_is_seen(processor: ClipProcessor) -> None:
    model = build("early", 5)
    batch = processor.collate(processor.features([make_clip(1), make_clip(2, audio_seconds=0)]))
    inputs = model.inputs(batch)
    assert inputs.mask_BL[:, -5:].tolist() == [[1, 1, 1, 1, 1], [0, 0, 0, 0, 1]]
    assert int(inputs.positions()[1, -1]) == int(inputs.mask_BL[1].sum()) - 1
    nobody = processor.collate(processor.features([make_clip(2, audio_seconds=0)]))
    assert model.inputs(nobody).mask_BL[:, -5:].tolist() == [[0, 0, 0, 0, 1]]


@pytest.mark.parametrize("count", [1, 2, 5, 7])
def test_stretches_are_adaptive_average_pooling_of_the_real_positions(count: int) -> None:
    hidden_BLD = torch.randn(4, 12, 3, generator=torch.Generator().manual_seed(0))
    lengths = [12, 7, 2, 1]
    found = mean_of_stretches(hidden_BLD, torch.tensor(lengths), count)
    for row, length in enumerate(lengths):
        pooled = nn.functional.adaptive_avg_pool1d(hidden_BLD[row, :length].T[None], count)[0].T
        np.testing.assert_allclose(found[row], pooled, atol=1e-6)


def test_checkpointing_of_activations_changes_no_gradient(processor: ClipProcessor) -> None:
    batch = processor.collate(processor.features([make_clip(1), make_clip(2, audio_seconds=0)]))
    gradients = []
    for enabled in (False, True):
        model = build("early", 5).train()
        model.gradient_checkpointing(enabled)
        assert model.vision_language.is_activation_checkpointing is enabled
        model(batch)[:, 1].sum().backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        np.testing.assert_allclose(gradients[1][name], gradient, atol=1e-6, err_msg=name)
    model.gradient_checkpointing(False)
    assert not model.vision_language.is_activation_checkpointing


def test_next_token_logits_are_kept_only_on_request(processor: ClipProcessor) -> None:
    hidden_BD = torch.zeros(2, 32)
    with pytest.raises(ConfigError, match="language_head"):
        build("late", 1).token_logits(hidden_BD)
    for tied in (False, True):
        text = {**LLAVA["text_config"], "tie_word_embeddings": tied}
        vl = {**LLAVA, "text_config": text, "tie_word_embeddings": tied}
        model = Avlm(AvlmConfig(issue="icd", vision_language=vl, audio=None, fusion="none", language_head=True))
        assert model.token_logits(hidden_BD).shape == (2, 320)
        assert any("language_head" in name for name in model.state_dict()) is not tied


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fusion": "sideways"}, "sideways"),
        ({"fusion": "none"}, "audio tower"),
        ({"audio": None}, "audio tower"),
        ({"fusion": "early", "audio_tokens": 0}, "audio_tokens"),
        ({"fusion": "late", "audio_tokens": 4}, "audio_tokens"),
        ({"more_issues": ("icd",)}, "issues"),
        ({"more_issues": ("",)}, "issues"),
    ],
)
def test_configuration_that_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    values = {"issue": "icd", "vision_language": LLAVA, "audio": WHISPER, **changes}
    with pytest.raises(ConfigError, match=message):
        AvlmConfig(**values)  # type: ignore[arg-type]
