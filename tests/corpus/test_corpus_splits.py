"""Splits: a source lies on one side, shares and labels come out about right."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.corpus import Entry, Manifest, grouped_split, hash_split
from tidegate.errors import ConfigError


def entries(sources: list[tuple[str, int]]) -> list[Entry]:
    return [
        Entry(video_id=str(i), path=Path(f"/{i}.mp4"), labels={"icd": label}, source_id=source)
        for i, (source, label) in enumerate(sources)
    ]


SOURCES = st.lists(st.tuples(st.sampled_from([f"s{i}" for i in range(12)]), st.integers(0, 1)), min_size=1, max_size=60)


@given(SOURCES)
def test_no_source_lies_on_two_sides(sources: list[tuple[str, int]]) -> None:
    for split in (hash_split(entries(sources)), grouped_split(entries(sources), "icd")):
        assert Manifest(entries=split).leaking_sources() == ()
        assert all(entry.split is not None for entry in split)


@given(SOURCES, st.tuples(st.sampled_from(["new1", "new2"]), st.integers(0, 1)))
def test_a_source_keeps_its_side_when_the_data_set_grows(sources: list[tuple[str, int]], new: tuple[str, int]) -> None:
    before, after = hash_split(entries(sources)), hash_split(entries([*sources, new]))
    assert [entry.split for entry in before] == [entry.split for entry in after[: len(before)]]


def test_shares_come_out_over_many_sources() -> None:
    split = hash_split(entries([(f"s{i}", 0) for i in range(4000)]))
    share = sum(entry.split == "test" for entry in split) / 4000
    assert share == pytest.approx(0.15, abs=0.02)


def test_grouped_split_balances_labels() -> None:
    sources = [(f"s{i // 4}", int(i % 8 == 0)) for i in range(800)]
    split = grouped_split(entries(sources), "icd")
    for side, share in {"train": 0.7, "validation": 0.15, "test": 0.15}.items():
        labels = [entry.labels["icd"] for entry in split if entry.split == side]
        assert len(labels) == pytest.approx(800 * share, abs=20)
        assert sum(labels) == pytest.approx(100 * share, abs=6)


def test_unlisted_sources_are_training_clips_always() -> None:
    many = entries([("unlisted", i % 2) for i in range(50)] + [(f"s{i}", i % 2) for i in range(50)])
    for split in (hash_split(many), grouped_split(many, "icd")):
        assert {entry.split for entry in split if entry.source_id == "unlisted"} == {"train"}


def test_shares_that_are_not_parts_of_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="parts of 1"):
        hash_split(entries([("a", 0)]), {"train": 0.7, "test": 0.7})
