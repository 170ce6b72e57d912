"""The resume file: all of a run's state, so that a run that was killed goes on to the same weights.

Enters: a run and its engine. Leaves: one file, written beside its place and moved into it: whoever reads finds the
last whole one, whenever the writer was killed. Read without unpickling code (``weights_only``).
"""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from tidegate.errors import CheckpointError
from tidegate.training.engine import Engine

__all__ = ["load_run", "save_run"]

_FORMAT = "tidegate-run-2"


def save_run(run: Any, engine: Engine, path: Path) -> None:
    """Write the run's state; in a run of several processes all take part and the first writes."""
    state = {
        "format": _FORMAT,
        "engine": engine.full_state(),
        "averaged": engine.whole(run.averaged.state),
        "averaged_step": run.averaged.step,
        "best_state": engine.whole(run.best_state),
        "progress": {
            "history": run.history,
            "losses": run.losses,
            "best_epoch": run.best_epoch,
            "best_value": list(run.best_value),
            "step": run.step,
        },
    }
    if engine.shard.rank != 0:
        return
    fresh = path.with_name(path.name + ".part")
    with fresh.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)


def load_run(run: Any, engine: Engine, path: Path) -> None:
    """Inverse of ``save_run``."""
    try:
        state = torch.load(path, weights_only=True, map_location=engine.device)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"expected the state of a run in {path}, found: {error}") from error
    found = state.get("format") if isinstance(state, dict) else type(state).__name__
    if found != _FORMAT:
        raise CheckpointError(f"expected the format {_FORMAT!r} in {path}, found {found!r}: remove it to start anew")
    expected, given = run.averaged.state, state["averaged"]
    if {name: tensor.shape for name, tensor in expected.items()} != {k: v.shape for k, v in given.items()}:
        different = sorted(set(expected) ^ set(given))[:3]
        raise CheckpointError(
            f"{path}: expected the {len(expected)} trained tensors of this model, found {len(given)} of another "
            f"{different}: remove it to start anew"
        )
    engine.load_full_state(state["engine"])
    run.averaged.state, run.averaged.step = engine.share_out(given), state["averaged_step"]
    run.best_state, progress = engine.share_out(state["best_state"]), state["progress"]
    run.history, run.losses, run.step = progress["history"], progress["losses"], progress["step"]
    run.best_epoch, run.best_value = progress["best_epoch"], tuple(progress["best_value"])
