"""The model benchmark runs on any machine, and its figures hang together."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from tidegate.bench.model import counted_operations, render, run_model_benchmark
from tidegate.bench.model_shapes import bench_model
from tidegate.cli import app
from tidegate.errors import UsageError
from tidegate.models import preset


def test_every_way_of_running_tiny_is_measured() -> None:
    found = run_model_benchmark("tiny", batches=(1, 2), frames=(2,), repeats=1, compiled=False)
    ways = [row.way for row in found.rows]
    assert ways == ["sdpa", "eager", "flash_attention_2", "head and cache"] * 2 + [
        "LoRA step", "LoRA step, checkpointing", "LoRA step", "LoRA step, checkpointing",
    ]  # fmt: skip
    for row in found.rows:
        if row.way == "flash_attention_2" and row.seconds is None:
            assert row.note
            continue
        assert row.seconds is not None
        assert row.videos_per_second == pytest.approx(row.batch / row.seconds)
        assert row.peak_memory_mib is not None
        assert row.peak_memory_mib > 50
    assert found.num_parameters == preset("tiny").load_stage("large").num_parameters
    assert found.giga_per_video[2] > 0
    assert "| sdpa | 1 | 2 |" in render(found)
    assert json.loads(json.dumps(found.to_dict()))["preset"] == "tiny"


def test_counted_operations_grow_by_the_same_for_every_two_frames_more() -> None:
    bench = bench_model("tiny", device="cpu", dtype=torch.float32, random_weights=False)
    one, three, five = (counted_operations(bench, frames, "cpu", torch.float32) for frames in (1, 3, 5))
    # Attention grows with the square of the tokens, so the second step is a little larger than the first.
    assert 1.0 <= (five - three) / (three - one) < 1.2


def test_full_shapes_are_those_of_the_published_models() -> None:
    with torch.device("meta"):
        sizes = {
            name: bench_model(name, device="meta", dtype=torch.bfloat16, random_weights=True)
            for name in ("compact", "paper-ucc")
        }
    assert {name: bench.tokens_per_frame for name, bench in sizes.items()} == {"compact": 196, "paper-ucc": 196}
    # Without the language model's head: 8.03 B published with it (0.54 B), plus Whisper-small's encoder (0.088 B).
    assert sizes["paper-ucc"].num_parameters == pytest.approx(7.57e9, rel=0.01)
    assert sizes["compact"].num_parameters == pytest.approx(0.98e9, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "huge"], "--preset"),
        (["--device", "cuda:9"], "--device"),
        (["--batch", "x"], "--batch"),
        (["--batch", "0"], ">= 1"),
        (["--dtype", "int3"], "--dtype"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: list[str], message: str) -> None:
    if message == "--device" and torch.cuda.device_count() > 9:
        pytest.skip("this machine has that device")
    result = CliRunner().invoke(app, ["bench", "model", *arguments])
    assert result.exit_code == 2
    assert message in result.output


def test_device_that_is_not_there_is_refused_before_a_model_is_built() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(UsageError, match="CUDA is not available"):
        run_model_benchmark("paper-ucc", device="cuda", random_weights=True)
