"""Configurations of small models of exactly the published classes, and clips to feed them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tidegate.models.configs import ProcessorConfig
from tidegate.types import AudioChunk, Clip, FrameBatch, Span, TextSpan

SIGLIP: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 48,
    "patch_size": 16,
}
QWEN2: dict[str, Any] = {
    "model_type": "qwen2",
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
LLAVA: dict[str, Any] = {
    "model_type": "llava_onevision",
    "vision_config": {**SIGLIP, "vision_use_head": False},
    "text_config": QWEN2,
    "video_token_index": 3,
    "image_token_index": 4,
}
WHISPER: dict[str, Any] = {
    "model_type": "whisper",
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "num_mel_bins": 32,
    "max_source_positions": 100,
    "vocab_size": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 3,
    "decoder_layers": 1,
    "decoder_attention_heads": 1,
    "decoder_ffn_dim": 4,
}
RESNET: dict[str, Any] = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "layer_type": "basic",
}
XLM_R: dict[str, Any] = {
    "model_type": "xlm-roberta",
    "vocab_size": 320,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
PROCESSOR = ProcessorConfig(
    modalities=("vision", "audio", "text"),
    num_frames=3,
    image_size=48,
    audio_seconds=2,
    num_mel_bins=32,
    video_tokens_per_frame=4,
    max_text_tokens=24,
    prompt_suffix="</s>",
)


def make_clip(
    number: int, *, frames: int = 3, audio_seconds: float = 1.5, text: str | None = "good morning", size: int = 60
) -> Clip:
    """A clip of noise; a modality can be left out."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 256, (frames, size, 80, 3), dtype=np.uint8)
    samples = (0.1 * rng.standard_normal(int(audio_seconds * 16000))).astype(np.float32)
    return Clip(
        video_id=f"clip{number}",
        span=Span(0.0, 3.0),
        frames=FrameBatch(frames_THWC=pixels, pts_seconds=np.arange(frames) * 1.0) if frames else None,
        audio=AudioChunk(samples=samples, sample_rate_hz=16000) if audio_seconds else None,
        texts=(TextSpan("title", f"{text} {number}", "en"),) if text else (),
    )
