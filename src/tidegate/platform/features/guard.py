"""What stands between the platform and a feature service that may be slow, failing or flapping.

Enters: ids, and a fetch of one backend. Leaves: a result for every id within the deadline, never an exception and never
a zero: ``Found`` or ``Missing`` with its reason.

- deadline: the fetch runs in a thread of its own and is left behind when time is up (a late answer fills the cache);
- retry with full jitter after a failure, as long as the deadline allows;
- circuit breaker: after ``breaker_failures`` in a row nobody asks for ``breaker_seconds``; then one call tries;
- stale-cache rule: values up to ``fresh_seconds`` old are as good as new; older ones, up to ``stale_seconds``, are
  used only when the service fails, and say so.

Durations are measured by the monotonic clock, so a jump of the wall clock opens and closes nothing.
Source: M. Nygard, Release It! (circuit breaker); M. Brooker, Exponential Backoff And Jitter.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

from tidegate.errors import ConfigError, ServiceError, ServiceUnavailable
from tidegate.platform.contracts import FeatureResult, Found, Missing
from tidegate.platform.event import Scalar

__all__ = ["Circuit", "Fetch", "GuardConfig", "GuardedFeatures", "Row", "scalars"]

CircuitState = Literal["closed", "open", "half_open"]


class Row(msgspec.Struct, frozen=True, gc=False):
    """What a service holds of one video."""

    values: Mapping[str, Scalar]
    observed_at: float | None = None
    """When it was computed, Unix seconds, if the service says."""
    malformed: bool = False
    """The service holds something that is no set of features."""


class Fetch(Protocol):
    """One backend. Called from one thread."""

    def fetch(self, video_ids: Sequence[str], seconds: float) -> Mapping[str, Row]:
        """Rows of the ids that it knows; raises a ``ServiceError``. Should give up after ``seconds``."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """What every feature service has in common."""

    name: str
    """Names the service in records and metrics, and prefixes its features (``name.feature``)."""
    deadline_seconds: float = 0.25
    """For one batch of ids, retries included."""
    attempts: int = 3
    """Attempts at one batch."""
    first_pause_seconds: float = 0.01
    """Before the second attempt; doubled for each further one, with full jitter."""
    breaker_failures: int = 5
    """Failures in a row that open the circuit."""
    breaker_seconds: float = 5.0
    """How long an open circuit lets nobody ask."""
    fresh_seconds: float = 0.0
    """A cached value of at most this age is used without asking; 0 = always ask."""
    stale_seconds: float = 0.0
    """A cached value of at most this age is used, marked stale, when the service fails; 0 = never."""
    cache_entries: int = 100_000
    """Videos whose values are kept; the least recently used go first."""
    max_batch: int = 1000
    """Ids of one call to the service."""

    def __post_init__(self) -> None:
        if not self.name or "." in self.name:
            raise ConfigError(f"expected a name without a dot, got {self.name!r}")
        positive = (self.deadline_seconds, self.attempts, self.breaker_failures, self.max_batch, self.cache_entries)
        if min(positive) <= 0 or min(self.first_pause_seconds, self.breaker_seconds) < 0:
            raise ConfigError(f"expected positive deadline, attempts, failures, batch and entries, got {self}")
        if self.stale_seconds and self.stale_seconds < self.fresh_seconds:
            raise ConfigError(f"expected stale_seconds >= fresh_seconds, got {self}")


class Circuit:
    """Counts failures in a row; thread-safe."""

    def __init__(self, failures: int, open_seconds: float) -> None:
        self._limit, self._open_seconds = failures, open_seconds
        self._lock = threading.Lock()
        self._failures = 0
        self._resting_since: float | None = None

    @property
    def state(self) -> CircuitState:
        """``half_open``: the next caller tries."""
        with self._lock:
            if self._resting_since is None:
                return "closed"
            return "half_open" if self._rested() else "open"

    def _rested(self) -> bool:
        return self._resting_since is not None and time.monotonic() - self._resting_since >= self._open_seconds

    def admits(self) -> bool:
        """Whether one may ask now. After each rest an open circuit admits one caller."""
        with self._lock:
            if self._resting_since is None:
                return True
            if not self._rested():
                return False
            self._resting_since = time.monotonic()
            return True

    def succeeded(self) -> None:
        """The service answered."""
        with self._lock:
            self._failures, self._resting_since = 0, None

    def failed(self) -> None:
        """It did not."""
        with self._lock:
            self._failures += 1
            if self._failures >= self._limit:
                self._resting_since = time.monotonic()


class _Cache:
    """Rows with the instant at which they came; least recently used go first; thread-safe."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._lock = threading.Lock()
        self._rows: OrderedDict[str, tuple[Row, float]] = OrderedDict()

    def keep(self, asked: Sequence[str], rows: Mapping[str, Row]) -> None:
        now = time.monotonic()
        with self._lock:
            for video_id in asked:
                self._rows.pop(video_id, None)
                if video_id in rows and not rows[video_id].malformed:
                    self._rows[video_id] = (rows[video_id], now)
            while len(self._rows) > self._entries:
                self._rows.popitem(last=False)

    def find(self, video_id: str, max_seconds: float) -> tuple[Row, float] | None:
        """The row and its age here."""
        with self._lock:
            found = self._rows.get(video_id)
            if found is None:
                return None
            age = time.monotonic() - found[1]
            if age > max_seconds:
                return None
            self._rows.move_to_end(video_id)
            return found[0], age


class GuardedFeatures:
    """``FeatureService`` over any backend."""

    def __init__(self, config: GuardConfig, backend: Fetch) -> None:
        self._config = config
        self._backend = backend
        self._cached = config.fresh_seconds > 0 or config.stale_seconds > 0
        self._cache = _Cache(config.cache_entries)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"features-{config.name}")
        self._closing = threading.Event()
        self.circuit = Circuit(config.breaker_failures, config.breaker_seconds)

    @property
    def name(self) -> str:
        """The service's name."""
        return self._config.name

    def get_many(self, video_ids: Sequence[str]) -> Mapping[str, FeatureResult]:
        """One entry for each id, within the deadline."""
        config = self._config
        deadline = time.monotonic() + config.deadline_seconds
        results: dict[str, FeatureResult] = {}
        wanted = list(dict.fromkeys(video_ids))
        if config.fresh_seconds > 0:
            for video_id in wanted:
                cached = self._cache.find(video_id, config.fresh_seconds)
                if cached is not None:
                    results[video_id] = _found(*cached, stale=False)
            wanted = [video_id for video_id in wanted if video_id not in results]
        for start in range(0, len(wanted), config.max_batch):
            results |= self._ask(wanted[start : start + config.max_batch], deadline)
        return results

    def _ask(self, video_ids: Sequence[str], deadline: float) -> Mapping[str, FeatureResult]:
        reason = "deadline"
        for pause in self._pauses():
            if time.monotonic() + pause >= deadline or self._closing.wait(pause):
                break
            if not self.circuit.admits():
                reason = "circuit_open"
                break
            try:
                rows = self._fetched(video_ids, deadline - time.monotonic())
            except Late:
                self.circuit.failed()
                reason = "deadline"
                break
            except ServiceError as error:
                self.circuit.failed()
                reason = "unavailable" if isinstance(error, ServiceUnavailable) else "refused"
                continue
            self.circuit.succeeded()
            return {video_id: _answered(rows.get(video_id)) for video_id in video_ids}
        return {video_id: self._second_best(video_id, reason) for video_id in video_ids}

    def _pauses(self) -> Iterator[float]:
        yield 0.0
        for attempt in range(self._config.attempts - 1):
            yield random.uniform(0, self._config.first_pause_seconds * 2**attempt)  # noqa: S311 - jitter

    def _fetched(self, video_ids: Sequence[str], seconds: float) -> Mapping[str, Row]:
        def work() -> Mapping[str, Row]:
            rows = self._backend.fetch(video_ids, seconds)
            if self._cached:
                self._cache.keep(video_ids, rows)
            return rows

        future = self._thread.submit(work)
        try:
            return future.result(max(0.0, seconds))
        except Late:
            future.cancel()
            raise

    def _second_best(self, video_id: str, reason: str) -> FeatureResult:
        cached = self._cache.find(video_id, self._config.stale_seconds) if self._config.stale_seconds > 0 else None
        return Missing(reason) if cached is None else _found(*cached, stale=True)

    def close(self) -> None:
        """End pauses and release the connection when the call in hand is done."""
        self._closing.set()
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._backend.close()


def _answered(row: Row | None) -> FeatureResult:
    if row is None:
        return Missing("not_found")
    return Missing("malformed") if row.malformed else _found(row, 0.0, stale=False)


def _found(row: Row, cached_seconds: float, *, stale: bool) -> Found:
    age = cached_seconds if row.observed_at is None else max(0.0, time.time() - row.observed_at)
    return Found(values=row.values, age_seconds=age, stale=stale)


def scalars(values: Mapping[str, object]) -> Row:
    """A row of the values that are there: None is absent; ``observed_at`` is the time; anything odd is malformed."""
    kept: dict[str, Scalar] = {}
    observed_at: float | None = None
    for name, value in values.items():
        if value is None:
            continue
        odd = not isinstance(value, str | int | float) or (isinstance(value, float) and not math.isfinite(value))
        if odd or (name == "observed_at" and isinstance(value, str | bool)):
            return Row({}, malformed=True)
        if name == "observed_at":
            observed_at = float(value)  # type: ignore[arg-type]
        else:
            kept[name] = value  # type: ignore[assignment]
    return Row(kept, observed_at)
