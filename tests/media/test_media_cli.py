"""The probe verb."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import typer
from typer.testing import CliRunner

from tidegate.cli.probe import register


def run(*arguments: str):
    app = typer.Typer()
    register(app)
    app.command("other")(lambda: None)
    return CliRunner().invoke(app, ["probe", *arguments])


def test_facts_are_shown_as_json_lines(sample: Callable[[str], Path]) -> None:
    result = run("--json", str(sample("h264-mp4-ntsc")), str(sample("vp9-webm")))
    first, second = map(json.loads, result.stdout.splitlines())
    assert (first["average_rate"], second["codec"]) == ("30000/1001", "vp9")
    assert result.exit_code == 0


def test_a_file_that_cannot_be_read_is_told_and_the_others_are_shown(
    tmp_path: Path, sample: Callable[[str], Path]
) -> None:
    (tmp_path / "text.mp4").write_text("no video " * 20)
    result = run("--json", str(tmp_path / "text.mp4"), str(sample("h264-mp4")))
    first, second = map(json.loads, result.stdout.splitlines())
    assert first["error"] == "not_media"
    assert second["num_frames"] == 75
    assert result.exit_code == 3


def test_facts_are_readable(sample: Callable[[str], Path]) -> None:
    result = run(str(sample("h264-mp4")))
    assert "duration_seconds" in result.stdout
    assert "2.5" in result.stdout
