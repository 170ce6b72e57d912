"""A logged stream on disk, as an event source: replays, backtests, benchmarks and pipes from other systems.

Enters: a folder with files ``<partition>.log`` of messages, each with its length before it (4 bytes, big endian), and
``<partition>.position``, the bytes that are done. Leaves: deliveries in order; an offset is the message's number.
Several workers share the partitions out among themselves by number. Append with ``write_log``; a file may grow while
it is read.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tidegate.errors import ServiceUnavailable
from tidegate.platform.contracts import Delivery, Shard
from tidegate.platform.event import EventCodec

__all__ = ["LogSettings", "LogSource", "open_log", "write_log"]

_LENGTH = struct.Struct(">I")
_POSITION = struct.Struct(">QQ")
_BLOCK_BYTES = 2**18


def write_log(folder: Path, partition: str, messages: Iterable[bytes]) -> int:
    """Append messages to a partition; how many."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    with (folder / f"{partition}.log").open("ab", buffering=2**20) as file:
        for message in messages:
            file.write(_LENGTH.pack(len(message)) + message)
            count += 1
    return count


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """``[source] kind = "log"``."""

    folder: str
    """Holds the partitions' files."""


def open_log(settings: LogSettings, shard: Shard, codec: EventCodec) -> LogSource:
    """The source of a configuration."""
    return LogSource(Path(settings.folder), codec, shard)


class _Partition:
    """One file, its reader and what is done of it."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        self.file: BinaryIO = path.open("rb", buffering=0)
        self._position = os.open(path.with_suffix(".position"), os.O_RDWR | os.O_CREAT, 0o644)
        raw = os.pread(self._position, _POSITION.size, 0)
        self.number: int
        self.at: int
        self.number, self.at = _POSITION.unpack(raw) if len(raw) == _POSITION.size else (0, 0)
        self._ends: dict[int, int] = {}
        self._block = b""
        self._used = 0

    def next(self, max_events: int) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        while len(found) < max_events:
            start = self._used
            end = start + _LENGTH.size
            if end <= len(self._block):
                (length,) = _LENGTH.unpack_from(self._block, start)
                if end + length <= len(self._block):
                    self._used = end + length
                    self.at += _LENGTH.size + length
                    self._ends[self.number] = self.at
                    found.append((self.number, self._block[end : end + length]))
                    self.number += 1
                    continue
            if not self._fill():
                break
        return found

    def _fill(self) -> bool:
        """Read on; whether anything came."""
        rest = self._block[self._used :]
        self.file.seek(self.at + len(rest))
        more = self.file.read(_BLOCK_BYTES)
        self._block, self._used = rest + more, 0
        return bool(more)

    def done(self, number: int) -> None:
        end = self._ends.get(number)
        if end is not None:
            os.pwrite(self._position, _POSITION.pack(number + 1, end), 0)
            self._ends = {later: at for later, at in self._ends.items() if later > number}

    def behind(self) -> int:
        size: int = os.fstat(self.file.fileno()).st_size
        return size - self.at

    def close(self) -> None:
        self.file.close()
        os.close(self._position)


class LogSource:
    """Deliveries of the partitions of one worker."""

    def __init__(self, folder: Path, codec: EventCodec | None = None, shard: Shard | None = None) -> None:
        shard = shard or Shard()
        paths = sorted(folder.glob("*.log"))
        if not paths:
            raise ServiceUnavailable(f"{folder}: expected files *.log of a logged stream, got none")
        self._partitions = {path.stem: _Partition(path) for path in paths[shard.worker :: shard.workers]}
        self._order = list(self._partitions.values())
        self._codec = codec or EventCodec()
        self._sent = self._bytes = 0

    def poll(self, max_events: int, timeout_seconds: float) -> Sequence[Delivery]:
        deadline = time.monotonic() + timeout_seconds
        while True:
            deliveries = self._read(max_events)
            if deliveries or time.monotonic() >= deadline:
                return deliveries
            time.sleep(min(0.02, timeout_seconds))

    def _read(self, max_events: int) -> list[Delivery]:
        deliveries: list[Delivery] = []
        decode, now = self._codec.decode_or_error, time.time()
        for partition in self._order:
            found = partition.next(max_events - len(deliveries))
            for number, raw in found:
                event, error = decode(raw)
                self._bytes += len(raw)
                deliveries.append(Delivery(
                    event=event, error=error, raw=raw, partition=partition.name, offset=number, received_at=now
                ))
            if len(deliveries) >= max_events:
                break
        self._order = self._order[1:] + self._order[:1]
        self._sent += len(deliveries)
        return deliveries

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        last = {delivery.partition: delivery.offset for delivery in deliveries}
        for name, number in last.items():
            self._partitions[name].done(number)

    def lag(self) -> int | None:
        """Messages that are left, reckoned from their mean size so far."""
        if not self._sent:
            return None
        mean = _LENGTH.size + self._bytes / self._sent
        return round(sum(partition.behind() for partition in self._order) / mean)

    def close(self) -> None:
        for partition in self._order:
            partition.close()
