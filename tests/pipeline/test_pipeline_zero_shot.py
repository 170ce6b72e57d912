"""``tidegate scan --zero-shot``: videos are judged by a clause, with a folder of the published class, untrained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from openai_server import TinyChat
from pipeline_parts import make_video
from typer.testing import CliRunner

from tidegate.cli import app
from tidegate.pipeline.scanner import load_preset

CLAUSE = "People drink what is not meant to be drunk."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, chat = tmp_path_factory.mktemp("hub") / "llava", TinyChat()
    chat.model.save_pretrained(path)
    image = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3, "size": {"height": 48, "width": 48}}
    (path / "preprocessor_config.json").write_text(json.dumps(image))
    (path / "tokenizer.json").write_text(chat.tokenizer.to_str())
    (path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>"}))
    return path


def test_scan_judges_by_a_clause(folder: Path, tmp_path: Path) -> None:
    video = make_video(tmp_path / "a.mp4", 0.5, title="good morning")
    arguments = ["scan", video, "--zero-shot", CLAUSE, "--preset", folder, "--out", tmp_path / "out", "--json",
                 "--no-report", "--workers", "1"]  # fmt: skip
    result = CliRunner().invoke(app, [str(word) for word in arguments])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout.splitlines()[0])
    assert record["stage"] == "large"
    assert 0 < record["score"] < 1
    assert record["scores"][0]["model"].startswith("llava:zero-shot@")
    assert "not calibrated" in result.stderr.replace("\n", " ")


def test_stage_file_takes_a_zero_shot_stage_beside_it(folder: Path, tmp_path: Path) -> None:
    file = folder.parent / "stages.toml"
    file.write_text(f'[large]\nkind = "zero-shot"\nsource = "llava"\nclause = "{CLAUSE}"\nframes = 2\nflag_at = 0.01\n')
    with load_preset(file) as scanner:
        outcome = scanner.scan(make_video(tmp_path / "b.mp4", 0.2))
    assert outcome.decision is not None, outcome.reason
    assert (outcome.decision.threshold, len(outcome.frame_pts_seconds)) == (0.01, 2)


@pytest.mark.parametrize(("clause", "message"), [("", "clause"), ("x" * 5000, "4000 characters")])
def test_clause_that_cannot_be_asked_is_bad_usage(clause: str, message: str, folder: Path, tmp_path: Path) -> None:
    video = make_video(tmp_path / "a.mp4", 0.5)
    arguments = ["scan", video, "--zero-shot", clause, "--preset", folder, "--out", tmp_path / "out"]
    result = CliRunner().invoke(app, [str(word) for word in arguments])
    assert result.exit_code == 2
    assert message in result.stderr


def test_source_that_is_no_chat_model_is_named(tmp_path: Path) -> None:
    video = make_video(tmp_path / "a.mp4", 0.5)
    arguments = ["scan", video, "--zero-shot", CLAUSE, "--preset", tmp_path, "--out", tmp_path / "out"]
    result = CliRunner().invoke(app, [str(word) for word in arguments])
    assert result.exit_code == 2
    assert str(tmp_path)[:40] in result.stderr.replace("\n", "")
