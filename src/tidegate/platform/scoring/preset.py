"""Scoring in this process: the stages of a preset, with the policy's routing.

Enters: a preset's name (or a folder with checkpoints in ``base`` and ``large``). Leaves: a ``CascadeScorer``. With
``defer`` the later stages run in a loop of their own behind the waiting room, so that a slow large stage does not hold
the cheap one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tidegate.platform.scoring.context import ScoringContext

if TYPE_CHECKING:
    from tidegate.platform.scoring.cascade import CascadeScorer

__all__ = ["PresetScorerSettings", "open_preset_scorer"]


@dataclass(frozen=True, kw_only=True)
class PresetScorerSettings:
    """``[scoring] kind = "preset"``."""

    preset: str = "tiny"
    """Name of a preset, or a folder with checkpoints in ``base`` and ``large``."""
    device: str = "cpu"
    """Where the models run: cpu, cuda, cuda:1."""
    batch_size: int = 1
    """Clips that a stage is given at a time. Over 1, the last bits of a score depend on its batch, and
    ``tidegate replay-decision`` reports them as a difference."""
    decoders: int = 1
    """Decoding processes of each worker."""
    defer: bool = False
    """True: later stages have a loop of their own."""
    fetch_urls: bool = False
    """True: http(s) locations are downloaded for reading, under the rules of ``[locations]``."""

    def gpus_of(self, stage: str) -> float:
        """GPUs that a stage holds while it computes."""
        return 1.0 if self.device.startswith("cuda") else 0.0

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.decoders < 1:
            raise ValueError(f"expected batch_size >= 1 and decoders >= 1, got {self.batch_size}, {self.decoders}")


def open_preset_scorer(settings: PresetScorerSettings, context: ScoringContext) -> CascadeScorer:
    """The scorer of a configuration."""
    from tidegate.platform.scoring.assembly import load_stages, local_scorer

    stages = load_stages(settings.preset, device=settings.device, batch_size=settings.batch_size)
    return local_scorer(stages, settings, context)
