"""Every setting of the platform is documented, with every kind and every series."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tidegate.platform import config, kinds
from tidegate.platform.event import EventLimits
from tidegate.platform.location import LocationRules
from tidegate.platform.metrics import SERIES
from tidegate.platform.runner import RunnerConfig

DOCS = Path(__file__).parents[3] / "docs"
TABLES = {
    "platform": config.PlatformSettings, "batch": RunnerConfig, "limits": EventLimits, "locations": LocationRules,
    "retry": config._Retry, "budget": config.BudgetSettings,
    "audit": config.AuditConfig, "operations": config.OperationsConfig, "experiment": config.ExperimentSettings,
}
KINDS = {
    "source": kinds.SOURCES, "[features]": kinds.FEATURES, "known": kinds.KNOWN, "scoring": kinds.SCORERS,
    "index": kinds.INDEXES, "dead_letters": kinds.LETTERS, "publisher": kinds.PUBLISHERS,
}
SECTIONS = {f"[{name}]": settings for name, settings in TABLES.items()} | {
    f'[{table}]` with `kind = "{kind}"': backend.settings
    for table, known in KINDS.items()
    for kind, backend in known.items()
}


@pytest.mark.parametrize("heading", SECTIONS)
def test_every_key_is_documented_in_its_section(heading: str) -> None:
    text = (DOCS / "platform.md").read_text(encoding="utf-8")
    marker = f"### `{heading}`\n"
    assert marker in text, marker
    section = text.split(marker, 1)[1].split("\n### ", 1)[0]
    keys = [field.name for field in dataclasses.fields(SECTIONS[heading])]
    assert [key for key in keys if f"| `{key}` |" not in section] == []


def shown(field: dataclasses.Field[Any]) -> str:
    """A default as the documentation writes it."""
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if value is dataclasses.MISSING:
        return "required"
    return "absent" if value is None else f"`{msgspec.json.encode(value).decode()}`"


@pytest.mark.parametrize("heading", SECTIONS)
def test_every_default_is_the_documented_one(heading: str) -> None:
    text = (DOCS / "platform.md").read_text(encoding="utf-8")
    section = text.split(f"### `{heading}`\n", 1)[1].split("\n### ", 1)[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section, re.MULTILINE))
    wrong = {
        field.name: (rows[field.name], shown(field)) for field in dataclasses.fields(SECTIONS[heading])
        if rows[field.name].replace(", ", ",").replace(" ", "") != shown(field).replace(" ", "")
    }
    assert wrong == {}


def test_every_series_is_documented() -> None:
    text = (DOCS / "operations.md").read_text(encoding="utf-8")
    assert [name for name in SERIES if f"`{name}`" not in text] == []
