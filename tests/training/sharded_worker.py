"""One process of a run of several: ``torchrun --nproc-per-node 2 sharded_worker.py STRATEGY OUT``.

Trains a small AVLM and writes what this process saw and came to.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from training_samples import seen_and_heard, small_avlm

from tidegate.training.engine import trained_state
from tidegate.training.examples import Examples
from tidegate.training.launch import engine_of
from tidegate.training.loop import fit
from tidegate.training.lora import adapt
from tidegate.training.recipes import AdapterConfig, OptimiserConfig

CONFIG = OptimiserConfig(
    epochs=2,
    batch_size=8,
    micro_batch_size=2,
    learning_rate=3e-3,
    positive_weight=3.0,
    clip_norm=0.5,
    warmup_fraction=0.2,
)


class Watching:
    """A table that remembers which clips it was asked for."""

    def __init__(self, table: Any) -> None:
        self.table = table
        self.seen: list[str] = []

    @property
    def video_ids(self) -> tuple[str, ...]:
        return self.table.video_ids

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> Any:
        self.seen.append(self.table.video_ids[row])
        return self.table[row]


def train(engine: Any, *, resume: Path | None = None) -> dict[str, Any]:
    """A run on 20 clips, of which two steps of 8 fill an epoch."""
    model, processor = small_avlm()
    adapt(model, AdapterConfig(rank=2, alpha=4), towers=True)
    given = seen_and_heard(20, 1)
    watching = Watching(given.table)
    examples = Examples(table=watching, rows=given.rows, labels=given.labels)
    result = fit(model, processor, examples, seen_and_heard(9, 2), CONFIG, engine=engine, resume=resume)
    return {"history": list(result.history), "seen": watching.seen, "weights": engine.whole(trained_state(model))}


def main() -> None:
    torch.set_num_threads(1)
    strategy, out = sys.argv[1], Path(sys.argv[2])
    with engine_of(strategy) as engine:  # type: ignore[arg-type]
        shard = engine.shard
        done = train(engine, resume=out / "run.pt" if engine.resumable else None)
        held = [p.to_local() if hasattr(p, "to_local") else p for p in engine.objective.parameters()]  # type: ignore[attr-defined]
        values = {
            "rank": shard.rank,
            "world_size": shard.world_size,
            "history": done["history"],
            "seen": done["seen"],
            "held": sum(tensor.numel() for tensor in held),
            "zero_stage": engine.wrapped.zero_optimization_stage() if strategy == "deepspeed" else None,  # type: ignore[attr-defined]
        }
        (out / f"rank{shard.rank}.json").write_text(json.dumps(values))
        if shard.rank == 0:
            save_file(
                {name: tensor.contiguous() for name, tensor in done["weights"].items()}, out / "weights.safetensors"
            )


if __name__ == "__main__":
    main()
