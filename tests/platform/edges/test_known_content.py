"""Known content: the fast search equals the slow definition, copies are found with their spans, trouble is said."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tidegate.errors import ConfigError, TidegateError, UsageError
from tidegate.media import encode_video
from tidegate.platform.contracts import KnownContent, KnownMatch
from tidegate.platform.event import VideoEvent
from tidegate.platform.known import bank as bank_module
from tidegate.platform.known.__main__ import main
from tidegate.platform.known.bank import Bank, read_bank, write_bank
from tidegate.platform.known.content import KnownBanks, KnownBanksConfig
from tidegate.platform.known.hashing import VideoHashes, hash_frames
from tidegate.platform.known.matching import MatchConfig, find_matches
from tidegate.types import FrameBatch

pytest.importorskip("pdqhash")
Frames = npt.NDArray[np.uint8]


def scene(seed: int, *, size: int = 192) -> Frames:
    """A picture with shapes of many sizes, which PDQ can tell from others."""
    coarse = np.random.default_rng(seed).integers(0, 256, (17, 17, 3)).astype(np.float64)
    grid = np.linspace(0, 16, size)
    low = grid.astype(int).clip(0, 15)
    part = (grid - low)[:, None, None]
    rows = coarse[low] * (1 - part) + coarse[low + 1] * part
    across = (grid - low)[None, :, None]
    return (rows[:, low] * (1 - across) + rows[:, low + 1] * across).astype(np.uint8)


def film(seeds: list[int]) -> FrameBatch:
    return FrameBatch(np.stack([scene(seed) for seed in seeds]), np.arange(len(seeds)) + 0.5)


def hashed(seeds: list[int], *, mirrored: bool = False) -> VideoHashes:
    return hash_frames(film(seeds), step_seconds=1.0, mirrored=mirrored)


def words(count: int, seed: int = 0) -> npt.NDArray[np.uint64]:
    return np.random.default_rng(seed).integers(0, 2**64, (count, 4), np.uint64)


def near_words(base: npt.NDArray[np.uint64], bits: int, rng: np.random.Generator) -> npt.NDArray[np.uint64]:
    flipped = np.unpackbits(base.view(np.uint8))
    flipped[rng.choice(256, bits, replace=False)] ^= 1
    return np.packbits(flipped).view(np.uint64)


def bank_of(words_M4: npt.NDArray[np.uint64]) -> Bank:
    count = len(words_M4)
    return Bank(
        name="b", entries=("e",), words_M4=words_M4, entry_M=np.zeros(count, np.int32),
        pts_seconds=np.arange(count, dtype=np.float64), quality=np.full(count, 100, np.uint8),
    )


def test_indexed_search_finds_exactly_what_comparing_all_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    stored = words(3000)
    flips = rng.integers(0, 60, 80)
    queries = np.stack([near_words(stored[number], int(bits), rng) for number, bits in enumerate(flips)])
    bank = bank_of(stored)
    slow = bank.near(queries, 31)
    monkeypatch.setattr(bank_module, "_SMALL_BANK", 0)
    fast = bank.near(queries, 31)
    assert len(slow.query) > 20
    for name in ("query", "bank", "bits"):
        np.testing.assert_array_equal(getattr(slow, name), getattr(fast, name))


def test_distance_is_the_number_of_different_bits() -> None:
    rng = np.random.default_rng(1)
    stored = words(1)
    found = bank_of(stored).near(np.stack([near_words(stored[0], bits, rng) for bits in (0, 1, 31, 32)]), 31)
    assert found.bits.tolist() == [0, 1, 31]


def test_bank_file_comes_back_and_entries_can_be_replaced_and_dropped(tmp_path: Path) -> None:
    bank = Bank(name="harm", violates=False, issue="ucc", interval_seconds=0.5)
    bank = bank.with_entry("a", hashed([1, 2, 3])).with_entry("ビデオ", hashed([4, 5])).with_entry("a", hashed([6]))
    write_bank(bank, tmp_path / "harm.parquet")
    back = read_bank(tmp_path / "harm.parquet")
    assert (back.name, back.violates, back.issue, back.interval_seconds) == ("harm", False, "ucc", 0.5)
    assert sorted(back.entries) == ["a", "ビデオ"]
    assert [back.entries[number] for number in back.entry_M] == [bank.entries[number] for number in bank.entry_M]
    np.testing.assert_array_equal(back.words_M4, bank.words_M4)
    assert back.without(["a"]).entries == ("ビデオ",)
    assert list(tmp_path.iterdir()) == [tmp_path / "harm.parquet"]


@pytest.mark.parametrize("content", [b"", b"PAR1 not parquet PAR1"])
def test_file_that_is_no_bank_is_a_configuration_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "b.parquet"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="bank"):
        read_bank(path)


def test_flat_frames_say_nothing_and_are_refused_as_entry() -> None:
    flat = hash_frames(FrameBatch(np.full((3, 64, 64, 3), 128, np.uint8), np.arange(3.0)), step_seconds=1)
    assert len(flat) == 0
    with pytest.raises(UsageError, match="quality"):
        Bank(name="b").with_entry("flat", flat)
    assert find_matches(flat, Bank(name="b").with_entry("a", hashed([1])), MatchConfig()) == []


def test_part_of_an_entry_inside_another_video_matches_with_both_spans() -> None:
    bank = Bank(name="b").with_entry("known", hashed(list(range(10)))).with_entry("other", hashed(list(range(50, 60))))
    (match,) = find_matches(hashed([90, 91, 4, 5, 6, 7, 8, 9, 92]), bank, MatchConfig())
    assert (match.entry, match.distance) == ("known", 0.0)
    assert match.matched_share == pytest.approx(6 / 9)
    ((here, there),) = match.spans
    assert (here.start_seconds, here.end_seconds) == (2.0, 8.0)
    assert (there.start_seconds, there.end_seconds) == (4.0, 10.0)


def test_whole_entry_inside_a_long_video_matches_though_its_share_of_the_video_is_small() -> None:
    bank = Bank(name="b").with_entry("known", hashed([1, 2, 3]))
    (match,) = find_matches(hashed([*range(100, 120), 1, 2, 3]), bank, MatchConfig())
    assert match.matched_share == pytest.approx(3 / 23)


def test_two_pieces_give_two_spans() -> None:
    bank = Bank(name="b").with_entry("known", hashed(list(range(20))))
    (match,) = find_matches(hashed([2, 3, 4, 15, 16, 17]), bank, MatchConfig())
    assert [(here.start_seconds, there.start_seconds) for here, there in match.spans] == [(0.0, 2.0), (3.0, 15.0)]


def test_mirrored_copy_is_found_only_if_it_is_looked_for() -> None:
    bank = Bank(name="b").with_entry("known", hashed([1, 2, 3]))
    batch = film([1, 2, 3])
    turned = FrameBatch(np.ascontiguousarray(batch.frames_THWC[:, :, ::-1]), batch.pts_seconds)
    assert find_matches(hash_frames(turned, step_seconds=1), bank, MatchConfig()) == []
    assert find_matches(hash_frames(turned, step_seconds=1, mirrored=True), bank, MatchConfig())


def test_bars_around_the_picture_do_not_hide_a_copy() -> None:
    bank = Bank(name="b").with_entry("known", hashed([1, 2, 3]))
    batch = film([1, 2, 3])
    framed = np.pad(batch.frames_THWC, ((0, 0), (10, 10), (60, 60), (0, 0)))
    (match,) = find_matches(hash_frames(FrameBatch(framed, batch.pts_seconds), step_seconds=1), bank, MatchConfig())
    assert match.matched_share == 1.0


# With files


def write_film(path: Path, seeds: list[int]) -> None:
    frames = [scene(seed) for seed in seeds for _ in range(5)]
    encode_video(path, frames, Fraction(5), crf=10)


@pytest.fixture
def banks(tmp_path: Path) -> Iterator[KnownBanks]:
    media, folder = tmp_path / "media", tmp_path / "banks"
    media.mkdir()
    folder.mkdir()
    write_film(media / "original.mp4", [1, 2, 3, 4])
    write_film(media / "stranger.mp4", [11, 12, 13])
    (media / "broken.mp4").write_bytes(b"no video")
    assert main(["add", str(folder / "harm.parquet"), str(media / "original.mp4")]) == 0
    service = KnownBanks(
        KnownBanksConfig(bank_folder=str(folder), media_folder=str(media), reload_seconds=0.0)
    )
    yield service
    service.close()


def event(video_id: str, location: str | None) -> VideoEvent:
    return VideoEvent(video_id=video_id, version=1, occurred_at=1.0, location=location)


def test_service_matches_copies_and_names_what_could_not_be_looked_at(banks: KnownBanks, tmp_path: Path) -> None:
    assert isinstance(banks, KnownContent)
    write_film(tmp_path / "media" / "copy.mp4", [9, 1, 2, 3])
    found = banks.match_many([
        event("copy", "copy.mp4"), event("stranger", "stranger.mp4"), event("broken", "broken.mp4"),
        event("absent", "absent.mp4"), event("hostile", "../../etc/passwd"), event("none", None),
    ])
    match = found["copy"]
    assert isinstance(match, KnownMatch)
    assert (match.bank, match.entry, match.violates) == ("harm", "original", True)
    codes = {name: error.code for name, error in found.items() if isinstance(error, TidegateError)}
    assert codes == {"broken": "not_media", "absent": "source_unreadable", "hostile": "forbidden_location"}
    assert "stranger" not in found
    assert "none" not in found
    # A bank that grows is read again.
    assert main([
        "add", str(tmp_path / "banks" / "harm.parquet"), str(tmp_path / "media" / "stranger.mp4")
    ]) == 0
    assert isinstance(banks.match_many([event("stranger", "stranger.mp4")])["stranger"], KnownMatch)


@pytest.mark.long
def test_copies_of_real_videos_are_found_and_nothing_else(
    shared_data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = shared_data / "copies"
    if not folder.is_dir():
        pytest.skip(f"real data is absent: {folder}")
    bank = tmp_path / "bank.parquet"
    assert main(["add", str(bank), str(folder / "pattern-sd-with-small-logo-bar.mp4")]) == 0
    queries = ["pattern-sd-grey-bar", "test-padded-dimensions"]
    assert main(["match", str(bank), *(str(folder / f"{name}.mp4") for name in queries)]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert '"entry":"pattern-sd-with-small-logo-bar"' in lines[0]
    assert '"matches":[]' in lines[1]
