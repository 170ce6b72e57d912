"""What travels through the pipeline: one video, its stable id, and the fingerprint that notices a change.

Enters: a path (or a manifest's entry). Leaves: an ``Item``, the printable form of its path, its fingerprint.

An id names the *place* (an upload, a path), a fingerprint names the *content*: an edited file keeps its id and gets
a new fingerprint, so its new verdict supersedes the old one in the index, and two uploads of the same bytes stay
two videos.

- ``video_id`` of a path is ``BLAKE2b-96`` of the absolute path's bytes (no symlink is resolved); a manifest brings
  its own.
- ``fingerprint`` is ``BLAKE2b-128`` of the content, the texts and the context; of a file over ``WHOLE_BYTES`` only its
  size, its modification time and its first and last ``EDGE_BYTES`` are read.
- A POSIX name is bytes, JSON is Unicode: each byte that is not UTF-8 is written ``\\xHH``, and a backslash that
  would read as such an escape is written ``\\x5c``. ``path_from_printable`` is the exact inverse.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

from tidegate.errors import SourceUnreadable, TidegateError
from tidegate.types import Observation, TextSpan, VideoContext

__all__ = ["Item", "fingerprint", "path_from_printable", "printable_path", "require_regular_file", "video_id_of_path"]

WHOLE_BYTES = 256 * 2**20
EDGE_BYTES = 8 * 2**20
_BLOCK_BYTES = 2**20
_FIRST_LONE_BYTE, _LAST_LONE_BYTE = 0xDC80, 0xDCFF


@dataclass(frozen=True, kw_only=True)
class Item:
    """One video on its way through the pipeline."""

    video_id: str
    path: Path
    texts: tuple[TextSpan, ...] = ()
    context: VideoContext = field(default_factory=VideoContext)
    observations: tuple[Observation, ...] = ()
    """What the source has to say, e.g. a warning about a bad sidecar."""
    sidecar: Path | None = None
    """File of metadata beside the video; part of its fingerprint."""
    trouble: TidegateError | None = None
    """Why this item cannot be read, when the listing already knows; it becomes a failed outcome."""

    @property
    def printable_path(self) -> str:
        return printable_path(self.path)


def printable_path(path: str | os.PathLike[str]) -> str:
    """The path as text that every JSON reader, table and terminal can hold."""
    text = re.sub(r"\\(?=x[0-9a-f]{2})", r"\\x5c", os.fspath(path))
    return "".join(
        f"\\x{ord(letter) - 0xDC00:02x}" if _FIRST_LONE_BYTE <= ord(letter) <= _LAST_LONE_BYTE else letter
        for letter in text
    )


def path_from_printable(text: str) -> Path:
    """The path that ``printable_path`` wrote as ``text``."""

    def unescape(match: re.Match[str]) -> str:
        byte = int(match[1], 16)
        return chr(0xDC00 + byte) if byte >= 0x80 else chr(byte)

    return Path(re.sub(r"\\x([89a-f][0-9a-f]|5c)", unescape, text))


def video_id_of_path(path: str | os.PathLike[str]) -> str:
    """The id of the video that lies at ``path``: the same as long as it stays there."""
    return blake2b(os.fsencode(os.path.abspath(path)), digest_size=12).hexdigest()


def require_regular_file(path: Path) -> os.stat_result:
    """Facts of the file, or SourceUnreadable: vanished, forbidden, a loop of links, a pipe, a device."""
    try:
        facts = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceUnreadable(f"expected a readable file, got {reason}: {printable_path(path)}") from error
    if not stat.S_ISREG(facts.st_mode):
        kind = "a folder" if stat.S_ISDIR(facts.st_mode) else "a pipe, socket or device"
        raise SourceUnreadable(f"expected a regular file, got {kind}: {printable_path(path)}")
    return facts


def fingerprint(item: Item) -> str:
    """Hash of what a verdict rests on besides models and policy: the video's bytes, its texts and its context."""
    digest = blake2b(digest_size=16)
    facts = require_regular_file(item.path)
    try:
        with item.path.open("rb") as file:
            for block in _telling_blocks(file, facts):
                digest.update(block)
    except OSError as error:
        raise SourceUnreadable(
            f"expected a readable file, got {error.strerror}: {printable_path(item.path)}"
        ) from error
    digest.update(repr((item.texts, item.context)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _telling_blocks(file: BinaryIO, facts: os.stat_result) -> Iterator[bytes]:
    if facts.st_size <= WHOLE_BYTES:
        while block := file.read(_BLOCK_BYTES):
            yield block
        return
    yield repr((facts.st_size, facts.st_mtime_ns)).encode()
    yield file.read(EDGE_BYTES)
    file.seek(-EDGE_BYTES, os.SEEK_END)
    yield file.read(EDGE_BYTES)
