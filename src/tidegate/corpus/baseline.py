"""What one modality alone reaches on a corpus: plain features, plain classifiers, no neural network.

Enters: a manifest with train, validation and test sides. Leaves: per modality the AUC and recall at precision on the
test side, with intervals that resample whole sources, beside the ceiling that the truth allows (a modality cannot see
evidence that lies elsewhere). Text: character n-grams and logistic regression. Audio: log-mel statistics. Vision:
colour, edge orientations on a grid and frame differences. Audio, vision and all together: gradient-boosted trees.
Plain on purpose: a corpus that these could solve would teach nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.corpus.manifest import Entry, Manifest
from tidegate.errors import DependencyMissing, ManifestError
from tidegate.evaluation import Summary, summarise
from tidegate.media import probe, read_audio, read_frames, uniform_instants
from tidegate.types import AudioChunk

__all__ = ["MODALITIES", "Ceiling", "ceilings", "measure_baselines"]

MODALITIES = ("vision", "audio", "text")
_NUM_FRAMES = 8
_GRID = 4
_ORIENTATIONS = 8
_BANDS = 32
_STRETCHES = 4
_Features = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """The most that a perfect observer of one modality could reach."""

    modality: str
    visible_share: float
    """Share of the positives whose evidence this modality shows in full."""
    auc: float
    """Visible positives first, the rest in random order."""


def ceilings(manifest: Manifest, issue: str = "icd") -> tuple[Ceiling, ...]:
    """The ceiling of each modality, from the truth of a synthetic manifest."""
    positives = [entry for entry in manifest if entry.labels.get(issue) == 1]
    if not positives or any("modalities" not in entry.truth for entry in positives):
        raise ManifestError("ceilings: expected a manifest of the synthetic icd corpus with positives and their truth")
    shares = {
        modality: float(np.mean([_shows(entry, modality) for entry in positives])) for modality in (*MODALITIES, "all")
    }
    return tuple(
        Ceiling(modality=modality, visible_share=share, auc=share + (1 - share) / 2)
        for modality, share in shares.items()
    )


def _shows(entry: Entry, modality: str) -> bool:
    """Whether ``modality`` alone shows all the evidence; a sticker of the app is text too."""
    if modality == "all" or set(entry.truth["modalities"]) == {modality}:
        return True
    return modality == "text" and entry.truth["kind"] == "sticker" and bool(entry.truth["sticker_in_metadata"])


def measure_baselines(
    manifest: Manifest,
    issue: str = "icd",
    *,
    rounds: int = 200,
    workers: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Summary, ...]:
    """Train on the training side, choose thresholds on validation, report on test: each modality, then all.

    ``rounds``: trees of the boosted models."""
    _need_scikit_learn()
    sides = {side: manifest.labelled(issue).split(side) for side in ("train", "validation", "test")}
    empty = [side for side, part in sides.items() if len({entry.labels[issue] for entry in part}) < 2]
    if empty:
        raise ManifestError(f"baselines need both labels of {issue} on every side; not so: {', '.join(empty)}")
    entries = [entry for part in sides.values() for entry in part]
    measured = _all_features(entries, workers, progress)
    labels = np.array([entry.labels[issue] for entry in entries])
    at = np.cumsum([0, *(len(part) for part in sides.values())])
    train, validation, test = (slice(at[k], at[k + 1]) for k in range(3))
    sources = [entry.source_id or entry.video_id for entry in sides["test"]]
    results = []
    for name, columns in _inputs(entries, measured, train).items():
        model = _classifier(name, rounds, seed).fit(columns[train], labels[train])
        scores = model.predict_proba(columns)[:, 1]
        held_out = (labels[validation], scores[validation])
        results.append(summarise(name, labels[test], scores[test], validation=held_out, clusters=sources, seed=seed))
    return tuple(results)


def _need_scikit_learn() -> None:
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise DependencyMissing("baselines need scikit-learn: pip install 'tidegate[corpus]'") from error


def _inputs(entries: Sequence[Entry], measured: tuple[_Features, _Features], train: slice) -> dict[str, Any]:
    """Feature matrix of each modality and of all; the text vocabulary comes from the training side."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    vision, audio = measured
    texts = [" \n ".join(text.text for text in entry.texts) for entry in entries]
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True, min_df=2)
    vectorizer.fit(texts[train])
    words = vectorizer.transform(texts)
    reducer = TruncatedSVD(min(100, words.shape[1] - 1, words[train].shape[0] - 1), random_state=0).fit(words[train])
    together = np.hstack([vision, audio, reducer.transform(words).astype(np.float32)])
    return {"vision": vision, "audio": audio, "text": words, "all": together}


def _classifier(name: str, rounds: int, seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    if name == "text":
        return LogisticRegression(C=10.0, max_iter=1000)
    return HistGradientBoostingClassifier(max_iter=rounds, learning_rate=0.06, l2_regularization=1.0, random_state=seed)


def _all_features(entries: list[Entry], workers: int, progress: Progress | None) -> tuple[_Features, _Features]:
    rows = []
    for row in _measured(entries, workers):
        rows.append(row)
        if progress is not None:
            progress(len(rows), len(entries))
    vision, audio = zip(*rows, strict=True)
    return np.stack(vision), np.stack(audio)


def _measured(entries: list[Entry], workers: int) -> Any:
    if workers == 1:
        yield from map(features_of, entries)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(features_of, entries, chunksize=8)


def features_of(entry: Entry) -> tuple[_Features, _Features]:
    """Vision and audio features of one video."""
    frames = read_frames(entry.path, uniform_instants(probe(entry.path), _NUM_FRAMES), long_edge_pixels=96)
    return vision_features(frames.frames_THWC), audio_features(read_audio(entry.path, max_seconds=8.0))


def vision_features(frames_THWC: npt.NDArray[np.uint8]) -> _Features:
    """Colour and edge statistics on a 4 x 4 grid, their mean, largest and change over time."""
    grey_THW = frames_THWC.astype(np.float32).mean(axis=3) / 255
    down_THW, right_THW = np.gradient(grey_THW, axis=(1, 2))
    strength_THW = np.hypot(down_THW, right_THW)
    bin_THW = ((np.arctan2(down_THW, right_THW) % np.pi) / np.pi * _ORIENTATIONS).astype(int) % _ORIENTATIONS
    per_frame = []
    for frame, strength, bins in zip(frames_THWC, strength_THW, bin_THW, strict=True):
        per_frame.append(_grid_statistics(frame, strength, bins))
    table = np.stack(per_frame)
    change = np.abs(np.diff(table, axis=0)).max(axis=0) if len(table) > 1 else np.zeros(table.shape[1])
    return np.concatenate([table.mean(axis=0), table.max(axis=0), change]).astype(np.float32)


def _grid_statistics(frame_HWC: npt.NDArray[np.uint8], strength_HW: Any, bin_HW: Any) -> Any:
    rows = np.array_split(np.arange(frame_HWC.shape[0]), _GRID)
    columns = np.array_split(np.arange(frame_HWC.shape[1]), _GRID)
    values: list[Any] = []
    for row in rows:
        for column in columns:
            cell = np.ix_(row, column)
            pixels = frame_HWC[cell].reshape(-1, 3) / 255
            edges = np.bincount(bin_HW[cell].ravel(), strength_HW[cell].ravel(), minlength=_ORIENTATIONS)
            values.extend([*pixels.mean(axis=0), *pixels.std(axis=0), *(edges / len(pixels))])
    return np.array(values)


def audio_features(audio: AudioChunk | None) -> _Features:
    """Log-mel energies: mean, spread, quantiles, attack, and the mean of four stretches; zeros without a track."""
    size = _BANDS * (5 + _STRETCHES)
    if audio is None or len(audio.samples) < 1024:
        return np.zeros(size, np.float32)
    mel_FM = _log_mel(audio)
    attack = np.abs(np.diff(mel_FM, axis=0)).max(axis=0)
    statistics = [mel_FM.mean(axis=0), mel_FM.std(axis=0), *np.quantile(mel_FM, (0.1, 0.95), axis=0), attack]
    stretches = [part.mean(axis=0) for part in np.array_split(mel_FM, _STRETCHES)]
    return np.concatenate([*statistics, *stretches]).astype(np.float32)


def _log_mel(audio: AudioChunk) -> Any:
    """Log energies (F windows, M mel bands) of Hann windows of 64 ms, 32 ms apart."""
    window = np.lib.stride_tricks.sliding_window_view(audio.samples, 1024)[::512]
    power = np.abs(np.fft.rfft(window * np.hanning(1024), axis=1)) ** 2
    frequencies = np.fft.rfftfreq(1024, 1 / audio.sample_rate_hz)
    mel = 2595 * np.log10(1 + frequencies / 700)
    centres = np.linspace(0, mel[-1], _BANDS + 2)[1:-1]
    filters = np.maximum(0, 1 - np.abs(mel[:, None] - centres) / (centres[1] - centres[0]))
    return np.log(power @ filters + 1e-6)
