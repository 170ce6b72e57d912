"""What is wrong with data or files is refused by name and line; a process killed while saving leaves good files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import saving_child
import torch
from training_samples import PROCESSOR, RESNET, VISION_ONLY, bright_or_dark, small_corpus

from tidegate.errors import CheckpointError, ManifestError
from tidegate.models.card import Card
from tidegate.models.checkpoint import checkpoint_hash, load_checkpoint, save_checkpoint
from tidegate.models.configs import MultiTowerConfig
from tidegate.models.multitower import MultiTower
from tidegate.models.processor import ClipProcessor
from tidegate.training.loop import FitResult, fit
from tidegate.training.recipes import OptimiserConfig, TrainRecipe
from tidegate.training.stage import train_stage

torch.set_num_threads(1)
RECIPE = TrainRecipe(
    name="small",
    model=MultiTowerConfig(issue="icd", vision=RESNET),
    processor=PROCESSOR,
    optimiser=OptimiserConfig(epochs=1, batch_size=2),
)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """A good manifest; its videos are there."""
    folder = tmp_path_factory.mktemp("data")
    given = pl.read_csv(small_corpus(folder, 12), infer_schema=False)
    return given.with_columns((str(folder) + "/" + pl.col("path")).alias("path"))


def with_cell(table: pl.DataFrame, line: int, column: str, value: str) -> pl.DataFrame:
    """The table with one cell changed; line 1 is the header."""
    values = table[column].to_list()
    values[line - 2] = value
    return table.with_columns(pl.Series(column, values))


@pytest.mark.parametrize(
    ("line", "column", "value", "words"),
    [
        (4, "label_icd", "maybe", ["line 4", "label_icd", "'maybe'"]),
        (4, "label_icd", "2", ["line 4", "label_icd", "'2'"]),
        (6, "path", "/nowhere/gone.mp4", ["line 6", "v04", "/nowhere/gone.mp4", "1 of 12"]),
        (9, "video_id", "v00", ["line 9", "video_id", "line 2"]),
        (3, "split", "test", ["s0", "line 2: v00 in train", "line 3: v01 in test"]),
        (5, "split", "tests", ["line 5", "split", "'tests'"]),
    ],
)
def test_wrong_manifest_is_refused_by_line_and_name_before_anything_is_decoded(  # noqa: PLR0917
    table: pl.DataFrame, tmp_path: Path, line: int, column: str, value: str, words: list[str]
) -> None:
    data = tmp_path / "manifest.csv"
    with_cell(table, line, column, value).write_csv(data)
    with pytest.raises(ManifestError) as caught:
        train_stage(data, tmp_path / "out", RECIPE)
    assert [word for word in words if word not in str(caught.value)] == []
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.csv"]


def test_issue_that_nobody_is_labelled_for_is_refused_with_those_there_are(table: pl.DataFrame, tmp_path: Path) -> None:
    table.write_csv(tmp_path / "manifest.csv")
    recipe = replace(RECIPE, model=MultiTowerConfig(issue="icd", more_issues=("violence",), vision=RESNET))
    with pytest.raises(ManifestError, match=r"'violence'.*\['icd'\]"):
        train_stage(tmp_path / "manifest.csv", tmp_path / "out", recipe)


def run(resume: Path, epochs: int = 1) -> FitResult:
    torch.manual_seed(0)
    model = MultiTower(VISION_ONLY)
    config = replace(saving_child.CONFIG, epochs=epochs, save_every_steps=0 if epochs > 1 else 1)
    given = ClipProcessor(PROCESSOR, None), bright_or_dark(16, 1), bright_or_dark(8, 2)
    return fit(model, *given, config, seed=3, resume=resume)


@pytest.mark.parametrize("damage", ["cut", "text", "another model"])
def test_resume_file_that_is_damaged_or_of_another_run_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "run.pt"
    run(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-500])
    elif damage == "text":
        path.write_text("not a run")
    else:
        torch.manual_seed(0)
        other = MultiTower(MultiTowerConfig(issue="icd", vision={**RESNET, "hidden_sizes": [8, 24]}))
        given = ClipProcessor(PROCESSOR, None), bright_or_dark(16, 1), bright_or_dark(8, 2)
        with pytest.raises(CheckpointError, match=r"run\.pt.*another"):
            fit(other, *given, saving_child.CONFIG, resume=path)
        return
    with pytest.raises(CheckpointError, match=r"run\.pt"):
        run(path)


def killed(kind: str, place: Path, wait_for: Path, seconds: float) -> None:
    """A process that saves, killed ``seconds`` after its first save."""
    child = Path(saving_child.__file__)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(child.parent)}
    process = subprocess.Popen([sys.executable, str(child), kind, str(place)], env=environment)
    give_up = time.monotonic() + 120
    while not wait_for.exists():
        assert process.poll() is None, "it ended by itself"
        assert time.monotonic() < give_up
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_save_that_ends_between_its_two_renames_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor, folder = MultiTower(VISION_ONLY), ClipProcessor(PROCESSOR, None), tmp_path / "model"
    save_checkpoint(model, processor, folder, Card(name="c", issue="icd", seed=1))
    before, rename = checkpoint_hash(folder), os.replace

    def end_at_the_second(source: Path, target: Path) -> None:
        if Path(target) == folder:
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", end_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(model, processor, folder, Card(name="c", issue="icd", seed=2))
    assert not folder.exists()
    assert (load_checkpoint(folder)[2].seed, checkpoint_hash(folder)) == (1, before)
    save_checkpoint(model, processor, folder, Card(name="c", issue="icd", seed=3))
    assert load_checkpoint(folder)[2].seed == 3


@pytest.mark.long
@pytest.mark.parametrize("seconds", [0.05, 0.237])
def test_kill_while_saving_leaves_a_checkpoint_that_loads(tmp_path: Path, seconds: float) -> None:
    folder = tmp_path / "model"
    killed("checkpoint", folder, folder / "card.json", seconds)
    model, _, card = load_checkpoint(folder)
    assert model.head.bias.tolist() == [float(card.seed or 0)] * 2


def test_run_killed_in_the_middle_goes_on_to_the_losses_of_one_that_was_not(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    killed("run", path, path, 0.3)
    done = torch.load(path, weights_only=True)["progress"]["step"]
    assert 0 < done < 40 * 4
    resumed, whole = run(path, 40), run(tmp_path / "whole.pt", 40)
    assert [record["loss"] for record in resumed.history] == [record["loss"] for record in whole.history]


def test_checkpoint_of_another_class_or_cut_short_is_refused_as_a_start(table: pl.DataFrame, tmp_path: Path) -> None:
    table.write_csv(tmp_path / "manifest.csv")
    start = tmp_path / "start"
    save_checkpoint(MultiTower(VISION_ONLY), ClipProcessor(PROCESSOR, None), start, Card(name="s", issue="icd"))
    weights = start / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        train_stage(tmp_path / "manifest.csv", tmp_path / "out", RECIPE, init=start)
