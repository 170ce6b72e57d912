"""Short encoded videos, and a judge that goes by their brightness: parts of the tests of planted clips."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from tidegate.bench.diagnosis_clips.system import Pair
from tidegate.corpus import Entry
from tidegate.media import encode_video
from tidegate.types import AudioChunk, Clip

RATE_HZ = 16_000


def tone(hz: float, seconds: float = 2.0) -> AudioChunk:
    """A sine."""
    times = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    return AudioChunk(samples=(0.3 * np.sin(2 * np.pi * hz * times)).astype(np.float32), sample_rate_hz=RATE_HZ)


def video(path: Path, brightness: int, seed: int, *, hz: float = 440.0) -> None:
    """Two seconds of texture that drifts, with a tone."""
    rng = np.random.default_rng(seed)
    texture = rng.integers(-40, 40, (64, 96, 3))
    frames = [np.clip(brightness + np.roll(texture, 3 * step, axis=1), 0, 255).astype(np.uint8) for step in range(24)]
    encode_video(path, iter(frames), Fraction(12), tone(hz))


def entry(folder: Path, number: int, label: int, *, split: str | None = None, issue: str = "icd") -> Entry:
    """Bright where it is labelled 1; two videos a source, regions and languages in turn."""
    path = folder / f"v{number:02d}.mp4"
    video(path, 170 if label else 90, number, hz=300 + 10 * number)
    return Entry(
        video_id=f"v{number:02d}", path=path, labels={issue: label}, source_id=f"s{number // 2}",
        region=("DE", "FR", "BR")[number % 3], language=("de", "fr", "pt")[number % 3], split=split,  # type: ignore[arg-type]
    )  # fmt: skip


class BrightnessJudge:
    """A cascade of two stages that both go by brightness; knows how many clips it has seen."""

    identity, num_frames = "brightness", 4

    def __init__(self) -> None:
        self.seen = 0

    def judge(self, rows: Sequence[int], clips: Sequence[Clip]) -> list[Pair]:
        """Brightness as both scores."""
        self.seen += len(clips)
        found: list[Pair] = []
        for clip in clips:
            assert clip.frames is not None
            score = float(clip.frames.frames_THWC.mean()) / 255
            found.append((score, score))
        return found
