"""Tables of features that can be learnt in seconds, and a folder of small real videos."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from tidegate.corpus.manifest import Entry, Manifest, write_manifest
from tidegate.media import encode_video
from tidegate.models.batch import ClipFeatures
from tidegate.models.configs import MultiTowerConfig, ProcessorConfig
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
