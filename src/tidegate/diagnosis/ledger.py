"""The ledger: predicted and realised gains, one JSON line each, so that predictions get calibrated.

Enters: what an intervention was expected to bring and what it brought. Leaves: a file that grows by lines, transfer
ratios learnt from it, and how often the predicted intervals held. A line that cannot be read is an error that names it:
a ledger that loses lines in silence would flatter itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from tidegate.diagnosis.transfer import TransferRatios
from tidegate.errors import ConfigError
from tidegate.evaluation import Interval, wilson

__all__ = ["LedgerEntry", "append", "coverage", "ratios_from", "read_ledger"]


@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """One intervention."""

    intervention: str
    realised_f1: float
    realised_low: float
    realised_high: float
    predicted_f1: float | None = None
    """None: nothing was predicted."""
    predicted_low: float | None = None
    predicted_high: float | None = None
    ceiling_f1: float | None = None
    """F1 if all errors of its classes had been put right."""
    claimed: tuple[str, ...] = ()
    """Classes that the gain was claimed for."""
    at: str = ""
    """ISO 8601, UTC."""


def append(path: Path, entry: LedgerEntry) -> None:
    """Add one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stamped = asdict(entry) | {"at": entry.at or datetime.now(UTC).isoformat(timespec="seconds")}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(stamped, allow_nan=False) + "\n")


def read_ledger(path: Path) -> tuple[LedgerEntry, ...]:
    """All entries; a missing file is an empty ledger."""
    if not path.exists():
        return ()
    known, entries = {one.name for one in fields(LedgerEntry)}, []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            values = json.loads(line)
            values["claimed"] = tuple(values.get("claimed", ()))
            entries.append(LedgerEntry(**{name: values[name] for name in values if name in known}))
        except (ValueError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path}: line {number}: expected an entry of the ledger, got {error}") from error
    return tuple(entries)


def ratios_from(entries: Sequence[LedgerEntry], start: TransferRatios | None = None) -> TransferRatios:
    """Transfer ratios after all entries that had a ceiling."""
    ratios = start or TransferRatios()
    for entry in entries:
        if entry.ceiling_f1 is not None:
            ratios = ratios.updated(entry.intervention, realised=entry.realised_f1, ceiling=entry.ceiling_f1)
    return ratios


def coverage(entries: Sequence[LedgerEntry]) -> Interval:
    """Share of realised gains inside their predicted intervals, with Wilson's interval."""
    judged = [(entry.predicted_low, entry.realised_f1, entry.predicted_high) for entry in entries]
    held = [low <= got <= high for low, got, high in judged if low is not None and high is not None]
    return wilson(sum(held), len(held))
