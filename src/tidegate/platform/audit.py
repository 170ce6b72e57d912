"""Audit trail: an append-only, hash-chained log of every decision.

Enters: one block of entries for each mini-batch, before anything acts on them. Leaves: files of JSON lines that people
can read and search with ``grep``, and that nobody can change unnoticed:

    {"setup": {...}, "previous": "<hash>"}      what decides: software, policies, models; at each start and new file
    {"at": ..., "video_id": ..., ...}           one decision
    {"seal": "<hash>", "entries": 512}          SHA-256 of the previous seal and of all lines since

A crash leaves at most one block without its seal. It is cut off at the next start: its deliveries were not
acknowledged, so they come again. Writers never share a file; each worker has a chain of its own, told by its name.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from tidegate.errors import ServiceUnavailable, UsageError

__all__ = ["GENESIS", "AuditSummary", "AuditTrail", "Line", "read_lines", "verify"]

GENESIS = "0" * 64
_SEAL = b'{"seal":'
_SETUP = b'{"setup":'
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_TAIL_BYTES = 2**20


class _Seal(msgspec.Struct, frozen=True):
    seal: str
    entries: int


class _Setup(msgspec.Struct, frozen=True):
    setup: dict[str, Any]
    previous: str


class AuditTrail:
    """The writer of one chain."""

    def __init__(
        self, folder: Path, name: str, setup: Mapping[str, Any], *, sync: bool = True, max_file_bytes: int = 256 * 2**20
    ) -> None:
        if not _NAME.fullmatch(name):
            raise UsageError(f"expected a name of letters, digits, - and _, got {name!r}")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._name, self._setup = folder, name, dict(setup)
        self._sync, self._max_bytes = sync, max_file_bytes
        self._pending = b""
        files = _files(folder, name)
        self._number = _number(files[-1]) if files else 1
        self.head = _recover(files)
        self.sealed_at = files[-1].stat().st_mtime if files else 0.0
        """Unix time of the last seal; 0: there is none."""
        self._file = self._open()

    def append(self, lines: Sequence[bytes]) -> None:
        """Write one block; durable on return."""
        if not lines:
            return
        if self._file.tell() > self._max_bytes:
            self._rotate()
        body = b"".join((self._pending, b"\n".join(lines), b"\n"))
        head = _sealed(self.head, body)
        seal = msgspec.json.encode(_Seal(head, len(lines)))
        try:
            self._file.write(body + seal + b"\n")
            self._file.flush()
            if self._sync:
                os.fdatasync(self._file.fileno())
        except OSError as error:
            self._reopen()
            raise ServiceUnavailable(f"{self._folder}: the audit trail cannot be written: {error}") from error
        self.head, self._pending, self.sealed_at = head, b"", time.time()

    def describe(self, setup: Mapping[str, Any]) -> None:
        """From the next block on, decisions rest on this."""
        self._setup = dict(setup)
        self._pending = self._setup_line()

    def close(self) -> None:
        self._file.close()

    def _setup_line(self) -> bytes:
        return msgspec.json.encode(_Setup(self._setup, self.head)) + b"\n"

    def _open(self) -> BinaryIO:
        path = self._folder / f"{self._name}-{self._number:06d}.log"
        file = path.open("ab", buffering=2**20)
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise UsageError(f"{path}: expected no other writer, but another process holds it") from error
        self._pending = self._setup_line()
        return file

    def _rotate(self) -> None:
        self._file.close()
        self._number += 1
        self._file = self._open()

    def _reopen(self) -> None:
        """After a failed write: drop what was half written, so that the block can be written again."""
        pending = self._pending
        self._file.close()
        _recover(_files(self._folder, self._name))
        self._file = self._open()
        self._pending = pending


def _files(folder: Path, name: str) -> list[Path]:
    return sorted(folder.glob(f"{name}-[0-9][0-9][0-9][0-9][0-9][0-9].log"))


def _number(path: Path) -> int:
    return int(path.stem.rsplit("-", 1)[1])


def _sealed(head: str, body: bytes) -> str:
    digest = hashlib.sha256(head.encode())
    digest.update(body)
    return digest.hexdigest()


def _recover(files: Sequence[Path]) -> str:
    """The chain's last seal; lines after it are cut off."""
    for path in reversed(files):
        found = _last_seal(path)
        if found is None:
            os.truncate(path, 0)
            continue
        seal, end = found
        if end < path.stat().st_size:
            os.truncate(path, end)
        return seal
    return GENESIS


def _last_seal(path: Path) -> tuple[str, int] | None:
    """The last whole seal of a file and where its line ends."""
    size = path.stat().st_size
    window = _TAIL_BYTES
    with path.open("rb") as file:
        while True:
            start = max(0, size - window)
            file.seek(start)
            tail = file.read(size - start)
            at = tail.rfind(b"\n" + _SEAL)
            while at >= 0:
                end = tail.find(b"\n", at + 1)
                if end >= 0:
                    return msgspec.json.decode(tail[at + 1 : end], type=_Seal).seal, start + end + 1
                at = tail.rfind(b"\n" + _SEAL, 0, at)
            if start == 0:
                return None
            window *= 4


@dataclass(frozen=True, kw_only=True)
class Line:
    """One decision's line and the setup that it rests on."""

    chain: str
    """Name of the file that holds it."""
    setup: Mapping[str, Any]
    raw: bytes


def read_lines(folder: Path, *, keep: Callable[[bytes], bool] | None = None) -> Iterator[Line]:
    """All sealed decisions, file by file; ``keep`` looks at the raw line first, which is quick."""
    for path in sorted(folder.glob("*-[0-9][0-9][0-9][0-9][0-9][0-9].log")):
        setup: dict[str, Any] = {}
        block: list[Line] = []
        with path.open("rb") as file:
            for line in file:
                if line.startswith(_SEAL):
                    yield from block
                    block = []
                elif line.startswith(_SETUP):
                    setup = msgspec.json.decode(line, type=_Setup).setup
                elif keep is None or keep(line):
                    block.append(Line(chain=path.name, setup=setup, raw=line.rstrip(b"\n")))


@dataclass(frozen=True, kw_only=True)
class AuditSummary:
    """What a check of the trail found."""

    files: int
    entries: int
    heads: Mapping[str, str]
    """Last seal of each chain, by name: publish these, and nothing before them can be changed unnoticed."""
    problems: tuple[str, ...]

    @property
    def intact(self) -> bool:
        return not self.problems


def verify(folder: Path) -> AuditSummary:
    """Recompute every seal."""
    heads: dict[str, str] = {}
    problems: list[str] = []
    entries = 0
    paths = sorted(folder.glob("*-[0-9][0-9][0-9][0-9][0-9][0-9].log"))
    expected: dict[str, int] = {}
    for path in paths:
        name = path.stem.rsplit("-", 1)[0]
        number = _number(path)
        if number != expected.get(name, 1):
            problems.append(f"{path.name}: expected file {expected.get(name, 1)} of the chain, got {number}")
        expected[name] = number + 1
        head, count, found = _verify_file(path, heads.get(name, GENESIS))
        heads[name], entries = head, entries + count
        problems += found
    return AuditSummary(files=len(paths), entries=entries, heads=heads, problems=tuple(problems))


def _verify_file(path: Path, head: str) -> tuple[str, int, list[str]]:
    problems: list[str] = []
    entries, number, digest, lines = 0, 0, hashlib.sha256(head.encode()), 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.startswith(_SEAL):
                seal = _seal_of(line)
                if seal.seal != digest.hexdigest():
                    problems.append(f"{path.name}:{number}: the seal does not fit the lines before it")
                elif seal.entries != lines:
                    problems.append(f"{path.name}:{number}: expected {seal.entries} entries, got {lines}")
                head, entries, lines = seal.seal, entries + lines, 0
                digest = hashlib.sha256(head.encode())
                continue
            digest.update(line)
            if not line.startswith(_SETUP):
                lines += 1
            elif _previous_of(line) != head:
                problems.append(f"{path.name}:{number}: the setup does not follow the seal before it")
    return head, entries, problems


def _seal_of(line: bytes) -> _Seal:
    try:
        return msgspec.json.decode(line, type=_Seal)
    except msgspec.MsgspecError:
        return _Seal("", -1)


def _previous_of(line: bytes) -> str:
    try:
        return msgspec.json.decode(line, type=_Setup).previous
    except msgspec.MsgspecError:
        return ""
