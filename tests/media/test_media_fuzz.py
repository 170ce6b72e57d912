"""Mutated files through ``DecoderPool``: each ends in a clip or a typed error, in time, and the pool works on.

    .venv/bin/python -m pytest tests/media/test_media_fuzz.py -m long -s

prints the table of outcomes. Same seed, same files.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from media_samples import AAC, Recipe, write

from tidegate.errors import MediaError
from tidegate.media import DecoderPool, Limits
from tidegate.types import ClipRequest

SEEDS = {
    "mp4": Recipe(audio=AAC, count=40, muxer_options={"movflags": "faststart"}),
    "mkv": Recipe(suffix="mkv", audio=("libopus", 48_000, "stereo"), count=40),
    "ts": Recipe(suffix="ts", format="mpegts", audio=AAC, count=40),
    "avi": Recipe(codec="mpeg4", suffix="avi", audio=("libmp3lame", 44_100, "stereo"), count=40),
    "webm": Recipe(
        codec="libvpx-vp9", suffix="webm", options={"deadline": "realtime", "cpu-used": "8"}, count=40, audio=None
    ),
    "flv": Recipe(suffix="flv", audio=("aac", 44_100, "mono"), count=40),
    "hevc": Recipe(codec="libx265", options={"x265-params": "log-level=none:pools=none:frame-threads=1"}, count=40),
    "mpg": Recipe(codec="mpeg2video", suffix="mpg", format="mpeg", count=40, audio=("mp2", 48_000, "stereo")),
}
LIMITS = Limits(max_wall_seconds=10)
MARGIN_SECONDS = 3


def flip_bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 4, 32, 200])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def edit_header(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 3, 12])):
        data[rng.randrange(min(len(data), 1200))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])


def edit_number(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(max(1, min(len(data), 3000) - 8))
    size = rng.choice([2, 4, 8])
    data[at : at + size] = rng.choice(
        [bytes(size), b"\xff" * size, b"\x7f" + b"\xff" * (size - 1), rng.randbytes(size)]
    )


def truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(1, len(data)) :]


def swap_chunks(data: bytearray, rng: random.Random) -> None:
    size = rng.randrange(1, max(2, len(data) // 8))
    a, b = rng.randrange(len(data) - size), rng.randrange(len(data) - size)
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]


def drop_chunk(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.randrange(1, max(2, len(data) // 4))]


def repeat_chunk(data: bytearray, rng: random.Random) -> None:
    at, size = rng.randrange(len(data)), rng.randrange(1, 2000)
    data[at:at] = data[at : at + size] * rng.randrange(1, 5)


MUTATIONS: list[Callable[[bytearray, random.Random], None]] = [
    flip_bits,
    edit_header,
    edit_number,
    truncate,
    swap_chunks,
    drop_chunk,
    repeat_chunk,
]


@dataclass
class Tally:
    """What became of the mutated files."""

    outcomes: Counter[str] = field(default_factory=Counter)
    warned: int = 0
    slowest_seconds: float = 0.0
    slowest: str = ""

    def table(self) -> str:
        rows = [f"{name:<22}{count:>6}" for name, count in sorted(self.outcomes.items())]
        return "\n".join(
            [*rows, f"clips with a warning  {self.warned:>6}", f"slowest {self.slowest_seconds:.2f} s ({self.slowest})"]
        )


def fuzz(folder: Path, count: int, seed: int) -> Tally:
    rng, tally = random.Random(seed), Tally()
    originals = {name: write(folder / f"{name}.{recipe.suffix}", recipe) for name, recipe in SEEDS.items()}
    with DecoderPool(1, LIMITS) as pool:
        for number in range(count):
            name = list(originals)[number % len(originals)]
            mutation = MUTATIONS[number // len(originals) % len(MUTATIONS)]
            data = bytearray(originals[name].read_bytes())
            mutation(data, rng)
            (folder / "mutant").write_bytes(data)
            read_one(pool, folder / "mutant", f"{number} {name} {mutation.__name__}", tally, exact=rng.random() < 0.5)
        for path in originals.values():
            assert pool.probe(path).num_frames == 40
    return tally


def read_one(pool: DecoderPool, path: Path, label: str, tally: Tally, *, exact: bool) -> None:
    start = time.monotonic()
    request = ClipRequest(num_frames=4, exact=exact)
    try:
        info = pool.probe(path)
        _, clip = pool.read_clip(path, request, video_id="mutant")
    except MediaError as error:
        tally.outcomes[type(error).__name__ if str(error) else "an error without a reason"] += 1
    else:
        assert clip.frames is not None, label
        assert len(clip.frames) == 4, label
        assert info.num_frames >= 1, label
        tally.outcomes["clip"] += 1
        tally.warned += bool(info.warnings)
    seconds = time.monotonic() - start
    assert seconds < 2 * (LIMITS.max_wall_seconds + MARGIN_SECONDS), label
    if seconds > tally.slowest_seconds:
        tally.slowest_seconds, tally.slowest = seconds, label


def test_mutated_files_end_in_a_clip_or_a_typed_error(tmp_path: Path) -> None:
    tally = fuzz(tmp_path, 168, seed=1)
    assert sum(tally.outcomes.values()) == 168
    assert tally.outcomes["clip"] > 0
    assert tally.outcomes["CorruptMedia"] > 0
    assert not tally.outcomes["an error without a reason"]


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_thousands_of_mutated_files_end_in_a_clip_or_a_typed_error(tmp_path: Path) -> None:
    start = time.monotonic()
    tally = fuzz(tmp_path, 2400, seed=20_260)
    sys.stdout.write(f"\n{sum(tally.outcomes.values())} files in {time.monotonic() - start:.0f} s\n{tally.table()}\n")
    assert sum(tally.outcomes.values()) == 2400
