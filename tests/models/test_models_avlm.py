"""The AVLM against transformers' own forward pass, and what it must not do: ignore audio, depend on its batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from model_samples import make_clip
from transformers import LlavaOnevisionForConditionalGeneration
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from tidegate.errors import ScoringError
from tidegate.models.avlm import Avlm
from tidegate.models.configs import AvlmConfig
from tidegate.models.multitower import MultiTower
from tidegate.models.processor import ClipProcessor
from tidegate.types import AudioChunk, Clip


def logits(model: Avlm | MultiTower, processor: ClipProcessor, *clips: Clip) -> torch.Tensor:
    with torch.inference_mode():
        return model(processor.collate(processor.features(clips)))


def test_last_hidden_state_equals_transformers_own_forward(avlm: Avlm, processor: ClipProcessor) -> None:
    batch = processor.collate(processor.features([make_clip(1), make_clip(2, text="a longer title for this clip")]))
    reference = LlavaOnevisionForConditionalGeneration(avlm.vision_language.config).eval()
    reference.model.load_state_dict(avlm.vision_language.state_dict())
    with torch.inference_mode():
        expected = reference.model(
            input_ids=batch.token_ids_BL,
            attention_mask=batch.token_mask_BL,
            pixel_values_videos=batch.pixels_NCHW.unflatten(0, (2, 3)),
        ).last_hidden_state[:, -1]
        np.testing.assert_allclose(avlm.hidden(batch), expected, atol=1e-5)


def test_audio_vector_is_the_mean_of_whisper_states_over_real_audio(avlm: Avlm, processor: ClipProcessor) -> None:
    batch = processor.collate(processor.features([make_clip(1, audio_seconds=1.0)]))
    assert avlm.audio is not None
    encoder = WhisperEncoder(avlm.audio.encoder.config).eval()
    encoder.load_state_dict(avlm.audio.encoder.state_dict())
    with torch.inference_mode():
        expected = encoder(batch.mel_BMF).last_hidden_state[:, :50].mean(dim=1)
        np.testing.assert_allclose(avlm.audio(batch), expected, atol=1e-6)


def test_gradient_reaches_every_tower(avlm: Avlm, processor: ClipProcessor) -> None:
    avlm.train()
    avlm(processor.collate(processor.features([make_clip(1), make_clip(2)])))[:, 1].sum().backward()
    assert avlm.audio is not None
    for name, module in {
        "audio": avlm.audio.encoder.conv1,
        "vision": avlm.vision_language.vision_tower.embeddings.patch_embedding
        if hasattr(avlm.vision_language.vision_tower, "embeddings")
        else avlm.vision_language.vision_tower.vision_model.embeddings.patch_embedding,
        "projector": avlm.vision_language.multi_modal_projector.linear_1,
        "language": avlm.vision_language.language_model.layers[0].mlp.up_proj,
    }.items():
        assert module.weight.grad is not None, name
        assert float(module.weight.grad.abs().max()) > 0, name


def test_logits_change_when_only_the_audio_is_swapped(avlm: Avlm, processor: ClipProcessor) -> None:
    clip = make_clip(1)
    swapped = replace(clip, audio=make_clip(2).audio)
    assert float((logits(avlm, processor, clip) - logits(avlm, processor, swapped)).abs().max()) > 1e-4


def test_left_padding_changes_nothing(avlm: Avlm, processor: ClipProcessor) -> None:
    short, long = make_clip(1, text="hi"), make_clip(2, text="a much longer title about nothing at all")
    together = processor.collate(processor.features([short, long]))
    assert int(together.token_mask_BL[0, 0]) == 0
    np.testing.assert_allclose(logits(avlm, processor, short, long)[:1], logits(avlm, processor, short), atol=1e-5)


@pytest.mark.parametrize("kind", ["avlm", "towers"])
def test_a_clip_scores_the_same_alone_and_in_any_batch(kind: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(kind)
    processor = request.getfixturevalue("processor" if kind == "avlm" else "towers_processor")
    clips = [
        make_clip(1),
        make_clip(2, frames=1),
        make_clip(3, frames=0),
        make_clip(4, audio_seconds=0),
        make_clip(5, text=None),
        make_clip(6, audio_seconds=0.3),
    ]
    alone = torch.cat([logits(model, processor, clip) for clip in clips])
    np.testing.assert_allclose(logits(model, processor, *clips), alone, atol=1e-5)


def test_missing_audio_is_not_scored_as_silence(avlm: Avlm, processor: ClipProcessor) -> None:
    clip = make_clip(1)
    silent = replace(clip, audio=AudioChunk(samples=np.zeros(24000, np.float32), sample_rate_hz=16000))
    absent = replace(clip, audio=None)
    assert processor.features([absent])[0].missing == ("audio",)
    assert float((logits(avlm, processor, silent) - logits(avlm, processor, absent)).abs().max()) > 1e-4


def test_all_clips_without_frames_or_text_still_score(avlm: Avlm, processor: ClipProcessor) -> None:
    result = logits(avlm, processor, make_clip(1, frames=0, text=None), make_clip(2, frames=0, text=None))
    assert torch.isfinite(result).all()


def test_audio_positions_follow_the_real_length(processor: ClipProcessor) -> None:
    batch = processor.collate(processor.features([make_clip(1, audio_seconds=0.5), make_clip(2, audio_seconds=0)]))
    assert batch.audio_positions_B is not None
    assert batch.audio_positions_B.tolist() == [25, 0]


def test_model_without_audio_tower_takes_only_vision_and_text(avlm: Avlm) -> None:
    config = AvlmConfig(issue="icd", vision_language=avlm.config.vision_language, audio=None, fusion="none")
    assert config.modalities == ("vision", "text")
    assert Avlm(config).head.in_features == 32


def test_prompt_and_vision_tower_must_agree_on_the_number_of_tokens(avlm: Avlm, processor: ClipProcessor) -> None:
    wrong = ClipProcessor(replace(processor.config, video_tokens_per_frame=5), processor.tokenizer)
    with pytest.raises(ScoringError, match="16 video tokens"):
        logits(avlm, wrong, make_clip(1))
