"""Feature cache, augmentation, thresholds and the figures of a cascade."""

from __future__ import annotations

import numpy as np
import pytest
from training_samples import small_corpus

from tidegate.corpus.manifest import read_manifest
from tidegate.errors import ManifestError
from tidegate.models.batch import ClipFeatures
from tidegate.models.configs import ProcessorConfig
from tidegate.models.processor import ClipProcessor
from tidegate.training.augment import AugmentConfig, augment
from tidegate.training.evaluate import ScoredSplit, entries_of, evaluate_cascade, evaluate_scores
from tidegate.training.features import load_features
from tidegate.training.thresholds import choose_thresholds

VISION_AND_AUDIO = ProcessorConfig(
    modalities=("vision", "audio"), num_frames=3, image_size=16, audio_seconds=1, num_mel_bins=16
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> object:
    return read_manifest(small_corpus(tmp_path_factory.mktemp("corpus"), 6, broken=True))


def test_cache_equals_fresh_features_says_so_and_names_failures(corpus: object, tmp_path: object) -> None:
    processor = ClipProcessor(VISION_AND_AUDIO, None)
    first = load_features(corpus.entries, processor, tmp_path / "cache")  # type: ignore[attr-defined,operator]
    second = load_features(corpus.entries, processor, tmp_path / "cache")  # type: ignore[attr-defined,operator]
    assert (first.from_cache, second.from_cache) == (False, True)
    assert first.video_ids == second.video_ids == ("v00", "v01", "v02", "v03", "v04")
    assert [(item.video_id, item.code) for item in second.failed] == [("v05", "not_media")]
    np.testing.assert_array_equal(first[3].frames_THWC, second[3].frames_THWC)
    assert second[0].num_mel_frames == 100
    assert second[0].missing == ()
    assert second.rows(["v05", "v02"]).tolist() == [2]


def test_cache_key_follows_the_processor(corpus: object, tmp_path: object) -> None:
    entries = corpus.entries[:2]  # type: ignore[attr-defined]
    load_features(entries, ClipProcessor(VISION_AND_AUDIO, None), tmp_path / "cache")  # type: ignore[operator]
    other = ClipProcessor(ProcessorConfig(modalities=("vision",), num_frames=2, image_size=16), None)
    table = load_features(entries, other, tmp_path / "cache")  # type: ignore[operator]
    assert not table.from_cache
    assert table[0].frames_THWC.shape == (2, 16, 16, 3)


def test_cache_without_one_good_video_is_an_error(corpus: object, tmp_path: object) -> None:
    with pytest.raises(ManifestError, match="v05"):
        load_features(corpus.entries[5:], ClipProcessor(VISION_AND_AUDIO, None), tmp_path / "cache")  # type: ignore[attr-defined,operator]


def item() -> ClipFeatures:
    rng = np.random.default_rng(0)
    return ClipFeatures(
        frames_THWC=rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8),
        mel_MF=rng.standard_normal((8, 100)).astype(np.float32),
        num_mel_frames=80,
        token_ids=np.arange(10),
    )


def test_augmentation_changes_the_clip_and_not_the_cache() -> None:
    original, untouched = item(), item()
    changed = augment(original, AugmentConfig(modality_dropout=0.0), np.random.default_rng(1))
    np.testing.assert_array_equal(original.frames_THWC, untouched.frames_THWC)
    np.testing.assert_array_equal(original.mel_MF, untouched.mel_MF)
    assert not np.array_equal(changed.frames_THWC, untouched.frames_THWC)
    assert not np.array_equal(changed.mel_MF, untouched.mel_MF)


def test_augmentation_of_nothing_changes_nothing() -> None:
    off = AugmentConfig(
        modality_dropout=0,
        flip=0,
        shift_pixels=0,
        brightness=0,
        gain_db=0,
        shift_mel_frames=0,
        mel_masks=0,
        token_dropout=0,
    )
    changed = augment(item(), off, np.random.default_rng(1))
    np.testing.assert_array_equal(changed.frames_THWC, item().frames_THWC)
    np.testing.assert_array_equal(changed.mel_MF, item().mel_MF)
    np.testing.assert_array_equal(changed.token_ids, item().token_ids)


def test_modality_dropout_leaves_at_least_one() -> None:
    rng = np.random.default_rng(0)
    always = AugmentConfig(modality_dropout=1.0)
    for _ in range(20):
        changed = augment(item(), always, rng)
        assert sum((changed.frames_THWC is not None, changed.mel_MF is not None, len(changed.token_ids) > 0)) >= 1


def test_thresholds_are_the_lowest_scores_that_reach_their_precision() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    scores = np.clip(0.35 * labels + rng.random(400) * 0.65, 0, 1)
    chosen = choose_thresholds("icd", labels, scores, measured_on="here")
    for group in ("flag_at_precision", "escalate"):
        for percent, tau in chosen[group].items():
            reaching = [s for s in np.unique(scores) if labels[scores >= s].mean() >= int(percent) / 100]
            assert tau == pytest.approx(min(reaching))
    assert (chosen["issue"], chosen["n"], chosen["n_positives"]) == ("icd", 400, int(labels.sum()))


def test_threshold_that_no_score_reaches_is_null() -> None:
    chosen = choose_thresholds("icd", np.array([1, 0, 0, 0]), np.array([0.1, 0.9, 0.8, 0.7]), measured_on="here")
    assert chosen["flag_at_precision"]["90"] is None
    assert chosen["escalate"]["20"] == pytest.approx(0.1)


def split(labels: list[int], scores: list[float]) -> ScoredSplit:
    names = tuple(f"v{number}" for number in range(len(labels)))
    return ScoredSplit(video_ids=names, labels=np.array(labels), scores=np.array(scores), sources=names)


def test_cascade_judges_what_is_escalated_by_the_large_stage_and_the_rest_is_negative() -> None:
    labels = [1, 0, 1, 0, 1, 0]
    base = split(labels, [0.9, 0.8, 0.7, 0.1, 0.05, 0.02])
    large = split(labels, [0.9, 0.1, 0.8, 0.9, 0.9, 0.9])
    report = evaluate_cascade((base, base), (large, large), 65, num_samples=20)
    assert report.escalated_share == pytest.approx(0.5)
    at_90 = next(row for row in report.recall if (row.precision_percent, row.meaning) == (90, "deployed"))
    assert at_90.recall.estimate == pytest.approx(2 / 3)
    assert at_90.precision == 1.0


def test_deployed_recall_uses_the_validation_threshold() -> None:
    validation = split([1, 0, 1, 0], [0.9, 0.2, 0.8, 0.1])
    test = split([1, 0, 1, 0], [0.95, 0.85, 0.3, 0.1])
    report = evaluate_scores("stage", test, validation, num_samples=20)
    deployed, oracle = (
        next(row for row in report.recall if (row.precision_percent, row.meaning) == (90, meaning))
        for meaning in ("deployed", "oracle")
    )
    assert (deployed.threshold, deployed.recall.estimate, deployed.precision) == (0.8, 0.5, 0.5)
    assert (oracle.threshold, oracle.recall.estimate) == (0.95, 0.5)


def test_split_without_labels_is_refused_by_name(corpus: object) -> None:
    with pytest.raises(ManifestError, match="'ucc'"):
        entries_of(corpus, "test", "ucc")  # type: ignore[arg-type]
