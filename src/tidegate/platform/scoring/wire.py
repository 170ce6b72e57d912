"""Results of scoring as bytes: an array of ``[kind, fields]``, MessagePack."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tidegate.platform.contracts import Dead, Decided, Deferred, Scored

__all__ = ["decode_results", "encode_results"]

_KINDS: dict[str, type[Scored]] = {"decided": Decided, "deferred": Deferred, "dead": Dead}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_PAIRS = msgspec.msgpack.Decoder(list[tuple[str, msgspec.Raw]])


def encode_results(results: Sequence[Scored]) -> bytes:
    """For the wire."""
    return msgspec.msgpack.encode([(_NAMES[type(result)], result) for result in results])


def decode_results(raw: bytes) -> list[Scored]:
    """From the wire; raises ``msgspec.MsgspecError`` or ``KeyError`` for anything else."""
    return [msgspec.msgpack.decode(fields, type=_KINDS[kind]) for kind, fields in _PAIRS.decode(raw)]
