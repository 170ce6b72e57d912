"""``tidegate calibrate``: JSON fields, files, refusals, plans, plots."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from tidegate.cli import calibrate

FIELDS = {
    "certified",
    "tau",
    "lam",
    "recall_bound",
    "precision_bound",
    "share_escalated",
    "n_audit",
    "n_positives",
    "reason",
}


@pytest.fixture
def app() -> typer.Typer:
    application = typer.Typer()
    application.command("other")(lambda: None)
    calibrate.register(application)
    return application


def scores(n: int, seed: int = 0, **extra: Any) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    label = rng.random(n) < 0.1
    columns: dict[str, Any] = {
        "video_id": [f"v{i}" for i in range(n)],
        "base": 1 / (1 + np.exp(2 - rng.normal(size=n) - 2.5 * label)),
        "large": 1 / (1 + np.exp(2 - rng.normal(size=n) - 4.5 * label)),
        "label": label.astype(int),
    }
    return pl.DataFrame({**columns, **extra})


def run(app: typer.Typer, *arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["calibrate", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_joint_promise_from_a_file_gives_the_fields_and_writes_certificate_and_policy(
    app: typer.Typer, tmp_path: Path, suffix: str
) -> None:
    path, frame = tmp_path / f"scores.{suffix}", scores(5000)
    frame.write_parquet(path) if suffix == "parquet" else frame.write_csv(path)
    out = tmp_path / "out"
    wanted = ["--target-recall", ".9", "--precision", ".8", "--delta", ".05"]
    found = json.loads(run(app, "--scores", path, *wanted, "--out", out, "--json"))
    assert set(found) >= FIELDS
    assert found["certified"] is True
    assert found["recall_bound"] >= 0.9
    assert found["precision_bound"] >= 0.8
    assert found["n_audit"] == 5000
    assert found["share_escalated"] == pytest.approx((frame["base"] >= found["tau"]).mean())
    assert json.loads((out / "certificate.json").read_text()) == found
    policy = tomllib.loads((out / "policy-thresholds.toml").read_text())
    assert policy["cascade"] == {"rule": "precision", "tau": found["tau"]}


def test_small_audits_escalate_everything(app: typer.Typer, tmp_path: Path) -> None:
    for n in (0, 1, 20):
        path, out = tmp_path / f"{n}.csv", tmp_path / str(n)
        scores(n).write_csv(path)
        found = json.loads(run(app, "--scores", path, "--target-recall", 0.95, "--out", out, "--json"))
        assert (found["certified"], found["tau"], found["share_escalated"]) == (False, None, 1.0)
        assert "positives" in found["reason"]
        assert tomllib.loads((out / "policy-thresholds.toml").read_text())["cascade"] == {"rule": "always"}


def test_people_read_a_curve_with_the_operating_point_and_regions(app: typer.Typer, tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    rng = np.random.default_rng(1)
    scores(6000, region=rng.choice(["US", "JP", "AQ"], 6000, p=[0.6, 0.399, 0.001])).write_parquet(path)
    text = run(app, "--scores", path, "--target-recall", 0.9, "--out", tmp_path / "o")
    assert text.startswith("CERTIFIED")
    assert "<- operating point" in text
    assert "tau (certified)" in text
    policy = tomllib.loads((tmp_path / "o" / "policy-thresholds.toml").read_text())
    assert set(policy["region"]) == {"US", "JP"}


def test_a_fixed_collection_and_its_traffic(app: typer.Typer, tmp_path: Path) -> None:
    frame = scores(4000)
    frame.head(2000).write_parquet(tmp_path / "audit.parquet")
    frame.write_parquet(tmp_path / "all.parquet")
    common = ["--scores", tmp_path / "audit.parquet", "--target-recall", 0.9, "--traffic", tmp_path / "all.parquet"]
    found = json.loads(run(app, *common, "--collection-size", 4000, "--out", tmp_path, "--json"))
    stream = json.loads(run(app, *common, "--out", tmp_path, "--json"))
    assert found["share_escalated"] < stream["share_escalated"]
    run(app, *common, "--collection-size", 4000, "--precision", 0.9, "--out", tmp_path, code=2)


@pytest.mark.parametrize("suffix", ["png", "html"])
def test_plots_are_drawn(app: typer.Typer, tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    scores(2000).write_csv(tmp_path / "s.csv")
    picture = tmp_path / f"curve.{suffix}"
    run(app, "--scores", tmp_path / "s.csv", "--target-recall", 0.8, "--out", tmp_path, "--plot", picture)
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" if suffix == "png" else b"<img" in picture.read_bytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("video_id,base\na,0.1\n", "missing ['large']"),
        ("video_id,base,large\na,x,0.2\n", "column base: expected numbers"),
        ("video_id,base,large\na,,0.2\n", "missing in row 1"),
        ("video_id,base,large\na,nan,0.2\n", "base: expected finite numbers"),
        ("video_id,base,large\na,1.5,0.2\n", "base: expected values in [0, 1]"),
        ("video_id,base,large,label\na,0.5,0.2,2\n", "labels: expected 0 or 1"),
        ("video_id,base,large\na,0.5,0.2\na,0.6,0.3\n", "expected distinct ones"),
        ("video_id,base,large,propensity\na,0.5,0.2,1\nb,0.6,0.3,0.1\n", "expected a uniform audit"),
    ],
)
def test_bad_files_are_refused_with_the_reason(app: typer.Typer, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "s.csv").write_text(text)
    output = run(app, "--scores", tmp_path / "s.csv", "--target-recall", 0.9, "--out", tmp_path, code=2)
    assert message in output
    assert "usage_error" in output


def test_audits_that_overlap_the_tuning_data_are_refused(app: typer.Typer, tmp_path: Path) -> None:
    scores(100).write_csv(tmp_path / "s.csv")
    pl.DataFrame({"video_id": ["v7", "other"]}).write_csv(tmp_path / "tuning.csv")
    common = ["--scores", tmp_path / "s.csv", "--target-recall", 0.9, "--out", tmp_path]
    assert "1 items are in both (such as 'v7')" in run(app, *common, "--tuning", tmp_path / "tuning.csv", code=2)


def test_usage_errors_exit_with_two(app: typer.Typer, tmp_path: Path) -> None:
    run(app, "--target-recall", 0.9, code=2)
    run(app, "--scores", tmp_path / "absent.csv", "--target-recall", 0.9, code=2)
    scores(10).write_csv(tmp_path / "s.csv")
    run(app, "--scores", tmp_path / "s.csv", "--out", tmp_path, code=2)
    run(app, "--scores", tmp_path / "s.csv", "--target-recall", 0.9, "--out", tmp_path, "--plot", "x.txt", code=2)


def test_audit_plan_tells_audits_and_labels(app: typer.Typer) -> None:
    plan = json.loads(run(app, "audit-plan", "--prevalence", ".01", "--eps", ".05", "--precision", ".9", "--json"))
    assert plan["min_audits"] == 5900
    assert plan["audits"] > plan["min_audits"]
    assert plan["labels"] > 0
    text = run(app, "audit-plan", "--prevalence", ".01", "--eps", ".05")
    assert "59 positives" in text
    run(app, "audit-plan", "--prevalence", "2", "--eps", ".05", code=2)
