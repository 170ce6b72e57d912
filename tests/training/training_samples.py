"""Tables of features that can be learnt in seconds, and a folder of small real videos."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tidegate.corpus.manifest import Entry, Manifest, write_manifest
from tidegate.media import encode_video
from tidegate.models.avlm import Avlm
from tidegate.models.batch import ClipFeatures
from tidegate.models.configs import AvlmConfig, MultiTowerConfig, ProcessorConfig
from tidegate.models.processor import ClipProcessor
from tidegate.models.tokens import build_tokenizer
from tidegate.training.loop import Examples
from tidegate.types import AudioChunk, TextSpan

RESNET: dict[str, Any] = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "layer_type": "basic",
}
VISION_ONLY = MultiTowerConfig(issue="icd", vision=RESNET)
PROCESSOR = ProcessorConfig(modalities=("vision",), num_frames=2, image_size=16)


@dataclass(frozen=True)
class ListTable:
    """Clips in memory."""

    video_ids: tuple[str, ...]
    items: tuple[ClipFeatures, ...]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> ClipFeatures:
        return self.items[row]


def bright_or_dark(count: int, seed: int, *, auxiliary: bool = False) -> Examples:
    """Violating clips are bright."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    items = [
        ClipFeatures(
            frames_THWC=(rng.integers(0, 100, (2, 16, 16, 3)) + 120 * label).astype(np.uint8),
            mel_MF=None,
            num_mel_frames=0,
            token_ids=np.zeros(0, dtype=np.int64),
        )
        for label in labels
    ]
    table = ListTable(tuple(f"v{seed}-{number}" for number in range(count)), tuple(items))
    targets = {"brightness": labels.astype(np.int64)} if auxiliary else {}
    return Examples(table=table, rows=np.arange(count), labels=labels.astype(np.int64), auxiliary=targets)


def small_corpus(folder: Path, count: int = 18, *, broken: bool = False) -> Path:
    """Real MP4s with sound; violating ones are bright. The last file is a text file if ``broken``."""
    rng, entries = np.random.default_rng(0), []
    for number in range(count):
        label, path = number % 2, folder / f"v{number:02d}.mp4"
        frames = (rng.integers(0, 90, (12, 48, 64, 3)) + 130 * label).astype(np.uint8)
        audio = AudioChunk(samples=(0.1 * rng.standard_normal(16000)).astype(np.float32), sample_rate_hz=16000)
        if broken and number == count - 1:
            path.write_text("not a video")
        else:
            encode_video(path, iter(frames), Fraction(12), audio)
        entries.append(
            Entry(
                video_id=f"v{number:02d}",
                path=path,
                labels={"icd": label},
                source_id=f"s{number // 2}",
                split=("train", "validation", "test")[(number // 2) % 3],
                texts=(TextSpan("title", f"good morning {number}", "en"),),
            )
        )
    manifest = folder / "manifest.csv"
    write_manifest(Manifest(entries=tuple(entries)), manifest)
    return manifest


AVLM = AvlmConfig(
    issue="icd",
    vision_language={
        "model_type": "llava_onevision",
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 16,
            "vision_use_head": False,
        },
        "text_config": {
            "model_type": "qwen2",
            "vocab_size": 300,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "pad_token_id": 0,
        },
        "image_token_index": 3,
        "video_token_index": 3,
    },
    audio={
        "model_type": "whisper",
        "d_model": 16,
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "num_mel_bins": 16,
        "max_source_positions": 50,
        "vocab_size": 4,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 3,
        "decoder_layers": 1,
        "decoder_attention_heads": 1,
        "decoder_ffn_dim": 4,
    },
)
AVLM_PROCESSOR = ProcessorConfig(
    modalities=("vision", "audio", "text"),
    num_frames=2,
    image_size=32,
    audio_seconds=1,
    num_mel_bins=16,
    video_tokens_per_frame=1,
    max_text_tokens=16,
    prompt_suffix="</s>",
)


def small_avlm(config: AvlmConfig = AVLM, seed: int = 0) -> tuple[Avlm, ClipProcessor]:
    """A model of the published classes with new weights, and its processor."""
    tokenizer = build_tokenizer(["good morning", "wait and see"], 300)
    torch.manual_seed(seed)
    return Avlm(config), ClipProcessor(AVLM_PROCESSOR, tokenizer)


def seen_and_heard(count: int, seed: int, *, issues: int = 1) -> Examples:
    """Clips with frames, sound and text; violating ones are bright. Labels of more issues are often missing."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    items = [
        ClipFeatures(
            frames_THWC=(rng.integers(0, 100, (2, 32, 32, 3)) + 120 * label).astype(np.uint8),
            mel_MF=rng.standard_normal((16, 100)).astype(np.float32),
            num_mel_frames=int(rng.integers(20, 100)),
            token_ids=rng.integers(4, 250, int(rng.integers(1, 6))),
        )
        for label in labels
    ]
    more = rng.integers(-1, 2, (count, issues - 1))
    columns = np.column_stack([labels, more]).astype(np.int64)
    table = ListTable(tuple(f"c{seed}-{number}" for number in range(count)), tuple(items))
    return Examples(table=table, rows=np.arange(count), labels=columns[:, 0] if issues == 1 else columns)
