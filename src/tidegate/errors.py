"""The one exception tree of Tidegate. Every error that a caller may want to tell apart has a class here.

    TidegateError
    ├── UsageError              the caller asked for something that cannot be (exit code 2)
    │   ├── ConfigError         a setting, policy file or preset is wrong; names the file and the key
    │   └── ManifestError       a manifest is wrong; names the file and the line
    ├── MediaError              this one video cannot be used; the run goes on (exit code 3)
    │   ├── SourceUnreadable    vanished, no permission, not a regular file
    │   ├── NotMedia            empty, or content that no demuxer recognises
    │   ├── NoVideoStream       audio only, subtitles only
    │   ├── CorruptMedia        recognised, but the streams do not decode
    │   ├── LimitExceeded       duration, pixels, bytes or wall time over a hard limit
    │   └── DecoderCrashed      the decoding process died under this input
    ├── ModelError              a model could not score
    │   ├── CheckpointError     files of a checkpoint are missing, truncated or of another class
    │   └── ScoringError        the forward pass failed or gave a non-finite score
    ├── EventError              one message cannot be taken; it is dead-lettered and the stream goes on
    │   ├── MalformedEvent      not JSON or MessagePack of an event, a wrong type, an unknown key
    │   ├── OversizedEvent      over a limit on bytes, texts or features
    │   ├── UnknownSchema       a schema version that this release does not know
    │   ├── InvalidEvent        well formed, but a value cannot be: an id, a region, a time
    │   └── ForbiddenLocation   a media location outside what is allowed (file://, traversal, private networks)
    ├── ServiceError            a server outside this process
    │   ├── ServiceUnavailable  refused, timed out, or its circuit is open; trying again may help
    │   └── ServiceRefused      it answered that the request is wrong; trying again will not help
    └── DependencyMissing       an optional extra is not installed; names the extra

``TidegateError.code`` is a stable snake_case word for machines; it is what outcomes, metrics and logs carry.
"""

from __future__ import annotations

import re

__all__ = [
    "CheckpointError",
    "ConfigError",
    "CorruptMedia",
    "DecoderCrashed",
    "DependencyMissing",
    "EventError",
    "ForbiddenLocation",
    "InvalidEvent",
    "LimitExceeded",
    "MalformedEvent",
    "ManifestError",
    "MediaError",
    "ModelError",
    "NoVideoStream",
    "NotMedia",
    "OversizedEvent",
    "ScoringError",
    "ServiceError",
    "ServiceRefused",
    "ServiceUnavailable",
    "SourceUnreadable",
    "TidegateError",
    "UnknownSchema",
    "UsageError",
]


class TidegateError(Exception):
    """Base of all errors that Tidegate raises on purpose."""

    code: str = "tidegate_error"

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.code = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


class UsageError(TidegateError):
    """The caller asked for something that cannot be."""


class ConfigError(UsageError):
    """A setting, policy file or preset is wrong."""


class ManifestError(UsageError):
    """A manifest is wrong."""


class MediaError(TidegateError):
    """This one video cannot be used."""


class SourceUnreadable(MediaError):
    """The file vanished, may not be read, or is not a regular file."""


class NotMedia(MediaError):
    """The content is empty or no demuxer recognises it."""


class NoVideoStream(MediaError):
    """The file has no video stream (audio only, subtitles only)."""


class CorruptMedia(MediaError):
    """The container was recognised, but its streams do not decode."""


class LimitExceeded(MediaError):
    """A hard limit on duration, pixels, bytes or wall time was passed."""


class DecoderCrashed(MediaError):
    """The decoding process died under this input."""


class ModelError(TidegateError):
    """A model could not score."""


class CheckpointError(ModelError):
    """A checkpoint's files are missing, truncated or of another class."""


class ScoringError(ModelError):
    """The forward pass failed or gave a non-finite score."""


class EventError(TidegateError):
    """One message of a stream cannot be taken."""


class MalformedEvent(EventError):
    """The message is not a well-formed event."""


class OversizedEvent(EventError):
    """The message is over a limit on bytes, texts or features."""


class UnknownSchema(EventError):
    """The message has a schema version that this release does not know."""


class InvalidEvent(EventError):
    """The message is well formed, but a value in it cannot be."""


class ForbiddenLocation(EventError):
    """The media location is outside what is allowed."""


class ServiceError(TidegateError):
    """A server outside this process failed."""


class ServiceUnavailable(ServiceError):
    """The server refused, timed out, or its circuit is open; trying again may help."""


class ServiceRefused(ServiceError):
    """The server answered that the request is wrong; trying again will not help."""


class DependencyMissing(TidegateError):
    """An optional extra is not installed."""
