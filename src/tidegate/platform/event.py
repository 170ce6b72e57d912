"""What enters the platform: one event about one video, checked once, at the edge.

Enters: the bytes of a message. Leaves: a ``VideoEvent``, or a typed ``EventError`` that says what was expected and what
came. Two wire forms, told apart by their first byte:

- JSON object: ``{"schema": 1, "video_id": "v1", "kind": "new", "version": 17, "occurred_at": 1760000000.0, ...}``
- compact: MessagePack array ``[1, video_id, kind, version, occurred_at, location, region, language, views, creator,
  uploaded_at, texts, features]``, whose tail may be left out; about a third of the bytes, and faster.

Ids are compared byte by byte. An id that is not in Unicode NFC is refused (two spellings of one id would become two
videos), and so are control characters; case matters, unless ``EventLimits.lower_case_ids`` says that the platform's
ids are lower case, which makes every other id an error. Times lie at most ``max_future_seconds`` ahead of this clock.
"""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal, TypeAlias

import msgspec

from tidegate.errors import EventError, InvalidEvent, MalformedEvent, OversizedEvent, UnknownSchema
from tidegate.platform.location import LocationRules, check_location
from tidegate.platform.regions import REGIONS
from tidegate.types import TextKind, TextSpan, VideoContext

__all__ = ["EVENT_SCHEMA", "EventCodec", "EventKind", "EventLimits", "EventText", "Scalar", "VideoEvent", "to_json"]

EVENT_SCHEMA = 1
EventKind = Literal["new", "edited", "views", "report", "hash_hit", "appeal", "policy_change", "deleted"]
Scalar: TypeAlias = str | int | float | bool | None

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
_Name = Annotated[str, msgspec.Meta(max_length=256)]
_Version = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Views = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class EventText(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A text that came with the event."""

    kind: TextKind
    text: str
    language: str | None = None


class VideoEvent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """Something happened to a video, and its place in the index must be worked out again."""

    video_id: _Id
    version: _Version
    """Logical time from the producer, such as ``updated_at`` in nanoseconds; the index is ordered by it."""
    kind: EventKind = "new"
    occurred_at: float
    """Unix seconds."""
    schema: int = EVENT_SCHEMA
    location: Annotated[str, msgspec.Meta(max_length=4096)] | None = None
    """Where the media lies: a path relative to the media root, or an http(s) URL. None: known to the services."""
    region: str | None = None
    """ISO 3166-1 alpha-2, upper case."""
    language: Annotated[str, msgspec.Meta(max_length=35)] | None = None
    views: _Views | None = None
    """None means unknown, never zero."""
    creator: _Name | None = None
    uploaded_at: float | None = None
    """Unix seconds."""
    texts: tuple[EventText, ...] = ()
    features: dict[str, Scalar] = msgspec.field(default_factory=dict)
    """What the producer knows already, by name."""

    @property
    def context(self) -> VideoContext:
        """The same as the rest of Tidegate takes it."""
        uploaded = None if self.uploaded_at is None else datetime.fromtimestamp(self.uploaded_at, UTC)
        return VideoContext(
            region=self.region, language=self.language, views=self.views, uploaded_at=uploaded, creator=self.creator
        )

    @property
    def text_spans(self) -> tuple[TextSpan, ...]:
        """The texts as the rest of Tidegate takes them."""
        return tuple(TextSpan(text.kind, text.text, text.language) for text in self.texts)


class _Compact(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The compact wire form, field by field."""

    schema: int
    video_id: _Id
    kind: EventKind
    version: _Version
    occurred_at: float
    location: Annotated[str, msgspec.Meta(max_length=4096)] | None = None
    region: str | None = None
    language: Annotated[str, msgspec.Meta(max_length=35)] | None = None
    views: _Views | None = None
    creator: _Name | None = None
    uploaded_at: float | None = None
    texts: tuple[EventText, ...] = ()
    features: dict[str, Scalar] = msgspec.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EventLimits:
    """What an event may be."""

    max_bytes: int = 256 * 1024
    """Of one message."""
    max_texts: int = 64
    """Of one event."""
    max_text_chars: int = 20_000
    """Of all texts together."""
    max_features: int = 256
    """That one event may bring."""
    max_future_seconds: float = 300.0
    """How far ahead of this clock an event may lie; producers' clocks differ a little."""
    lower_case_ids: bool = False
    """True: the platform's ids are lower case, and an id with an upper-case letter is refused."""


class EventCodec:
    """Bytes to events and back, under limits. Made once, used for every message; thread-safe."""

    def __init__(
        self, limits: EventLimits | None = None, locations: LocationRules | None = None
    ) -> None:
        self.limits = limits or EventLimits()
        self.locations = locations or LocationRules()
        self._began_at = time.time() - time.monotonic()
        self._json = msgspec.json.Decoder(VideoEvent)
        self._compact = msgspec.msgpack.Decoder(_Compact)

    def decode(self, raw: bytes) -> VideoEvent:
        """The event of one message; raises an ``EventError``."""
        if len(raw) > self.limits.max_bytes:
            raise OversizedEvent(f"expected at most {self.limits.max_bytes} bytes, got {len(raw)}")
        if not raw:
            raise MalformedEvent("expected an event, got an empty message")
        try:
            event = self._json.decode(raw) if raw[0] == 0x7B else self._of_compact(raw)
        except msgspec.MsgspecError as error:
            raise self._understood(raw, error) from error
        except (UnicodeDecodeError, RecursionError) as error:
            raise MalformedEvent(f"expected an event in JSON or compact form: {error}") from error
        self.check(event)
        return event

    def decode_or_error(self, raw: bytes) -> tuple[VideoEvent | None, EventError | None]:
        """The event or why there is none; for sources."""
        try:
            return self.decode(raw), None
        except EventError as error:
            return None, error.with_traceback(None)

    def encode(self, event: VideoEvent) -> bytes:
        """The compact form."""
        return msgspec.msgpack.encode((
            event.schema, event.video_id, event.kind, event.version, event.occurred_at, event.location, event.region,
            event.language, event.views, event.creator, event.uploaded_at, event.texts, event.features,
        ))

    def check(self, event: VideoEvent) -> None:
        """What types alone do not say; raises an ``EventError``."""
        if event.schema != EVENT_SCHEMA:
            raise UnknownSchema(f"expected schema {EVENT_SCHEMA}, got {event.schema}")
        self._check_id(event.video_id)
        if event.region is not None and event.region not in REGIONS:
            raise InvalidEvent(f"expected an ISO 3166-1 alpha-2 region such as DE, got {event.region!r}")
        latest = time.time() + self.limits.max_future_seconds
        for name, instant in (("occurred_at", event.occurred_at), ("uploaded_at", event.uploaded_at)):
            if instant is not None and not 0 <= instant <= latest:
                self._check_instant(name, instant)
        if event.texts or event.features:
            self._check_sizes(event)
        if event.location is not None:
            check_location(event.location, self.locations)

    def _check_instant(self, name: str, instant: float) -> None:
        """A wall clock that is set back must not make the present future, so here it never goes back."""
        latest = max(time.time(), self._began_at + time.monotonic()) + self.limits.max_future_seconds
        if not 0 <= instant <= latest:
            raise InvalidEvent(f"expected {name} in Unix seconds between 0 and {latest:.0f}, got {instant!r}")

    def _of_compact(self, raw: bytes) -> VideoEvent:
        wire = self._compact.decode(raw)
        return VideoEvent(
            schema=wire.schema, video_id=wire.video_id, kind=wire.kind, version=wire.version,
            occurred_at=wire.occurred_at, location=wire.location, region=wire.region, language=wire.language,
            views=wire.views, creator=wire.creator, uploaded_at=wire.uploaded_at, texts=wire.texts,
            features=wire.features,
        )

    def _check_id(self, video_id: str) -> None:
        if not video_id.isprintable() or video_id != video_id.strip():
            raise InvalidEvent(f"expected a video id of printable characters without outer spaces, got {video_id!r}")
        if not video_id.isascii() and not unicodedata.is_normalized("NFC", video_id):
            normal = unicodedata.normalize("NFC", video_id)
            raise InvalidEvent(f"expected a video id in Unicode NFC ({normal!a}), got {video_id!a}")
        if self.limits.lower_case_ids and video_id != video_id.lower():
            raise InvalidEvent(f"expected a lower-case video id ({video_id.lower()!r}), got {video_id!r}")

    def _check_sizes(self, event: VideoEvent) -> None:
        limits = self.limits
        if len(event.texts) > limits.max_texts:
            raise OversizedEvent(f"expected at most {limits.max_texts} texts, got {len(event.texts)}")
        chars = sum(len(text.text) for text in event.texts)
        if chars > limits.max_text_chars:
            raise OversizedEvent(f"expected at most {limits.max_text_chars} characters of text, got {chars}")
        if len(event.features) > limits.max_features:
            raise OversizedEvent(f"expected at most {limits.max_features} features, got {len(event.features)}")

    def _understood(self, raw: bytes, error: msgspec.MsgspecError) -> EventError:
        """The same error, or the real cause: a schema that we do not know has fields that we do not know."""
        try:
            loose = msgspec.json.decode(raw) if raw[0] == 0x7B else msgspec.msgpack.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return MalformedEvent(f"expected an event in JSON or compact form: {error}")
        schema = loose.get("schema", EVENT_SCHEMA) if isinstance(loose, Mapping) else _first(loose)
        if isinstance(schema, int) and schema != EVENT_SCHEMA:
            return UnknownSchema(f"expected schema {EVENT_SCHEMA}, got {schema}")
        return MalformedEvent(f"expected an event of schema {EVENT_SCHEMA}: {error}")


def _first(loose: object) -> object:
    return loose[0] if isinstance(loose, list) and loose else None


def to_json(event: VideoEvent) -> bytes:
    """The JSON wire form."""
    return msgspec.json.encode(event)
