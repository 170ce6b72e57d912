"""``Footage``: decoded clips of entries, from memory, from a folder, or from the file, also from a part of its bytes.

Enters: entries of a manifest and what is to be decoded. Leaves: clips, or the error of media that names why not. Kept
clips make probes cheap: a file is decoded once in all runs. Without a folder nothing of a clip is ever written: that is
how footage of people is read.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tidegate.corpus.manifest import Entry
from tidegate.errors import MediaError
from tidegate.media import DecoderPool, Limits, read_clip
from tidegate.types import AudioChunk, Clip, ClipRequest, FrameBatch, Span

__all__ = ["Footage"]


class Footage:
    """Clips of entries. Use it in a ``with`` block: it holds a decoding process."""

    def __init__(self, entries: Sequence[Entry], request: ClipRequest, *, folder: Path | None = None,
                 max_held_bytes: int = 2**30) -> None:
        self.entries, self.request = tuple(entries), request
        self._folder, self._max_held_bytes, self._held_bytes = folder, max_held_bytes, 0
        self._held: OrderedDict[int, Clip | MediaError] = OrderedDict()
        self._pool = DecoderPool(workers=1, limits=Limits())
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def clip(self, row: int) -> Clip | MediaError:
        """The clip of an entry, or why there is none."""
        if row not in self._held:
            self._held[row] = self._stored(row)
            self._held_bytes += _bytes_of(self._held[row])
            while self._held_bytes > self._max_held_bytes and len(self._held) > 1:
                _, dropped = self._held.popitem(last=False)
                self._held_bytes -= _bytes_of(dropped)
        self._held.move_to_end(row)
        return self._held[row]

    def part(self, row: int, share: float) -> Clip | MediaError:
        """The clip if only the first part of its file's bytes had arrived; they are held in memory."""
        entry = self.entries[row]
        with _first_bytes(entry.path, share) as path:
            try:
                return read_clip(path, self.request, video_id=entry.video_id, texts=entry.texts,
                                 context=entry.context)[1]
            except MediaError as error:
                return error

    def _stored(self, row: int) -> Clip | MediaError:
        entry = self.entries[row]
        file = None if self._folder is None else self._folder / f"{entry.video_id}.npz"
        if file is not None and file.exists():
            return _loaded(file, entry)
        try:
            _, clip = self._pool.read_clip(entry.path, self.request, video_id=entry.video_id, texts=entry.texts,
                                           context=entry.context)
        except MediaError as error:
            return error
        if file is not None:
            _store(file, clip)
        return clip

    def __enter__(self) -> Footage:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()


def _bytes_of(clip: Clip | MediaError) -> int:
    if not isinstance(clip, Clip):
        return 0
    frames = 0 if clip.frames is None else clip.frames.frames_THWC.nbytes
    return frames + (0 if clip.audio is None else clip.audio.samples.nbytes)


@contextmanager
def _first_bytes(path: Path, share: float) -> Iterator[str]:
    """A nameless file with the first bytes of another, as a path of this process."""
    data = path.read_bytes()
    descriptor = os.memfd_create("part", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, data[: max(1, int(share * len(data)))])
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _store(file: Path, clip: Clip) -> None:
    arrays = {"span": np.array([clip.span.start_seconds, clip.span.end_seconds])}
    if clip.frames is not None:
        arrays |= {"frames": clip.frames.frames_THWC, "pts": clip.frames.pts_seconds}
    if clip.audio is not None:
        arrays |= {"samples": clip.audio.samples, "rate": np.array([clip.audio.sample_rate_hz]),
                   "start": np.array([clip.audio.start_seconds])}
    part = file.with_suffix(".part.npz")
    np.savez(part, allow_pickle=False, **arrays)
    part.replace(file)


def _loaded(file: Path, entry: Entry) -> Clip:
    with np.load(file, allow_pickle=False) as kept:
        frames = FrameBatch(kept["frames"], kept["pts"]) if "frames" in kept else None
        audio = (AudioChunk(kept["samples"], int(kept["rate"][0]), float(kept["start"][0])) if "samples" in kept
                 else None)
        start, end = map(float, kept["span"])
    return Clip(video_id=entry.video_id, span=Span(start, end), frames=frames, audio=audio, texts=entry.texts,
                context=entry.context)
