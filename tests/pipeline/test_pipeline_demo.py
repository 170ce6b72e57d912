"""The demo and the benchmark of the scan, small."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from tidegate.bench.scan import render, run_scan_benchmark
from tidegate.cli import app
from tidegate.errors import UsageError


def demo(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["demo", *map(str, arguments)], env={"NO_COLOR": "1"})
    assert result.exit_code == 0, result.output
    return result.output


def test_demo_makes_videos_scans_them_and_says_where_the_report_lies(tmp_path: Path, checkpoints: Path) -> None:
    output = demo("--out", tmp_path, "--count", 3, "--seed", 5, "--preset", checkpoints)
    assert "3 videos; 100% reached the large stage" in output
    assert "of 3 verdicts agree with what was put into the videos" in output
    for name in ("index.sqlite", "report.html"):
        assert str(tmp_path / name) in output
        assert (tmp_path / name).is_file()
    table = pl.read_parquet(tmp_path / "outcomes.parquet")
    assert table["region"].null_count() == 0, "the sidecars tell the region"


def test_demo_takes_a_folder_and_forgets_the_run_before(tmp_path: Path, videos: Path, checkpoints: Path) -> None:
    for _ in range(2):
        output = demo("--out", tmp_path, "--videos", videos, "--preset", checkpoints)
        assert "6 videos" in output
        assert "agree" not in output
        assert pl.read_parquet(tmp_path / "outcomes.parquet").height == 6


def test_benchmark_counts_every_video_and_shares_add_up(videos: Path, checkpoints: Path) -> None:
    pytest.importorskip("psutil")
    rows = run_scan_benchmark((9,), corpus=videos, preset=str(checkpoints), workers=1)
    assert [(row.videos, row.distinct, row.failed) for row in rows] == [(9, 6, 0)]
    for row in rows:
        shares = row.decode_share + row.listen_share + row.base_share + row.large_share + row.other_share
        assert shares == pytest.approx(1)
        assert min(row.decode_share, row.base_share, row.large_share, row.other_share) > 0
        assert row.videos_per_second == pytest.approx(row.videos / row.scan_seconds)
        assert 50 < row.peak_memory_mib < 5000
        assert row.escalated_share == 1
    assert render(rows).count("\n") == 2
    with pytest.raises(UsageError):
        run_scan_benchmark((0,), corpus=videos)
