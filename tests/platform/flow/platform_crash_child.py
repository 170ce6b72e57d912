"""A worker that kills itself (kill -9) when its n-th checkpoint is reached. Runs in a process of its own."""

from __future__ import annotations

import dataclasses
import faulthandler
import logging
import os
import signal
from pathlib import Path

from tidegate.platform.config import read_config
from tidegate.platform.contracts import Shard
from tidegate.platform.measures import Tally
from tidegate.platform.worker import Worker


def work(path: Path, kill_at: int, point: str | None = None) -> None:
    """Work until idle; die at the ``kill_at``-th checkpoint (of that name), if there is one. 0: live."""
    seen = 0

    def checkpoint(name: str) -> None:
        nonlocal seen
        if point is None or name == point:
            seen += 1
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    config = read_config(path)
    flow = dataclasses.replace(config.flow, with_outbox=True)
    with Worker(dataclasses.replace(config, flow=flow), checkpoint=checkpoint, measures=Tally()) as worker:
        worker.run(until_idle=True)
        assert worker.stats.accounted


def serve(path: Path, kill_at: int, worker: int, workers: int) -> None:
    """One of several workers, until SIGTERM; dies at the ``kill_at``-th checkpoint. 0: lives.

    ``worker.log`` beside the configuration has what it logs and, at SIGUSR1, its stack."""
    seen = 0
    file = (path.parent / "worker.log").open("a")
    faulthandler.register(signal.SIGUSR1, file, all_threads=True)
    logging.basicConfig(stream=file, level=logging.INFO, format="%(asctime)s %(process)d %(name)s %(message)s")
    os.dup2(file.fileno(), 2)

    def checkpoint(name: str) -> None:
        nonlocal seen
        seen += 1
        if seen == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    shard = Shard(worker=worker, workers=workers)
    with Worker(read_config(path), shard, checkpoint=checkpoint, measures=Tally()) as running:
        signal.signal(signal.SIGTERM, lambda number, frame: running.stop())
        running.run()
        assert running.stats.accounted
