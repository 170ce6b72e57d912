"""Loaders of real data sets; skipped where the data are not there."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tidegate.corpus import load_copies, load_esc10, load_fights
from tidegate.errors import ManifestError


def test_fights_are_split_by_source_and_unlisted_clips_never_leave_training(real_data: Path) -> None:
    manifest = load_fights(real_data / "fights")
    manifest.check_files()
    assert len(manifest) == 228
    assert manifest.leaking_sources() == ()
    assert {entry.split for entry in manifest if entry.source_id == "unlisted"} == {"train"}
    for side in ("validation", "test"):
        assert set(Counter(entry.labels["violence"] for entry in manifest.split(side))) == {0, 1}


def test_copies_come_as_families_with_one_original_each(real_data: Path) -> None:
    manifest = load_copies(real_data / "copies")
    manifest.check_files()
    originals = Counter(entry.source_id for entry in manifest if entry.labels["ucc"] == 0)
    assert originals == {"chair": 1, "pattern": 1, "doorknob": 1, "test": 1}
    assert next(entry for entry in manifest if entry.video_id == "chair-22-sd-sepia-bar").truth["edits"] == ["sepia"]


def test_esc10_has_forty_recordings_a_class_and_disjoint_folds(real_data: Path) -> None:
    manifest = load_esc10(real_data / "esc10")
    manifest.check_files()
    assert Counter(entry.truth["class"] for entry in manifest) == dict.fromkeys(manifest.issues, 40)
    assert manifest.leaking_sources() == ()


@pytest.mark.parametrize("load", [load_fights, load_copies, load_esc10])
def test_a_folder_without_the_data_set_is_an_error(load, tmp_path: Path) -> None:
    with pytest.raises(ManifestError):
        load(tmp_path)
    with pytest.raises(ManifestError):
        load(tmp_path / "absent")


def test_a_wrong_label_of_fights_is_named_by_line(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("file,label,source_id\na.mp4,fight,s1\nb.mp4,brawl,s2\n", encoding="utf-8")
    with pytest.raises(ManifestError, match="line 3: column label: expected fight or nofight, got 'brawl'"):
        load_fights(tmp_path)
