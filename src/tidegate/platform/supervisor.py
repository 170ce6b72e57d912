"""Several workers on one machine: starts them, passes a stop on, and starts again what died.

Enters: the path of a checked configuration. Leaves: an exit code when all have left. Each worker is a process of its
own, so a model or a message that kills one does not take the others; what it had in hand comes again (see
``journal``). A worker that keeps dying is started again ever later, up to once in ``MAX_PAUSE_SECONDS``.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Event, Timer
from types import FrameType

from tidegate.platform.config import PlatformConfig, read_config
from tidegate.platform.contracts import Shard
from tidegate.platform.telemetry import log, set_up_logging
from tidegate.platform.worker import Worker

__all__ = ["MAX_PAUSE_SECONDS", "run_platform"]

MAX_PAUSE_SECONDS = 60.0
_STOPS = (signal.SIGTERM, signal.SIGINT)


def run_platform(config: PlatformConfig, *, until_idle: bool = False) -> int:
    """Work until told to stop (SIGTERM, SIGINT) or, with ``until_idle``, until everything is done; the exit code."""
    if config.workers == 1:
        return _work(config, Shard(), until_idle=until_idle)
    return _Crew(config, until_idle=until_idle).run()


def _work(config: PlatformConfig, shard: Shard, *, until_idle: bool) -> int:
    """One worker in this process; a second signal ends it at once."""
    set_up_logging(config.operations.log_level, config.operations.log_format)
    worker = Worker(config, shard)
    overdue = Timer(config.operations.drain_seconds, _give_up)
    overdue.daemon = True

    def stop(number: int, frame: FrameType | None) -> None:
        for each in _STOPS:
            signal.signal(each, signal.SIG_DFL)
        worker.stop()
        overdue.start()

    for each in _STOPS:
        signal.signal(each, stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with worker:
        signal.signal(signal.SIGHUP, lambda number, frame: worker.reload())
        policy = f"{config.policy.name}@{config.policy.version}"
        log("started", worker=shard.worker, workers=shard.workers, policy=policy, source=config.source.kind)
        stats = worker.run(until_idle=until_idle)
        log("stopped", worker=shard.worker, taken=stats.taken, items=dict(stats.counts), accounted=stats.accounted)
    overdue.cancel()
    return 0


def _give_up() -> None:
    """The batch in hand took too long; it was not acknowledged and comes again."""
    log("drain_overdue", level="warning")
    signal.raise_signal(signal.SIGTERM)


def _work_by_path(path: Path, shard: Shard, until_idle: bool) -> None:
    raise SystemExit(_work(read_config(path), shard, until_idle=until_idle))


@dataclass
class _Post:
    """One worker's place."""

    number: int
    process: BaseProcess | None = None
    began_at: float = 0.0
    deaths: int = 0
    start_at: float = 0.0
    done: bool = False


@dataclass
class _Crew:
    """All workers of this machine."""

    config: PlatformConfig
    until_idle: bool
    posts: list[_Post] = field(default_factory=list)
    stop: Event = field(default_factory=Event)

    def run(self) -> int:
        operations = self.config.operations
        set_up_logging(operations.log_level, operations.log_format)
        for each in _STOPS:
            signal.signal(each, lambda number, frame: self.stop.set())
        signal.signal(signal.SIGHUP, lambda number, frame: self._pass_on(signal.SIGHUP))
        self.posts = [_Post(number) for number in range(self.config.workers)]
        while not self.stop.is_set() and not all(post.done for post in self.posts):
            for post in self.posts:
                self._look_after(post)
            self.stop.wait(0.1)
        return self._dismiss(operations.drain_seconds)

    def _pass_on(self, number: signal.Signals) -> None:
        """To all workers; one that is still starting reads the newest files anyway, or is started again."""
        for post in self.posts:
            if post.process is not None and post.process.pid is not None and post.process.exitcode is None:
                with suppress(ProcessLookupError):
                    os.kill(post.process.pid, number)

    def _look_after(self, post: _Post) -> None:
        now = time.monotonic()
        if post.done or now < post.start_at:
            return
        if post.process is None:
            context = multiprocessing.get_context("spawn")
            shard = Shard(worker=post.number, workers=self.config.workers)
            post.process = context.Process(target=_work_by_path, args=(self.config.path, shard, self.until_idle))
            post.process.start()
            post.began_at = now
        elif post.process.exitcode is not None:
            self._mourn(post, post.process.exitcode, now)

    def _mourn(self, post: _Post, code: int, now: float) -> None:
        post.process = None
        if code == 0:
            post.done = True
            return
        post.deaths = 1 if now - post.began_at > MAX_PAUSE_SECONDS else post.deaths + 1
        pause = min(MAX_PAUSE_SECONDS, 0.5 * 2.0 ** (post.deaths - 1))
        post.start_at = now + pause
        log("worker_died", level="error", worker=post.number, exit_code=code, again_in_seconds=pause)

    def _dismiss(self, drain_seconds: float) -> int:
        """Pass the stop on; whoever has not left in time is killed. A worker that was still starting just ends."""
        processes = [post.process for post in self.posts if post.process is not None]
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + drain_seconds + 5
        for process in processes:
            process.join(max(0.1, deadline - time.monotonic()))
            if process.exitcode is None:
                process.kill()
                process.join()
        return 0 if all(process.exitcode in {0, -signal.SIGTERM} for process in processes) else 1
