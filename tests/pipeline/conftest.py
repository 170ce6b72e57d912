"""Fixtures of the pipeline's tests; their parts are in ``pipeline_parts``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pipeline_parts import POLICY, SETTINGS, bright_stages, make_video, save_tower

from tidegate.pipeline.scanner import Scanner

torch.set_num_threads(1)


@pytest.fixture
def scanner() -> Iterator[Scanner]:
    """Dark stays, grey is escalated and stays, bright is escalated and removed."""
    with Scanner(bright_stages(), policy=POLICY, settings=SETTINGS) as ready:
        yield ready


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos: two dark, two grey, two bright. Not to be written to."""
    folder = tmp_path_factory.mktemp("videos")
    for name, level in {"dark": 0.1, "grey": 0.45, "bright": 0.9}.items():
        for number in range(2):
            make_video(folder / f"{name}-{number}.mp4", level, seconds=0.5 + number)
    return folder


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with checkpoints in base and large; the default policy escalates every video."""
    folder = tmp_path_factory.mktemp("checkpoints")
    save_tower(folder / "base", seed=1, frames=2, exact=False)
    save_tower(folder / "large", seed=2, frames=4, exact=True)
    return folder
