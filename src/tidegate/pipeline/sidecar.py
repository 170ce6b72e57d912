"""Metadata beside a video: ``<stem>.info.json``, the widespread convention of yt-dlp.

Enters: the path of a video. Leaves: its texts, its context and warnings. A sidecar is somebody else's file: it is
read up to ``MAX_SIDECAR_BYTES``, each field is checked alone, and a bad field (or a bad file) is a recorded
warning, never an error of the video and never a guess.

Read: ``title``, ``uploader``, ``view_count``, ``language``, ``upload_date`` (YYYYMMDD), and two fields that
Tidegate adds: ``region`` (ISO 3166-1 alpha-2) and ``stickers`` (a list of texts). Everything else is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tidegate.errors import SourceUnreadable
from tidegate.pipeline.item import require_regular_file
from tidegate.types import Observation, TextSpan, VideoContext

__all__ = ["MAX_SIDECAR_BYTES", "Sidecar", "read_sidecar", "sidecar_path"]

MAX_SIDECAR_BYTES = 4 * 2**20
MAX_TEXT_CHARACTERS = 10_000
MAX_STICKERS = 100
_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """What the file beside a video says of it."""

    path: Path | None = None
    texts: tuple[TextSpan, ...] = ()
    context: VideoContext = field(default_factory=VideoContext)
    warnings: tuple[Observation, ...] = ()


def sidecar_path(video: Path) -> Path:
    """Where the sidecar of ``video`` would lie."""
    return video.with_name(video.stem + ".info.json")


def read_sidecar(video: Path) -> Sidecar:
    """The sidecar of ``video``; an empty one when there is none."""
    path = sidecar_path(video)
    try:
        size = require_regular_file(path).st_size
        if size > MAX_SIDECAR_BYTES:
            return _refused(path, f"it has {size} bytes, more than {MAX_SIDECAR_BYTES}")
        record = msgspec.json.decode(path.read_bytes())
    except SourceUnreadable as error:
        return Sidecar() if isinstance(error.__cause__, FileNotFoundError) else _refused(path, str(error))
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _refused(path, f"it cannot be read: {error}")
    if not isinstance(record, dict):
        return _refused(path, f"expected a JSON object, got {type(record).__name__}")
    return _checked(path, record)


def _refused(path: Path, why: str) -> Sidecar:
    return Sidecar(path=path, warnings=(_warning(f"sidecar {path.name!r} is not used: {why}"),))


def _warning(text: str) -> Observation:
    return Observation(kind="warning", value=text, producer="pipeline.sidecar")


def _checked(path: Path, record: Mapping[str, Any]) -> Sidecar:
    warnings: list[Observation] = []

    def take(key: str, read: Callable[[Any], _Value]) -> _Value | None:
        if record.get(key) is None:
            return None
        try:
            return read(record[key])
        except ValueError as error:
            warnings.append(_warning(f"sidecar {path.name!r}: {key} is not used: {error}"))
            return None

    language = take("language", _language)
    title = take("title", _text)
    stickers = take("stickers", _stickers) or ()
    texts = tuple(
        [TextSpan("title", title, language)] if title else []
    ) + tuple(TextSpan("sticker", sticker, language) for sticker in stickers if sticker)
    context = VideoContext(
        region=take("region", _region),
        language=language,
        views=take("view_count", _views),
        uploaded_at=take("upload_date", _day),
        creator=take("uploader", _text),
    )
    return Sidecar(path=path, texts=texts, context=context, warnings=tuple(warnings))


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT_CHARACTERS:
        raise ValueError(f"expected a text of at most {MAX_TEXT_CHARACTERS} characters, got {_shown(value)}")
    return value.strip()


def _stickers(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_STICKERS:
        raise ValueError(f"expected a list of at most {MAX_STICKERS} texts, got {_shown(value)}")
    return tuple(_text(sticker) for sticker in value)


def _language(value: object) -> str:
    match = re.fullmatch(r"([a-zA-Z]{2,3})([-_][a-zA-Z0-9]+)*", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"expected a language code such as 'en' or 'pt-BR', got {_shown(value)}")
    return match[1].lower()


def _region(value: object) -> str:
    if not isinstance(value, str) or re.fullmatch(r"[A-Za-z]{2}", value) is None:
        raise ValueError(f"expected an ISO 3166-1 alpha-2 region such as 'DE', got {_shown(value)}")
    return value.upper()


def _views(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError(f"expected a whole number of views, got {_shown(value)}")
    return value


def _day(value: object) -> datetime:
    if not isinstance(value, str) or re.fullmatch(r"[0-9]{8}", value) is None:
        raise ValueError(f"expected a day as YYYYMMDD, got {_shown(value)}")
    return datetime.strptime(value, "%Y%m%d").replace(tzinfo=UTC)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
