"""Making the corpus: real files, repeatable, resumable, and without the truth in them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from tidegate.corpus import Manifest, SyntheticConfig, make_corpus, read_manifest
from tidegate.corpus.synthetic.edits import EDITS
from tidegate.errors import ConfigError
from tidegate.media import probe, read_frames


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((folder / "videos").iterdir())}


def test_same_seed_gives_the_same_bytes_whatever_the_number_of_processes(tmp_path: Path) -> None:
    """One process here, two in a new interpreter: files and manifests are equal, byte for byte."""
    make_corpus(SyntheticConfig(out=tmp_path / "one", videos=5, seed=21))
    code = (
        "from tidegate.corpus import *\n"
        f"if __name__ == '__main__':\n    out = {str(tmp_path / 'two')!r}\n"
        "    make_corpus(SyntheticConfig(out=out, videos=5, seed=21, workers=2))"
    )
    script = tmp_path / "make.py"
    script.write_text(code, encoding="utf-8")
    subprocess.run([sys.executable, str(script)], check=True, timeout=120)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    first, second = (read_manifest(tmp_path / name / "manifest.parquet") for name in ("one", "two"))
    assert [(e.video_id, e.labels, e.truth) for e in first] == [(e.video_id, e.labels, e.truth) for e in second]


def test_videos_are_h264_and_aac_of_four_to_six_seconds(icd_corpus: Manifest) -> None:
    for entry in list(icd_corpus)[:8]:
        info = probe(entry.path)
        assert info.codec == "h264"
        assert [track.codec for track in info.audio_tracks] == ["aac"]
        assert 3.9 <= info.duration_seconds <= 6.1
        assert max(info.width, info.height) in (240, 320)


def test_truth_is_in_the_manifest_and_nowhere_else(icd_corpus: Manifest) -> None:
    """Not in names, sidecars or containers; and the title tag is the title that everybody sees."""
    words = re.compile(r"violat|look_alike|evidence|clause|label|truth|icd|harmless|threats|weapons", re.IGNORECASE)
    for entry in icd_corpus:
        assert re.fullmatch(r"[0-9a-f]{16}\.mp4", entry.path.name)
        sidecar = json.loads(entry.path.with_suffix(".info.json").read_text(encoding="utf-8"))
        assert set(sidecar) == {"id", "title", "view_count", "language", "uploader", "region", "stickers"}
        with av.open(str(entry.path)) as container:
            tags = dict(container.metadata)
        assert tags["title"] == entry.title
        assert not words.search(" ".join(f"{key} {value}" for key, value in tags.items() if key != "title"))


def test_sidecar_says_what_the_manifest_says(icd_corpus: Manifest) -> None:
    for entry in icd_corpus:
        sidecar = json.loads(entry.path.with_suffix(".info.json").read_text(encoding="utf-8"))
        stickers = [text.text for text in entry.texts if text.kind == "sticker"]
        assert (sidecar["title"], sidecar["region"], sidecar["view_count"]) == (entry.title, entry.region, entry.views)
        assert sidecar["stickers"] == stickers
        assert bool(stickers) == entry.truth["sticker_in_metadata"]


def test_positives_carry_their_evidence_and_the_others_none(icd_corpus: Manifest) -> None:
    for entry in icd_corpus:
        evidence = entry.truth["evidence"]
        assert bool(evidence) == bool(entry.labels["icd"]) == (entry.truth["clause"] is not None)
        seconds = probe(entry.path).duration_seconds
        for piece in evidence:
            assert piece["clause"] == entry.truth["clause"]
            assert piece["span"] is None or 0 <= piece["span"][0] < piece["span"][1] <= seconds + 0.1
            assert piece["box"] is None or all(0 <= value <= 1 for value in piece["box"])
        assert {piece["modality"] for piece in evidence} == set(entry.truth["modalities"])


def test_sides_are_disjoint_by_source(icd_corpus: Manifest) -> None:
    read_manifest(icd_corpus.path).check_sources()
    assert {entry.split for entry in icd_corpus} <= {"train", "validation", "test"}


def test_a_second_call_makes_only_what_is_missing(tmp_path: Path) -> None:
    config = SyntheticConfig(out=tmp_path, videos=4, seed=2)
    first = make_corpus(config)
    before = contents(tmp_path)
    lost, kept = first[1].path, first[0].path
    lost.unlink()
    written_at = kept.stat().st_mtime_ns
    steps: list[tuple[int, int]] = []
    make_corpus(config, lambda done, total: steps.append((done, total)))
    assert contents(tmp_path) == before
    assert kept.stat().st_mtime_ns == written_at
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_corpus_can_grow_in_place(tmp_path: Path) -> None:
    small = make_corpus(SyntheticConfig(out=tmp_path, videos=2, seed=2))
    large = make_corpus(SyntheticConfig(out=tmp_path, videos=3, seed=2))
    assert large.entries[:2] == small.entries


def test_two_corpora_are_not_mixed_in_one_folder(tmp_path: Path) -> None:
    make_corpus(SyntheticConfig(out=tmp_path, videos=1, seed=2))
    with pytest.raises(ConfigError, match="seed"):
        make_corpus(SyntheticConfig(out=tmp_path, videos=1, seed=3))


def test_a_copy_names_an_original_of_its_own_source(ucc_corpus: Manifest) -> None:
    by_id = {entry.video_id: entry for entry in ucc_corpus}
    copies = [entry for entry in ucc_corpus if entry.labels["ucc"]]
    assert 0 < len(copies) < len(ucc_corpus)
    for copy in copies:
        original = by_id[copy.truth["copy_of"]]
        assert original.labels["ucc"] == 0
        assert original.source_id == copy.source_id
        assert original.creator != copy.creator
        assert {edit["name"] for edit in copy.truth["edits"]} <= set(EDITS)
    assert all(entry.truth["copy_of"] is None for entry in ucc_corpus if not entry.labels["ucc"])


def test_a_copy_looks_like_its_original_and_is_not_the_same_file(ucc_corpus: Manifest) -> None:
    by_id = {entry.video_id: entry for entry in ucc_corpus}
    for copy in (entry for entry in ucc_corpus if entry.labels["ucc"]):
        original = by_id[copy.truth["copy_of"]]
        assert copy.path.read_bytes() != original.path.read_bytes()
        if {edit["name"] for edit in copy.truth["edits"]} <= {"re_encode", "logo"}:
            ours, theirs = (read_frames(entry.path, np.array([1.0])).frames_THWC for entry in (copy, original))
            assert np.abs(ours.astype(int) - theirs).mean() < 12
