"""The front door: real videos, real decoder processes, stages whose answers are known."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from pipeline_parts import BASE_REQUEST, POLICY, SETTINGS, bright_stages, brightness_of, make_video, stage

from tidegate.errors import ConfigError, UsageError
from tidegate.media import Limits
from tidegate.pipeline.policy import Routing
from tidegate.pipeline.routing import CalibratedStage, RegionalCascades, calibrated
from tidegate.pipeline.scanner import Scanner, ScanSettings, load_preset
from tidegate.pipeline.sink import FolderSink
from tidegate.types import Decision, Outcome, Score, VideoContext


def observed(outcome: Outcome, kind: str) -> list[object]:
    return [observation.value for observation in outcome.observations if observation.kind == kind]


def statuses(outcomes: Iterator[Outcome]) -> dict[str, str]:
    return {os.path.basename(outcome.path): outcome.status for outcome in outcomes}


def test_three_levels_take_three_ways(scanner: Scanner, videos: Path) -> None:
    dark, grey, bright = (scanner.scan(videos / f"{name}-1.mp4") for name in ("dark", "grey", "bright"))
    assert [(o.status, o.stage, o.escalated) for o in (dark, grey, bright)] == [
        ("remained", "base", False), ("remained", "large", True), ("removed", "large", True),
    ]
    assert bright.decision is not None
    assert (bright.decision.clause, bright.decision.policy) == ("bright", "test")
    assert bright.duration_seconds == pytest.approx(1.5)
    assert len(bright.frame_pts_seconds) == 4
    assert len(dark.frame_pts_seconds) == 2
    assert bright.cost_seconds > 0


def test_outcome_tells_what_was_seen_heard_and_not_read(scanner: Scanner, tmp_path: Path) -> None:
    video = make_video(tmp_path / "v.mp4", 0.9, title="From the container")
    outcome = scanner.scan(video)
    assert observed(outcome, "media")[0]["width"] == 64  # type: ignore[index]
    assert observed(outcome, "texts") == [[{"kind": "title", "text": "From the container", "language": None}]]
    waveform = observed(outcome, "waveform")[0]
    assert len(waveform["bins"]) <= 200  # type: ignore[index]
    assert max(high for _, high in waveform["bins"]) == pytest.approx(0.2, abs=0.02)  # type: ignore[index]
    assert isinstance(observed(outcome, "speech")[0], list)
    assert isinstance(observed(outcome, "loudness")[0], list)
    assert any("on-screen text not read" in str(note) for note in observed(outcome, "fallback"))
    assert any("region unknown" in str(note) for note in observed(outcome, "fallback"))
    assert observed(outcome, "route")[0]["stage"] == "base"  # type: ignore[index]
    assert observed(outcome, "policy")[0]["hash"] == POLICY.policy_hash  # type: ignore[index]


def test_video_without_sound_says_so_and_shows_no_waveform(scanner: Scanner, tmp_path: Path) -> None:
    outcome = scanner.scan(make_video(tmp_path / "silent.mp4", 0.9, audio=False))
    assert observed(outcome, "waveform") == []
    assert observed(outcome, "missing_modality") == [["audio", "text"]]


def test_sidecar_brings_title_views_and_region(scanner: Scanner, tmp_path: Path) -> None:
    video = make_video(tmp_path / "v.mp4", 0.1)
    (tmp_path / "v.info.json").write_text(json.dumps({"title": "T", "view_count": 9, "region": "FR", "stickers": 1}))
    outcome = scanner.scan(video)
    assert (outcome.context.views, outcome.context.region) == (9, "FR")
    assert outcome.decision is not None
    assert outcome.decision.region == "FR"
    assert "stickers" in str(observed(outcome, "warning"))


def test_views_escalate_what_the_score_would_not(videos: Path) -> None:
    policy = dataclasses.replace(POLICY, routing=Routing(tau=0.3, view_limit=100))
    with Scanner(bright_stages(), policy=policy, settings=SETTINGS) as scanner:
        seen = scanner.scan(videos / "dark-0.mp4", context=VideoContext(views=100))
        unseen = scanner.scan(videos / "dark-0.mp4", context=VideoContext(views=99))
    assert (seen.escalated, unseen.escalated) == (True, False)
    assert seen.status == unseen.status == "remained"


def test_bad_video_is_a_failed_outcome_and_not_an_exception(scanner: Scanner, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    assert scanner.scan(tmp_path / "text.mp4").error == "not_media"
    assert scanner.scan(tmp_path / "none.mp4").error == "source_unreadable"
    assert scanner.scan(tmp_path).error == "source_unreadable"


def test_path_that_vanishes_between_listing_and_decoding_fails(scanner: Scanner, tmp_path: Path) -> None:
    """The list is read lazily, so the second file is gone when its turn comes."""
    for number in range(2):
        make_video(tmp_path / f"{number}.mp4", 0.1)

    def paths() -> Iterator[Path]:
        yield from (tmp_path / "0.mp4", tmp_path / "1.mp4")

    stream = scanner.scan_many(paths())
    (tmp_path / "1.mp4").unlink()
    assert statuses(stream) == {"0.mp4": "remained", "1.mp4": "failed"}


def test_limits_are_typed_failures(tmp_path: Path) -> None:
    video = make_video(tmp_path / "long.mp4", 0.1, seconds=3)
    limits = Limits(max_duration_seconds=1)
    with Scanner(bright_stages(), policy=POLICY, settings=ScanSettings(workers=1, limits=limits)) as scanner:
        assert scanner.scan(video).error == "limit_exceeded"


def test_folder_with_out_keeps_evidence_that_a_report_needs(scanner: Scanner, videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = statuses(scanner.scan_many([videos], out=out))
    assert Counter(found.values()) == {"remained": 4, "removed": 2}
    with FolderSink(out) as sink:
        for record in sink.records():
            frames = next(o["value"] for o in record["observations"] if o["kind"] == "frames")
            assert [frame["pts_seconds"] for frame in frames] == record["frame_pts_seconds"]
            for frame in frames:
                with Image.open(sink.evidence_folder / frame["jpeg"]) as picture:
                    assert max(picture.size) <= 240
                    level = 0.9 if "bright" in record["path"] else 0.45 if "grey" in record["path"] else 0.1
                    assert np.asarray(picture).mean() / 255 == pytest.approx(level, abs=0.05)


def test_evidence_of_a_hostile_id_stays_in_its_folder(scanner: Scanner, tmp_path: Path) -> None:
    from tidegate.corpus.manifest import Entry, Manifest, write_manifest

    video = make_video(tmp_path / "v.mp4", 0.1)
    entry = Entry(video_id="../../escape", path=video)
    write_manifest(Manifest(entries=(entry,)), tmp_path / "m.parquet")
    (outcome,) = scanner.scan_many([tmp_path / "m.parquet"], out=tmp_path / "out")
    assert outcome.video_id == "../../escape"
    pictures = list((tmp_path / "out/evidence").rglob("*.jpg"))
    assert len(pictures) == 2
    assert not list(tmp_path.glob("escape*"))


def test_resume_rescans_nothing_done_and_everything_changed(scanner: Scanner, videos: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "videos", tmp_path / "out"
    shutil.copytree(videos, folder)
    (folder / "bad.mp4").write_text("no video")

    def scan(ready: Scanner = scanner, **options: bool) -> set[str]:
        """Names that a run scanned anew; all of them come back as outcomes."""
        with FolderSink(out) as sink:
            from tidegate.pipeline.source import Source

            ends = list(ready.runner(sink, resume=True, **options).run(Source([folder])))
        assert len(ends) == len(list(folder.glob("*.mp4")))
        return {os.path.basename(end.outcome.path) for end in ends if not end.resumed}

    assert len(scan()) == 7
    assert scan() == set()
    assert scan(retry_failed=True) == {"bad.mp4"}
    make_video(folder / "dark-0.mp4", 0.9)
    (folder / "grey-0.info.json").write_text('{"title": "new"}')
    make_video(folder / "new.mp4", 0.1)
    assert scan() == {"dark-0.mp4", "grey-0.mp4", "new.mp4"}
    assert scan() == set()
    other_policy = scanner.with_policy(dataclasses.replace(POLICY, version="2"))
    assert len(scan(other_policy)) == 8
    other_policy.close()


def test_edited_video_supersedes_its_old_verdict(scanner: Scanner, tmp_path: Path) -> None:
    video, out = make_video(tmp_path / "v.mp4", 0.1), tmp_path / "out"
    (first,) = scanner.scan_many([video], out=out)
    make_video(video, 0.9)
    (second,) = scanner.scan_many([video], out=out)
    assert (first.status, second.status, first.video_id) == ("remained", "removed", second.video_id)
    with FolderSink(out) as sink:
        assert sink.index.get_many([first.video_id])[first.video_id].status == "removed"


def test_failed_rescan_leaves_the_verdict_in_the_index(scanner: Scanner, tmp_path: Path) -> None:
    video, out = make_video(tmp_path / "v.mp4", 0.9), tmp_path / "out"
    (first,) = scanner.scan_many([video], out=out)
    video.write_bytes(b"now it is broken")
    (second,) = scanner.scan_many([video], out=out)
    assert (first.status, second.status) == ("removed", "failed")
    with FolderSink(out) as sink:
        assert sink.index.get_many([first.video_id])[first.video_id].status == "removed"


def test_two_uploads_of_the_same_bytes_are_two_videos(scanner: Scanner, videos: Path, tmp_path: Path) -> None:
    for name in ("one.mp4", "two.mp4"):
        shutil.copy(videos / "dark-0.mp4", tmp_path / name)
    assert len({outcome.video_id for outcome in scanner.scan_many([tmp_path])}) == 2


def test_foreign_base_stage_takes_the_place_of_the_first(videos: Path) -> None:
    darkness = stage("darkness", BASE_REQUEST, lambda clips: [1 - value for value in brightness_of(clips)])
    policy = dataclasses.replace(POLICY, routing=Routing(p_base=10))
    measured = dataclasses.replace(bright_stages()[0], taus={10.0: 0.3})
    with Scanner((measured, bright_stages()[1]), policy=policy, settings=SETTINGS) as scanner:
        with scanner.with_base(darkness, escalate_at=0.8) as foreign:
            dark, bright = (foreign.scan(videos / f"{name}-0.mp4") for name in ("dark", "bright"))
        assert scanner.scan(videos / "dark-0.mp4").escalated is False
        with pytest.raises(UsageError, match="one issue"):
            scanner.with_base(dataclasses.replace(darkness, issue="ucc"), escalate_at=0.5)
    assert (dark.escalated, bright.escalated) == (True, False)
    assert [score.stage for score in dark.scores] == ["darkness", "large"]


def test_policy_that_needs_a_threshold_nobody_measured_is_refused_before_the_first_video() -> None:
    measured = calibrated(bright_stages()[0].stage, {"flag_threshold": 0.4, "escalate": {"10": 0.1, "50": None}})
    stages = (measured, bright_stages()[1])
    assert measured.taus == {10.0: 0.1}
    wrong = {
        Routing(p_base=20): r"calibrated for stage base \(10\), got 20", Routing(): "got neither",
        Routing(rule="entropy"): "max_entropy",
    }
    for routing, words in wrong.items():
        with pytest.raises(ConfigError, match=words):
            Scanner(stages, policy=dataclasses.replace(POLICY, routing=routing))
    Scanner(stages, policy=dataclasses.replace(POLICY, routing=Routing(p_base=10)))


@pytest.mark.parametrize(("routing", "escalates"), [
    (Routing(rule="always"), [True, True, True]),
    (Routing(rule="never", view_limit=1), [False, False, False]),
    (Routing(rule="entropy", max_entropy=0.9), [False, True, False]),
    (Routing(rule="precision", tau=0.5), [False, True, True]),
])
def test_each_rule_routes_as_named(routing: Routing, escalates: list[bool]) -> None:
    policy = dataclasses.replace(POLICY, routing=routing)
    cascades = RegionalCascades(bright_stages(), policy)
    scores = [Score(value=value, stage="base", issue="icd", model="m") for value in (0.1, 0.5, 0.95)]
    steps = [cascades.step([score], VideoContext(views=5)) for score in scores]
    assert [not isinstance(step, Decision) for step in steps] == escalates


def test_region_routes_by_its_own_setting() -> None:
    from tidegate.pipeline.policy import RegionOverride

    policy = dataclasses.replace(
        POLICY, groups={"EU": ("DE", "FR")}, regions={"EU": RegionOverride(routing={"tau": 0.9})}
    )
    cascades = RegionalCascades(bright_stages(), policy)
    score = Score(value=0.5, stage="base", issue="icd", model="m")
    assert isinstance(cascades.step([score], VideoContext(region="DE")), Decision)
    assert not isinstance(cascades.step([score], VideoContext(region="US")), Decision)
    assert not isinstance(cascades.step([score], VideoContext()), Decision)


def test_preset_from_a_folder_of_checkpoints(checkpoints: Path, videos: Path) -> None:
    with load_preset(checkpoints, settings=SETTINGS) as scanner:
        assert scanner.notices == ("Weights are new: the scores mean nothing.",)
        outcome = scanner.scan(videos / "grey-0.mp4")
    assert outcome.status in {"remained", "removed"}
    assert [score.model.split("@")[0] for score in outcome.scores] == ["test-tower-1", "test-tower-2"]


def test_unknown_preset_and_empty_folder_are_configuration_errors(tmp_path: Path) -> None:
    for name in ("tinny", tmp_path):
        with pytest.raises(ConfigError):
            load_preset(name)


def test_no_thread_and_no_process_is_left_behind(videos: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    scanner = Scanner(bright_stages(), policy=POLICY, settings=SETTINGS)
    scanner.scan(videos / "dark-0.mp4")
    assert set(psutil.Process().children(recursive=True)) - before
    del scanner
    gc.collect()
    assert set(psutil.Process().children(recursive=True)) <= before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tidegate")]


def test_scanner_works_again_after_close(scanner: Scanner, videos: Path) -> None:
    first = scanner.scan(videos / "dark-0.mp4")
    scanner.close()
    assert scanner.scan(videos / "dark-0.mp4").score == first.score


def test_settings_are_checked() -> None:
    for settings in ({"workers": 0}, {"batch_size": 0}):
        with pytest.raises(ConfigError):
            ScanSettings(**settings)
    with pytest.raises(UsageError, match="no stages"):
        Scanner([])
    assert CalibratedStage(stage=stage("base", BASE_REQUEST)).identity == "brightness-base@1"
