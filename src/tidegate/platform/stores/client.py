"""What recommendation reads: verdicts and features by key or batch, for recall, pre-rank and rank.

Enters: video ids of candidates. Leaves: their records, parsed when a field is asked for; unknown and deleted videos are
absent, and so the caller must say what it does with a video that was never vetted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec

from tidegate.errors import UsageError
from tidegate.platform.contracts import IndexRecord, IndexService

__all__ = ["IndexClient", "VettedVideo"]


class VettedVideo:
    """One video as the index knows it."""

    def __init__(self, record: IndexRecord) -> None:
        self.record = record

    @property
    def video_id(self) -> str:
        return self.record.video_id

    @property
    def servable(self) -> bool:
        """Whether policy lets it be shown."""
        return self.record.status == "remained"

    @cached_property
    def value(self) -> Mapping[str, Any]:
        """All features and scores."""
        return dict(msgspec.json.decode(self.record.value)) if self.record.value else {}


class IndexClient:
    """Reads of any index service; thread-safe if the service is."""

    def __init__(self, index: IndexService, *, max_batch: int = 2000) -> None:
        if max_batch <= 0:
            raise UsageError(f"expected max_batch > 0, got {max_batch}")
        self._index = index
        self._max_batch = max_batch

    def get(self, video_id: str) -> VettedVideo | None:
        """The video, or None: unknown or deleted."""
        return self.get_many([video_id]).get(video_id)

    def get_many(self, video_ids: Iterable[str]) -> dict[str, VettedVideo]:
        """Known videos by id, in the order of asking."""
        wanted = list(dict.fromkeys(video_ids))
        found: dict[str, VettedVideo] = {}
        for start in range(0, len(wanted), self._max_batch):
            part = wanted[start : start + self._max_batch]
            records = self._index.get_many(part)
            found |= {video_id: VettedVideo(records[video_id]) for video_id in part if video_id in records}
        return found

    def servable(self, video_ids: Iterable[str]) -> Sequence[str]:
        """Those candidates that policy lets be shown, in the order of asking; unvetted ones are not among them."""
        return [video_id for video_id, video in self.get_many(video_ids).items() if video.servable]
