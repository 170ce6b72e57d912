"""The bench on real surveillance clips: a model of our own, fitted out of fold by source, in front of all of them.

Enters: the folder of fight clips, a folder for numbers. Leaves: a ``Bench`` and how good its judge is. The packaged
``tiny`` preset is at chance on these clips, so the judge is a logistic regression on ``describe_motion``: every clip is
scored by the model of the fold that its source is not in, damaged versions of it too. Thresholds come from inner folds.
Clips of unlisted sources are only trained on. No frame is written anywhere; what is kept are scores and descriptions.

Shape legend: N clips, D numbers of a description.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.bench.diagnosis_clips.faults import Bench
from tidegate.bench.diagnosis_clips.footage import Footage
from tidegate.bench.diagnosis_clips.motion import MOTION_VERSION, describe_motion
from tidegate.bench.diagnosis_clips.rendered import fingerprint, least_extra_errors, sounds_of
from tidegate.bench.diagnosis_clips.system import ClipSystem, Deployed, Pair, attribute_of
from tidegate.bench.diagnosis_clips.treatment import UNTREATED
from tidegate.corpus.loaders import load_fights
from tidegate.corpus.manifest import Entry
from tidegate.corpus.splits import UNLISTED
from tidegate.diagnosis.clip_changes import DENSE, spread_frames
from tidegate.diagnosis.content import Content, content_of
from tidegate.diagnosis.reference import Reference
from tidegate.errors import DependencyMissing, ManifestError
from tidegate.evaluation import best_f1
from tidegate.training.fights import folds_of
from tidegate.types import Clip, ClipRequest

__all__ = ["MotionJudge", "fight_bench", "fit_judge"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
ISSUE, NUM_FRAMES, NUM_FOLDS = "violence", 16, 5
STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1)
"""Inverse weights of the penalty that inner folds choose from."""
_REQUEST = ClipRequest(num_frames=DENSE * NUM_FRAMES, long_edge_pixels=128, max_audio_seconds=6.0)
_SLICES = {"surface": 4, "period": 2}
"""Attributes made up by a hash of the source, and their numbers of values: the data set has none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Fold:
    """A fitted model."""

    centre_D: Floats
    scale_D: Floats
    weights_D: Floats
    bias: float
    threshold: float

    def probability(self, rows_ND: Floats) -> Floats:
        """Of a fight."""
        odds = ((rows_ND - self.centre_D) / self.scale_D).clip(-5, 5) @ self.weights_D + self.bias
        found: Floats = 1 / (1 + np.exp(-odds))
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class MotionJudge:
    """One model a fold; each item is judged by the one that never saw its source."""

    folds: tuple[_Fold, ...]
    fold_of_row: Ints
    identity: str
    num_frames: int = NUM_FRAMES

    def judge(self, rows: Sequence[int], clips: Sequence[Clip]) -> list[Pair]:
        """Scores of clips that are versions of the items at ``rows``."""
        return [(None, float(self.folds[self.fold_of_row[row]].probability(describe_motion(clip)[None])[0]))
                for row, clip in zip(rows, clips, strict=True)]


def _fitted(rows_ND: Floats, labels: Ints, strength: float) -> _Fold:
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise DependencyMissing("the bench on fights needs scikit-learn: pip install 'tidegate[diagnosis]'") from error
    if len(set(labels.tolist())) < 2:
        raise ManifestError("expected clips with and without a fight in every fold of the sources, found one kind only")
    centre, scale = rows_ND.mean(axis=0), np.maximum(rows_ND.std(axis=0), 1e-6)
    model = LogisticRegression(C=strength, max_iter=2000).fit(((rows_ND - centre) / scale).clip(-5, 5), labels)
    return _Fold(centre_D=centre, scale_D=scale, weights_D=model.coef_[0], bias=float(model.intercept_[0]),
                 threshold=0.5)


def _out_of_fold(rows_ND: Floats, labels: Ints, folds: Ints, strength: float) -> Floats:
    """Scores by models of other folds; NaN for rows in none (-1), which are only trained on."""
    scores = np.full(len(labels), np.nan)
    for fold in range(folds.max() + 1):
        scores[folds == fold] = _fitted(rows_ND[folds != fold], labels[folds != fold], strength).probability(
            rows_ND[folds == fold])
    return scores


def _tuned(rows_ND: Floats, labels: Ints, sources: Sequence[str], seed: int) -> _Fold:
    """A model whose penalty and threshold are those that inner folds of sources do best with."""
    inner = folds_of(sources, NUM_FOLDS, seed)
    folds = np.asarray([inner.get(source, -1) for source in sources])
    tried = {strength: _out_of_fold(rows_ND, labels, folds, strength) for strength in STRENGTHS}
    known = folds >= 0

    def loss(strength: float) -> float:
        given = np.clip(np.where(labels == 1, tried[strength], 1 - tried[strength])[known], 1e-6, 1)
        return -float(np.log(given).mean())

    strength = min(STRENGTHS, key=loss)
    _, threshold = best_f1(labels[known], tried[strength][known])
    model = _fitted(rows_ND, labels, strength)
    return _Fold(**{**vars(model), "threshold": float(threshold)})


def fit_judge(rows_ND: Floats, labels: Ints, sources: Sequence[str], *, seed: int) -> MotionJudge:
    """Models of all folds; fold -1 marks clips of unlisted sources."""
    fold = folds_of(sources, NUM_FOLDS, seed)
    place = np.asarray([fold.get(source, -1) for source in sources])
    named = np.asarray(sources)
    models = [_tuned(rows_ND[place != number], labels[place != number], named[place != number].tolist(), seed + number)
              for number in range(NUM_FOLDS)]
    said = f"{MOTION_VERSION}|{seed}|{hashlib.sha256(rows_ND.tobytes() + labels.tobytes()).hexdigest()}"
    return MotionJudge(folds=tuple(models), fold_of_row=place, identity=hashlib.sha256(said.encode()).hexdigest()[:16])


@contextmanager
def fight_bench(
    fights: Path, folder: Path, *, sounds: Path | None, seed: int
) -> Iterator[tuple[Bench, dict[str, Any]]]:
    """(bench, what its judge is), as long as the decoding process lives."""
    entries = sorted(load_fights(fights), key=lambda entry: (entry.source_id == UNLISTED, entry.video_id))
    listed = [entry for entry in entries if entry.source_id != UNLISTED]
    if len({entry.source_id for entry in listed}) < 2 * NUM_FOLDS:
        raise ManifestError(f"{fights}: expected clips of at least {2 * NUM_FOLDS} listed sources, found "
                            f"{len({entry.source_id for entry in listed})}")
    with Footage(entries, _REQUEST, max_held_bytes=2 * 2**30) as footage:
        clips = [footage.clip(row) for row in range(len(entries))]
        if lost := [e.video_id for e, clip in zip(entries, clips, strict=True) if not isinstance(clip, Clip)]:
            raise ManifestError(f"{fights}: expected clips that decode, {len(lost)} do not: {', '.join(lost[:3])}")
        judge = fit_judge(_described(clips), _labels(entries), [str(e.source_id) for e in entries], seed=seed)
        heard = sounds_of(sounds, entries)
        system = ClipSystem(footage, judge, ISSUE, folder / "scores", stamp=f"{seed}|{fingerprint(heard)}")
        deployed = _deployed(system, judge, np.arange(len(listed)))
        bench = Bench(
            diagnosed=deployed, measured=deployed, columns=tuple(_SLICES),
            reference=_reference(clips[len(listed) :], entries[len(listed) :]),
            sounds=heard, least_extra_errors=least_extra_errors(len(listed)),
        )  # fmt: skip
        yield bench, {"judge": f"logistic regression on {MOTION_VERSION}, {NUM_FOLDS} folds by source, seed {seed}"}


def _labels(entries: Sequence[Entry]) -> Ints:
    return np.asarray([entry.labels[ISSUE] for entry in entries], dtype=np.int64)


def _described(clips: Sequence[Any]) -> Floats:
    return np.stack([describe_motion(spread_frames(clip, NUM_FRAMES, DENSE // 2)) for clip in clips])


def _deployed(system: ClipSystem, judge: MotionJudge, rows: Ints) -> Deployed:
    entries = [system.entries[row] for row in rows]
    attributes = {name: np.asarray([attribute_of(str(entry.source_id), name, count) for entry in entries])
                  for name, count in _SLICES.items()}
    return Deployed(
        system=system, rows=rows, treatments=(UNTREATED,) * len(rows), taus=np.zeros(len(rows)),
        thresholds=np.asarray([judge.folds[judge.fold_of_row[row]].threshold for row in rows]),
        labels=_labels(entries), attributes=attributes, cascade=False,
    )  # fmt: skip


def _reference(clips: Sequence[Any], entries: Sequence[Entry]) -> Reference | None:
    """Clips that every fold was trained on."""
    if not entries:
        return None
    content = Content.stacked([content_of(spread_frames(clip, NUM_FRAMES, DENSE // 2)) for clip in clips])
    return Reference(embeddings_MD=content.embeddings_ND, labels=_labels(entries), hashes=content.hashes_N)
