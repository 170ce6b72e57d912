"""What the loop reports about itself, as calls; ``metrics`` turns them into Prometheus series.

Enters: counts and times of whole batches, so that measuring costs nothing per item. Leaves: nothing here;
``NoMeasures`` is the default and ``Tally`` keeps sums in memory for tests and benchmarks.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from tidegate.pipeline.policy import Policy

__all__ = ["Measures", "NoMeasures", "Tally"]


class Measures(Protocol):
    """What is reported."""

    def timed(self, phase: str) -> AbstractContextManager[None]:
        """Wall time of a phase of one batch."""
        ...

    def batch(self, size: int, counts: Mapping[str, int], latencies: Sequence[float]) -> None:
        """A batch is written: deliveries by what became of them, and seconds from received to written of each."""
        ...

    def models(self, reached: Mapping[str, int], seconds: Mapping[str, float]) -> None:
        """Items that each stage scored in a batch, and the model time."""
        ...

    def shadowed(self, policy: str, status: str) -> None:
        """A shadow policy's verdict on one item."""
        ...

    def written(self, applied: int, skipped: int) -> None:
        """What the index made of a batch."""
        ...

    def outage(self, what: str, seconds: float) -> None:
        """Something outside was away, and this long was waited."""
        ...

    def depth(self, source_lag: int | None, waiting: Mapping[str, int]) -> None:
        """What stands before the loop."""
        ...

    def policy(self, policy: Policy | None) -> None:
        """The live policy from now on; None: a new one was refused."""
        ...


class NoMeasures:
    """Nothing is kept."""

    def timed(self, phase: str) -> AbstractContextManager[None]:
        return nullcontext()

    def batch(self, size: int, counts: Mapping[str, int], latencies: Sequence[float]) -> None: ...

    def models(self, reached: Mapping[str, int], seconds: Mapping[str, float]) -> None: ...

    def shadowed(self, policy: str, status: str) -> None: ...

    def written(self, applied: int, skipped: int) -> None: ...

    def outage(self, what: str, seconds: float) -> None: ...

    def depth(self, source_lag: int | None, waiting: Mapping[str, int]) -> None: ...

    def policy(self, policy: Policy | None) -> None: ...


class Tally(NoMeasures):
    """Sums in memory, and the last ``keep`` latencies."""

    def __init__(self, *, keep: int = 100_000) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.counts: Counter[str] = Counter()
        self.shadows: Counter[tuple[str, str]] = Counter()
        self.latencies: deque[float] = deque(maxlen=keep)
        self.batches = 0
        self.outages: Counter[str] = Counter()

    @contextmanager
    def _timing(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - started

    def timed(self, phase: str) -> AbstractContextManager[None]:
        return self._timing(phase)

    def batch(self, size: int, counts: Mapping[str, int], latencies: Sequence[float]) -> None:
        self.batches += 1
        self.counts.update(counts)
        self.latencies.extend(latencies)

    def shadowed(self, policy: str, status: str) -> None:
        self.shadows[policy, status] += 1

    def outage(self, what: str, seconds: float) -> None:
        self.outages[what] += 1
