"""Source: from what the user names (files, folders, globs, lists, manifests) to items, one by one, in a fixed order.

Enters: paths as text. Leaves: ``Item`` after ``Item``; ``skipped`` counts what was left out and why. Memory does
not grow with the number of videos but for their ids (to take each place once).

- A **file** that is named is always attempted, whatever it is called.
- A **folder** is walked depth first, names in byte order; hidden names, sidecars, Tidegate's own outputs, and
  pipes, sockets and devices are counted and left out. Everything else is attempted: the content decides, not the
  extension.
- A **glob** that the shell left alone is expanded here (``**`` too), by the rules of a folder; no match is a
  ``UsageError``.
- ``@FILE`` is a **list**: one path a line, relative to the list's folder. ``.parquet`` and ``.csv`` (with or
  without ``@``) are **manifests**.
- What cannot be listed (a folder without permission) is an item with its trouble, so that it is counted as failed.
"""

from __future__ import annotations

import dataclasses
import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tidegate.errors import SourceUnreadable, UsageError
from tidegate.pipeline.item import Item, printable_path, require_regular_file, video_id_of_path
from tidegate.pipeline.sidecar import read_sidecar

if TYPE_CHECKING:
    from tidegate.corpus.manifest import Entry

__all__ = ["OWN_OUTPUTS", "Source", "item_of_file"]

OWN_OUTPUTS = frozenset({
    "index.sqlite", "index.sqlite-wal", "index.sqlite-shm", "outcomes.jsonl", "outcomes.parquet", "report.html",
})
EVIDENCE_FOLDER = "evidence"
_IMAGES = {b"\xff\xd8\xff": {".jpg", ".jpeg"}, b"\x89PNG": {".png"}, b"RIFF": {".webp"}}
_TEXTS = frozenset({
    ".ass", ".csv", ".description", ".htm", ".html", ".json", ".log", ".lrc", ".md", ".nfo", ".sha256", ".srt", ".toml",
    ".ttml", ".vtt", ".xml", ".yaml", ".yml",
})
_DOCUMENTS = frozenset({"readme", "license", "licence", "notice", "credits", "changelog"})
_GLOB = re.compile(r"[*?\[]")


class Source:
    """An iterable of items; each iteration walks again. ``skipped`` belongs to the latest iteration."""

    def __init__(self, paths: Iterable[str | os.PathLike[str]], *, region: str | None = None) -> None:
        self._arguments = [_Argument.of(os.fspath(path)) for path in paths]
        if not self._arguments:
            raise UsageError("expected at least one file, folder, glob or list to scan, got none")
        if region is not None and re.fullmatch(r"[A-Z]{2}", region) is None:
            raise UsageError(f"expected an ISO 3166-1 alpha-2 region in upper case such as DE, got {region!r}")
        self._region = region
        self.skipped: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Item]:
        self.skipped.clear()
        seen: set[str] = set()
        for item in self._items():
            if item.video_id in seen:
                self.skipped["named twice"] += 1
                continue
            seen.add(item.video_id)
            yield item if self._region is None else _shown_in(item, self._region)

    def count(self) -> int:
        """How many items a walk finds now; a hint for progress bars."""
        listed = {video_id for video_id, _ in self._listed()}
        self.skipped.clear()
        return len(listed)

    def _listed(self) -> Iterator[tuple[str, object]]:
        for argument in self._arguments:
            for found in argument.walk(self.skipped):
                yield (found.video_id if isinstance(found, Item) else video_id_of_path(found)), found

    def _items(self) -> Iterator[Item]:
        for _, found in self._listed():
            if isinstance(found, Item):
                yield found
            elif isinstance(found, Path):
                yield item_of_file(found)


def _shown_in(item: Item, region: str) -> Item:
    return dataclasses.replace(item, context=dataclasses.replace(item.context, region=region))


@dataclasses.dataclass(frozen=True)
class _Argument:
    """One thing the user named, resolved as far as it can be before the run starts."""

    path: Path
    kind: str
    matches: tuple[Path, ...] = ()
    entries: Sequence[Entry] = ()

    @classmethod
    def of(cls, text: str) -> _Argument:
        if text.startswith("@"):
            return _list_or_manifest(Path(text[1:]))
        path = Path(text)
        if os.path.isdir(path):
            return cls(path, "folder")
        if not os.path.lexists(text) and _GLOB.search(text):
            matches = tuple(Path(match) for match in sorted(glob.iglob(text, recursive=True), key=os.fsencode))
            if not matches:
                raise UsageError(f"no file matches {printable_path(text)}")
            return cls(path, "glob", matches=matches)
        if path.suffix.lower() in {".csv", ".parquet"} and _is_table(path):
            return cls(path, "manifest", entries=_entries(path))
        return cls(path, "file")

    def walk(self, skipped: Counter[str]) -> Iterator[Path | Item]:
        if self.kind == "file":
            yield self.path
        elif self.kind == "list":
            yield from _lines(self.path)
        elif self.kind == "manifest":
            yield from (_item_of_entry(entry) for entry in self.entries)
        elif self.kind == "folder":
            yield from _walk(self.path, skipped)
        else:
            for match in self.matches:
                if os.path.isdir(match):
                    yield from _walk(match, skipped)
                elif _is_candidate(match, skipped):
                    yield match


def _list_or_manifest(path: Path) -> _Argument:
    try:
        require_regular_file(path)
    except SourceUnreadable as error:
        raise UsageError(f"the list cannot be read: {error}") from error
    if path.suffix.lower() in {".csv", ".parquet"}:
        return _Argument(path, "manifest", entries=_entries(path))
    if b"\0" in _head(path):
        raise UsageError(f"expected a list with one path a line, got binary content: {printable_path(path)}")
    return _Argument(path, "list")


def _entries(path: Path) -> tuple[Entry, ...]:
    from tidegate.corpus.manifest import read_manifest

    return tuple(read_manifest(path))


def _lines(path: Path) -> Iterator[Path]:
    with path.open("rb") as file:
        for line in file:
            name = line.rstrip(b"\r\n")
            if name.strip():
                yield path.parent / os.fsdecode(name)


def item_of_file(path: Path) -> Item:
    """The item of a path, with what its sidecar says."""
    sidecar = read_sidecar(path)
    return Item(
        video_id=video_id_of_path(path), path=path, texts=sidecar.texts, context=sidecar.context,
        observations=sidecar.warnings, sidecar=sidecar.path,
    )


def _item_of_entry(entry: Entry) -> Item:
    return Item(video_id=entry.video_id, path=entry.path, texts=entry.texts, context=entry.context)


def _walk(root: Path, skipped: Counter[str]) -> Iterator[Path | Item]:
    """All candidates below ``root``; a folder that links lead to twice (or in a circle) is entered once."""
    entered: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            facts = folder.stat()
            if (facts.st_dev, facts.st_ino) in entered:
                skipped["folder linked twice"] += 1
                continue
            entered.add((facts.st_dev, facts.st_ino))
            names = sorted(os.listdir(folder), key=os.fsencode)
        except OSError as error:
            yield _unreadable(folder, error)
            continue
        has_index = "index.sqlite" in names
        folders: list[Path] = []
        for name in names:
            path = folder / name
            if name.startswith("."):
                skipped["hidden"] += 1
            elif has_index and name == EVIDENCE_FOLDER:
                skipped["own output"] += 1
            elif os.path.isdir(path):
                folders.append(path)
            elif _is_candidate(path, skipped):
                yield path
        waiting.extend(reversed(folders))


def _unreadable(folder: Path, error: OSError) -> Item:
    trouble = SourceUnreadable(f"expected a readable folder, got {error.strerror}: {printable_path(folder)}")
    return Item(video_id=video_id_of_path(folder), path=folder, trouble=trouble)


def _is_candidate(path: Path, skipped: Counter[str]) -> bool:
    if path.name in OWN_OUTPUTS:
        skipped["own output"] += 1
    elif os.path.exists(path) and not os.path.isfile(path):
        skipped["pipe, socket or device"] += 1
    elif _is_companion(path):
        skipped["sidecar"] += 1
    else:
        return True
    return False


def _is_companion(path: Path) -> bool:
    """Name and content agree that this is no video: a sidecar, a thumbnail, a subtitle, a table, a document."""
    suffix = path.suffix.lower()
    if suffix in {".csv", ".parquet"}:
        return _is_table(path)
    if suffix in _TEXTS or (suffix in {"", ".txt"} and path.stem.lower() in _DOCUMENTS):
        return os.path.isfile(path) and b"\0" not in _head(path)
    head = _head(path) if any(suffix in suffixes for suffixes in _IMAGES.values()) else b""
    return any(head.startswith(magic) and suffix in suffixes for magic, suffixes in _IMAGES.items())


def _is_table(path: Path) -> bool:
    head = _head(path)
    return head.startswith(b"PAR1") if path.suffix.lower() == ".parquet" else bool(head) and b"\0" not in head


def _head(path: Path) -> bytes:
    try:
        require_regular_file(path)
        with path.open("rb") as file:
            return file.read(1024)
    except (OSError, SourceUnreadable):
        return b""  # what cannot be read is no companion: it is attempted, and fails with its reason
