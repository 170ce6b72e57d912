"""Baselines: they train on one side, report another, and their features say what they should."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tidegate.corpus import Entry, Manifest
from tidegate.corpus.baseline import MODALITIES, audio_features, ceilings, measure_baselines, vision_features
from tidegate.errors import DependencyMissing, ManifestError
from tidegate.types import AudioChunk


def test_each_modality_and_all_are_measured_on_the_test_side(icd_corpus: Manifest) -> None:
    steps: list[int] = []
    summaries = measure_baselines(icd_corpus, rounds=5, progress=lambda done, total: steps.append(done))
    test = icd_corpus.split("test")
    assert [summary.name for summary in summaries] == [*MODALITIES, "all"]
    assert {summary.n for summary in summaries} == {len(test)}
    assert {summary.n_positives for summary in summaries} == {sum(entry.labels["icd"] for entry in test)}
    assert steps == list(range(1, len(icd_corpus) + 1))


def test_no_modality_alone_shows_all_evidence(icd_corpus: Manifest) -> None:
    shares = {ceiling.modality: ceiling.visible_share for ceiling in ceilings(icd_corpus)}
    assert shares["all"] == 1.0
    assert all(0 < shares[modality] < 1 for modality in MODALITIES)
    positives = [entry for entry in icd_corpus if entry.labels["icd"]]
    heard = [entry.truth["kind"] in ("speech", "sound") for entry in positives]
    assert shares["audio"] == pytest.approx(np.mean(heard))


def test_a_side_without_both_labels_is_an_error(icd_corpus: Manifest) -> None:
    harmless = Manifest(
        entries=tuple(entry for entry in icd_corpus if entry.split != "test" or not entry.labels["icd"])
    )
    with pytest.raises(ManifestError, match="test"):
        measure_baselines(harmless)


def test_ceilings_need_the_truth_of_the_synthetic_corpus(tmp_path) -> None:
    with pytest.raises(ManifestError, match="truth"):
        ceilings(Manifest(entries=(Entry(video_id="a", path=tmp_path / "a.mp4", labels={"icd": 1}),)))


def test_a_missing_scikit_learn_is_named(icd_corpus: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(DependencyMissing, match=r"tidegate\[corpus\]"):
        measure_baselines(icd_corpus)


def test_audio_features_put_a_tone_into_its_band_and_silence_into_none() -> None:
    t = np.arange(16_000) / 16_000
    tones = [
        audio_features(AudioChunk(samples=np.sin(2 * np.pi * f * t).astype(np.float32), sample_rate_hz=16_000))[:32]
        for f in (300, 1000, 4000)
    ]
    assert np.argmax(tones[0]) < np.argmax(tones[1]) < np.argmax(tones[2])
    assert not audio_features(None).any()


def test_vision_features_see_colour_edges_and_change() -> None:
    still = np.zeros((4, 32, 32, 3), np.uint8)
    still[:, :, 16:, 0] = 255
    moving = still.copy()
    moving[2:, :16] = 0
    assert vision_features(still)[0] == 0
    third = len(vision_features(still)) // 3
    assert not vision_features(still)[2 * third :].any()
    assert vision_features(moving)[2 * third :].any()
