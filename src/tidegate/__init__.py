"""Tidegate: moderation of video with a cascade of a cheap model and an audio-visual-language model.

``tidegate.load_preset("tiny").scan("video.mp4")`` returns an :class:`tidegate.types.Outcome`. Names are loaded on first
use, so that importing the package stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tidegate.pipeline.scanner import Scanner, load_preset
    from tidegate.types import Clip, ClipRequest, Outcome, Score

__version__ = "0.1.0"
__all__ = ["Clip", "ClipRequest", "Outcome", "Scanner", "Score", "__version__", "load_preset"]

_HOMES = {
    "Clip": "tidegate.types",
    "ClipRequest": "tidegate.types",
    "Outcome": "tidegate.types",
    "Scanner": "tidegate.pipeline.scanner",
    "Score": "tidegate.types",
    "load_preset": "tidegate.pipeline.scanner",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tidegate' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
