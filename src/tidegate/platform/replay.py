"""Events once more: dead letters after the cause was mended, or what the audit trail saw in a time range.

Enters: dead letters, or the entries of the trail. Leaves: a source whose deliveries go through the ordinary loop. A
replay keeps the events' versions, so what the index holds already is not changed: it repairs, it never doubles.
``renew`` decides again under the present policy and models: the version is raised by one, which needs producers whose
versions are times (``MIN_TIME_VERSION`` and more), where a raise by one cannot meet a later event.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from tidegate.errors import EventError, UsageError
from tidegate.platform.audit import read_lines
from tidegate.platform.contracts import DeadLetter, DeadLetters, Delivery
from tidegate.platform.event import EventCodec, VideoEvent
from tidegate.platform.records import AuditEntry

__all__ = ["MIN_TIME_VERSION", "LetterSource", "TrailSource", "events_of_trail"]

MIN_TIME_VERSION = 10**12


class LetterSource:
    """Dead letters as a source: acknowledged means settled; what fails again is a dead letter again."""

    def __init__(
        self, letters: DeadLetters, codec: EventCodec, *, since: float | None = None, until: float | None = None,
        code: str | None = None, limit: int = 100_000,
    ) -> None:
        self._letters, self._codec = letters, codec
        self._queue = list(letters.list(since=since, until=until, code=code, limit=limit))

    def poll(self, max_events: int, timeout_seconds: float) -> Sequence[Delivery]:
        taken, self._queue = self._queue[:max_events], self._queue[max_events:]
        return [self._delivery(letter) for letter in taken]

    def _delivery(self, letter: DeadLetter) -> Delivery:
        event: VideoEvent | None = None
        error: EventError | None = None
        try:
            event = self._codec.decode(letter.raw)
        except EventError as reason:
            error = reason.with_traceback(None)
        return Delivery(
            event=event, error=error, raw=letter.raw, partition=letter.partition, offset=letter.offset,
            received_at=time.time(),
        )

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """These did not fail again: settle them. The loop leaves out those that did, so no clock is asked."""
        self._letters.remove_many([(delivery.partition, delivery.offset) for delivery in deliveries])

    def lag(self) -> int:
        return len(self._queue)

    def close(self) -> None:
        """Nothing is held."""


def events_of_trail(folder: Path, *, since: float, until: float) -> Iterator[VideoEvent]:
    """The events that were decided between two instants, each (id, version) once, in the trail's order."""
    seen: set[tuple[str, int]] = set()
    decoder = msgspec.json.Decoder(AuditEntry)
    for line in read_lines(folder):
        entry = decoder.decode(line.raw)
        event = entry.event
        if event is None or not since <= entry.at < until or (event.video_id, event.version) in seen:
            continue
        seen.add((event.video_id, event.version))
        yield event


class TrailSource:
    """A time range of the audit trail as a source."""

    def __init__(self, folder: Path, *, since: float, until: float, renew: bool = False) -> None:
        self._events = events_of_trail(folder, since=since, until=until)
        self._renew, self._number = renew, 0

    def poll(self, max_events: int, timeout_seconds: float) -> Sequence[Delivery]:
        deliveries: list[Delivery] = []
        for event in self._events:
            deliveries.append(self._delivery(event))
            if len(deliveries) == max_events:
                break
        return deliveries

    def _delivery(self, event: VideoEvent) -> Delivery:
        if self._renew and event.kind != "deleted":
            if event.version < MIN_TIME_VERSION:
                raise UsageError(
                    f"expected versions that are times (at least {MIN_TIME_VERSION}) to decide again, got "
                    f"{event.version} of {event.video_id!r}"
                )
            event = msgspec.structs.replace(event, version=event.version + 1, kind="policy_change")
        self._number += 1
        return Delivery(
            event=event, error=None, raw=msgspec.json.encode(event), partition="replay", offset=self._number,
            received_at=time.time(),
        )

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """A replay that breaks off is started again as a whole; what it wrote stays as it is."""

    def lag(self) -> None:
        return None

    def close(self) -> None:
        """Nothing is held."""
