"""What every index does with a batch before it writes: one record for each id, the newest, in the order of ids.

Enters: records and outbox messages as the platform hands them over. Leaves: those that can have an effect. Of equal
versions the first wins, as it would one by one; a fixed order of ids keeps two writers from waiting for each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tidegate.errors import UsageError
from tidegate.platform.contracts import IndexRecord, OutboxMessage

__all__ = ["by_record", "newest", "record_key"]


def record_key(record: IndexRecord) -> str:
    """What the key of an outbox message says of its record."""
    return f"{record.video_id}:{record.version}"


def newest(records: Iterable[IndexRecord]) -> list[IndexRecord]:
    """The highest version of each id, by id."""
    best: dict[str, IndexRecord] = {}
    for record in records:
        known = best.get(record.video_id)
        if known is None or record.version > known.version:
            best[record.video_id] = record
    return [best[video_id] for video_id in sorted(best)]


def by_record(records: Sequence[IndexRecord], messages: Iterable[OutboxMessage]) -> dict[str, list[OutboxMessage]]:
    """Messages by the key of their record; every message must have one in the batch."""
    found: dict[str, list[OutboxMessage]] = {}
    for message in messages:
        found.setdefault(message.key, []).append(message)
    strangers = found.keys() - {record_key(record) for record in records} if found else set()
    if strangers:
        raise UsageError(f"expected messages whose key names a record of the batch, got {sorted(strangers)[:3]}")
    return found
