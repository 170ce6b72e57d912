"""Sink: outcomes into a folder: the index, JSON Lines, Parquet. An item is acknowledged only after ``write`` returned.

Enters: records in batches. Leaves: ``index.sqlite`` (the truth), ``outcomes.jsonl`` and ``outcomes.parquet`` (one
row a video, by path), written anew from the index at the end.

While a run goes on, ``outcomes.jsonl`` grows by whole lines (one ``write`` each, in append mode), so another
program may follow it. After a crash its torn last line is cut off; what it lacks comes back from the index at the
end of the next run.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from tidegate.errors import UsageError
from tidegate.pipeline.index import Index, Record, outcome_to_json

__all__ = ["FolderSink", "Sink"]

_ROWS_PER_GROUP = 1000
_PARQUET = pa.schema([
    ("video_id", pa.string()), ("path", pa.string()), ("status", pa.string()), ("reason", pa.string()),
    ("score", pa.float64()), ("stage", pa.string()), ("escalated", pa.bool_()), ("error", pa.string()),
    ("duration_seconds", pa.float64()), ("frame_pts_seconds", pa.list_(pa.float64())), ("cost_seconds", pa.float64()),
    ("issue", pa.string()), ("threshold", pa.float64()), ("route", pa.string()), ("decision_reason", pa.string()),
    ("policy", pa.string()), ("policy_version", pa.string()), ("clause", pa.string()),
    ("region", pa.string()), ("language", pa.string()), ("views", pa.int64()), ("creator", pa.string()),
    ("scores_json", pa.string()), ("observations_json", pa.string()),
])


class Sink(Protocol):
    """Where finished items go. ``write`` returns when the batch is safe; only then is it acknowledged."""

    def write(self, records: Sequence[Record]) -> None:
        """Write a batch."""
        ...


class FolderSink:
    """A folder with the index and its two exports; one writer at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = _lock(folder)
        self.index = Index(folder / "index.sqlite")
        self._lines = os.open(folder / "outcomes.jsonl", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        _cut_torn_line(self._lines)

    @property
    def evidence_folder(self) -> Path:
        """Where pictures of the sampled frames lie."""
        return self.folder / "evidence"

    def write(self, records: Sequence[Record]) -> None:
        """Index first (it is the truth), then one line for each."""
        self.index.put_many(records)
        try:
            for record in records:
                _append_line(self._lines, outcome_to_json(record.outcome))
        except OSError as error:
            raise UsageError(f"{self.folder}: outcomes.jsonl cannot be written: {error.strerror}") from error

    def finish(self) -> None:
        """Write the exports anew from the index, each replaced in one step."""
        try:
            _replace_lines(self.folder / "outcomes.jsonl", self.index.outcomes_json())
            _replace_parquet(self.folder / "outcomes.parquet", self.records())
        except OSError as error:
            raise UsageError(f"{self.folder}: the exports cannot be written: {error.strerror}") from error

    def records(self) -> Iterator[dict[str, Any]]:
        """All latest outcomes as dictionaries, by path; streamed."""
        return (msgspec.json.decode(text) for text in self.index.outcomes_json())

    def close(self) -> None:
        """Release files and the lock."""
        os.close(self._lines)
        self.index.close()
        os.close(self._lock)

    def __enter__(self) -> FolderSink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _lock(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UsageError(f"expected a folder that can be written, got {error.strerror}: {folder}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise UsageError(f"another run is writing to {folder}; wait for it or choose another --out") from error
    return handle


def _append_line(handle: int, text: str) -> None:
    """Append a line and its end, in one call unless the system takes less."""
    left = memoryview(text.encode("utf-8") + b"\n")
    while left:
        left = left[os.write(handle, left):]


def _cut_torn_line(handle: int) -> None:
    """Cut off what follows the last line end: a crash between two writes left it."""
    end = os.lseek(handle, 0, os.SEEK_END)
    kept = end
    while kept > 0:
        start = max(0, kept - 65536)
        newline = os.pread(handle, kept - start, start).rfind(b"\n")
        if newline >= 0:
            kept = start + newline + 1
            break
        kept = start
    if kept != end:
        os.ftruncate(handle, kept)


def _replace_lines(path: Path, lines: Iterator[str]) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", newline="\n") as file:
        for line in lines:
            file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _replace_parquet(path: Path, records: Iterator[dict[str, Any]]) -> None:
    partial = path.with_name(path.name + ".partial")
    with pq.ParquetWriter(partial, _PARQUET) as writer:
        while rows := [_row(record) for record in _take(records, _ROWS_PER_GROUP)]:
            writer.write_table(pa.Table.from_pylist(rows, schema=_PARQUET))
    os.replace(partial, path)


def _take(records: Iterator[dict[str, Any]], count: int) -> Iterator[dict[str, Any]]:
    for _, record in zip(range(count), records, strict=False):
        yield record


def _row(record: dict[str, Any]) -> dict[str, Any]:
    decision = record["decision"] or {}
    return (
        {name: record.get(name) for name in _PARQUET.names}
        | {name: decision.get(name) for name in ("issue", "threshold", "route", "policy", "policy_version", "clause")}
        | {name: record["context"][name] for name in ("region", "language", "views", "creator")}
        | {
            "decision_reason": decision.get("reason"),
            "scores_json": msgspec.json.encode(record["scores"]).decode(),
            "observations_json": msgspec.json.encode(record["observations"]).decode(),
        }
    )
