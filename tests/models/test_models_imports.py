"""Importing the rooms is cheap: torch comes with the first name that needs it."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "room", ["tidegate.models", "tidegate.training", "tidegate.cli.train", "tidegate.cli.evaluate"]
)
def test_import_brings_no_torch(room: str) -> None:
    code = f"import sys, {room}; print(sorted(set(sys.modules) & {{'torch', 'transformers'}}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.strip() == "[]"


def test_configurations_bring_no_torch() -> None:
    code = "import sys, tidegate.models.configs; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.strip() == "False"
