"""Events from a folder that others put videos into.

Enters: a folder, looked at again and again (no notifications: they are lost on network file systems). Leaves: an event
when a file is there whole, when its content or its sidecar changes, and, if asked for, when it is gone.

A file is whole when its size and modification time, and its sidecar's, stayed the same for ``settle_seconds``. Its
video id is that of its path, as in an embedded scan. Its version is its newest modification time in nanoseconds, or one
more than the last version if that is not newer: a copy with an old date is still a new edition. What was seen is kept
in the spool's file, in the transaction that queues the event.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from tidegate.errors import ConfigError, ServiceUnavailable
from tidegate.pipeline.item import video_id_of_path
from tidegate.pipeline.sidecar import read_sidecar, sidecar_path
from tidegate.platform.contracts import Delivery, Shard
from tidegate.platform.event import EventCodec
from tidegate.platform.sources.spool import Spool
from tidegate.platform.stores.sqlite_file import SqliteFile

__all__ = ["FolderSource", "FolderSourceConfig"]

_SCHEMA = """
CREATE TABLE folder_files (path BLOB PRIMARY KEY, print TEXT NOT NULL, version INTEGER NOT NULL, gone INTEGER NOT NULL)
WITHOUT ROWID
"""
_PUT = "INSERT OR REPLACE INTO folder_files (path, print, version, gone) VALUES (?, ?, ?, ?)"
_VIDEO = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".flv", ".3gp", ".ogv", ".wmv",
)


@dataclass(frozen=True, kw_only=True)
class FolderSourceConfig:
    """Which folder, how often, and what counts."""

    folder: str
    """Watched with all its subfolders; symbolic links and hidden names are left out."""
    path: str
    """File of the spool and of what was seen; outside of the watched folder, or hidden."""
    media_folder: str | None = None
    """Locations in events are relative to this folder, which holds ``folder``; None: to ``folder`` itself."""
    interval_seconds: float = 2.0
    """Between two looks."""
    settle_seconds: float = 2.0
    """How long a file must stay as it is before it counts as whole."""
    suffixes: tuple[str, ...] = _VIDEO
    """Endings of names that are taken, lower case; none = all."""
    report_deleted: bool = False
    """True: a file that is gone (at two looks) deletes its video. False: nothing happens."""
    max_queued: int = 100_000
    """Messages in the spool beyond which nobody looks."""

    def __post_init__(self) -> None:
        if not self.folder or not self.path:
            raise ConfigError(f"expected folder and path, got {self}")
        if self.media_folder and not Path(self.folder).absolute().is_relative_to(Path(self.media_folder).absolute()):
            raise ConfigError(f"expected folder inside media_folder, got {self.folder} and {self.media_folder}")
        if self.interval_seconds <= 0 or self.settle_seconds < 0:
            raise ConfigError(f"expected interval_seconds > 0 and settle_seconds >= 0, got {self}")


class _Known(NamedTuple):
    print: str
    version: int
    gone: bool


class _Mark(NamedTuple):
    print: str
    newest_ns: int


class _Seen(NamedTuple):
    print: str
    newest_ns: int
    since: float


class FolderSource:
    """``EventSource``; worker 0 looks, all workers share what it found."""

    def __init__(self, config: FolderSourceConfig, shard: Shard | None = None, codec: EventCodec | None = None) -> None:
        self._config = config
        self._looks = (shard or Shard()).worker == 0
        self._root = Path(config.folder).absolute()
        self._base = Path(config.media_folder or config.folder).absolute()
        self._spool = Spool(config.path, shard=shard, codec=codec)
        SqliteFile(config.path, store="folder", version=1, schema=_SCHEMA).close()
        self._known = self._remembered()
        self._seen: dict[str, _Seen] = {}
        self._missed: set[str] = set()
        self._next_look = 0.0

    def poll(self, max_events: int, timeout_seconds: float) -> Sequence[Delivery]:
        """Look if it is time, then hand out what is queued."""
        if self._looks and time.monotonic() >= self._next_look and self._spool.depth() < self._config.max_queued:
            self._look()
            self._next_look = time.monotonic() + self._config.interval_seconds
        pause = max(0.0, self._next_look - time.monotonic()) if self._looks else timeout_seconds
        return self._spool.poll(max_events, min(timeout_seconds, pause))

    def _remembered(self) -> dict[str, _Known]:
        with self._spool.file.reading() as connection:
            rows = connection.execute("SELECT path, print, version, gone FROM folder_files").fetchall()
        return {os.fsdecode(path): _Known(mark, version, bool(gone)) for path, mark, version, gone in rows}

    def settled(self) -> bool:
        """Whether every file that is there now was queued as it is, and the queue was handed out."""
        known = self._remembered()
        for path in self._files():
            mark, entry = _print(path), known.get(path)
            if mark is not None and (entry is None or entry.gone or entry.print != mark.print):
                return False
        return self._spool.lag() == 0

    def _look(self) -> None:
        now = time.monotonic()
        found = {path: self._marked(path, now) for path in self._files()}
        changes: list[tuple[str, _Known, str]] = []
        for path, mark in found.items():
            settled = mark is not None and now - mark.since >= self._config.settle_seconds
            known = self._known.get(path)
            if mark is None or not settled or (known and not known.gone and known.print == mark.print):
                continue
            version = max(mark.newest_ns, known.version + 1 if known else 0)
            kind = "new" if known is None or known.gone else "edited"
            changes.append((path, _Known(mark.print, version, False), kind))
        changes += self._deletions(found.keys())
        self._seen = {path: mark for path, mark in found.items() if mark is not None}
        if changes:
            self._queue(changes)

    def _files(self) -> Iterator[str]:
        """Paths of candidates; raises if the folder itself cannot be read (an empty answer would mean all are gone)."""
        folders = [os.fspath(self._root)]
        while folders:
            folder = folders.pop()
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError as error:
                if folder == os.fspath(self._root):
                    raise ServiceUnavailable(f"expected a readable folder: {error}") from error
                continue
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.is_file(follow_symlinks=False) and self._counts(entry.name):
                    yield entry.path

    def _counts(self, name: str) -> bool:
        return not self._config.suffixes or name.lower().endswith(self._config.suffixes)

    def _marked(self, path: str, now: float) -> _Seen | None:
        mark, before = _print(path), self._seen.get(path)
        if mark is None:
            return None
        since = before.since if before is not None and before.print == mark.print else now
        return _Seen(mark.print, mark.newest_ns, since)

    def _deletions(self, found: Container[str]) -> list[tuple[str, _Known, str]]:
        if not self._config.report_deleted:
            return []
        absent = {path for path, known in self._known.items() if not known.gone and path not in found}
        twice, self._missed = absent & self._missed, absent
        return [
            (path, _Known(self._known[path].print, self._known[path].version + 1, True), "deleted")
            for path in sorted(twice)
        ]

    def _queue(self, changes: Sequence[tuple[str, _Known, str]]) -> None:
        messages = [self._message(path, known.version, kind) for path, known, kind in changes]

        def remember(connection: sqlite3.Connection) -> None:
            connection.executemany(
                _PUT, [(os.fsencode(path), known.print, known.version, known.gone) for path, known, _ in changes]
            )

        self._spool.append(messages, remember)
        self._known |= {path: known for path, known, _ in changes}

    def _message(self, path: str, version: int, kind: str) -> tuple[str, bytes]:
        video_id = video_id_of_path(path)
        location = _sayable(os.fspath(Path(path).relative_to(self._base)))
        event: dict[str, object] = {
            "schema": 1, "video_id": video_id, "version": version, "kind": kind, "occurred_at": time.time(),
            "location": location,
        }
        if kind != "deleted":
            sidecar = read_sidecar(Path(path))
            context = sidecar.context
            event |= {
                "region": context.region, "language": context.language, "views": context.views,
                "creator": context.creator,
                "uploaded_at": None if context.uploaded_at is None else context.uploaded_at.timestamp(),
                "texts": [
                    {"kind": text.kind, "text": _sayable(text.text), "language": text.language}
                    for text in sidecar.texts
                ],
            }
        return video_id, msgspec.json.encode(event)

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Delete them from the spool."""
        self._spool.acknowledge(deliveries)

    def lag(self) -> int | None:
        """Found, not yet handed out."""
        return self._spool.lag()

    def close(self) -> None:
        """Release the spool."""
        self._spool.close()


def _print(path: str) -> _Mark | None:
    """What tells one edition of a file and its sidecar from the next; None: the file is gone."""
    parts = [_facts(Path(path)), _facts(sidecar_path(Path(path)))]
    if parts[0] is None:
        return None
    return _Mark(repr(parts), max(part[1] for part in parts if part is not None))


def _facts(path: Path) -> tuple[int, int] | None:
    try:
        facts = path.stat(follow_symlinks=False)
    except OSError:
        return None
    return facts.st_size, facts.st_mtime_ns


def _sayable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
