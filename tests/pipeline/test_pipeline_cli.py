"""``tidegate scan`` as a shell sees it: streams, exit codes, interruption, resumption."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from bad_videos import make_bad_videos, make_flipped
from pipeline_parts import make_video
from typer.testing import CliRunner

from tidegate.cli import app
from tidegate.pipeline.item import path_from_printable
from tidegate.pipeline.sink import FolderSink

FIELDS = {
    "path", "status", "reason", "score", "stage", "escalated", "duration_seconds", "frame_pts_seconds", "cost_seconds",
}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "tidegate", "scan", *map(str, arguments)]


def scan(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    """The command in this process: torch is loaded once for all tests that need no process of their own."""
    result = CliRunner().invoke(app, ["scan", *map(str, arguments)], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return subprocess.CompletedProcess([], result.exit_code, result.stdout_bytes, result.stderr_bytes)


def records(output: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.decode("utf-8").splitlines()]


def index_of(out: Path) -> list[dict[str, Any]]:
    """All outcomes of an index, without what differs from run to run: times and costs."""

    def steady(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: steady(entry) for key, entry in value.items() if key != "cost_seconds"}
        if isinstance(value, list):
            return [steady(entry) for entry in value]
        return round(value, 4) if isinstance(value, float) else value

    with FolderSink(out) as sink:
        return [steady(record) for record in sink.records()]


@pytest.fixture(scope="module")
def bad_run(
    tmp_path_factory: pytest.TempPathFactory, checkpoints: Path
) -> tuple[dict[str, str | None], subprocess.CompletedProcess[bytes], Path]:
    root = tmp_path_factory.mktemp("bad")
    expected = make_bad_videos(root / "videos")
    out = root / "out"
    paths = (root / "videos", root / "videos" / "never-was.mp4")
    arguments = command(*paths, "--json", "--preset", checkpoints, "--out", out)
    done = subprocess.run(arguments, capture_output=True, env=ENVIRONMENT, timeout=200, check=False)
    return expected | {"never-was.mp4": "source_unreadable"}, done, out


def test_bad_input_ends_in_typed_failures_and_the_run_goes_on(bad_run: Any) -> None:
    expected, done, _ = bad_run
    assert done.returncode == 3, done.stderr.decode()
    found = {os.path.basename(path_from_printable(record["path"])): record for record in records(done.stdout)}
    assert {name: record["error"] for name, record in found.items()} == expected
    for record in found.values():
        assert record.keys() >= FIELDS
        assert record["reason"]
        if record["status"] == "failed":
            assert (record["decision"], record["score"], record["stage"]) == (None, None, None)
        else:
            assert record["status"] in {"remained", "removed"}
            assert 0 <= record["score"] <= 1
            assert record["frame_pts_seconds"]


def test_header_that_lies_is_told_and_not_believed(bad_run: Any) -> None:
    _, done, _ = bad_run
    (record,) = [record for record in records(done.stdout) if "ten-hours" in record["path"]]
    assert record["duration_seconds"] == pytest.approx(2.0, abs=0.01)
    warnings = [seen["value"] for seen in record["observations"] if seen["kind"] == "warning"]
    assert any("header" in warning for warning in warnings)


def test_json_has_stdout_for_itself(bad_run: Any) -> None:
    expected, done, _ = bad_run
    assert len(done.stdout.decode("utf-8").splitlines()) == len(expected)
    assert b"videos:" in done.stderr
    assert b"\x1b[31m" not in done.stdout + done.stderr


def test_failed_videos_are_in_no_index_and_in_every_export(bad_run: Any) -> None:
    expected, _, out = bad_run
    failed = [name for name, code in expected.items() if code is not None]
    table = pl.read_parquet(out / "outcomes.parquet")
    assert table.height == len(expected)
    assert table.filter(pl.col("status") == "failed").height == len(failed)
    with FolderSink(out) as sink:
        ids = table["video_id"].to_list()
        assert len(sink.index.get_many(ids)) == len(expected) - len(failed)
    assert "not_media" in (out / "report.html").read_text(encoding="utf-8")


def test_flipped_bits_never_end_the_run(tmp_path: Path, checkpoints: Path) -> None:
    make_flipped(tmp_path / "videos", 16)
    done = scan(tmp_path / "videos", "--json", "--preset", checkpoints, "--out", tmp_path / "out", "--no-report")
    assert done.returncode in {0, 3}
    found = records(done.stdout)
    assert len(found) == 17
    typed = {None, "not_media", "corrupt_media", "no_video_stream", "limit_exceeded"}
    assert {record["error"] for record in found} <= typed
    assert not (tmp_path / "out" / "report.html").exists()


def test_all_scanned_is_zero_and_resume_repeats_stored_outcomes(
    videos: Path, tmp_path: Path, checkpoints: Path
) -> None:
    options = ("--json", "--preset", checkpoints, "--out", tmp_path / "out", "--no-report")
    first = scan(videos, *options)
    again = scan(videos, *options, "--resume")
    assert (first.returncode, again.returncode) == (0, 0)
    key = lambda record: record["path"]  # noqa: E731
    assert sorted(records(again.stdout), key=key) == sorted(records(first.stdout), key=key)
    assert b"6 of them were done already" in again.stderr


@pytest.mark.parametrize(("arguments", "words"), [
    ([], "Missing argument"),
    (["{tmp}/*.mov"], "no file matches"),
    (["{tmp}/empty"], "no video found"),
    (["{tmp}/v.mp4", "--policy", "{tmp}/none.toml"], "none.toml"),
    (["{tmp}/v.mp4", "--policy", "{tmp}/wrong.toml"], "did you mean"),
    (["{tmp}/v.mp4", "--preset", "tinny"], "expected a preset"),
    (["{tmp}/v.mp4", "--region", "Germany"], "alpha-2"),
    (["{tmp}/v.mp4", "--workers", "0"], "workers"),
    (["{tmp}/v.mp4", "--out", "{tmp}/v.mp4"], "folder that can be written"),
    (["{tmp}/v.mp4", "--nonsense"], "No such option"),
    (["@{tmp}/none.txt"], "list cannot be read"),
])
def test_bad_usage_is_two_and_says_what_to_mend(
    arguments: list[str], words: str, tmp_path: Path, checkpoints: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".hidden").write_text("x")
    (tmp_path / "v.mp4").write_text("x")
    (tmp_path / "wrong.toml").write_text('[policy]\nnam = "x"\n')
    filled = [argument.format(tmp=tmp_path) for argument in arguments]
    if "--preset" not in filled:
        filled += ["--preset", str(checkpoints)]
    if "--out" not in filled:
        filled += ["--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["scan", *filled], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exit_code == 2, result.output
    assert words in result.output


def test_policy_and_region_reach_the_verdict(videos: Path, tmp_path: Path, checkpoints: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(
        '[policy]\nname = "mine"\nversion = "9"\n[[clause]]\nid = "a"\nissue = "icd"\ntitle = "All"\nremove_at = 0.0\n'
        '[cascade]\np_base = 50\n[groups]\nEU = ["FR"]\n[region.EU.clause.a]\naction = "ignore"\n'
    )
    for region, status in {"FR": "ignored", "US": "removed"}.items():
        result = CliRunner().invoke(app, [
            "scan", str(videos / "dark-0.mp4"), "--policy", str(policy), "--region", region, "--json",
            "--preset", str(checkpoints), "--out", str(tmp_path / region), "--no-report",
        ])
        record = json.loads(result.stdout)
        assert (record["status"], record["decision"]["policy"], record["context"]["region"]) == (status, "mine", region)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, videos: Path) -> Path:
    folder = tmp_path_factory.mktemp("many")
    for number in range(60):
        os.link(videos / f"{('dark', 'grey', 'bright')[number % 3]}-1.mp4", folder / f"{number:03d}.mp4")
    (folder / "broken.mp4").write_text("no video")
    return folder


def started(out: Path, *arguments: object, lines: int) -> subprocess.Popen[bytes]:
    """A scan that has written at least that many lines."""
    process = subprocess.Popen(
        command(*arguments, "--out", out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT,
        start_new_session=True,
    )
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        log = out / "outcomes.jsonl"
        if log.exists() and log.read_bytes().count(b"\n") >= lines:
            break
        time.sleep(0.005)
    return process


def test_kill_and_resume_give_the_index_of_an_undisturbed_run(many: Path, tmp_path: Path, checkpoints: Path) -> None:
    options = ("--preset", checkpoints, "--no-report", "--workers", 1)
    assert scan(many, *options, "--out", tmp_path / "calm").returncode == 3
    for lines in (1, 20):
        process = started(tmp_path / "killed", many, *options, "--resume", lines=lines)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    with (tmp_path / "killed" / "outcomes.jsonl").open("ab") as log:
        log.write(b'{"video_id": "torn')
    done = scan(many, *options, "--resume", "--json", "--out", tmp_path / "killed")
    assert done.returncode == 3
    assert len(records(done.stdout)) == 61
    assert b"were done already" in done.stderr
    assert index_of(tmp_path / "killed") == index_of(tmp_path / "calm")
    lines_now = (tmp_path / "killed" / "outcomes.jsonl").read_text(encoding="utf-8").splitlines()
    assert len({json.loads(line)["video_id"] for line in lines_now}) == len(lines_now) == 61


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_writes_what_is_done_and_resume_goes_on(
    number: signal.Signals, many: Path, tmp_path: Path, checkpoints: Path
) -> None:
    out = tmp_path / "out"
    options = ("--preset", checkpoints, "--no-report", "--workers", 1, "--json")
    process = started(out, many, *options, lines=5)
    os.killpg(process.pid, number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors.decode()
    assert b"--resume" in errors
    first = records(output)
    assert 5 <= len(first) < 61
    assert {record["error"] for record in first} <= {None, "not_media"}
    exported = records((out / "outcomes.jsonl").read_bytes())
    assert {record["path"] for record in exported} >= {record["path"] for record in first}
    rest = scan(many, *options, "--resume", "--out", out)
    assert rest.returncode == 3
    assert len(records(rest.stdout)) == 61
    assert len(index_of(out)) == 61


def test_reader_that_leaves_ends_the_run_quietly(many: Path, tmp_path: Path, checkpoints: Path) -> None:
    process = subprocess.Popen(
        command(many, "--json", "--preset", checkpoints, "--out", tmp_path / "out", "--no-report"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(timeout=60) == 130
    assert b"Traceback" not in errors


def test_help_has_examples_and_exit_codes() -> None:
    result = CliRunner().invoke(app, ["scan", "--help"], env={"COLUMNS": "160", "NO_COLOR": "1"})
    assert result.exit_code == 0
    for words in ("tidegate scan video.mp4", "--retry-failed", "130 interrupted"):
        assert words in result.output


def test_results_inside_the_scanned_folder_are_not_scanned(tmp_path: Path, videos: Path, checkpoints: Path) -> None:
    folder = tmp_path / "videos"
    shutil.copytree(videos, folder)
    arguments = ["scan", str(folder), "--preset", str(checkpoints), "--out", str(folder), "--json"]
    for _ in range(2):
        result = CliRunner().invoke(app, arguments)
        assert len(result.stdout.splitlines()) == 6


def test_video_of_one_frame_is_scanned(tmp_path: Path, checkpoints: Path) -> None:
    make_video(tmp_path / "one.mp4", 0.5, seconds=0.1, audio=False)
    result = CliRunner().invoke(app, [
        "scan", str(tmp_path / "one.mp4"), "--preset", str(checkpoints), "--out", str(tmp_path / "out"), "--json",
    ])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["status"] in {"remained", "removed"}
