"""Preprocessing against the published processors' arithmetic, and prompts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from model_samples import PROCESSOR, make_clip
from transformers import WhisperFeatureExtractor
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from tidegate.errors import CheckpointError, ConfigError, ScoringError
from tidegate.models.configs import ProcessorConfig
from tidegate.models.frames import normalise, resize_frames
from tidegate.models.logmel import log_mel
from tidegate.models.processor import ClipProcessor
from tidegate.models.tokens import build_tokenizer, encode_texts, prompt_lines
from tidegate.types import AudioChunk, TextSpan


@pytest.mark.parametrize("size", [(180, 320), (64, 48), (500, 333)])
def test_frames_equal_siglip_image_processor(size: tuple[int, int]) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    config = ProcessorConfig(modalities=("vision",), image_size=112)
    published = SiglipImageProcessorPil(size={"height": 112, "width": 112})
    expected = published(list(frames), return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(normalise([resize_frames(frames, config)], config), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(180, 320), (320, 180), (97, 61)])
def test_frames_equal_resnets_image_processor(size: tuple[int, int]) -> None:
    frames = np.random.default_rng(1).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    config = ProcessorConfig(
        modalities=("vision",), image_size=56, resize="crop", crop_fraction=0.875, image_mean=mean, image_std=std
    )
    published = ConvNextImageProcessorPil(
        size={"shortest_edge": 56}, crop_pct=0.875, image_mean=mean, image_std=std, resample=3
    )
    expected = published(list(frames), return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(normalise([resize_frames(frames, config)], config), expected, atol=1e-5)


@pytest.mark.parametrize(("seconds", "mel_bins"), [(30, 80), (6, 64), (30, 128)])
@pytest.mark.parametrize("length_seconds", [0.2, 3.3, 31.0])
def test_log_mel_equals_whisper_feature_extractor(seconds: int, mel_bins: int, length_seconds: float) -> None:
    samples = np.random.default_rng(2).standard_normal(int(16000 * length_seconds)).astype(np.float32) * 0.1
    published = WhisperFeatureExtractor(feature_size=mel_bins, chunk_length=seconds)
    expected = published(samples, sampling_rate=16000, return_tensors="np")["input_features"]
    chunk = AudioChunk(samples=samples, sample_rate_hz=16000)
    np.testing.assert_allclose(log_mel([chunk], seconds=seconds, num_mel_bins=mel_bins), expected, atol=1e-4)


def test_log_mel_of_a_batch_equals_one_by_one() -> None:
    chunks = [make_clip(number, audio_seconds=number / 3).audio for number in range(1, 5)]
    together = log_mel(chunks, seconds=2, num_mel_bins=32)  # type: ignore[arg-type]
    alone = np.concatenate([log_mel([chunk], seconds=2, num_mel_bins=32) for chunk in chunks])  # type: ignore[list-item]
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_audio_at_another_rate_is_refused() -> None:
    with pytest.raises(ScoringError, match="16000 Hz, got 8000 Hz"):
        log_mel([AudioChunk(samples=np.zeros(10, np.float32), sample_rate_hz=8000)], seconds=2, num_mel_bins=32)


@pytest.mark.parametrize("text", ["नमस्ते दुनिया", "مرحبا", "你好，世界", "สวัสดี", "🙂👍🏽", "\u0000\ufffd", "Ünïcödé"])
def test_byte_level_vocabulary_encodes_every_script_without_loss(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_prompt_names_kind_and_language_and_ends_with_the_title() -> None:
    texts = [
        TextSpan("title", "Soup", "en"),
        TextSpan("sticker", " \n"),
        TextSpan("ocr", "sale"),
        TextSpan("chat", "hi"),
    ]
    assert prompt_lines(texts) == "chat: hi\nocr: sale\ntitle[en]: Soup\n"


def test_truncation_drops_from_the_left_and_is_recorded(processor: ClipProcessor, tokenizer: Any) -> None:
    texts = (TextSpan("title", "the end", "en"), TextSpan("transcript", "words " * 50))
    item = processor.features([replace(make_clip(1), texts=texts)])[0]
    whole, _ = encode_texts(tokenizer, texts, 10_000)
    assert item.token_ids.tolist() == whole[-24:]
    assert item.truncated_tokens == len(whole) - 24


def test_prompt_has_a_placeholder_for_each_video_token_and_one_newline(processor: ClipProcessor) -> None:
    batch = processor.collate(processor.features([make_clip(1), make_clip(2, frames=1), make_clip(3, frames=0)]))
    assert batch.token_ids_BL is not None
    assert (batch.token_ids_BL == 3).sum(dim=1).tolist() == [13, 5, 0]
    assert batch.token_ids_BL[:, -1].tolist() == [2, 2, 2]


def test_request_asks_only_for_what_the_model_uses() -> None:
    request = replace(PROCESSOR, modalities=("vision",), exact_frames=False, long_edge_pixels=96).request
    assert (request.num_frames, request.exact, request.audio, request.long_edge_pixels) == (3, False, False, 96)
    request = replace(PROCESSOR, modalities=("audio",)).request
    assert (request.num_frames, request.audio, request.max_audio_seconds) == (0, True, 2.0)


def test_text_model_without_tokenizer_is_refused() -> None:
    with pytest.raises(ConfigError, match="tokenizer"):
        ClipProcessor(PROCESSOR, None)
    other = build_tokenizer(["a"], 300)
    with pytest.raises(CheckpointError, match="nothere"):
        ClipProcessor(replace(PROCESSOR, pad_token="<nothere>"), other)


def test_fingerprint_changes_with_settings_and_vocabulary(processor: ClipProcessor) -> None:
    other = ClipProcessor(replace(PROCESSOR, num_frames=4), processor.tokenizer)
    third = ClipProcessor(PROCESSOR, build_tokenizer(["something else entirely"], 300))
    assert len({processor.fingerprint, other.fingerprint, third.fingerprint}) == 3
