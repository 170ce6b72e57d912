"""Probes on clips that need more than the clip: a recogniser, another decoding, another policy, a second probe."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)
from typer.testing import CliRunner

from tidegate.cli import app
from tidegate.corpus.manifest import Entry, Manifest, write_manifest
from tidegate.diagnosis.clip_changes import DENSE, Seen, changed, composes, spread_frames
from tidegate.diagnosis.clip_scorer import AsIs, ClipScorer, Deciding, on_scale
from tidegate.diagnosis.investigate import InvestigationConfig, investigate, large_of
from tidegate.diagnosis.retrying import widened
from tidegate.diagnosis.score_table import read_scores
from tidegate.errors import CheckpointError, UsageError
from tidegate.media import Limits, encode_video, read_clip
from tidegate.models import PRESETS, preset
from tidegate.models.recogniser import load_recogniser
from tidegate.types import AudioChunk, TextSpan

WORDS = ["petrol", "bottle", "market", "garden", "river", "window"]


def save_whisper(folder):
    """A random recogniser of six words, written as the hub would hold it."""
    torch.manual_seed(0)
    vocabulary = {f"Ġ{word}": number for number, word in enumerate(WORDS)} | {"<|endoftext|>": len(WORDS)}
    end = len(WORDS)
    config = WhisperConfig(
        vocab_size=end + 1, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_mel_bins=32, max_source_positions=50,
        max_target_positions=16, decoder_start_token_id=end, bos_token_id=end, eos_token_id=end, pad_token_id=end,
        suppress_tokens=None, begin_suppress_tokens=[end],
    )
    model = WhisperForConditionalGeneration(config)
    model.generation_config.max_length = 4
    model.generation_config.begin_suppress_tokens = [end]
    model.save_pretrained(folder)
    extractor = WhisperFeatureExtractor(feature_size=32, chunk_length=1)
    WhisperProcessor(extractor, WhisperTokenizer(vocab=vocabulary, merges=[])).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    return save_whisper(tmp_path_factory.mktemp("whisper"))


def make_entry(folder, number, *, level=120, audio=True, seconds=2):
    pixels = np.random.default_rng(number).integers(level - 20, level + 20, (12 * seconds, 64, 96, 3)).astype(np.uint8)
    tone = np.sin(np.arange(16000 * seconds, dtype=np.float32) * (0.05 + 0.01 * number)) * 0.3
    sound = AudioChunk(samples=tone.astype(np.float32), sample_rate_hz=16000) if audio else None
    path = folder / f"{number}.mp4"
    encode_video(path, pixels, 12, sound)
    return Entry(video_id=f"v{number}", path=path, labels={"icd": number % 2}, language="en", source_id=f"s{number}",
                 texts=(TextSpan("title", "a title", "en"),))


def test_recognised_words_reach_the_models_prompt(tmp_path, whisper):
    entry, stage = make_entry(tmp_path, 1), preset("tiny").load_stage("large")
    deciding = Deciding(large=stage, threshold=0.5)
    clip = read_clip(entry.path, deciding.request, video_id="v1", texts=entry.texts)[1]
    text = load_recogniser(str(whisper))(clip.audio)
    assert set(text.split()) <= set(WORDS)
    assert text
    span = TextSpan("transcript", text, "en")
    shown = changed(Seen(clip=clip, num_frames=stage.request.num_frames, recognised=span), "transcript_recognised")
    batch = stage.processor.collate(stage.processor.features(shown))
    prompt = stage.processor.tokenizer.decode(batch.token_ids_BL[0].tolist())
    assert f"transcript[en]: {text}\n" in prompt
    with ClipScorer([entry], deciding, tmp_path / "cache", workers=1, recogniser=load_recogniser(str(whisper))) as own:
        heard = own.score(np.array([0]), "transcript_recognised")
    assert heard[0] == pytest.approx(stage(shown)[0].value, abs=1e-5)
    assert heard[0] != stage(changed(Seen(clip=clip, num_frames=stage.request.num_frames), None))[0].value


def test_each_clip_is_heard_once_and_a_silent_one_has_no_score(tmp_path, whisper):
    entries = [make_entry(tmp_path, 1), make_entry(tmp_path, 2, audio=False)]
    stage = preset("tiny").load_stage("large")
    for threshold in (0.5, 0.6):
        recogniser = load_recogniser(str(whisper))
        deciding = Deciding(large=stage, threshold=threshold)
        with ClipScorer(entries, deciding, tmp_path / "cache", workers=1, recogniser=recogniser) as scorer:
            scores = scorer.score(np.arange(2), "transcript_recognised")
            scorer.score(np.arange(2), "transcript_recognised")
        assert np.isnan(scores).tolist() == [False, True]
    files = list((tmp_path / "cache").glob("transcripts-*.jsonl"))
    assert len(files) == 1
    assert len(files[0].read_text().splitlines()) == 2


def test_another_recogniser_starts_another_file_and_has_other_scores_kept(tmp_path, whisper):
    other = save_whisper(tmp_path / "other")
    model = WhisperForConditionalGeneration.from_pretrained(other)
    model.generation_config.max_length = 3
    model.save_pretrained(other)
    entry, stage = make_entry(tmp_path, 1), preset("tiny").load_stage("large")
    for folder in (whisper, other):
        with ClipScorer([entry], Deciding(large=stage, threshold=0.5), tmp_path / "cache", workers=1,
                        recogniser=load_recogniser(str(folder))) as scorer:
            scorer.score(np.array([0]), "transcript_recognised")
    assert len(list((tmp_path / "cache").glob("transcripts-*.jsonl"))) == 2
    assert len(list((tmp_path / "cache").glob("*/transcript_recognised@*.jsonl"))) == 2


def test_longer_audio_is_heard_window_by_window(whisper):
    recogniser = load_recogniser(str(whisper))
    samples = np.random.default_rng(0).normal(0, 0.1, 24000).astype(np.float32)
    both = recogniser(AudioChunk(samples=samples, sample_rate_hz=16000))
    first, second = (recogniser(AudioChunk(samples=part, sample_rate_hz=16000)) for part in np.split(samples, [16000]))
    assert both == f"{first} {second}".strip()


def test_without_a_recogniser_its_probe_is_not_offered_and_its_code_not_imported(tmp_path):
    entry, stage = make_entry(tmp_path, 1), preset("tiny").load_stage("large")
    with ClipScorer([entry], Deciding(large=stage, threshold=0.5), tmp_path / "cache", workers=1) as scorer:
        assert "transcript_recognised" not in scorer.probes
        with pytest.raises(UsageError, match="expected probes among"):
            scorer.score(np.array([0]), "transcript_recognised")
        assert np.isfinite(scorer.score(np.array([0]), AsIs)).all()
    code = ("import sys, tidegate.diagnosis.investigate, tidegate.models.avlm\n"
            "print('tidegate.models.recogniser' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "False"


def test_a_recogniser_that_is_none_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_recogniser(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="expected a checkpoint of model_type 'whisper'"):
        load_recogniser(str(tmp_path))
    with pytest.raises(UsageError, match="--models and --data beside --recogniser"):
        investigate(InvestigationConfig(out=tmp_path, run=tmp_path / "x.csv", recogniser="some/whisper"))


def test_a_clip_over_a_tight_limit_gets_its_score_by_a_retry_and_no_other_has_one(tmp_path):
    entries = [make_entry(tmp_path, number, seconds=seconds) for number, seconds in enumerate((1, 3, 9))]
    stage, tight = preset("tiny").load_stage("large"), Limits(max_duration_seconds=1.5)
    deciding = Deciding(large=stage, threshold=0.5)
    with ClipScorer(entries, deciding, tmp_path / "tight", workers=1, limits=tight) as scorer:
        retried = scorer.score(np.arange(3), "retry")
        table = scorer.table()
    with ClipScorer(entries, deciding, tmp_path / "wide", workers=1) as scorer:
        plain = scorer.score(np.arange(3), AsIs)
    assert np.isnan(table.scores).tolist() == [False, True, True]
    assert table.notes.tolist() == ["", "limit_exceeded", "limit_exceeded"]
    assert np.isnan(retried).tolist() == [True, False, True]
    assert retried[1] == pytest.approx(plain[1], abs=1e-6)


def test_a_retry_has_every_limit_wider():
    before = Limits()
    after = widened(before)
    assert all(getattr(after, name) > value for name, value in vars(before).items())


def other_policy(folder, threshold):
    """The tiny large stage as if another policy had set its threshold."""
    shutil.copytree(PRESETS["tiny"].large.folder, folder / "large")
    file = folder / "large" / "thresholds.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"flag_threshold": threshold}))
    return large_of(str(folder))


def test_another_policy_is_held_against_its_own_threshold_and_flagged_means_flagged(tmp_path):
    entries = [make_entry(tmp_path, number) for number in range(3)]
    stage = preset("tiny").load_stage("large")
    deciding = Deciding(large=stage, threshold=0.5)
    with ClipScorer(entries, deciding, tmp_path / "cache", workers=1) as scorer:
        plain = scorer.score(np.arange(3), AsIs)
        assert "policy_other" not in scorer.probes
    between = float(np.sort(plain)[1])
    for name, threshold in (("low", 1e-4), ("between", between), ("high", 0.9999)):
        other = other_policy(tmp_path / name, threshold)
        with ClipScorer(entries, deciding, tmp_path / "cache", workers=1, other=other) as scorer:
            judged = scorer.score(np.arange(3), "policy_other")
        assert ((judged >= 0.5) == (plain >= threshold)).all()
        assert (np.argsort(judged) == np.argsort(plain)).all()


def test_what_the_base_stage_stops_no_other_policy_sees(tmp_path):
    entries = [make_entry(tmp_path, 1)]
    stage = preset("tiny").load_stage("large")
    deciding = Deciding(large=stage, threshold=0.5, base=preset("tiny").load_stage("base"), tau=0.999999)
    other = other_policy(tmp_path / "low", 1e-5)
    with ClipScorer(entries, deciding, tmp_path / "cache", workers=1, other=other) as scorer:
        assert scorer.score(np.array([0]), "policy_other") == scorer.score(np.array([0]), AsIs)


@pytest.mark.parametrize(("own", "threshold"), [(0.5, 0.5), (0.03, 0.9), (0.97, 0.2), (0.3, 0.30000000000000004)])
def test_scores_on_the_runs_scale_keep_their_verdict_and_their_order(own, threshold):
    values = np.unique([*np.linspace(0, 1, 301), own, np.nextafter(own, 0), np.nextafter(own, 1)])
    moved = np.asarray([on_scale(float(value), own, threshold) for value in values])
    assert ((moved >= threshold) == (values >= own)).all()
    assert (np.diff(moved) >= 0).all()


def test_another_policys_stage_that_wants_more_or_scores_another_issue_is_refused(tmp_path):
    entry, stage = make_entry(tmp_path, 1), preset("tiny").load_stage("large")
    deciding, other = Deciding(large=stage, threshold=0.5), Deciding(large=stage, threshold=0.5)
    config = dataclasses.replace(stage.processor.config, num_frames=5 * stage.request.num_frames)
    greedy = dataclasses.replace(stage, processor=type(stage.processor)(config, stage.processor.tokenizer))
    elsewhere = SimpleNamespace(issue="ucc", request=stage.request)
    for found, said in ((greedy, "at most num_frames"), (elsewhere, "for 'icd', as the run's, found one for 'ucc'")):
        with pytest.raises(UsageError, match=said):
            ClipScorer([entry], deciding, tmp_path / "cache", other=dataclasses.replace(other, large=found))
    with pytest.raises(UsageError, match="expected a preset among"):
        large_of("no such thing")


def dense_clip(folder):
    deciding = Deciding(large=preset("tiny").load_stage("large"), threshold=0.5)
    entry = make_entry(folder, 3)
    return entry, deciding, read_clip(entry.path, deciding.request, video_id="v3", texts=entry.texts)[1]


@pytest.mark.parametrize("pair", ["frames_more+clean", "clean+frames_more"])
def test_frames_more_and_clean_equal_both_applied_by_hand(tmp_path, pair):
    entry, deciding, clip = dense_clip(tmp_path)
    count = deciding.large.request.num_frames
    assert len(clip.frames) == DENSE * count
    quiet = changed(Seen(clip=clip, num_frames=count), "clean")[0].audio
    by_hand = []
    for offset in range(DENSE):
        rows = np.arange(count) * DENSE + offset
        frames = [np.asarray(Image.fromarray(clip.frames.frames_THWC[row]).filter(ImageFilter.MedianFilter(3)))
                  for row in rows]
        times = clip.frames.pts_seconds[rows]
        batch = dataclasses.replace(clip.frames, frames_THWC=np.stack(frames), pts_seconds=times)
        by_hand.append(dataclasses.replace(clip, frames=batch, audio=quiet))
    together = changed(Seen(clip=clip, num_frames=count), pair)
    assert len(together) == DENSE
    for one, two in zip(together, by_hand, strict=True):
        assert (one.frames.frames_THWC == two.frames.frames_THWC).all()
        assert (one.frames.pts_seconds == two.frames.pts_seconds).all()
        assert (one.audio.samples == two.audio.samples).all()
        assert one.texts == two.texts
    with ClipScorer([entry], deciding, tmp_path / "cache", workers=1) as scorer:
        scored = scorer.score(np.array([0]), pair)
        single = scorer.score(np.array([0]), "frames_more")
    assert scored[0] == pytest.approx(max(score.value for score in deciding.large(by_hand)), abs=1e-6)
    assert scored[0] != single[0]


def test_every_pair_that_composes_changes_what_its_parts_change(tmp_path):
    _, deciding, clip = dense_clip(tmp_path)
    truth = {"language": "en", "speech": {"text": "words"}, "sticker": {"text": "more"}}
    seen = Seen(clip=clip, num_frames=deciding.large.request.num_frames, truth=truth)
    for first, second in (("crops", "text_gold"), ("audio_mute", "transcript_gold"), ("text_gold", "transcript_gold"),
                          ("frames_window", "crops"), ("clean", "text_drop"), ("force_full", "frames_window")):
        together = changed(seen, f"{first}+{second}")
        parts = [changed(seen, first), changed(seen, second)]
        assert len(together) == len(parts[0]) * len(parts[1])
        gone = {name for part in parts for name in part[0].missing}
        assert set(together[0].missing) == gone
        added = {text for part in parts for text in part[0].texts} - set(clip.texts)
        assert "text_drop" in (first, second) or set(together[0].texts) == set(clip.texts) | added


def test_pairs_that_do_not_go_together_have_no_score(tmp_path):
    entry, deciding, _ = dense_clip(tmp_path)
    with ClipScorer([entry], deciding, tmp_path / "cache", workers=1) as scorer:
        assert scorer.combines
        for pair in ("frames_more+frames_window", "clean+noise_mild", "audio_swap+clean", "clean+clean", "clean+retry",
                     "audio_mute+audio_only", "null+clean"):
            assert not composes(pair)
            assert np.isnan(scorer.score(np.array([0]), pair)).all()
        with pytest.raises(UsageError, match="magic"):
            scorer.score(np.array([0]), "clean+magic")
    assert not list((tmp_path / "cache").glob("*/*+*"))


def test_a_pair_whose_part_does_not_apply_has_no_clip(tmp_path):
    _, deciding, clip = dense_clip(tmp_path)
    count = deciding.large.request.num_frames
    silent = Seen(clip=dataclasses.replace(clip, audio=None), num_frames=count)
    short = Seen(clip=spread_frames(clip, count), num_frames=count)
    assert changed(silent, "clean+audio_mute") == []
    assert changed(short, "frames_more+clean") == []


def test_the_command_takes_a_recogniser_and_another_policy_and_writes_their_probes(tmp_path, whisper):
    entries = [dataclasses.replace(make_entry(tmp_path, number, seconds=1, audio=number < 3), split="test")
               for number in range(4)]
    write_manifest(Manifest(entries=tuple(entries)), tmp_path / "manifest.parquet")
    other_policy(tmp_path / "other", 0.01)
    words = ["diagnose", "--models", "tiny", "--data", tmp_path / "manifest.parquet", "--out", tmp_path / "out",
             "--recogniser", whisper, "--other-policy", tmp_path / "other", "--probes", "all", "--workers", "1",
             "--controls", "10", "--judge", "rules", "--json"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.stderr
    run = read_scores(tmp_path / "out" / "run.parquet")
    assert run.errors.any()
    assert np.isfinite(run.probes["policy_other"][run.errors]).all()
    heard = np.isfinite(run.probes["transcript_recognised"])
    assert (heard[run.errors] == (np.arange(4) < 3)[run.errors]).all()
    assert np.isnan(run.probes["retry"]).all()


@pytest.mark.parametrize("option", ["--recogniser", "--other-policy"])
def test_a_probes_tool_without_models_is_bad_usage(tmp_path, option):
    done = CliRunner().invoke(app, ["diagnose", "--run", str(tmp_path / "scores.csv"), option, "something"])
    assert done.exit_code == 2
    assert f"--models and --data beside {option}" in done.stderr.replace("\n", " ")
