"""Training without a feature cache: every step's videos are decoded while the step before it is computed.

Enters: manifest entries. Leaves: a ``LiveTable``, which the loop reads ahead of itself in a thread; decoding
processes do the work. Slower than the cache from the second epoch on, but it needs no disk: 16 frames of 384 pixels
are 7 MB a video. A video that does not decode is left out of its step and named in ``failed``; it is never replaced
by blanks.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from tidegate.corpus.manifest import Entry
from tidegate.errors import CorruptMedia
from tidegate.media import DecoderPool, Limits
from tidegate.models.batch import ClipFeatures
from tidegate.models.processor import ClipProcessor
from tidegate.training.features import FailedVideo, decode_one

__all__ = ["LiveTable"]


class LiveTable:
    """Clips that are decoded when they are asked for. A context manager: it holds decoding processes."""

    def __init__(
        self, entries: Sequence[Entry], processor: ClipProcessor, *, workers: int = 2, limits: Limits | None = None
    ) -> None:
        self._entries = tuple(entries)
        self._processor = processor
        self._pool = DecoderPool(workers=workers, limits=limits or Limits())
        self._threads = ThreadPoolExecutor(workers)
        self._failed: dict[str, FailedVideo] = {}

    @property
    def video_ids(self) -> tuple[str, ...]:
        """Ids by row."""
        return tuple(entry.video_id for entry in self._entries)

    @property
    def failed(self) -> tuple[FailedVideo, ...]:
        """Videos that did not decode so far."""
        return tuple(self._failed.values())

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, row: int) -> ClipFeatures:
        item = self.fetch([row])[0]
        if item is None:
            raise CorruptMedia(self._failed[self._entries[row].video_id].reason)
        return item

    def fetch(self, rows: Sequence[int]) -> list[ClipFeatures | None]:
        """The clips of these rows, decoded side by side; None where one does not decode."""
        return list(self._threads.map(self._one, rows))

    def _one(self, row: int) -> ClipFeatures | None:
        entry = self._entries[row]
        if entry.video_id in self._failed:
            return None
        result = decode_one(self._pool, entry, self._processor)
        if isinstance(result, FailedVideo):
            self._failed[entry.video_id] = result
            return None
        return result

    def close(self) -> None:
        """End the decoding processes."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._pool.close()

    def __enter__(self) -> Self:
        self._pool.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
