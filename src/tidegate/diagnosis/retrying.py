"""A second decoding with wider limits: what serving could not read in its time may be readable after all.

Enters: an entry and the limits that it was first decoded under. Leaves: its clip, or the error of the second attempt.
The process is a fresh one, so that nothing of the first attempt is left in it.
"""

from __future__ import annotations

from tidegate.corpus.manifest import Entry
from tidegate.errors import MediaError
from tidegate.media import DecoderPool, Limits
from tidegate.types import Clip, ClipRequest

__all__ = ["WIDER", "decoded_again", "widened"]

WIDER = 4
"""How many times the limits on length, size and time a retry gets; memory twice, for there is only so much of it."""


def widened(limits: Limits) -> Limits:
    """The limits of a retry."""
    return Limits(
        max_duration_seconds=WIDER * limits.max_duration_seconds, max_pixels=WIDER * limits.max_pixels,
        max_file_bytes=WIDER * limits.max_file_bytes, max_packets=WIDER * limits.max_packets,
        max_wall_seconds=WIDER * limits.max_wall_seconds, max_memory_bytes=2 * limits.max_memory_bytes,
    )


def decoded_again(entry: Entry, request: ClipRequest, limits: Limits) -> Clip | MediaError:
    """The entry's clip by a fresh decoding process under wider limits than these."""
    with DecoderPool(workers=1, limits=widened(limits)) as pool:
        try:
            return pool.read_clip(entry.path, request, video_id=entry.video_id, texts=entry.texts,
                                  context=entry.context)[1]
        except MediaError as error:
            return error
