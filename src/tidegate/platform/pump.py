"""Delivers the outbox: reads what waits, publishes it, forgets what was delivered.

Enters: an index that is its own outbox, and a publisher. Leaves: delivered messages, at least once, oldest first; a
crash between publishing and forgetting sends a message twice, which receivers tell by its key. One pump for all workers
of a machine is enough: the first worker runs it.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Event

from tidegate.errors import ServiceError
from tidegate.platform.contracts import Outbox, Publisher

__all__ = ["Pump"]


class Pump:
    """One loop. Used from one thread."""

    def __init__(
        self,
        outbox: Outbox,
        publisher: Publisher,
        *,
        stop: Event,
        max_messages: int = 500,
        idle_seconds: float = 0.2,
        max_backoff_seconds: float = 10.0,
        report: Callable[[ServiceError], None] = lambda error: None,
    ) -> None:
        self._outbox, self._publisher, self._stop = outbox, publisher, stop
        self._max_messages, self._idle, self._max_backoff = max_messages, idle_seconds, max_backoff_seconds
        self._report = report
        self.delivered = 0

    def run(self) -> None:
        """Deliver until told to stop."""
        wait = self._idle
        while not self._stop.is_set():
            try:
                moved = self.step()
            except ServiceError as error:
                self._report(error)
                moved = 0
                wait = min(2 * wait, self._max_backoff)
            else:
                wait = self._idle
            if not moved:
                self._stop.wait(wait)

    def step(self) -> int:
        """Deliver one batch; how many messages went out."""
        messages = self._outbox.pending(self._max_messages)
        if not messages:
            return 0
        delivered = self._publisher.publish(messages)
        if delivered:
            self._outbox.done(delivered)
        self.delivered += len(delivered)
        return len(delivered)
