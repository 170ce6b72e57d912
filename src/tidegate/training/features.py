"""The feature cache: every video of a manifest decoded and preprocessed once, then read as memory-mapped arrays.

Enters: manifest entries and a ``ClipProcessor``. Leaves: a ``FeatureTable``, which says whether it came from the
cache, and which videos failed with which reason (they are excluded, never replaced by blanks). The key is a hash of
the entries (ids, paths, sizes, texts), the processor and ``CODE_VERSION``: labels and splits may change without
decoding again.

Shape legend: N videos, T frames, S image size, M mel bins, F mel frames.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.corpus.manifest import Entry
from tidegate.errors import ManifestError, MediaError
from tidegate.media import DecoderPool, Limits
from tidegate.models.batch import ClipFeatures
from tidegate.models.processor import ClipProcessor
from tidegate.types import Modality

__all__ = [
    "CODE_VERSION",
    "FailedVideo",
    "FeatureTable",
    "decode_one",
    "load_features",
    "open_table",
    "write_table",
]

CODE_VERSION = "features-1"
_MODALITIES: tuple[Modality, ...] = ("vision", "audio", "text")
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class FailedVideo:
    """A video that could not be decoded, and why."""

    video_id: str
    code: str
    reason: str


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureTable:
    """Features of N videos, in the order of ``video_ids``."""

    video_ids: tuple[str, ...]
    num_frames_N: npt.NDArray[np.int64]
    num_mel_frames_N: npt.NDArray[np.int64]
    token_offsets: npt.NDArray[np.int64]
    """Tokens of row i are ``tokens[token_offsets[i]:token_offsets[i + 1]]``."""
    tokens: npt.NDArray[np.int64]
    missing_NK: npt.NDArray[np.bool_]
    """Columns: vision, audio, text."""
    frames_NTSS3: npt.NDArray[np.uint8] | None = None
    mel_NMF: npt.NDArray[np.float32] | None = None
    failed: tuple[FailedVideo, ...] = ()
    from_cache: bool = False

    def __len__(self) -> int:
        return len(self.video_ids)

    def __getitem__(self, row: int) -> ClipFeatures:
        frames, audio = int(self.num_frames_N[row]), int(self.num_mel_frames_N[row])
        return ClipFeatures(
            frames_THWC=self.frames_NTSS3[row, :frames] if self.frames_NTSS3 is not None and frames else None,
            mel_MF=self.mel_NMF[row] if self.mel_NMF is not None and audio else None,
            num_mel_frames=audio,
            token_ids=self.tokens[self.token_offsets[row] : self.token_offsets[row + 1]],
            missing=tuple(name for name, lacks in zip(_MODALITIES, self.missing_NK[row], strict=True) if lacks),
        )

    def rows(self, video_ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Rows of the videos that did not fail, in the order given."""
        row_of = {video_id: row for row, video_id in enumerate(self.video_ids)}
        return np.asarray([row_of[video_id] for video_id in video_ids if video_id in row_of], dtype=np.int64)


def _key(entries: Sequence[Entry], processor: ClipProcessor) -> str:
    digest = hashlib.sha256(f"{CODE_VERSION}\n{processor.fingerprint}\n".encode())
    for entry in entries:
        texts = [(text.kind, text.text, text.language) for text in entry.texts]
        size = entry.path.stat().st_size if entry.path.exists() else None
        digest.update(json.dumps([entry.video_id, str(entry.path), size, texts]).encode())
    return digest.hexdigest()[:16]


def load_features(
    entries: Sequence[Entry],
    processor: ClipProcessor,
    cache: Path,
    *,
    workers: int = 2,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> FeatureTable:
    """The features of ``entries``: from the folder ``cache`` if they are there, else decoded and written to it."""
    folder = cache / _key(entries, processor)
    if not (folder / "done.json").exists():
        cache.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=".part-", dir=cache))
        _decode_all(entries, processor, fresh, workers=workers, limits=limits or Limits(), progress=progress)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(fresh, folder)
        return open_table(folder, from_cache=False)
    return open_table(folder, from_cache=True)


def _decode_all(
    entries: Sequence[Entry],
    processor: ClipProcessor,
    folder: Path,
    *,
    workers: int,
    limits: Limits,
    progress: Progress | None,
) -> None:
    results = ((entry.video_id, result) for entry, result in _decoded(entries, processor, workers, limits))
    write_table(results, len(entries), processor, folder, progress=progress)


def write_table(
    results: Iterable[tuple[str, ClipFeatures | FailedVideo]],
    count: int,
    processor: ClipProcessor,
    folder: Path,
    *,
    progress: Progress | None = None,
) -> None:
    """Write at most ``count`` results as a table that ``open_table`` reads."""
    config = processor.config
    side = config.image_size
    arrays: dict[str, Any] = {}
    if "vision" in config.modalities:
        arrays["frames"] = _new(folder / "frames.npy", (count, config.num_frames, side, side, 3), np.uint8)
    if "audio" in config.modalities:
        arrays["mel"] = _new(folder / "mel.npy", (count, config.num_mel_bins, config.audio_seconds * 100), np.float32)
    columns: dict[str, list[Any]] = {"video_ids": [], "num_frames": [], "num_mel": [], "missing": [], "tokens": []}
    failed: list[FailedVideo] = []
    for done, (video_id, result) in enumerate(results, start=1):
        if isinstance(result, FailedVideo):
            failed.append(result)
        else:
            _store(video_id, result, arrays, columns)
        if progress is not None:
            progress(done, count)
    for array in arrays.values():
        array.flush()
    _write_columns(folder, columns, failed)


def _new(path: Path, shape: tuple[int, ...], dtype: Any) -> Any:
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)  # type: ignore[no-untyped-call]


def _decoded(
    entries: Sequence[Entry], processor: ClipProcessor, workers: int, limits: Limits
) -> Iterator[tuple[Entry, ClipFeatures | FailedVideo]]:
    with DecoderPool(workers=workers, limits=limits) as pool, ThreadPoolExecutor(workers) as threads:

        def one(entry: Entry) -> ClipFeatures | FailedVideo:
            return decode_one(pool, entry, processor)

        window = 8 * workers
        for start in range(0, len(entries), window):
            part = entries[start : start + window]
            yield from zip(part, threads.map(one, part), strict=True)


def decode_one(pool: DecoderPool, entry: Entry, processor: ClipProcessor) -> ClipFeatures | FailedVideo:
    """Features of one video, or why there are none."""
    try:
        _, clip = pool.read_clip(
            entry.path, processor.request, video_id=entry.video_id, texts=entry.texts, context=entry.context
        )
    except MediaError as error:
        return FailedVideo(video_id=entry.video_id, code=error.code, reason=str(error))
    return processor.features([clip])[0]


def _store(video_id: str, item: ClipFeatures, arrays: dict[str, Any], columns: dict[str, list[Any]]) -> None:
    row = len(columns["video_ids"])
    frames = 0 if item.frames_THWC is None else len(item.frames_THWC)
    if item.frames_THWC is not None:
        arrays["frames"][row, :frames] = item.frames_THWC
    if item.mel_MF is not None:
        arrays["mel"][row] = item.mel_MF
    columns["video_ids"].append(video_id)
    columns["num_frames"].append(frames)
    columns["num_mel"].append(item.num_mel_frames)
    columns["missing"].append([name in item.missing for name in _MODALITIES])
    columns["tokens"].append(item.token_ids.tolist())


def _write_columns(folder: Path, columns: dict[str, list[Any]], failed: list[FailedVideo]) -> None:
    if not columns["video_ids"]:
        reasons = [f"{item.video_id}: {item.reason}" for item in failed[:3]]
        raise ManifestError(f"expected at least one video that decodes, got none of {len(failed)}: {reasons}")
    offsets = np.cumsum([0, *map(len, columns["tokens"])])
    np.savez(
        folder / "columns.npz",
        num_frames=np.asarray(columns["num_frames"]),
        num_mel=np.asarray(columns["num_mel"]),
        missing=np.asarray(columns["missing"], dtype=np.bool_),
        offsets=offsets,
        tokens=np.asarray([token for row in columns["tokens"] for token in row], dtype=np.int64),
    )
    done = {"video_ids": columns["video_ids"], "failed": [asdict(item) for item in failed]}
    (folder / "done.json").write_text(json.dumps(done), encoding="utf-8")


def open_table(folder: Path, *, from_cache: bool) -> FeatureTable:
    """The table that ``write_table`` wrote."""
    done = json.loads((folder / "done.json").read_text(encoding="utf-8"))
    columns = np.load(folder / "columns.npz")
    frames, mel = folder / "frames.npy", folder / "mel.npy"
    return FeatureTable(
        video_ids=tuple(done["video_ids"]),
        num_frames_N=columns["num_frames"],
        num_mel_frames_N=columns["num_mel"],
        token_offsets=columns["offsets"],
        tokens=columns["tokens"],
        missing_NK=columns["missing"],
        frames_NTSS3=np.load(frames, mmap_mode="r") if frames.exists() else None,
        mel_NMF=np.load(mel, mmap_mode="r") if mel.exists() else None,
        failed=tuple(FailedVideo(**item) for item in done["failed"]),
        from_cache=from_cache,
    )
