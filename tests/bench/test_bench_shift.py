"""``tidegate reproduce shift``: thresholds stay the old ones, prevalence stays, longer videos keep their evidence."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tidegate.bench.reproduce.durations import make_longer
from tidegate.bench.reproduce.kinds import kind_aucs, kinds_table
from tidegate.bench.reproduce.shift import ShiftConfig, ShiftReport, _later_period, _rows, _thresholds
from tidegate.corpus import Entry, Manifest, read_manifest, write_manifest
from tidegate.errors import ManifestError
from tidegate.media import encode_video, probe, read_frames
from tidegate.training.evaluate import ScoredSplit
from tidegate.types import AudioChunk


def _split(labels: np.ndarray, scores: np.ndarray) -> ScoredSplit:
    names = tuple(f"v{n}" for n in range(len(labels)))
    return ScoredSplit(video_ids=names, labels=labels, scores=scores, sources=names)


def _config(tmp_path: Path) -> ShiftConfig:
    nowhere = tmp_path / "none"
    return ShiftConfig(data=nowhere, base=nowhere, large=nowhere, folder=nowhere, others={}, num_samples=50)


def test_thresholds_are_those_of_the_old_validation_split_wherever_the_content_went(tmp_path: Path) -> None:
    """By hand: on validation 0.6 is the lowest score of precision .8; elsewhere all scores have fallen below it."""
    labels = np.asarray([1, 1, 1, 1, 0, 0, 0, 0])
    old = _split(labels, np.asarray([0.9, 0.8, 0.7, 0.6, 0.4, 0.3, 0.2, 0.1]))
    at = _thresholds(old, old.scores, _config(tmp_path))
    assert (at.base, at.large, at.cascade) == (0.4, 0.4, 0.4)
    moved = _split(labels, old.scores / 3)
    ones = np.ones(8, dtype=np.int64)
    rows = {row.model: row for row in _rows("moved", moved, moved.scores, at, copies=ones, samples=20)}
    assert rows["AVLM"].auc.estimate == 1.0, "the ranking is as good as it was"
    assert rows["AVLM"].recall.estimate == 0.0, "nothing reaches the old threshold"
    assert rows["cascade"].escalated_share == pytest.approx(np.mean(moved.scores >= at.tau))
    text = ShiftReport(rows=tuple(rows.values()), precision_percent=80, p_base_percent=50).to_markdown()
    assert text.count("moved") == 3


def test_a_later_period_has_three_times_the_words_and_the_old_prevalence() -> None:
    kinds = ["title", "speech", "motion", "visual_object"] * 10
    labels = np.repeat([1, 0], [40, 60])
    entries = [
        Entry(video_id=f"v{n}", path=Path("x.mp4"), truth={"kind": kinds[n] if n < 40 else None}) for n in range(100)
    ]
    copies = _later_period(entries, _split(labels, np.linspace(0, 1, 100)))
    words = np.asarray([kinds[n] in {"title", "speech"} if n < 40 else False for n in range(100)])
    assert set(copies[words]) == {3}
    assert set(copies[(labels == 1) & ~words]) == {1}
    counted = np.repeat(labels, copies)
    assert counted.mean() == pytest.approx(labels.mean(), abs=0.005)
    plain = [Entry(video_id=f"v{n}", path=Path("x.mp4")) for n in range(100)]
    with pytest.raises(ManifestError, match="truth"):
        _later_period(plain, _split(labels, np.linspace(0, 1, 100)))


def test_a_longer_video_holds_its_clip_and_lasts_as_long_as_asked(tmp_path: Path) -> None:
    entries = []
    for number in range(5):
        label, path = int(number == 0), tmp_path / f"v{number}.mp4"
        frames = np.full((60, 320, 180, 3), 250 if label else 20, dtype=np.uint8)
        audio = AudioChunk(samples=np.full(80_000, 0.1 * label, np.float32), sample_rate_hz=16_000)
        encode_video(path, iter(frames), Fraction(12), audio)
        entries.append(
            Entry(video_id=f"v{number}", path=path, labels={"icd": label}, source_id=f"s{number}", split="test")
        )
    write_manifest(Manifest(entries=tuple(entries)), tmp_path / "manifest.parquet")
    longer = make_longer(tmp_path / "manifest.parquet", tmp_path / "longer", 20, each=1, fillers=3)
    found = {entry.labels["icd"]: entry.path for entry in read_manifest(longer)}
    for label, path in found.items():
        info = probe(path)
        assert info.duration_seconds == pytest.approx(20.0, abs=0.2)
        bright = read_frames(path, np.arange(0.5, 20, 1.0)).frames_THWC.mean(axis=(1, 2, 3)) > 128
        assert bright.sum() == 5 * label, "five of the twenty seconds are the violating clip"
    before = longer.stat().st_mtime_ns
    assert make_longer(tmp_path / "manifest.parquet", tmp_path / "longer", 20, each=1, fillers=3) == longer
    assert longer.stat().st_mtime_ns == before
    with pytest.raises(ManifestError, match="test clips of label 0"):
        make_longer(tmp_path / "manifest.parquet", tmp_path / "longer", 30, each=2, fillers=3)


def test_a_kind_is_compared_with_all_harmless_videos() -> None:
    """By hand: the sound's score beats both harmless ones, the title's one of the two."""
    kinds, labels = ["sound", "title", None, None], np.asarray([1, 1, 0, 0])
    found = kind_aucs(kinds, labels, np.asarray([[0.9, 0.4, 0.5, 0.1], [0.9, 0.4, 0.5, 0.1]]))
    assert found == {"sound": (1, 1.0), "title": (1, 0.5)}
    assert "| title | 1 | 0.50 |" in kinds_table({"model": found})
