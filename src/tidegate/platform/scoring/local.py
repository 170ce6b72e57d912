"""A stage in this process: media are decoded in separate processes, the model scores a batch here.

Enters: items. Leaves: scores with the times of the frames that were seen, or why an item cannot be scored. The reading
parts are the embedded pipeline's own (``Retriever``, ``DecoderPool``), so a video gets the same score on one machine
and on many.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

from tidegate.cascade import Stage
from tidegate.cascade.stages import score_batch
from tidegate.errors import SourceUnreadable
from tidegate.pipeline.boundary import Failure, attempt
from tidegate.pipeline.item import Item, require_regular_file
from tidegate.pipeline.retriever import Decoder, Retrieved, Retriever
from tidegate.platform.contracts import Dead, ScoringItem
from tidegate.platform.event import VideoEvent
from tidegate.platform.fetch import Fetcher
from tidegate.platform.location import resolve_local
from tidegate.platform.scoring.cascade import StageScored
from tidegate.types import Observation

__all__ = ["LocalStage", "MediaReader"]


class MediaReader:
    """The media of events: files under the media folder, or URLs that are fetched for the time of reading."""

    def __init__(self, decoder: Decoder, *, media_folder: Path | None, fetcher: Fetcher | None = None) -> None:
        self._retrieve, self._folder, self._fetcher = Retriever(decoder), media_folder, fetcher

    def read(self, event: VideoEvent, stage: Stage) -> Retrieved:
        """What the stage wants to see of an event's media."""
        with self._on_disk(event) as path:
            require_regular_file(path)
            item = Item(video_id=event.video_id, path=path, texts=event.text_spans, context=event.context)
            return self._retrieve(item, stage.request)

    def _on_disk(self, event: VideoEvent) -> AbstractContextManager[Path]:
        location = event.location
        if location is None:
            raise SourceUnreadable("expected a media location, got none")
        if "://" in location:
            if self._fetcher is None:
                raise SourceUnreadable(f"expected a path, got a URL, and this platform fetches none: {location}")
            return self._fetcher.fetched(location)
        if self._folder is None:
            raise SourceUnreadable("expected platform.media_folder to be set, since the event names a path")
        return nullcontext(resolve_local(location, self._folder))


class LocalStage:
    """``ItemStage`` over a model in this process."""

    def __init__(self, stage: Stage, reader: MediaReader, *, readers: int = 1) -> None:
        self._stage, self._reader = stage, reader
        self._executor = ThreadPoolExecutor(readers, thread_name_prefix=f"read-{stage.name}")

    @property
    def name(self) -> str:
        return self._stage.name

    def score_items(self, items: Sequence[ScoringItem]) -> Sequence[StageScored | Dead]:
        """Read all, score in one batch what could be read."""
        read = list(self._executor.map(lambda item: attempt(partial(self._read, item)), items))
        seen = [retrieved for retrieved in read if not isinstance(retrieved, Failure)]
        scores = iter(score_batch(self._stage, [retrieved.clip for retrieved in seen]) if seen else ())
        return [
            Dead(retrieved.code, retrieved.reason) if isinstance(retrieved, Failure)
            else StageScored(next(scores), self._observed(retrieved))
            for retrieved in read
        ]

    def _read(self, item: ScoringItem) -> Retrieved:
        return self._reader.read(item.event, self._stage)

    def _observed(self, retrieved: Retrieved) -> tuple[Observation, ...]:
        clip, info = retrieved.clip, retrieved.known.info
        frames = () if clip.frames is None else clip.frames.pts_seconds
        value = {
            "stage": self._stage.name,
            "frame_pts_seconds": [round(float(pts), 6) for pts in frames],
            "duration_seconds": info.duration_seconds,
            "missing": list(clip.missing),
            "warnings": list(info.warnings),
        }
        return (Observation(kind="seen", value=value, producer="platform.scoring"),)

    def close(self) -> None:
        self._executor.shutdown(wait=True)
