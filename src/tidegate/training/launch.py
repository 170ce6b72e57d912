"""Which engine a run gets: one process, or, under ``torchrun``, its place among several.

Enters: the name of a strategy and the environment that ``torchrun`` sets. Leaves: an ``Engine``; the process group is
there while it is used.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import distributed

from tidegate.errors import ConfigError
from tidegate.training.engine import Engine, OneProcess

__all__ = ["Strategy", "engine_of"]

Strategy = Literal["none", "fsdp", "deepspeed"]


@contextmanager
def engine_of(strategy: Strategy, device: str = "cpu") -> Iterator[Engine]:
    """The engine of this process. ``none`` under ``torchrun`` is refused: every process would train a model of its own.

    On GPUs each process takes the one of its local rank, and NCCL; else gloo.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if strategy == "none":
        if world_size > 1:
            raise ConfigError(f"expected a strategy (fsdp or deepspeed) for {world_size} processes, got none")
        yield OneProcess(device)
        return
    if "RANK" not in os.environ:
        raise ConfigError(f"expected to be started by torchrun for strategy {strategy!r}, found no RANK")
    from tidegate.training.sharded import DeepSpeedZero, Fsdp

    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        made = f"cuda:{os.environ['LOCAL_RANK']}" if on_gpu else device
        yield Fsdp(made) if strategy == "fsdp" else DeepSpeedZero(made)
    finally:
        distributed.destroy_process_group()
