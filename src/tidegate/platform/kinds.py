"""Every kind that a configuration file can name, by table. Client libraries are imported when one is opened."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from tidegate.platform.contracts import Backend
from tidegate.platform.eventlog import LogSettings, open_log
from tidegate.platform.scoring.feature import FeatureScorerSettings, open_feature_scorer
from tidegate.platform.scoring.http import HttpScorerSettings, open_http_scorer
from tidegate.platform.scoring.preset import PresetScorerSettings, open_preset_scorer
from tidegate.platform.scoring.ray_settings import (
    RayBackfillSettings,
    RayScorerSettings,
    open_ray_backfill,
    open_ray_serve,
)

__all__ = ["FEATURES", "INDEXES", "KNOWN", "LETTERS", "PUBLISHERS", "SCORERS", "SOURCES"]


def _kinds(module: str, name: str) -> Mapping[str, Backend]:
    kinds: Mapping[str, Backend] = getattr(importlib.import_module(f"tidegate.platform.{module}"), name)
    return kinds


SOURCES = {**_kinds("sources", "KINDS"), "log": Backend(settings=LogSettings, open=open_log)}
FEATURES = _kinds("features", "KINDS")
KNOWN = _kinds("known", "KINDS")
INDEXES = _kinds("stores", "INDEXES")
LETTERS = _kinds("stores", "DEAD_LETTERS")
PUBLISHERS = _kinds("stores", "PUBLISHERS")
SCORERS: Mapping[str, Backend] = {
    "feature": Backend(settings=FeatureScorerSettings, open=open_feature_scorer),
    "http": Backend(settings=HttpScorerSettings, open=open_http_scorer),
    "preset": Backend(settings=PresetScorerSettings, open=open_preset_scorer),
    "ray": Backend(settings=RayScorerSettings, open=open_ray_serve),
    "ray_data": Backend(settings=RayBackfillSettings, open=open_ray_backfill),
}
