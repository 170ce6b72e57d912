"""What this worker has in hand, on disk, so that a message that kills the process does not do so for ever.

Enters: each batch before it is processed, and the end of it. Leaves: after a crash, which deliveries were in hand.
They are then processed one at a time; one that was alone in hand at ``max_crashes`` deaths of the process is poison and
is dead-lettered without another look. The file is written without a sync: it must outlive the process, not the machine.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tidegate.platform.contracts import Delivery

__all__ = ["InHand"]

_Range = tuple[str, int, int]


class _State(msgspec.Struct):
    active: list[_Range] = []
    suspects: list[_Range] = []
    strikes: dict[str, int] = {}


class InHand:
    """The journal of one worker's loop."""

    def __init__(self, path: Path, *, max_crashes: int = 3) -> None:
        self._max_crashes = max_crashes
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._state = self._after_crash(os.pread(self._file, 2**24, 0))
        self._write()

    @property
    def has_suspects(self) -> bool:
        return bool(self._state.suspects)

    def is_suspect(self, delivery: Delivery) -> bool:
        """Whether it was in hand when the process died."""
        return any(
            home == delivery.partition and first <= delivery.offset <= last
            for home, first, last in self._state.suspects
        )

    def is_poison(self, delivery: Delivery) -> bool:
        """Whether it has killed the process too often."""
        return self._state.strikes.get(_name(delivery), 0) >= self._max_crashes

    def begin(self, deliveries: Sequence[Delivery]) -> None:
        """These are in hand now."""
        spans: dict[str, tuple[int, int]] = {}
        for delivery in deliveries:
            first, last = spans.get(delivery.partition, (delivery.offset, delivery.offset))
            spans[delivery.partition] = (min(first, delivery.offset), max(last, delivery.offset))
        self._state.active = [(home, first, last) for home, (first, last) in spans.items()]
        self._write()

    def end(self, deliveries: Sequence[Delivery]) -> None:
        """They are done: nothing is in hand, and what was suspect is cleared."""
        self._state.active = []
        if self._state.suspects:
            self._clear(deliveries)
        self._write()

    def put_down(self) -> None:
        """They are not done, but nothing went wrong with them either (the worker was told to stop)."""
        self._state.active = []
        self._write()

    def close(self) -> None:
        os.close(self._file)

    def _clear(self, deliveries: Sequence[Delivery]) -> None:
        last = {delivery.partition: delivery.offset for delivery in deliveries}
        self._state.suspects = [
            (home, max(first, last.get(home, first - 1) + 1), end)
            for home, first, end in self._state.suspects
            if end > last.get(home, first - 1)
        ]
        for delivery in deliveries:
            self._state.strikes.pop(_name(delivery), None)

    def _after_crash(self, raw: bytes) -> _State:
        try:
            state = msgspec.json.decode(raw, type=_State) if raw else _State()
        except msgspec.MsgspecError:
            return _State()  # torn: nothing is known of what was in hand
        if len(state.active) == 1 and state.active[0][1] == state.active[0][2]:
            home, offset, _ = state.active[0]
            state.strikes[f"{home}#{offset}"] = state.strikes.get(f"{home}#{offset}", 0) + 1
        state.suspects += [span for span in state.active if span not in state.suspects]
        state.active = []
        return state

    def _write(self) -> None:
        raw = msgspec.json.encode(self._state)
        os.pwrite(self._file, raw, 0)
        os.ftruncate(self._file, len(raw))


def _name(delivery: Delivery) -> str:
    return f"{delivery.partition}#{delivery.offset}"
