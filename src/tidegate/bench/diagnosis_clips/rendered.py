"""The bench on a manifest: two stages of a preset in front of the videos of a test split.

Enters: a manifest with labels, sources and a test split, models, a folder for what is kept. Leaves: a ``Bench``. The
test split is halved by source: one half is diagnosed, interventions are measured on the other. Training videos, where
the manifest has a train split, say what is novel or copied.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tidegate.bench.diagnosis_clips.faults import Bench
from tidegate.bench.diagnosis_clips.footage import Footage
from tidegate.bench.diagnosis_clips.system import ClipSystem, Deployed, Pair, attribute_of
from tidegate.bench.diagnosis_clips.treatment import UNTREATED
from tidegate.corpus.loaders import load_esc10
from tidegate.corpus.manifest import Entry, Manifest, read_manifest
from tidegate.diagnosis.clip_changes import spread_frames
from tidegate.diagnosis.clip_scorer import Deciding
from tidegate.diagnosis.content import Content, content_of
from tidegate.diagnosis.investigate import deciding_of
from tidegate.diagnosis.reference import Reference
from tidegate.errors import ManifestError, MediaError
from tidegate.media import read_audio
from tidegate.types import AudioChunk, Clip

__all__ = ["LEAST_ITEMS", "fingerprint", "halves", "least_extra_errors", "rendered_bench", "sounds_of"]

LEAST_ITEMS = 20
"""Items that each half must have."""
MAX_SOUNDS = 40
_SOUND_SECONDS = 6.0


@dataclass(frozen=True, kw_only=True)
class _Stages:
    """A preset's stages as a judge."""

    deciding: Deciding

    @property
    def identity(self) -> str:
        """Of both checkpoints; thresholds do not matter for raw scores."""
        base = "" if self.deciding.base is None else self.deciding.base.identity
        return f"{self.deciding.large.identity}+{base}".replace("/", "_")

    @property
    def num_frames(self) -> int:
        """Frames of the large stage."""
        return self.deciding.large.request.num_frames

    def judge(self, rows: Sequence[int], clips: Sequence[Clip]) -> list[Pair]:
        """Scores of both stages, the large one's whether or not it would be asked."""
        large, base = self.deciding.large, self.deciding.base
        above = [score.value for score in large(clips)]
        if base is None:
            return [(None, value) for value in above]
        below = base([spread_frames(clip, base.request.num_frames) for clip in clips])
        return [(score.value, value) for score, value in zip(below, above, strict=True)]


def halves(entries: Sequence[Entry], issue: str, items: int, seed: int, where: str) -> tuple[list[Entry], list[Entry]]:
    """Two lists disjoint by source, each of at most ``items``; ``ManifestError`` if they are too small to judge by."""
    names = sorted({entry.source_id or entry.video_id for entry in entries})
    order = np.random.default_rng([seed, 7]).permutation(len(names))
    first = {names[place] for place in order[: len(names) // 2]}
    inside = [(entry.source_id or entry.video_id) in first for entry in entries]
    sides = [[entry for entry, one in zip(entries, inside, strict=True) if one is wanted][:items]
             for wanted in (True, False)]
    for side in sides:
        positives = sum(entry.labels[issue] for entry in side)
        if len(side) < LEAST_ITEMS or not 0 < positives < len(side):
            raise ManifestError(
                f"{where}: expected at least {LEAST_ITEMS} videos of both labels {issue!r} in each half of the "
                f"sources, found {len(side)} with {positives} positive"
            )
    return sides[0], sides[1]


def least_extra_errors(items: int) -> int:
    """Extra errors from which on a fault counts: 2 % of the items, 4 at least."""
    return max(4, round(0.02 * items))


def _labelled(manifest: Manifest, split: str, issue: str, path: Path) -> list[Entry]:
    chosen = [entry for entry in manifest if entry.split == split and issue in entry.labels]
    if not chosen:
        labels = ", ".join(manifest.issues) or "none"
        splits = ", ".join(sorted({entry.split or "no split" for entry in manifest}))
        raise ManifestError(f"{path}: expected videos of split {split} labelled {issue!r}; found labels {labels} and "
                            f"splits {splits}")
    return chosen


def sounds_of(folder: Path | None, entries: Sequence[Entry]) -> list[AudioChunk]:
    """Sounds that may drown a clip's own: of ESC-10, every class alike, or else of harmless videos."""
    if folder is not None:
        recordings = load_esc10(folder).entries
        paths = [one.path for one in recordings[:: max(1, len(recordings) // MAX_SOUNDS)]]
    else:
        paths = [entry.path for entry in entries]
    found = []
    for path in paths[: 3 * MAX_SOUNDS]:
        try:
            chunk = read_audio(path, max_seconds=_SOUND_SECONDS)
        except MediaError:
            continue
        if chunk is not None and len(chunk.samples) and float(np.abs(chunk.samples).max()) > 0.01:
            found.append(chunk)
    if not found:
        raise ManifestError("expected sounds to swap with (an ESC-10 folder, or videos with audio), found none")
    return found[:MAX_SOUNDS]


def fingerprint(sounds: Sequence[AudioChunk]) -> str:
    """Changes whenever a sound does."""
    digest = hashlib.sha256()
    for chunk in sounds:
        digest.update(chunk.samples.tobytes())
    return digest.hexdigest()[:12]


@contextmanager
def rendered_bench(
    manifest_path: Path, models: str, folder: Path, *, items: int, reference_items: int, sounds: Path | None,
    seed: int, issue: str = "icd", p_base: str = "20",
) -> Iterator[Bench]:
    """The bench, as long as its decoding process lives."""
    manifest = read_manifest(manifest_path)
    test, train = _labelled(manifest, "test", issue, manifest_path), _labelled(manifest, "train", issue, manifest_path)
    first, second = halves(test, issue, items, seed, str(manifest_path))
    deciding = deciding_of(models, p_base)
    heard = sounds_of(sounds, [entry for entry in train if entry.labels[issue] == 0])
    with Footage([*first, *second], deciding.request, folder=folder / "decoded") as footage:
        system = ClipSystem(footage, _Stages(deciding=deciding), issue, folder / "scores",
                            stamp=f"{seed}|{fingerprint(heard)}")
        diagnosed = _deployed(system, np.arange(len(first)), deciding)
        measured = _deployed(system, np.arange(len(first), len(first) + len(second)), deciding)
        reference = _reference(train[:reference_items], deciding, issue, folder)
        yield Bench(diagnosed=diagnosed, measured=measured, reference=reference, sounds=heard,
                    columns=("region", "language", "period"), least_extra_errors=least_extra_errors(len(first)))


def _deployed(system: ClipSystem, rows: np.ndarray, deciding: Deciding) -> Deployed:
    entries = [system.entries[row] for row in rows]
    period = np.asarray([attribute_of(entry.source_id or entry.video_id, "period", 2) for entry in entries])
    return Deployed(
        system=system, rows=rows, treatments=(UNTREATED,) * len(rows), taus=np.full(len(rows), deciding.tau),
        thresholds=np.full(len(rows), deciding.threshold), attributes={"period": period},
        labels=np.asarray([entry.labels[system.issue] for entry in entries], dtype=np.int64),
        cascade=deciding.base is not None,
    )  # fmt: skip


def _reference(train: Sequence[Entry], deciding: Deciding, issue: str, folder: Path) -> Reference | None:
    """What training videos are like; None without any."""
    if not train:
        return None
    parts, labels = [], []
    with Footage(train, deciding.request, folder=folder / "decoded") as footage:
        for row, entry in enumerate(train):
            clip = footage.clip(row)
            if isinstance(clip, Clip):
                parts.append(content_of(spread_frames(clip, deciding.large.request.num_frames, 2)))
                labels.append(entry.labels[issue])
    content = Content.stacked(parts)
    return Reference(embeddings_MD=content.embeddings_ND, labels=np.asarray(labels, dtype=np.int64),
                     hashes=content.hashes_N)
