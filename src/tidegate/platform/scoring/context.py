"""What a scorer is told besides its own settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tidegate.pipeline.policy import Policy
from tidegate.platform.location import LocationRules

__all__ = ["ScoringContext"]


@dataclass(frozen=True, kw_only=True)
class ScoringContext:
    """Opened scorers are called ``open(settings, context)``."""

    policy: Policy
    """Its ``[cascade]`` says when the next stage is asked."""
    media_folder: Path | None = None
    """Where relative media locations lie."""
    locations: LocationRules = field(default_factory=LocationRules)
    later: bool = False
    """True: this scorer serves the loop of the later stages, so it defers nothing."""
