"""One worker: everything that a configuration names, put together, run, and taken apart again.

Enters: a checked configuration and the part of the stream that this process takes. Leaves: nothing; it works until it
is told to stop. The main loop runs in the calling thread. The first worker also runs, in threads of their own, the loop
of the later stages and the pump of the outbox.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from threading import Event
from typing import Any, Protocol, TypeVar

from tidegate import __version__
from tidegate.errors import ConfigError, ServiceError, ServiceUnavailable
from tidegate.platform.audit import AuditTrail
from tidegate.platform.config import PlatformConfig
from tidegate.platform.contracts import Outbox, Scorer, Shard
from tidegate.platform.event import EventCodec
from tidegate.platform.flow import RETRY, Flow, no_checkpoint
from tidegate.platform.health import HealthServer
from tidegate.platform.journal import InHand
from tidegate.platform.measures import Measures, NoMeasures
from tidegate.platform.metrics import PlatformMeasures
from tidegate.platform.policies import LivePolicies, arms_of, tables_of
from tidegate.platform.pump import Pump
from tidegate.platform.runner import Runner, RunStats, Stores
from tidegate.platform.scoring.context import ScoringContext
from tidegate.platform.telemetry import log, open_tracing
from tidegate.platform.verdicts import PolicyTable
from tidegate.platform.waiting import WaitingRoom, WaitingSource

__all__ = ["Worker"]

_STUCK_SECONDS = 300.0


class Worker:
    """Use it in a ``with`` block; leaving the block closes everything in the reverse order of opening."""

    def __init__(
        self,
        config: PlatformConfig,
        shard: Shard | None = None,
        *,
        checkpoint: Callable[[str], None] = no_checkpoint,
        measures: Measures | None = None,
        name: str | None = None,
    ) -> None:
        self.config, self.shard = config, shard or Shard(workers=config.workers)
        self._checkpoint, self._given = checkpoint, measures
        self._name = name or f"w{self.shard.worker}"
        self._is_first = name is None and self.shard.worker == 0
        self.stop_asked = Event()
        self._stack = ExitStack()
        self._executor = ThreadPoolExecutor(16, thread_name_prefix=f"worker-{self.shard.worker}")
        self._beside: dict[str, Future[Any]] = {}
        self.health: HealthServer | None = None

    def __enter__(self) -> Worker:
        with ExitStack() as stack:
            self._open(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._executor.shutdown(wait=True)
        self._stack.close()

    def stop(self) -> None:
        """Finish the batches in hand, then leave. Safe in a signal handler."""
        self.stop_asked.set()

    def reload(self) -> None:
        """Read the policy files again before the next batch. Safe in a signal handler."""
        self._policies.ask()

    def run(self, *, until_idle: bool = False) -> RunStats:
        """Work until told to stop; with ``until_idle``, until source, later stages and retries are empty."""
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        for runner, name in self._later:
            self._start(runner.run, name)
        while True:
            stats = self._main.run(until_idle=until_idle)
            if self.stop_asked.is_set() or not until_idle or not self._is_first or self._room.count() == 0:
                break
            self.stop_asked.wait(0.05)
        self.stop()
        for beside in self._beside.values():
            beside.result()
        return stats

    @property
    def stats(self) -> RunStats:
        """Of the main loop."""
        return self._main.stats

    def status(self) -> Mapping[str, Any]:
        """What ``/status`` shows."""
        stats = self._main.stats
        return {
            "worker": self.shard.worker,
            "version": __version__,
            "taken": stats.taken,
            "items": dict(stats.counts),
            "index": {"applied": stats.applied, "skipped": stats.skipped},
            "waiting": dict(self._room.counts()),
            "lag": self._source.lag(),
            "outage": self._outage(),
            "audit_seal": self._trail.head,
            "policy": f"{self._policies.config.policy.name}@{self._policies.config.policy.version}",
        }

    def _start(self, target: Callable[[], Any], name: str) -> None:
        self._beside[name] = future = self._executor.submit(target)
        future.add_done_callback(lambda _: self.stop())

    def _open(self, stack: ExitStack) -> None:
        config, worker = self.config, self._name
        config.state.mkdir(parents=True, exist_ok=True)
        operations = config.operations
        tracing = open_tracing(file=operations.trace_file, endpoint=operations.trace_endpoint, worker=worker)
        tracer = None
        if tracing is not None:
            tracer = tracing[0].get_tracer("tidegate.platform")
            stack.callback(tracing[1])
        self._measures = self._given or (
            self._prometheus(tracer) if operations.port or tracer is not None else NoMeasures()
        )
        self._policies = LivePolicies(config, self._measures, self._setup)
        self._room = _closing(stack, WaitingRoom(config.state / "waiting.db"))
        self._index = _closing(stack, config.index.backend.open(config.index.settings))
        self._letters = _closing(stack, config.dead_letters.backend.open(config.dead_letters.settings))
        self._features = [_closing(stack, choice.backend.open(choice.settings)) for choice in config.features]
        self._known = (
            None if config.known is None else _closing(stack, config.known.backend.open(config.known.settings))
        )
        scorer = self._open_scorer(stack, later=False)
        self._trail = self._open_trail(stack, worker)
        journal = _closing(stack, InHand(config.state / f"in-hand-{worker}.json"))
        codec = EventCodec(config.limits, config.locations)
        self._source = _closing(stack, config.source.backend.open(config.source.settings, self.shard, codec))
        self.flow, self.stores = self._flow(scorer), self._stores(self._trail)
        self._main = Runner(
            source=self._source, flow=self.flow, stores=self.stores, config=config.batch,
            retries=self._retries() if self._is_first else None, in_hand=journal,
            measures=self._measures, checkpoint=self._checkpoint, stop=self.stop_asked,
            between=self._policies.followed_by(self.flow, scorer, self._trail, worker),
        )
        self._later = self._open_later(stack, scorer) if self._is_first else []
        if self._is_first and config.publisher is not None:
            self._open_pump(stack)
        if operations.port:
            self.health = self._open_health(stack)

    def _retries(self) -> WaitingSource:
        return WaitingSource(self._room, RETRY, max_wait_seconds=self.config.flow.max_retry_seconds)

    def _open_scorer(self, stack: ExitStack, *, later: bool) -> Scorer:
        choice, config = self.config.scoring, self.config
        context = ScoringContext(
            policy=config.policy, media_folder=config.media_folder, locations=config.locations, later=later
        )
        scorer: Scorer = _closing(stack, choice.backend.open(choice.settings, context))
        return scorer

    def _flow(self, scorer: Scorer) -> Flow:
        config = self.config
        return Flow(
            scorer=scorer, policy=PolicyTable(config.policy), shadows=tables_of(config), arms=arms_of(config),
            features=self._features, known=self._known, config=config.flow, measures=self._measures,
            checkpoint=self._checkpoint,
        )

    def _stores(self, trail: AuditTrail) -> Stores:
        return Stores(index=self._index, dead_letters=self._letters, audit=trail, waiting=self._room)

    def _prometheus(self, tracer: Any) -> PlatformMeasures:
        measures = PlatformMeasures(
            tracer=tracer, budget_seconds_per_thousand=self.config.budget.model_seconds_per_thousand,
            gpus_of=getattr(self.config.scoring.settings, "gpus_of", lambda stage: 0.0),
        )
        measures.policy(self.config.policy)
        return measures

    @staticmethod
    def _setup(config: PlatformConfig, name: str) -> dict[str, Any]:
        return {
            "software": f"tidegate {__version__}",
            "worker": name,
            "config_hash": config.config_hash,
            "policy": {"name": config.policy.name, "version": config.policy.version, "hash": config.policy.policy_hash},
            "shadows": {shadow: policy.policy_hash for shadow, policy in config.shadows.items()},
            "candidate": None if config.experiment is None else config.experiment.candidate.policy_hash,
            "scoring": config.scoring.kind,
            "began_at": time.time(),
        }

    def _open_trail(self, stack: ExitStack, name: str) -> AuditTrail:
        config = self.config
        trail = AuditTrail(
            config.state / "audit", name, self._setup(config, name), sync=config.audit.sync,
            max_file_bytes=config.audit.max_file_bytes,
        )
        return _closing(stack, trail)

    def _open_later(self, stack: ExitStack, scorer: Scorer) -> list[tuple[Runner, str]]:
        stages: tuple[str, ...] = getattr(scorer, "deferred_stages", ())
        opened = []
        for stage in stages:
            name = f"later-{stage}"
            trail, own = self._open_trail(stack, name), self._open_scorer(stack, later=True)
            flow, budget = self._flow(own), self.config.budget
            source = WaitingSource(
                self._room, stage, per_second=budget.later_items_per_second, burst=budget.burst_items
            )
            runner = Runner(
                source=source, flow=flow, stores=self._stores(trail), config=self.config.batch,
                measures=self._measures, checkpoint=self._checkpoint, stop=self.stop_asked,
                between=self._policies.followed_by(flow, own, trail, name),
            )
            opened.append((runner, f"later-{stage}"))
        return opened

    def _open_pump(self, stack: ExitStack) -> None:
        choice = self.config.publisher
        if choice is None or not isinstance(self._index, Outbox):
            raise ConfigError(f"{self.config.path}: publisher: expected an index with an outbox, got none")
        publisher = _closing(stack, choice.backend.open(choice.settings))

        def report(error: ServiceError) -> None:
            log("publisher_away", level="warning", error=str(error))

        pump = Pump(self._index, publisher, stop=self.stop_asked, report=report)
        self._start(pump.run, "outbox")
        self._watch("tidegate_outbox_depth", self._index.depth)

    def _open_health(self, stack: ExitStack) -> HealthServer:
        operations, measures = self.config.operations, self._measures
        assert isinstance(measures, PlatformMeasures)
        self._watch("tidegate_dead_letters", self._letters.count)
        self._watch("tidegate_audit_sealed_at_seconds", lambda: self._trail.sealed_at)
        return _closing(stack, HealthServer(
            host=operations.host, port=operations.port + self.shard.worker, healthy=self._trouble, ready=self._unready,
            metrics=measures.text, status=self.status,
        ))

    def _watch(self, name: str, count: Callable[[], float]) -> None:
        if isinstance(self._measures, PlatformMeasures):
            self._measures.watch(name, lambda: _count_or_nan(count))

    def _trouble(self) -> str | None:
        """Why this process should be restarted."""
        dead = [name for name, future in self._beside.items() if future.done()]
        if dead and not self.stop_asked.is_set():
            return f"ended: {', '.join(dead)}"
        idle = time.monotonic() - self._main.moved_at
        return f"no step for {idle:.0f} s" if idle > _STUCK_SECONDS else None

    def _unready(self) -> str | None:
        """Why no new work should be sent here."""
        return "draining" if self.stop_asked.is_set() else self._outage()

    def _outage(self) -> str | None:
        outages = [runner.outage for runner in (self._main, *(runner for runner, _ in self._later))]
        return next((outage for outage in outages if outage is not None), None)


class _Closes(Protocol):
    def close(self) -> None: ...


_Thing = TypeVar("_Thing", bound=_Closes)


def _closing(stack: ExitStack, thing: _Thing) -> _Thing:
    stack.callback(thing.close)
    return thing


def _count_or_nan(count: Callable[[], float]) -> float:
    try:
        return float(count())
    except ServiceUnavailable:
        return float("nan")
