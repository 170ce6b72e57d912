"""``tidegate train`` and ``tidegate evaluate`` on real small videos, from manifest to table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from training_samples import small_corpus
from typer.testing import CliRunner

from tidegate.cli import evaluate, train
from tidegate.models import load_checkpoint, load_stage


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    made = typer.Typer(pretty_exceptions_enable=False)
    train.register(made)
    evaluate.register(made)
    return made


@pytest.fixture(scope="module")
def trained(app: typer.Typer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("train")
    manifest, out = small_corpus(folder), folder / "base"
    words = ["train", "base", "--data", str(manifest), "--out", str(out), "--epochs", "1", "--threads", "1", "--json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return manifest, out, json.loads(result.stdout.splitlines()[-1])


def test_training_writes_a_checkpoint_that_scores_with_card_and_thresholds(
    trained: tuple[Path, Path, dict[str, object]],
) -> None:
    _, out, printed = trained
    _, _, card = load_checkpoint(out)
    stage = load_stage(out, name="base")
    assert (card.issue, card.seed, card.notice) == ("icd", 0, None)
    assert "6 training videos" in str(card.trained_on)
    assert stage.thresholds is not None
    assert set(stage.thresholds["escalate"]) == {"10", "20", "30", "40", "50", "60", "70"}
    assert printed["checkpoint"] == str(out)
    assert (printed["test"]["n"], printed["failed"]) == (6, 0)  # type: ignore[index]


def test_evaluation_of_a_cascade_prints_a_row_for_each_stage_and_p_base(
    app: typer.Typer, trained: tuple[Path, Path, dict[str, object]]
) -> None:
    manifest, out, _ = trained
    words = ["evaluate", "--data", str(manifest), "--checkpoint", str(out), "--large", str(out)]
    result = CliRunner().invoke(app, [*words, "--p-base", "10", "--p-base", "50", "--samples", "20", "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout.splitlines()[-1])["rows"]
    assert [row["name"] for row in rows] == ["base", "base", "cascade, P_base 10", "cascade, P_base 50"]
    assert rows[0]["escalated_share"] is None
    assert 0 <= rows[2]["escalated_share"] <= 1
    table = CliRunner().invoke(app, [*words[:-2], "--samples", "20"])
    assert "R@P90 deployed" in table.stdout


def test_training_goes_on_from_a_checkpoint(app: typer.Typer, trained: tuple[Path, Path, dict[str, object]]) -> None:
    manifest, out, _ = trained
    again = out.with_name("again")
    words = ["train", "base", "--data", str(manifest), "--out", str(again), "--init", str(out), "--epochs", "1"]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert "initialised from the checkpoint base" in (again / "README.md").read_text()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["train", "base", "--data", "nowhere.csv"], 2, "nowhere.csv"),
        (["train", "avlm", "--data", "{manifest}", "--init", "{out}"], 1, "expected a AvlmConfig"),
        (["train", "base", "--data", "{manifest}", "--issue", "ucc"], 2, "ucc"),
        (["train", "base", "--data", "{manifest}", "--recipe", "huge"], 2, "huge"),
        (["train", "base", "--data", "{manifest}", "--epochs", "0"], 2, "epochs"),
    ],
)
def test_what_cannot_be_is_refused_before_training(  # noqa: PLR0917
    app: typer.Typer,
    trained: tuple[Path, Path, dict[str, object]],
    tmp_path: Path,
    words: list[str],
    code: int,
    message: str,
) -> None:
    manifest, out, _ = trained
    filled = [word.format(manifest=manifest, out=out) for word in words]
    result = CliRunner().invoke(app, [*filled, "--out", str(tmp_path / "x")])
    assert result.exit_code == code
    assert message in result.output
    assert not (tmp_path / "x").exists()
