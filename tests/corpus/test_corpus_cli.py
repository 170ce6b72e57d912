"""``tidegate corpus``: makes, shows, measures; says what is wrong in a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tidegate.cli import corpus
from tidegate.corpus import Manifest

APP = typer.Typer()
corpus.register(APP)
RUN = CliRunner()


@APP.callback()
def _root() -> None:
    """A second level, as in the whole command line."""


def test_make_then_show(tmp_path: Path) -> None:
    made = RUN.invoke(APP, ["corpus", "make", "--out", str(tmp_path / "c"), "--videos", "2", "--seed", "5", "--json"])
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["videos"] == 2
    shown = RUN.invoke(APP, ["corpus", "show", str(tmp_path / "c"), "--json", "--check-files"])
    assert json.loads(shown.stdout) == json.loads(made.stdout)


@pytest.mark.parametrize(
    "arguments",
    [
        ["make", "--out", "unused", "--videos", "1", "--regions", "XX"],
        ["make", "--out", "unused", "--videos", "1", "--task", "spam"],
        ["show", "absent.parquet"],
        ["baseline", "--data", "absent.csv"],
    ],
)
def test_what_the_user_can_mend_is_exit_code_2_and_a_line(arguments: list[str]) -> None:
    result = RUN.invoke(APP, ["corpus", *arguments])
    assert result.exit_code == 2
    assert "error:" in result.stderr
    assert "Traceback" not in result.stderr


def test_baseline_prints_a_row_for_each_input(icd_corpus: Manifest) -> None:
    result = RUN.invoke(APP, ["corpus", "baseline", "--data", str(icd_corpus.path), "--rounds", "5", "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["baselines"]
    assert [row["input"] for row in rows] == ["vision", "audio", "text", "all"]
    assert all(row["auc_low"] <= row["auc"] <= row["auc_high"] for row in rows)
    assert rows[-1]["ceiling_share"] == 1.0


@pytest.mark.parametrize("verb", ["make", "show", "baseline"])
def test_help_has_examples(verb: str) -> None:
    assert f"tidegate corpus {verb}" in RUN.invoke(APP, ["corpus", verb, "--help"]).output
