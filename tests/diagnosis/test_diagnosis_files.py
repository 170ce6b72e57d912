"""Score files, clips and the commands: what is written is read back, what is wrong is named."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from small_world import World, WorldScorer
from typer.testing import CliRunner

from tidegate.cli import app
from tidegate.corpus.manifest import Entry
from tidegate.diagnosis import DiagnosisConfig, diagnose
from tidegate.diagnosis.clip_changes import CHANGES, DENSE, Seen, changed
from tidegate.diagnosis.clip_scorer import AsIs, ClipScorer, Deciding
from tidegate.diagnosis.content import content_of
from tidegate.diagnosis.gains import gains
from tidegate.diagnosis.report import write_diagnosis
from tidegate.diagnosis.score_table import read_scores, write_scores
from tidegate.errors import ManifestError
from tidegate.media import encode_video
from tidegate.types import AudioChunk, Clip, ClipRequest, FrameBatch, Score, Span, TextSpan


def probed_run(fault="C8", n=700):
    world = World(fault=fault, seed=1, n=n, cascade=fault == "C1")
    return diagnose(world.table(), WorldScorer(world), config=DiagnosisConfig(num_samples=20))


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_run_survives_its_file(tmp_path, ending):
    table = dataclasses.replace(probed_run("C1", n=300).table, embeddings_ND=np.arange(600.0).reshape(300, 2))
    write_scores(table, tmp_path / f"run.{ending}")
    again = read_scores(tmp_path / f"run.{ending}")
    assert (again.ids == table.ids).all()
    assert (again.labels == table.labels).all()
    assert np.allclose(again.scores, table.scores)
    assert set(again.probes) == set(table.probes)
    for name, scores in table.probes.items():
        assert np.allclose(again.probes[name], scores, equal_nan=True)
    assert (again.escalated == table.escalated).all()
    assert (again.slices["language"] == table.slices["language"]).all()
    assert np.allclose(again.embeddings_ND, table.embeddings_ND)


@pytest.mark.parametrize(("rows", "said"), [
    ({"id": ["a"], "score": [0.5]}, "missing column label"),
    ({"id": ["a", "b"], "label": [1, None], "score": [0.5, 0.5]}, "line 3: column label"),
    ({"id": ["a"], "label": [1], "score": ["x"]}, "line 2: column score"),
    ({"id": ["a"], "label": [1], "score": [0.5], "probe.magic": [0.1]}, "unknown probe"),
    ({"id": ["", "b"], "label": [1, 0], "score": [0.5, 0.5]}, "line 2: column id"),
])
def test_a_wrong_score_file_is_refused_with_file_line_and_column(tmp_path, rows, said):
    pl.DataFrame(rows).write_csv(tmp_path / "s.csv")
    with pytest.raises(ManifestError, match=said):
        read_scores(tmp_path / "s.csv")


def test_an_empty_cell_is_not_known_and_a_missing_threshold_is_that_of_best_f1(tmp_path):
    pl.DataFrame({"id": list("abcd"), "label": [1, 1, 0, 0], "score": [0.9, 0.7, 0.6, 0.1],
                  "probe.null": [None, 0.7, None, 0.2]}).write_csv(tmp_path / "s.csv")
    table = read_scores(tmp_path / "s.csv")
    assert np.isnan(table.probes["null"]).tolist() == [True, False, True, False]
    assert table.thresholds.tolist() == [0.7] * 4
    assert not table.errors.any()


def clip(seed=0, frames=32, texts=("hello",), audio=True):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 255, (frames, 48, 64, 3)).astype(np.uint8)
    sound = AudioChunk(samples=rng.normal(0, 0.1, 16000).astype(np.float32), sample_rate_hz=16000)
    return Clip(video_id=f"v{seed}", span=Span(0, 2), audio=sound if audio else None,
                frames=FrameBatch(frames_THWC=pixels, pts_seconds=np.linspace(0, 2, frames)),
                texts=tuple(TextSpan("title", text, "de") for text in texts))


TRUTH = {"language": "de", "speech": {"theme": "benign", "line": 0, "text": "Guten Tag"},
         "sticker": {"theme": "benign", "line": 1, "text": "Hallo"}, "sticker_in_metadata": False,
         "title": {"theme": "benign", "line": 2, "text": "hello"}}


@pytest.mark.parametrize("probe", sorted(CHANGES))
def test_each_change_changes_what_it_says_and_is_repeatable(probe):
    seen = Seen(clip=clip(1), donor=clip(2, texts=("other",)), num_frames=8, truth=TRUTH, seed=3,
                recognised=TextSpan("transcript", "gut Tag", "de"))
    plain, first, again = changed(seen, None)[0], changed(seen, probe), changed(seen, probe)
    assert first
    assert len(first) == len(again)
    for one, two in zip(first, again, strict=True):
        assert one.frames is None or (one.frames.frames_THWC == two.frames.frames_THWC).all()
        assert one.frames is None or len(one.frames) == 8
        assert one.texts == two.texts
    same = {"vision": (first[0].frames.frames_THWC.shape == plain.frames.frames_THWC.shape
                       and (first[0].frames.frames_THWC == plain.frames.frames_THWC).all()),
            "audio": first[0].audio is not None and np.array_equal(first[0].audio.samples, plain.audio.samples),
            "text": first[0].texts == plain.texts}
    own = {"audio_swap": {"audio"}, "audio_mute": {"audio"}, "vision_swap": {"vision"}, "text_swap": {"text"},
           "text_drop": {"text"}, "audio_only": {"vision", "text"}, "vision_only": {"audio", "text"},
           "text_only": {"vision", "audio"}, "text_gold": {"text"}, "transcript_gold": {"text"},
           "transcript_recognised": {"text"},
           "translated_gold": {"text"}, "force_full": set(), "policy_other": set(), "crops": set()}
    expected = own.get(probe, {"vision"} if probe.startswith("frames") else {"vision", "audio"})
    assert {name for name, kept in same.items() if not kept} == expected


def test_changes_that_do_not_apply_give_no_clip():
    silent = Seen(clip=clip(1, audio=False, texts=()), donor=clip(2), num_frames=8)
    for probe in ("audio_swap", "audio_mute", "text_drop", "audio_only", "text_gold", "transcript_gold"):
        assert changed(silent, probe) == []
    assert len(changed(silent, "crops")) == 5
    assert len(changed(silent, "frames_more")) == DENSE


def test_true_words_are_given_once_and_translations_come_from_the_parallel_line():
    seen = Seen(clip=clip(1), num_frames=8, truth=TRUTH)
    assert [t.text for t in changed(seen, "transcript_gold")[0].texts] == ["hello", "Guten Tag"]
    assert [t.text for t in changed(seen, "text_gold")[0].texts] == ["hello", "Hallo"]
    english = changed(seen, "translated_gold")[0].texts
    assert {t.language for t in english} == {"en"}
    assert len(english) == 3


class Loudness:
    """A stage that scores the brightness of the frames; counts what it was asked."""

    issue, identity, batch_size = "icd", "brightness@1", 4

    def __init__(self, scale=1.0):
        self.asked, self.scale = 0, scale
        self.request = ClipRequest(num_frames=4, long_edge_pixels=64)

    def __call__(self, clips):
        self.asked += len(clips)
        return [Score(value=min(1.0, self.scale * float(c.frames.frames_THWC.mean()) / 255), stage="s", issue="icd",
                      model="m") for c in clips]


def test_clip_scorer_scores_decides_and_takes_up_where_it_stopped(tmp_path):
    entries = []
    for number, level in enumerate((30, 60, 150, 220)):
        pixels = np.full((24, 64, 96, 3), level, np.uint8)
        encode_video(tmp_path / f"{number}.mp4", pixels, 12)
        entries.append(Entry(video_id=f"v{number}", path=tmp_path / f"{number}.mp4", labels={"icd": int(number > 1)},
                             language="en", source_id=f"s{number}"))
    entries.append(Entry(video_id="gone", path=tmp_path / "gone.mp4", labels={"icd": 1}, source_id="s9"))
    large, base = Loudness(), Loudness(0.9)
    deciding = Deciding(large=large, threshold=0.5, base=base, tau=0.3)
    with ClipScorer(entries, deciding, tmp_path / "cache", workers=1) as scorer:
        table = scorer.table()
        forced = scorer.score(np.arange(5), "force_full")
        swapped = scorer.score(np.array([3]), "vision_swap")
        muted = scorer.score(np.arange(4), "audio_mute")
    assert table.scores[2:4] == pytest.approx([150 / 255, 220 / 255], abs=0.02)
    assert table.escalated.tolist() == [False, False, True, True, False]
    assert (table.scores[:2] < 0.5).all()
    assert table.scores[0] < table.scores[1]
    assert forced[:2] == pytest.approx([30 / 255, 60 / 255], abs=0.02)
    assert np.isnan(table.scores[4])
    assert table.notes[4] == "source_unreadable"
    assert swapped[0] < 0.5
    assert np.isnan(muted).all()
    file = next((tmp_path / "cache").glob("*/as-is.jsonl"))
    file.write_text(file.read_text() + '{"id": "torn')
    asked = large.asked
    with ClipScorer(entries, deciding, tmp_path / "cache", workers=1) as scorer:
        assert np.allclose(scorer.score(np.arange(5), AsIs), table.scores, equal_nan=True)
    assert large.asked == asked


def test_content_of_a_noisier_clip_says_so():
    ramp = np.broadcast_to(np.linspace(0, 255, 64)[None, None, :, None], (4, 48, 64, 3)).astype(np.uint8)
    frames = FrameBatch(frames_THWC=ramp.copy(), pts_seconds=np.arange(4.0))
    calm = dataclasses.replace(clip(1), frames=frames)
    noisy = dataclasses.replace(calm, frames=FrameBatch(
        frames_THWC=np.clip(ramp + np.random.default_rng(0).normal(0, 25, ramp.shape), 0, 255).astype(np.uint8),
        pts_seconds=np.arange(4.0)))
    first, second = content_of(calm), content_of(noisy)
    assert second["noise"] > first["noise"] + 5
    assert len(first["embedding"]) == len(second["embedding"])


def test_report_is_one_page_that_loads_nothing_and_escapes_what_it_shows(tmp_path):
    found = probed_run()
    nasty = found.table.ids.astype("<U60").copy()
    nasty[found.classified.rows] = [f"<script>{k}</script>" for k in range(len(found.classified.rows))]
    found = dataclasses.replace(found, table=dataclasses.replace(found.table, ids=nasty))
    human, machine = write_diagnosis(found, gains(found), tmp_path, shapley={"enhancement": 3.0})
    page = human.read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "default-src 'none'" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "corruption" in page
    assert "What to do" in page
    values = json.loads(machine.read_text())
    assert values["ranking"][0]["class"] == "C8"
    assert values["interventions"][0]["command"].startswith("tidegate ")


def invoke(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr)


def test_commands_from_scores_to_ledger(tmp_path):
    found = probed_run()
    write_scores(found.table, tmp_path / "scores.parquet")
    out = tmp_path / "d"
    done = invoke("diagnose", "--run", tmp_path / "scores.parquet", "--out", out, "--judge", "rules", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["ranking"][0]["class"] == "C8"
    done = invoke("intervene", out / "plan.toml", "--only", "enhancement", "--json")
    assert done.code == 0, done.err
    folder = json.loads(done.out)["steps"][0]["folder"]
    ledger = tmp_path / "ledger.jsonl"
    done = invoke("compare", out / "run.parquet", folder, "--intervention", "enhancement", "--plan", out / "plan.toml",
                  "--ledger", ledger, "--samples", "20", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["cured"] > 20
    assert json.loads(ledger.read_text())["predicted_f1"] is not None
    done = invoke("diagnose", "regions", "--run", out, "--column", "language", "--json")
    assert done.code == 0, done.err
    assert {row["region"] for row in json.loads(done.out)["regions"]} == {"en", "es", "hi", "ar", "pt"}
    done = invoke("diagnose", "drift", out, folder, "--column", "language", "--samples", "10", "--json")
    assert done.code == 0, done.err
    assert set(json.loads(done.out)["parts"]) == {"traffic mix", "label rate", "model", "all"}


@pytest.mark.parametrize("words", [
    ("diagnose", "--judge", "rules"), ("diagnose", "--run", "nothing.parquet"),
    ("diagnose", "regions", "--run", "nothing.csv"), ("intervene", "nothing.toml"),
    ("compare", "a.parquet", "b.parquet"), ("diagnose", "--run", "x.csv", "--probes", "some"),
])
def test_bad_usage_is_one_line_and_exit_code_2(words):
    done = invoke(*words)
    assert done.code == 2
    assert "Traceback" not in done.err
