"""The floor of a run: who holds which item, and when a new one may be taken.

Enters: items and finished pieces of work. Leaves: the next piece of work for whoever asks (decoding threads, stage
threads, the writer). One lock guards all of it, and the amount of work is bounded at one place, the door: an item
is taken only while fewer than ``max_in_flight`` items are inside and the decoded clips hold less than
``max_held_bytes``. Inside, queues need no bound of their own, so no thread ever waits with something in its hands,
and nothing can deadlock. Escalated items are decoded before new ones are taken.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tidegate.pipeline.boundary import Failure
from tidegate.pipeline.item import Item
from tidegate.pipeline.retriever import Known, Retrieved
from tidegate.types import Decision, Observation, Outcome, Score

__all__ = ["Floor", "RunnerConfig", "Work"]


@dataclass(frozen=True, kw_only=True)
class RunnerConfig:
    """How much work a run holds at a time."""

    decode_threads: int = 2
    """Videos decoded at the same time; as many as the decoder has processes."""
    max_in_flight: int = 32
    """Items between taken and written."""
    max_held_bytes: int = 256 * 2**20
    """Decoded frames and audio over which no new item is taken; passed by at most one clip a decoding thread."""
    max_batch: int = 8
    """Clips that a stage is given at a time."""
    max_wait_seconds: float = 0.05
    """How long a stage waits for a fuller batch."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0 or (value == 0 and name != "max_wait_seconds"):
                raise ValueError(f"expected {name} > 0, got {value!r}")


@dataclass(kw_only=True, eq=False)
class Work:
    """One item inside the run."""

    item: Item
    stage: int = 0
    """The stage that is asked next."""
    fingerprint: str = ""
    retrieved: Retrieved | None = None
    """What the stage is shown; dropped on the way to the next stage, which sees the video in its own way."""
    known: Known | None = None
    scores: list[Score] = field(default_factory=list)
    routes: list[Observation] = field(default_factory=list)
    decode_seconds: float = 0.0
    held_bytes: int = 0
    result: Decision | Failure | Outcome | None = None
    """How it ended; an ``Outcome`` is one that an earlier run stored."""


class Floor:
    """The shared state of one run."""

    def __init__(self, items: Iterable[Item], num_stages: int, config: RunnerConfig) -> None:
        self._items = iter(items)
        self._config = config
        self._changed = threading.Condition()
        self._to_decode: deque[Work] = deque()
        self._to_score: list[deque[Work]] = [deque() for _ in range(num_stages)]
        self._finished: deque[Work] = deque()
        self._in_flight = 0
        self._held_bytes = 0
        self._taking = False
        self._exhausted = False
        self._stopping = False
        self.taken = 0
        self.interrupted = False
        """Whether the run was left before its end."""

    def stop(self) -> None:
        """Take no more, and let every waiting thread go."""
        with self._changed:
            self.interrupted = self.interrupted or not self._drained()
            self._stopping = True
            self._changed.notify_all()

    def _drained(self) -> bool:
        return self._exhausted and self._in_flight == 0

    def next_to_decode(self) -> Work | None:
        """An escalated item, else a new one; None when the run is over."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._drained() or self._to_decode or self._may_take())
                if self._stopping or self._drained():
                    return None
                if self._to_decode:
                    return self._to_decode.popleft()
                self._taking = True
            work = self._take()
            if work is not None:
                return work

    def _may_take(self) -> bool:
        room = self._in_flight < self._config.max_in_flight and self._held_bytes < self._config.max_held_bytes
        return room and not self._taking and not self._exhausted

    def _take(self) -> Work | None:
        item = next(self._items, None)
        with self._changed:
            self._taking = False
            self._exhausted = item is None
            self._in_flight += item is not None
            self.taken += item is not None
            self._changed.notify_all()
        return None if item is None else Work(item=item)

    def decoded(self, work: Work) -> None:
        """An item is ready for its stage."""
        with self._changed:
            self._hold(work, 0 if work.retrieved is None else work.retrieved.num_bytes)
            self._to_score[work.stage].append(work)
            self._changed.notify_all()

    def escalated(self, work: Work) -> None:
        """An item must be decoded again, as the next stage wants it."""
        work.retrieved = None
        with self._changed:
            self._hold(work, 0)
            self._to_decode.append(work)
            self._changed.notify_all()

    def _hold(self, work: Work, num_bytes: int) -> None:
        self._held_bytes += num_bytes - work.held_bytes
        work.held_bytes = num_bytes

    def next_batch(self, stage: int) -> list[Work]:
        """Items for a stage, as full a batch as comes together in a short time; empty when the run is over."""
        queue, limit = self._to_score[stage], self._config.max_batch
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._drained() or queue)
            if self._stopping or not queue:
                return []
            until = time.monotonic() + self._config.max_wait_seconds
            while len(queue) < min(limit, self._in_flight) and not self._stopping:
                left = until - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            return [queue.popleft() for _ in range(min(limit, len(queue)))]

    def finished(self, work: Work) -> None:
        """An item came to its end. While stopping, failures are dropped: leaving may have caused them."""
        with self._changed:
            if not (self._stopping and isinstance(work.result, Failure)):
                self._finished.append(work)
            self._changed.notify_all()

    def next_finished(self, is_broken: Callable[[], bool]) -> list[Work]:
        """Items that ended; empty when the run is over, is stopping, or a thread broke."""
        with self._changed:
            self._changed.wait_for(lambda: self._finished or self._stopping or self._drained() or is_broken())
            ended = list(self._finished)
            self._finished.clear()
            return ended

    def acknowledge(self, works: Iterable[Work]) -> None:
        """These items are written; their room is free."""
        with self._changed:
            for work in works:
                self._hold(work, 0)
                self._in_flight -= 1
            self._changed.notify_all()

    def wake(self) -> None:
        """Let waiting threads look again."""
        with self._changed:
            self._changed.notify_all()
