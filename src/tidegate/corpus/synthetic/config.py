"""What to make: the one configuration of the synthetic corpus."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tidegate.corpus.synthetic.regions import region_weights
from tidegate.errors import ConfigError

__all__ = ["CORPUS_VERSION", "FRAME_RATE", "KEYFRAME_INTERVAL", "SyntheticConfig", "Task"]

CORPUS_VERSION = "2"
"""Changes whenever the same seed would give other pixels, samples or labels."""
FRAME_RATE = 12
"""Frames a second of every corpus video."""
KEYFRAME_INTERVAL = 12
"""Frames from one keyframe to the next: one a second, as phones write them; the first stage reads keyframes only."""
Task = Literal["icd", "ucc"]


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """How many videos of which kind, and where they go. ``workers`` does not change what is made."""

    out: str | os.PathLike[str]
    """Folder of the corpus; made if absent. Gets ``videos/`` and ``manifest.parquet``."""
    videos: int
    """How many; at least 1. A smaller corpus of the same seed is the beginning of a larger one."""
    seed: int = 0
    """0 or more."""
    task: Task = "icd"
    """``icd``: breaks the policy or not. ``ucc``: an original, or an edited copy of another clip in the pool."""
    regions: tuple[str, ...] | None = None
    """ISO 3166-1 alpha-2 codes to draw from; None for all."""
    prevalence: float = 0.3
    """Share of positive videos, in [0, 1]."""
    look_alike_share: float = 0.5
    """Share of the harmless videos that are built around a look-alike of some evidence, in [0, 1]."""
    noise_share: float = 0.25
    """Share of videos with a disturbance that leaves the label as it is (bit rate, blur, loud music, shaking camera),
    in [0, 1]."""
    workers: int = 1
    """Processes; at least 1."""

    def __post_init__(self) -> None:
        self._expect(self.videos >= 1, "videos", "at least 1", self.videos)
        self._expect(self.seed >= 0, "seed", "0 or more", self.seed)
        self._expect(self.workers >= 1, "workers", "at least 1", self.workers)
        self._expect(self.task in ("icd", "ucc"), "task", "icd or ucc", self.task)
        for name in ("prevalence", "look_alike_share", "noise_share"):
            self._expect(0.0 <= getattr(self, name) <= 1.0, name, "a share in [0, 1]", getattr(self, name))
        limit = 2 / 3
        copies_fit = self.task != "ucc" or self.prevalence <= limit
        self._expect(
            copies_fit, "prevalence", "at most 2/3 for ucc (a source starts with its original)", self.prevalence
        )
        region_weights(self.regions)

    @staticmethod
    def _expect(condition: bool, name: str, expected: str, came: object) -> None:
        if not condition:
            raise ConfigError(f"{name}: expected {expected}, got {came!r}")

    @property
    def folder(self) -> Path:
        """``out`` as an absolute path."""
        return Path(self.out).resolve()
