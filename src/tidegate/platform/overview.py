"""What the verbs beside ``run`` do: look at the stores, replay, show a scorer.

Enters: a checked configuration. Leaves: plain dictionaries to print. A replay opens the same parts as a worker does,
with another source and names of its own in the trail, so it can run beside the workers.
"""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from threading import Event
from typing import Any

from tidegate.platform.audit import verify
from tidegate.platform.config import Choice, PlatformConfig
from tidegate.platform.contracts import Backend, EventSource, Outbox
from tidegate.platform.event import EventCodec
from tidegate.platform.replay import LetterSource, TrailSource
from tidegate.platform.runner import RunStats
from tidegate.platform.scoring.context import ScoringContext
from tidegate.platform.scoring.http import ScoringServer
from tidegate.platform.waiting import WaitingRoom
from tidegate.platform.worker import Worker

__all__ = ["overview", "replay_letters", "replay_range", "show_scorer"]


def overview(config: PlatformConfig) -> dict[str, Any]:
    """What the stores hold now; the platform may be running or not."""
    with ExitStack() as stack:
        config.state.mkdir(parents=True, exist_ok=True)
        index = config.index.backend.open(config.index.settings)
        stack.callback(index.close)
        letters = config.dead_letters.backend.open(config.dead_letters.settings)
        stack.callback(letters.close)
        room = WaitingRoom(config.state / "waiting.db")
        stack.callback(room.close)
        trail = verify(config.state / "audit")
        return {
            "index": dict(index.counts()),
            "outbox": index.depth() if isinstance(index, Outbox) else None,
            "dead_letters": letters.count(),
            "waiting": dict(room.counts()),
            "audit": {"entries": trail.entries, "intact": trail.intact, "seals": dict(trail.heads)},
            "policy": f"{config.policy.name}@{config.policy.version}",
        }


def replay_letters(
    config: PlatformConfig, *, code: str | None, since: float | None, until: float | None
) -> dict[str, Any]:
    """Dead letters through the platform once more; those that fail again stay."""
    with ExitStack() as stack:
        letters = config.dead_letters.backend.open(config.dead_letters.settings)
        stack.callback(letters.close)
        codec = EventCodec(config.limits, config.locations)
        source = LetterSource(letters, codec, code=code, since=since, until=until)
        return _stats(_run(config, source, "replay-letters"))


def replay_range(config: PlatformConfig, *, since: float, until: float | None, renew: bool) -> dict[str, Any]:
    """The events of a time range of the audit trail through the platform once more."""
    end = time.time() if until is None else until
    source = TrailSource(config.state / "audit", since=since, until=end, renew=renew)
    return _stats(_run(config, source, "replay-range"))


def _run(config: PlatformConfig, source: EventSource, name: str) -> RunStats:
    choice = Choice(kind=name, settings=None, backend=Backend(settings=type(None), open=lambda *_: source))
    quiet = dataclasses.replace(config.operations, port=0, trace_file=None, trace_endpoint=None)
    alone = dataclasses.replace(config, source=choice, workers=1, operations=quiet, publisher=None)
    with Worker(alone, name=name) as worker:
        return worker.run(until_idle=True)


def _stats(stats: RunStats) -> dict[str, Any]:
    return {"taken": stats.taken, "items": dict(stats.counts), "applied": stats.applied, "skipped": stats.skipped}


def show_scorer(
    config: PlatformConfig, *, host: str, port: int, announce: Callable[[str], None], stop: Event | None = None
) -> None:
    """Serve the configuration's scorer until told to stop."""
    ended = stop or Event()
    if stop is None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, lambda number, frame: ended.set())
    context = ScoringContext(
        policy=config.policy, media_folder=config.media_folder, locations=config.locations, later=True
    )
    scorer = config.scoring.backend.open(config.scoring.settings, context)
    server = ScoringServer(scorer, host, port)
    announce(server.url)
    try:
        ended.wait()
    finally:
        server.close()
        scorer.close()
