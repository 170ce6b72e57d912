"""Two processes train as one does: equal losses and weights, disjoint shards, on gloo and a processor."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sharded_worker
import torch
from safetensors.torch import load_file
from training_samples import seen_and_heard, small_avlm, small_corpus

from tidegate.errors import ConfigError
from tidegate.models import Card, load_checkpoint, save_checkpoint
from tidegate.training.engine import OneProcess
from tidegate.training.launch import engine_of
from tidegate.training.loop import score_rows

torch.set_num_threads(1)
WORKER = Path(sharded_worker.__file__)


def torchrun(strategy: str, out: Path, processes: int = 2) -> list[dict[str, Any]]:
    """What each process wrote."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_BUILD_OPS": "0", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        [*command, str(WORKER), strategy, str(out)],
        env={**environment, "PYTHONPATH": str(WORKER.parent)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(processes)]


def same_as_one_process(ranks: list[dict[str, Any]], out: Path) -> None:
    """World size, shards, losses to five digits, weights."""
    assert [rank["world_size"] for rank in ranks] == [2, 2]
    one = sharded_worker.train(OneProcess())
    losses = [record["loss"] for record in one["history"]]
    for rank in ranks:
        np.testing.assert_allclose([record["loss"] for record in rank["history"]], losses, rtol=1e-5)
        assert rank["history"][-1]["validation_ap"] == pytest.approx(one["history"][-1]["validation_ap"], abs=1e-4)
    first, second = (rank["seen"] for rank in ranks)
    assert (len(first), len(second)) == (16, 16)
    assert sorted(first + second) == sorted(one["seen"])
    for step in range(0, 16, 4):  # a step is four clips of each process
        assert not set(first[step : step + 4]) & set(second[step : step + 4])
    weights = load_file(out / "weights.safetensors")
    assert weights.keys() == one["weights"].keys()
    apart = max(float((weights[name] - tensor).abs().max()) for name, tensor in one["weights"].items())
    moved = max(float(tensor.abs().max()) for name, tensor in one["weights"].items() if "lora_B" in name)
    assert apart < 0.05 * moved


def test_two_processes_of_fsdp_train_as_one_hold_half_each_and_can_go_on_as_one(tmp_path: Path) -> None:
    """The resume file holds whole weights: the number of processes may change."""
    ranks = torchrun("fsdp", tmp_path)
    same_as_one_process(ranks, tmp_path)
    whole = sum(p.numel() for p in sharded_worker.small_avlm()[0].parameters())
    assert all(rank["held"] < 0.65 * whole for rank in ranks)
    again = sharded_worker.train(OneProcess(), resume=tmp_path / "run.pt")
    assert again["seen"] == []
    assert [record["loss"] for record in again["history"]] == [record["loss"] for record in ranks[0]["history"]]


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="the extra deepspeed is not installed")
def test_two_processes_of_deepspeed_zero_2_train_as_one(tmp_path: Path) -> None:
    ranks = torchrun("deepspeed", tmp_path)
    assert [rank["zero_stage"] for rank in ranks] == [2, 2]
    same_as_one_process(ranks, tmp_path)


def test_several_processes_without_a_strategy_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="fsdp or deepspeed"), engine_of("none"):
        pass


def test_strategy_without_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match="torchrun"), engine_of("fsdp"):
        pass


@pytest.mark.long
def test_command_under_torchrun_writes_the_checkpoint_of_one_process(tmp_path: Path) -> None:
    data = small_corpus(tmp_path)
    model, processor = small_avlm()
    save_checkpoint(model, processor, tmp_path / "start", Card(name="small", issue="icd"))
    words = ["train", "avlm", "--data", str(data), "--init", str(tmp_path / "start"), "--recipe", "lora-avlm"]
    words += [
        "--epochs",
        "1",
        "--batch-size",
        "4",
        "--micro-batch-size",
        "1",
        "--learning-rate",
        "0.01",
        "--threads",
        "1",
    ]
    several = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for name, start, extra in (("two", several, ["--strategy", "fsdp"]), ("one", [sys.executable], [])):
        done = subprocess.run(
            [
                *start,
                "-m",
                "tidegate",
                *words,
                "--out",
                str(tmp_path / name),
                "--cache",
                str(tmp_path / "cache"),
                *extra,
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=290,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("checkpoint:") == 1
    table = seen_and_heard(6, 5).table
    one, two = (score_rows(load_checkpoint(tmp_path / name)[0], processor, table, range(6)) for name in ("one", "two"))
    np.testing.assert_allclose(two, one, atol=2e-3)
    assert (tmp_path / "two-adapter/adapter_model.safetensors").exists()
