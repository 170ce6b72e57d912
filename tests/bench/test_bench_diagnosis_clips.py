"""Planted faults on clips: they are what they are called, runs resume, and of real footage no frame is kept."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
from clip_parts import BrightnessJudge, entry, tone, video

from tidegate.bench.diagnosis_clips import benchmark
from tidegate.bench.diagnosis_clips.benchmark import ClipBenchConfig, run_clip_benchmark, run_fight_benchmark
from tidegate.bench.diagnosis_clips.damage import Damage, added_noise, blurred, coded, muffled, other_sound
from tidegate.bench.diagnosis_clips.faults import Bench, ClipFault, planned_faults, plant
from tidegate.bench.diagnosis_clips.footage import Footage
from tidegate.bench.diagnosis_clips.mechanisms import DECOYS, MECHANISMS, draw_place
from tidegate.bench.diagnosis_clips.motion import describe_motion
from tidegate.bench.diagnosis_clips.runs import ClipRunConfig, run_clip_fault
from tidegate.bench.diagnosis_clips.system import ClipSystem, Deployed
from tidegate.bench.diagnosis_clips.treatment import UNTREATED, Treatment, undone, views
from tidegate.cli import app
from tidegate.corpus import Manifest, write_manifest
from tidegate.diagnosis.clip_changes import DENSE, Seen
from tidegate.diagnosis.reference import Reference
from tidegate.errors import ManifestError
from tidegate.types import Clip, ClipRequest

DATA = Path(os.environ.get("TIDEGATE_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
REQUEST = ClipRequest(num_frames=DENSE * BrightnessJudge.num_frames, max_audio_seconds=2.0)
LABELS = np.arange(24) % 2


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("planted")
    entries = [entry(folder, number, int(label)) for number, label in enumerate(LABELS)]
    with Footage(entries, REQUEST) as footage:
        system = ClipSystem(footage, BrightnessJudge(), "icd", folder / "scores")
        rows = np.arange(24)
        deployed = Deployed(
            system=system, rows=rows, treatments=(UNTREATED,) * 24, taus=np.full(24, 0.3), labels=LABELS,
            thresholds=np.full(24, 0.5), attributes={"period": np.asarray(["p0", "p1"] * 12)},
        )  # fmt: skip
        content = deployed.content_under(UNTREATED, rows[:4])
        reference = Reference(embeddings_MD=content.embeddings_ND, labels=LABELS[:4], hashes=content.hashes_N)
        yield Bench(diagnosed=deployed, measured=deployed, reference=reference, columns=("region",),
                    sounds=[tone(2000.0), tone(3000.0)], least_extra_errors=2)


def fault(mechanism: str, severity: int = 3) -> ClipFault:
    truth, family = ("none", "decoy") if mechanism in DECOYS else MECHANISMS[mechanism][:2]
    named = getattr(truth, "value", truth)
    return ClipFault(truth=named, mechanism=mechanism, family=family, severity=severity, share=0.35, seed=3)


def treated(bench: Bench, mechanism: str, severity: int = 3) -> tuple[Treatment, np.ndarray]:
    """(the one treatment that was given, mask of whom); nothing outside the slice has it."""
    case = plant(bench, fault(mechanism, severity))
    hit = np.asarray([how is not UNTREATED for how in case.deployed.treatments])
    assert case.place is not None
    inside = case.place.rows(bench.diagnosed)
    assert 0 < inside.sum() < len(inside)
    assert not hit[~inside].any(), "only the slice is struck"
    assert hit.any()
    return next(how for how in case.deployed.treatments if how is not UNTREATED), hit


def clip_of(bench: Bench, row: int = 0) -> Clip:
    clip = bench.diagnosed.system.footage.clip(row)
    assert isinstance(clip, Clip)
    assert clip.frames is not None
    assert clip.audio is not None
    return clip


def shown(bench: Bench, treatment: Treatment, probe: str = "", row: int = 0) -> list[Clip]:
    clip = clip_of(bench, row)
    damaged = clip if treatment.damage is None or undone(treatment, probe) else treatment.damage(clip, 1)
    how = UNTREATED if undone(treatment, probe) else treatment
    return views(Seen(clip=damaged, num_frames=BrightnessJudge.num_frames, seed=1), how, probe)


def test_flipped_labels_differ_in_the_slice_alone_and_the_truth_is_kept(bench: Bench) -> None:
    case = plant(bench, fault("flipped_labels"))
    assert case.place is not None
    changed = case.deployed.labels != LABELS
    assert 0 < changed.sum() < case.place.rows(bench.diagnosed).sum()
    assert not changed[~case.place.rows(bench.diagnosed)].any()
    assert (case.clean.labels == LABELS).all()
    assert (case.table.labels == case.deployed.labels).all(), "diagnosis sees the labels of the team"
    assert case.extra_errors == changed.sum(), "this judge makes no error of its own"
    assert (case.harmed == changed).all()


def test_overlooked_labels_only_go_from_violating_to_harmless(bench: Bench) -> None:
    case = plant(bench, fault("overlooked"))
    changed = case.deployed.labels != LABELS
    assert changed.any()
    assert (LABELS[changed] == 1).all()
    assert (case.deployed.labels[changed] == 0).all()


def test_muted_sound_is_gone_and_another_reading_brings_it_back(bench: Bench) -> None:
    treatment, _ = treated(bench, "missing_sound")
    assert treatment.note == "missing_audio"
    assert shown(bench, treatment)[0].audio is None
    assert shown(bench, treatment, "frames_more")[0].audio is None
    assert shown(bench, treatment, "retry")[0].audio is not None


def test_another_reading_cures_no_damage_that_the_file_has(bench: Bench) -> None:
    treatment, _ = treated(bench, "added_noise")
    noisy, again, clean = shown(bench, treatment)[0], shown(bench, treatment, "retry")[0], shown(bench, UNTREATED)[0]
    assert noisy.frames is not None
    assert again.frames is not None
    assert clean.frames is not None
    assert (again.frames.frames_THWC == noisy.frames.frames_THWC).all()
    assert (noisy.frames.frames_THWC != clean.frames.frames_THWC).any()


def test_other_sound_has_the_clips_length_and_drowns_it(bench: Bench) -> None:
    clip = clip_of(bench)
    assert clip.audio is not None
    swapped = other_sound(bench.sounds)(clip, 0).audio
    assert swapped is not None
    assert len(swapped.samples) == len(clip.audio.samples)
    treatment, _ = treated(bench, "loud_sound")
    heard = shown(bench, treatment)[0].audio
    assert heard is not None

    def strongest_hz(samples: np.ndarray) -> float:
        return float(np.fft.rfftfreq(len(samples), 1 / 16_000)[np.abs(np.fft.rfft(samples)).argmax()])

    assert strongest_hz(clip.audio.samples) == pytest.approx(300, abs=5)
    assert strongest_hz(swapped.samples) == pytest.approx(2000, abs=5)
    assert min(abs(strongest_hz(heard.samples) - hz) for hz in (2000, 3000)) < 5
    assert strongest_hz(muffled(700.0)(clip, 0).audio.samples) == pytest.approx(300, abs=5)  # type: ignore[union-attr]
    silent = dataclasses.replace(clip, audio=None)
    assert other_sound(bench.sounds)(silent, 0).audio is not None, "a silent clip gets the sound too"


def test_frames_and_size_are_taken_away_and_given_back_by_their_probes(bench: Bench) -> None:
    few, _ = treated(bench, "few_frames")
    assert [len(clip.frames or ()) for clip in shown(bench, few)] == [1]
    assert [len(clip.frames or ()) for clip in shown(bench, few, "frames_more")] == [BrightnessJudge.num_frames]
    start, _ = treated(bench, "beginning_only")
    whole = clip_of(bench).frames
    taken, window = shown(bench, start)[0].frames, shown(bench, start, "frames_more")[-1].frames
    assert whole is not None
    assert taken is not None
    assert window is not None
    assert taken.pts_seconds.max() <= np.quantile(whole.pts_seconds, 0.3) < window.pts_seconds.max()
    small, _ = treated(bench, "low_resolution")
    edge = {probe: shown(bench, small, probe)[0].frames.frames_THWC.shape[1]  # type: ignore[union-attr]
            for probe in ("", "null", "resolution_up")}
    assert edge[""] == edge["null"] < edge["resolution_up"] == whole.frames_THWC.shape[1]


DAMAGES = {"noise": added_noise(40.0, 3.0), "blur": blurred(0.06), "coded": coded(45.0, 0.5)}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_pictures_keep_their_number_and_size(bench: Bench, damage: Damage) -> None:
    clip = clip_of(bench)
    found, again = damage(clip, 5), damage(clip, 5)
    assert found.frames.frames_THWC.shape == clip.frames.frames_THWC.shape  # type: ignore[union-attr]
    assert np.abs(found.frames.frames_THWC.astype(int) - clip.frames.frames_THWC).mean() > 1  # type: ignore[union-attr]
    assert (found.frames.frames_THWC == again.frames.frames_THWC).all(), "the same seed, the same damage"


def test_half_a_file_has_a_note_and_another_reading_scores_it_whole(bench: Bench) -> None:
    case = plant(bench, fault("truncated_files"))
    hit = np.flatnonzero([how is not UNTREATED for how in case.deployed.treatments])
    assert (case.table.notes[hit] == "truncated").all()  # type: ignore[index]
    assert np.isnan(case.table.scores[hit]).all(), "half of a file without its index does not decode"
    assert case.deployed.score(hit, "retry") == pytest.approx(bench.diagnosed.score(hit, ""))


def test_settings_are_moved_in_the_slice_alone(bench: Bench) -> None:
    for mechanism, name in (("high_tau", "taus"), ("moved_threshold", "thresholds")):
        case = plant(bench, fault(mechanism))
        assert case.place is not None
        inside, moved = case.place.rows(bench.diagnosed), getattr(case.deployed, name) != getattr(bench.diagnosed, name)
        assert (moved == inside).all()
        assert case.extra_errors > 0, mechanism
    tau = plant(bench, fault("high_tau"))
    dropped = np.flatnonzero(tau.harmed)
    assert not tau.table.escalated[dropped].any()  # type: ignore[index]
    assert (tau.deployed.score(dropped, "force_full") >= 0.5).all(), "the large stage would have flagged them"


def test_decoys_and_copies_change_no_score(bench: Bench) -> None:
    before = bench.diagnosed.table()
    notes = plant(bench, fault("harmless_notes"))
    assert notes.table.scores == pytest.approx(before.scores)
    assert set(notes.table.notes.tolist()) == {"", "slow_read"}  # type: ignore[union-attr]
    assert plant(bench, fault("harmless_coding")).extra_errors == 0
    copies = plant(bench, fault("copies_in_training"))
    assert copies.table.scores == pytest.approx(before.scores)
    assert copies.reference is not None
    assert bench.reference is not None
    assert len(copies.reference.embeddings_MD) > len(bench.reference.embeddings_MD)


def test_every_mechanism_is_planned_once_a_seed(bench: Bench) -> None:
    faults = list(planned_faults(bench, range(2)))
    assert len({one.key for one in faults}) == len(faults)
    assert {one.mechanism for one in faults} == {*MECHANISMS, *DECOYS, ""} - {"muffled_speech"}, "no words are known"
    assert len(faults) == 2 * (len(MECHANISMS) - 1 + len(DECOYS) + 1)
    assert len({one.severity for one in faults if one.mechanism == "blur"}) == 2
    place = draw_place(bench.diagnosed, ("region",), 0.35, 1)
    assert 0.2 < place.share < 0.5


def test_a_run_names_a_class_and_scores_are_kept(bench: Bench) -> None:
    judge, config = bench.diagnosed.system.judge, ClipRunConfig(max_errors=4, max_controls=4, with_gains=True)
    assert isinstance(judge, BrightnessJudge)
    row = run_clip_fault(bench, fault("flipped_labels"), config)
    assert {name for name, _ in row["ranking"]} >= {"none", "C11"}
    assert row["truth"] == "C11"
    assert row["realised"]["slice_threshold"] <= 1.0
    asked = judge.seen
    assert asked > 0
    again = run_clip_fault(bench, fault("flipped_labels"), config)
    assert judge.seen == asked, "nothing is scored twice"
    assert {**again, "seconds": 0, "clips_scored": 0} == {**row, "seconds": 0, "clips_scored": 0}


def test_kept_scores_belong_to_their_judge_entries_and_sounds(bench: Bench, tmp_path: Path) -> None:
    footage, judge = bench.diagnosed.system.footage, BrightnessJudge()
    first, second = (ClipSystem(footage, judge, "icd", tmp_path, stamp=stamp) for stamp in ("a", "b"))
    assert first.folder != second.folder
    assert ClipSystem(footage, judge, "icd", tmp_path, stamp="a").folder == first.folder
    first.judged([0], [UNTREATED], "")
    file = first.folder / "untreated" / "as-is.jsonl"
    file.write_text(file.read_text(encoding="utf-8") + '{"id": "v01", "pa', encoding="utf-8")
    third = ClipSystem(footage, judge, "icd", tmp_path, stamp="a")
    third.judged([0, 1], [UNTREATED] * 2, "")
    assert third.calls == 1, "a torn line is scored again, a whole one is not"


def few(names: Sequence[str]) -> Callable[[Bench, Sequence[int]], list[ClipFault]]:
    """Plans of the faults with these names only."""
    return lambda bench, seeds: [one for one in planned_faults(bench, seeds) if one.mechanism in names]


def manifest_of(folder: Path, *, issue: str = "icd") -> Path:
    entries = [entry(folder, number, int(number % 4 > 1) if number < 84 else number % 2, issue=issue,
                     split="test" if number < 84 else "train") for number in range(90)]  # fmt: skip
    write_manifest(Manifest(entries=tuple(entries)), folder / "manifest.parquet")
    return folder / "manifest.parquet"


def test_clips_end_to_end_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "planned_faults", few(["flipped_labels"]))
    path = manifest_of(tmp_path)
    arguments = ["bench", "diagnosis", "--clips", str(path), "--folder", str(tmp_path / "out"), "--items", "20",
                 "--max-errors", "2", "--max-controls", "2", "--gains-every", "0"]  # fmt: skip
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found["about"]["diagnosed_items"] == 20
    assert [row["truth"] for row in found["runs_in_detail"]] == ["C11"]
    assert found["about"]["judge"] == "tiny"
    config = ClipBenchConfig(folder=tmp_path / "out", items=20, max_errors=2, max_controls=2, gains_every=0)
    again = run_clip_benchmark(path, "tiny", config, lambda message: pytest.fail(f"run again: {message}"))
    assert [(row["key"], row["ranking"]) for row in again.rows] == [
        (row["key"], row["ranking"]) for row in found["runs_in_detail"]]
    with pytest.raises(ManifestError, match="at least 20 videos of both labels"):
        run_clip_benchmark(fewer(path, tmp_path), "tiny", config)


def fewer(path: Path, folder: Path) -> Path:
    from tidegate.corpus import read_manifest

    entries = list(read_manifest(path))
    write_manifest(Manifest(entries=(*entries[:10], *entries[-4:])), folder / "fewer.parquet")
    return folder / "fewer.parquet"


def test_what_the_user_can_mend_is_said_in_one_line(tmp_path: Path) -> None:
    entries = [entry(tmp_path, number, number % 2, split="test", issue="spam") for number in range(4)]
    write_manifest(Manifest(entries=tuple(entries)), tmp_path / "spam.parquet")
    out = ["--folder", str(tmp_path / "out")]
    wrong = {
        ("--clips", str(tmp_path / "spam.parquet")): "found labels spam and splits test",
        ("--clips", str(tmp_path / "none.parquet")): "none.parquet",
        ("--fights", str(tmp_path / "nowhere")): "expected the data set's folder",
        ("--fights", str(tmp_path)): "there is no such manifest",
        ("--fights", "a", "--clips", "b"): "got both",
        ("--sounds", "a"): "got neither",
    }
    for arguments, said in wrong.items():
        done = CliRunner().invoke(app, ["bench", "diagnosis", *arguments, *out], env={"COLUMNS": "300"})
        assert (done.exit_code, done.output.count("\n")) == (2, 1), done.output
        assert said in done.output, done.output


def small_fights(folder: Path, sources: int = 12) -> Path:
    """Of each source two clips: a fight is bright and moves."""
    folder.mkdir()
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["file", "label", "source_id"])
        for number in range(2 * sources + 2):
            video(folder / f"f{number:02d}.mp4", 150 if number % 2 else 100, number)
            source = "unlisted" if number >= 2 * sources else f"s{number // 2:02d}"
            lines.writerow([f"f{number:02d}.mp4", "fight" if number % 2 else "nofight", source])
    return folder


def no_pictures(folder: Path) -> bool:
    return {path.suffix for path in folder.rglob("*") if path.is_file()} <= {".jsonl"}


def test_fights_end_to_end_keep_numbers_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "planned_faults", few(["flipped_labels", "missing_sound"]))
    config = ClipBenchConfig(folder=tmp_path / "out", max_errors=3, max_controls=3)
    report = run_fight_benchmark(small_fights(tmp_path / "fights"), config)
    assert {row["truth"] for row in report.rows} == {"C11", "M2"}
    assert report.about["diagnosed_items"] == 24, "clips of unlisted sources are only trained on"
    assert "auc" in report.about
    assert not any("realised" in row for row in report.rows), "no second half, no measured gains"
    assert no_pictures(tmp_path / "out")
    with pytest.raises(ManifestError, match="at least 10 listed sources"):
        run_fight_benchmark(small_fights(tmp_path / "less", sources=4), config)


def test_a_clip_without_pictures_or_sound_is_described_too(bench: Bench) -> None:
    clip = clip_of(bench)
    whole = describe_motion(clip)
    for other in (dataclasses.replace(clip, audio=None), dataclasses.replace(clip, frames=None)):
        described = describe_motion(other)
        assert described.shape == whole.shape
        assert np.isfinite(described).all()
        assert (described != whole).any()


def test_real_fights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (DATA / "fights").is_dir():
        pytest.skip("real data not here: set TIDEGATE_DATA to a folder that holds fights/")
    monkeypatch.setattr(benchmark, "planned_faults", few(["flipped_labels"]))
    config = ClipBenchConfig(folder=tmp_path / "out", max_errors=2, max_controls=2, sounds=DATA / "esc10")
    report = run_fight_benchmark(some_of(DATA / "fights", tmp_path / "some"), config)
    assert [row["truth"] for row in report.rows] == ["C11"]
    assert no_pictures(tmp_path / "out")


def some_of(fights: Path, folder: Path) -> Path:
    """A listing of one clip of each kind from a dozen sources that have both; the files stay where they are."""
    folder.mkdir()
    with (fights / "manifest.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["source_id"] != "unlisted"]
    first = {(row["source_id"], row["label"]): row for row in reversed(rows)}
    both = sorted(source for source, label in first if label == "fight" and (source, "nofight") in first)[:12]
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        lines = csv.DictWriter(file, ["file", "label", "source_id"])
        lines.writeheader()
        for source in both:
            for label in ("fight", "nofight"):
                lines.writerow(first[source, label])
                (folder / first[source, label]["file"]).symlink_to((fights / first[source, label]["file"]).resolve())
    return folder
