"""The loop: poll, decide, write, acknowledge; one mini-batch at a time.

Enters: deliveries of a source (and those of the waiting room that are due). Leaves: written batches. Everything of a
batch is written before anything of it is acknowledged, in this order: audit trail, dead letters, waiting room, index
with its outbox, acknowledgement. A crash between any two of them repeats the batch, and every one of these writes is
idempotent or tells repeats apart, so nothing is lost and nothing is doubled.

Memory: one batch, whatever the backlog. Backpressure: while a server is away, or while more than ``max_waiting`` items
wait for a slower stage, nothing new is polled, and the lag grows where everybody sees it. Order: batches of a partition
are written in order, because there is only ever one batch in hand; ``stop`` finishes it and leaves.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Event
from typing import TypeVar

from tidegate.errors import ServiceUnavailable
from tidegate.platform.audit import AuditTrail
from tidegate.platform.contracts import DeadLetters, Delivery, EventSource, IndexService, Settling
from tidegate.platform.flow import Flow, Processed, no_checkpoint
from tidegate.platform.journal import InHand
from tidegate.platform.measures import Measures, NoMeasures
from tidegate.platform.replay import LetterSource
from tidegate.platform.waiting import WaitingRoom, WaitingSource

__all__ = ["RunStats", "Runner", "RunnerConfig", "Stores"]

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class RunnerConfig:
    """How the loop works."""

    max_batch: int = 1024
    """Deliveries taken at a time; a smaller batch is taken at once when no more are there."""
    poll_seconds: float = 0.1
    """Longest wait for the first delivery of a batch; also how soon a stop is noticed."""
    max_waiting: int = 1_000_000
    """Items in the waiting room over which nothing new is polled."""
    backoff_seconds: float = 0.1
    """First wait for a server that is away; doubled up to ``max_backoff_seconds``, with jitter."""
    max_backoff_seconds: float = 5.0
    """Longest wait between two attempts to reach it."""

    def __post_init__(self) -> None:
        if self.max_batch < 1 or self.max_waiting < 1:
            raise ValueError(f"expected max_batch >= 1 and max_waiting >= 1, got {self.max_batch}, {self.max_waiting}")


@dataclass(frozen=True, kw_only=True)
class Stores:
    """Where a loop writes."""

    index: IndexService
    dead_letters: DeadLetters
    audit: AuditTrail
    waiting: WaitingRoom


@dataclass
class RunStats:
    """What a loop did."""

    taken: int = 0
    """Deliveries of the source itself that were worked off."""
    resumed: int = 0
    """Deliveries of the waiting room."""
    counts: Counter[str] = field(default_factory=Counter)
    applied: int = 0
    skipped: int = 0
    batches: int = 0

    @property
    def accounted(self) -> bool:
        """The identity that must hold: whatever was taken has become exactly one thing."""
        return self.taken + self.resumed == self.counts.total()


class _Stopped(Exception):
    """Told to stop while waiting for a server; what is in hand is not acknowledged and comes again."""


class Runner:
    """One loop over one source. Used from one thread; ``stop`` may be called from anywhere."""

    def __init__(
        self,
        *,
        source: EventSource,
        flow: Flow,
        stores: Stores,
        config: RunnerConfig | None = None,
        retries: WaitingSource | None = None,
        in_hand: InHand | None = None,
        measures: Measures | None = None,
        checkpoint: Callable[[str], None] = no_checkpoint,
        stop: Event | None = None,
        clock: Callable[[], float] = time.time,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        """``between`` is called before each step, when nothing is in hand: the place to change a policy."""
        self._between = between
        self._source, self._flow, self._stores = source, flow, stores
        self._config, self._retries, self._in_hand = config or RunnerConfig(), retries, in_hand
        self._measures, self._checkpoint, self._clock = measures or NoMeasures(), checkpoint, clock
        self._stop = stop or Event()
        self._looked_at = 0.0
        self._is_full = False
        self.stats = RunStats()
        self.moved_at = time.monotonic()
        """When the loop last began a step or a wait, on the monotonic clock."""
        self.outage: str | None = None
        """What is waited for now; None when the loop is working."""

    def stop(self) -> None:
        """Finish the batch in hand, then leave. Safe in a signal handler."""
        self._stop.set()

    def run(self, *, until_idle: bool = False) -> RunStats:
        """Work until told to stop; with ``until_idle``, until an empty poll finds nothing more and the source is
        settled."""
        while not self._stop.is_set():
            try:
                took = self.step()
            except _Stopped:
                break
            if until_idle and took == 0 and not self._is_full and self._settled():
                break
        return self.stats

    def _settled(self) -> bool:
        source = self._source
        return not isinstance(source, Settling) or self._persist("source", source.settled)

    def step(self) -> int:
        """One batch, from poll to acknowledgement; how many deliveries it had."""
        self.moved_at = time.monotonic()
        self._between()
        self._look_around()
        retried = [] if self._retries is None else self._persist("waiting", partial(self._poll_retries, self._retries))
        fresh = self._poll_source(bool(retried))
        for deliveries, source in ((retried, self._retries), (fresh, self._source)):
            if deliveries and source is not None:
                self._take(deliveries, source)
        return len(retried) + len(fresh)

    def _poll_retries(self, retries: WaitingSource) -> Sequence[Delivery]:
        return retries.poll(max(1, self._config.max_batch // 4), 0.0)

    def _poll_source(self, in_a_hurry: bool) -> Sequence[Delivery]:
        if self._is_full:
            if not in_a_hurry:
                self._stop.wait(self._config.poll_seconds)
            return []
        timeout = 0.0 if in_a_hurry else self._config.poll_seconds
        with self._measures.timed("poll"):
            return self._persist("source", lambda: self._source.poll(self._config.max_batch, timeout))

    def _look_around(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < 0.5:
            return
        self._looked_at = now
        waiting = self._persist("waiting", self._stores.waiting.counts)
        self._is_full = sum(waiting.values()) >= self._config.max_waiting and not isinstance(
            self._source, WaitingSource
        )
        self._measures.depth(self._source.lag(), waiting)

    def _take(self, deliveries: Sequence[Delivery], source: EventSource) -> None:
        """A polled batch; what was in hand at a crash goes alone."""
        journal = self._in_hand
        if journal is None or not journal.has_suspects:
            self._do(deliveries, source)
            return
        if not any(journal.is_suspect(delivery) for delivery in deliveries):
            self._do(deliveries, source)
            return
        for delivery in deliveries:
            self._do([delivery], source)

    def _do(self, deliveries: Sequence[Delivery], source: EventSource) -> None:
        if self._in_hand is not None:
            self._in_hand.begin(deliveries)
        try:
            with self._measures.timed("batch"):
                processed = self._work_on(deliveries, source)
        except _Stopped:
            if self._in_hand is not None:
                self._in_hand.put_down()  # nothing died, so nothing is suspect
            raise
        if self._in_hand is not None:
            self._in_hand.end(deliveries)
        self._report(deliveries, processed, resumed=source is self._retries)

    def _work_on(self, deliveries: Sequence[Delivery], source: EventSource) -> Processed:
        self._checkpoint("polled")
        processed = self._decide(deliveries)
        self._checkpoint("decided")
        self._write(processed)
        self._persist("source", partial(self._acknowledge, deliveries, source, processed))
        self._checkpoint("acknowledged")
        return processed

    def _decide(self, deliveries: Sequence[Delivery]) -> Processed:
        first = deliveries[0]
        if len(deliveries) == 1 and self._in_hand is not None and self._in_hand.is_poison(first):
            return self._flow.reject(first, "worker_crashed", "The worker died each time it had this message in hand.")
        return self._persist("scoring", partial(self._flow.process, deliveries))

    def _write(self, processed: Processed) -> None:
        stores, measures = self._stores, self._measures
        with measures.timed("audit"):
            self._persist("audit", partial(stores.audit.append, processed.lines))
        self._checkpoint("audited")
        if processed.letters:
            self._persist("dead_letters", partial(stores.dead_letters.add_many, processed.letters))
            self._checkpoint("dead_lettered")
        for (stage, due_at), waiting in processed.waiting.items():
            self._persist("waiting", partial(stores.waiting.put_many, stage, waiting, due_at=due_at))
            self._checkpoint("put_back")
        if processed.records:
            with measures.timed("index"):
                write = partial(stores.index.put_many, processed.records, processed.messages)
                result = self._persist("index", write)
            self.stats.applied += result.applied
            self.stats.skipped += result.skipped
            measures.written(result.applied, result.skipped)
        self._checkpoint("indexed")

    def _acknowledge(self, deliveries: Sequence[Delivery], source: EventSource, processed: Processed) -> None:
        if isinstance(source, LetterSource):
            again = {(letter.partition, letter.offset) for letter in processed.letters}
            source.acknowledge([one for one in deliveries if (one.partition, one.offset) not in again])
            return
        if not isinstance(source, WaitingSource):
            source.acknowledge(deliveries)
            return
        back = {
            (delivery.partition, delivery.offset) for queue in processed.waiting.values() for delivery in queue
        }
        source.forget([delivery for delivery in deliveries if (delivery.partition, delivery.offset) in back])
        source.acknowledge([delivery for delivery in deliveries if (delivery.partition, delivery.offset) not in back])

    def _report(self, deliveries: Sequence[Delivery], processed: Processed, *, resumed: bool) -> None:
        stats, now = self.stats, self._clock()
        stats.resumed += len(deliveries) if resumed else 0
        stats.taken += 0 if resumed else len(deliveries)
        stats.counts.update(processed.counts)
        stats.batches += 1
        assert processed.counts.total() == len(deliveries), f"{processed.counts} of {len(deliveries)} deliveries"
        self._measures.models(processed.reached, processed.model_seconds)
        self._measures.batch(
            len(deliveries), processed.counts, [max(0.0, now - delivery.received_at) for delivery in deliveries]
        )

    def _persist(self, what: str, action: Callable[[], _Result]) -> _Result:
        """Do it, however long the server behind it is away; only a stop ends the waiting."""
        wait = self._config.backoff_seconds
        while True:
            try:
                result = action()
            except ServiceUnavailable as error:
                self.outage = f"{what}: {error}"
                self.moved_at = time.monotonic()
                pause = wait * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
                self._measures.outage(what, pause)
                if self._stop.wait(pause):
                    raise _Stopped from error
                wait = min(2 * wait, self._config.max_backoff_seconds)
            else:
                self.outage = None
                return result
