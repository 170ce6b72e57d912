"""``tidegate train`` and ``tidegate evaluate`` on real small videos, from manifest to table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from tensorboard.backend.event_processing import event_accumulator
from training_samples import seen_and_heard, small_avlm, small_corpus
from typer.testing import CliRunner

from tidegate.cli import evaluate, train
from tidegate.models import Card, load_checkpoint, load_stage, save_checkpoint
from tidegate.training.loop import score_rows
from tidegate.training.lora import load_adapter
from tidegate.training.stage import Progress
from tidegate.training.tracking import tracked


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


@pytest.fixture(scope="module")
def small_large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of an AVLM with new weights."""
    model, processor = small_avlm()
    folder = tmp_path_factory.mktemp("large") / "start"
    save_checkpoint(model, processor, folder, Card(name="small", issue="icd"))
    return folder


@pytest.mark.parametrize("rank", [pytest.param("0", marks=pytest.mark.long), "4"])
def test_fine_tuning_by_lora_writes_the_adapter_and_a_merged_checkpoint(
    app: typer.Typer, trained: tuple[Path, Path, dict[str, object]], small_large: Path, tmp_path: Path, rank: str
) -> None:
    out = tmp_path / "tuned"
    words = ["train", "avlm", "--data", str(trained[0]), "--out", str(out), "--init", str(small_large)]
    words += ["--recipe", "lora-avlm", "--lora-rank", rank, "--epochs", "2", "--batch-size", "4"]
    words += ["--micro-batch-size", "2", "--learning-rate", "0.01", "--track", "tensorboard", "--live"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "decoded while training, without a cache" in result.output.replace("\n", " ")
    tuned, processor, card = load_checkpoint(out)
    assert card.recipe["adapter"] == {"rank": int(rank), "alpha": 2 * int(rank), "dropout": 0.0}
    assert not any("lora" in name for name in tuned.state_dict())
    start, _, _ = load_checkpoint(small_large)
    again = load_adapter(start, out.with_name("tuned-adapter")).model  # type: ignore[arg-type]
    table = seen_and_heard(6, 3).table
    np.testing.assert_allclose(
        score_rows(tuned, processor, table, range(6)), score_rows(again, processor, table, range(6)), atol=1e-6
    )
    curves = event_accumulator.EventAccumulator(str(tmp_path / "tuned.curves"))
    curves.Reload()
    assert {"train/loss", "epoch/validation_ap"} <= set(curves.Tags()["scalars"])
    assert len(curves.Scalars("epoch/loss")) == 2


@pytest.mark.long
def test_mlflow_keeps_the_curves_of_a_run(tmp_path: Path) -> None:
    import mlflow

    where = str(tmp_path / "runs")
    with tracked(Progress(), "mlflow", where, {"seed": 3}) as progress:
        assert progress.on_step is not None
        assert progress.on_epoch is not None
        progress.on_step(1, 2, 0.5)
        progress.on_epoch({"epoch": 0.0, "loss": 0.4})
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert run.data.metrics == {"train/loss": 0.5, "epoch/loss": 0.4}
    assert run.data.params == {"seed": "3"}


def test_recipe_that_starts_from_weights_is_refused_without(
    app: typer.Typer, trained: tuple[Path, Path, dict[str, object]], tmp_path: Path
) -> None:
    words = ["train", "avlm", "--data", str(trained[0]), "--out", str(tmp_path / "x"), "--recipe", "lora-avlm"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "published weights" in result.output
