"""Longer videos around the same evidence: clips of a corpus among harmless others.

Enters: a manifest of short clips. Leaves: a manifest a length, whose videos each hold one clip of the test split, at a
random place among harmless clips of the same size. The label is the clip's, texts are the clip's, and the evidence
is as long as it was: only what surrounds it grows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tidegate.corpus import Entry, Manifest, read_manifest, write_manifest
from tidegate.errors import ManifestError
from tidegate.media import encode_video, probe, read_audio, read_frames
from tidegate.training.evaluate import entries_of
from tidegate.types import AudioChunk

__all__ = ["make_longer"]

_RATE_HZ = 16_000
_FRAME_RATE = 12
_CLIP_SECONDS = 5.0
_SHAPE = (320, 180)
"""Height and width of the clips used: one size, so that they can follow each other."""
_Frames = npt.NDArray[np.uint8]
_Piece = tuple[_Frames, npt.NDArray[np.float32]]


def _piece(path: Path) -> _Piece:
    """Frames and samples of a clip; as many samples as its frames last."""
    frames = read_frames(path, probe(path).frame_pts_seconds).frames_THWC
    heard, wanted = read_audio(path, sample_rate_hz=_RATE_HZ), round(len(frames) * _RATE_HZ / _FRAME_RATE)
    samples = np.zeros(wanted, dtype=np.float32)
    if heard is not None:
        samples[: min(wanted, len(heard.samples))] = heard.samples[:wanted]
    return frames, samples


def _of_one_size(entries: Sequence[Entry], label: int, count: int) -> list[tuple[Entry, _Piece]]:
    found: list[tuple[Entry, _Piece]] = []
    for entry in entries:
        if len(found) == count:
            break
        if entry.labels["icd"] == label and probe(entry.path).height == _SHAPE[0]:
            found.append((entry, _piece(entry.path)))
    if len(found) < count:
        raise ManifestError(
            f"expected {count} test clips of label {label} and {_SHAPE[1]}x{_SHAPE[0]}, found {len(found)}"
        )
    return found


def _write(entry: Entry, pieces: Sequence[_Piece], path: Path) -> None:
    def frames() -> Iterator[_Frames]:
        for shown, _ in pieces:
            yield from shown

    samples = np.concatenate([heard for _, heard in pieces])
    audio = AudioChunk(samples=samples, sample_rate_hz=_RATE_HZ)
    encode_video(path, frames(), Fraction(_FRAME_RATE), audio, crf=26, gop=_FRAME_RATE, title=entry.title)


def make_longer(data: Path, folder: Path, seconds: int, *, each: int, fillers: int = 10, seed: int = 0) -> Path:
    """A manifest of ``each`` violating and ``each`` harmless videos of about ``seconds``; what is there is kept."""
    target = folder / f"{seconds}s" / "manifest.parquet"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    test = entries_of(read_manifest(data), "test", "icd")
    harmless = _of_one_size(test, 0, each + fillers)
    chosen, around = [*_of_one_size(test, 1, each), *harmless[:each]], [piece for _, piece in harmless[each:]]
    number, rng, entries = max(0, round(seconds / _CLIP_SECONDS) - 1), np.random.default_rng([seed, seconds]), []
    for entry, piece in chosen:
        before = int(rng.integers(0, number + 1))
        pieces = [around[int(place)] for place in rng.integers(0, len(around), number)]
        name = hashlib.sha256(f"{entry.video_id}/{seconds}".encode()).hexdigest()[:16]
        path = target.parent / f"{name}.mp4"
        _write(entry, [*pieces[:before], piece, *pieces[before:]], path)
        entries.append(replace(entry, video_id=name, path=path, split="test"))
    write_manifest(Manifest(entries=tuple(entries)), target)
    return target
