"""Models at full shape with new weights: speed and memory do not ask what the weights say.

Enters: a preset's name, or its checkpoint. Leaves: an ``Avlm``, a processor's settings that go with it, and batches of
noise in the shape of real ones. Shapes are those of the published configurations: SigLIP so400m-patch14-384, Qwen2
0.5 B and 7 B, Whisper-small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from tidegate.errors import UsageError
from tidegate.models import Avlm, AvlmConfig, Batch, preset

__all__ = ["PRESETS", "BenchModel", "bench_model"]

_SIGLIP = {
    "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 26,
    "num_attention_heads": 16, "image_size": 384, "patch_size": 14, "vision_use_head": False,
}  # fmt: skip
_QWEN2 = {
    "model_type": "qwen2", "vocab_size": 152000, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
}  # fmt: skip
_QWEN2_7B = {**_QWEN2, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
             "num_attention_heads": 28, "num_key_value_heads": 4}  # fmt: skip
_QWEN2_05B = {**_QWEN2, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
              "num_attention_heads": 14, "num_key_value_heads": 2}  # fmt: skip
_WHISPER_SMALL = {
    "model_type": "whisper", "d_model": 768, "encoder_layers": 12, "encoder_attention_heads": 12,
    "encoder_ffn_dim": 3072, "num_mel_bins": 80, "max_source_positions": 1500, "vocab_size": 4, "decoder_layers": 1,
    "decoder_attention_heads": 1, "decoder_ffn_dim": 4, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 3,
}  # fmt: skip
PRESETS = {"tiny": None, "compact": _QWEN2_05B, "paper-ucc": _QWEN2_7B}
_VIDEO_TOKEN = 151647


@dataclass(frozen=True, kw_only=True, eq=False)
class BenchModel:
    """A model, and batches for it."""

    model: Avlm
    name: str
    image_size: int
    tokens_per_frame: int
    mel_frames: int
    text_tokens: int

    @property
    def num_parameters(self) -> int:
        """Parameters of all parts."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def batch(self, size: int, frames: int, *, device: str, dtype: torch.dtype) -> Batch:
        """Noise in the shape of ``size`` clips with ``frames`` frames, audio and texts each."""
        noise = torch.Generator().manual_seed(0)
        config: Any = self.model.vision_language.config
        placeholders = [config.video_token_id] * (frames * self.tokens_per_frame + 1)
        words = torch.randint(4, 100, (size, self.text_tokens), generator=noise)
        ids_BL = torch.cat([torch.tensor([placeholders] * size), words], dim=1)
        mel = None
        if self.model.audio is not None:
            bins = int((self.model.config.audio or {})["num_mel_bins"])
            mel = torch.randn(size, bins, self.mel_frames, generator=noise)
        side = self.image_size
        return Batch(
            size=size,
            pixels_NCHW=torch.randn(size * frames, 3, side, side, generator=noise).to(device, dtype),
            frames_per_clip_B=torch.full((size,), frames),
            mel_BMF=None if mel is None else mel.to(device, dtype),
            audio_positions_B=torch.full((size,), self.mel_frames // 2).to(device),
            token_ids_BL=ids_BL.to(device),
            token_mask_BL=torch.ones_like(ids_BL).to(device),
        )


def bench_model(name: str, *, device: str, dtype: torch.dtype, random_weights: bool) -> BenchModel:
    """The large model of a preset: with its own weights, or at its shape with new ones, with its language head."""
    if name not in PRESETS:
        raise UsageError(f"--preset: expected one of {', '.join(PRESETS)}, got {name!r}")
    text = PRESETS[name]
    if text is not None and random_weights:
        llava = {"model_type": "llava_onevision", "vision_config": _SIGLIP, "text_config": text,
                 "video_token_index": _VIDEO_TOKEN, "image_token_index": _VIDEO_TOKEN - 1}  # fmt: skip
        config = AvlmConfig(issue="bench", vision_language=llava, audio=_WHISPER_SMALL)
        with torch.device(device):
            return _described(Avlm(config).cast(str(dtype).removeprefix("torch.")).eval(), name, 3000, 128)
    stage = preset(name).load_stage("large", device=device)
    if not isinstance(stage.model, Avlm):
        raise UsageError(f"--preset: expected an AVLM in {name}, got {type(stage.model).__name__}")
    seconds = stage.processor.config.audio_seconds
    return _described(stage.model.cast(str(dtype).removeprefix("torch.")), name, 100 * seconds, 32)


def _described(model: Avlm, name: str, mel_frames: int, text_tokens: int) -> BenchModel:
    vision: Any = model.vision_language.config.vision_config
    side = math.ceil(vision.image_size // vision.patch_size / 2)
    return BenchModel(
        model=model,
        name=name,
        image_size=vision.image_size,
        tokens_per_frame=side * side,
        mel_frames=mel_frames,
        text_tokens=text_tokens,
    )
