"""CPU time to fetch a few frames of a video: ours against PyAV, OpenCV and decord2 on the same clips.

Enters: a folder to work in. Leaves: one row for each way and clip: processor time, and how many frames were right.
Why this method: every measurement is a process of its own, so that no library warms another's caches, and the ways
take turns, so that a busy moment of the machine falls on all of them; processor time counts every thread. Each picture
carries its own number as black and white squares, so that a wrong frame is seen whatever a library does to colours.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from tidegate.errors import DependencyMissing, TidegateError
from tidegate.media import encode_video, probe, read_frames

__all__ = ["DecodeBenchmark", "DecodeRow", "render", "run_decode_benchmark"]

_RATE = 30
_BASE_SECONDS = 30
_SIZE = (720, 1280)
_BITS, _SQUARE = 12, 40
_BITS_A_SECOND = 3_000_000
_Pictures = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class DecodeRow:
    """One way of fetching frames, on one clip."""

    way: str
    clip_seconds: int
    num_frames: int
    """Frames asked for, at the centres of equal parts."""
    frames_right: int
    """Frames that carry the wanted number; for the approximate way, that of the keyframe before it."""
    repeats: int
    cpu_ms_median: float
    """Milliseconds of processor time for one video, all threads, opening included, imports not."""
    cpu_ms_min: float
    cpu_ms_max: float
    wall_ms_median: float


@dataclass(frozen=True, kw_only=True)
class DecodeBenchmark:
    """All rows, and what they were measured on."""

    rows: tuple[DecodeRow, ...]
    machine: str
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)


def run_decode_benchmark(
    folder: Path,
    *,
    clip_seconds: Sequence[int] = (30, 600),
    num_frames: int = 8,
    repeats: int = 5,
    progress: Callable[[str], None] = lambda message: None,
) -> DecodeBenchmark:
    """Make the clips (multiples of 30 s, kept in ``folder`` for the next run), then measure every way on each.

    Raises ``DependencyMissing`` when OpenCV or decord2 is not installed (extra ``bench``).
    """
    rows = []
    for seconds in clip_seconds:
        progress(f"making a clip of {seconds} s")
        path = _clip(folder, seconds)
        progress(f"measuring {len(_WAYS)} ways on {seconds} s, {repeats} times")
        rows += _measure(path, seconds, num_frames, repeats)
    packages = {"av": av.__version__, **{name: _version(name) for name in ("opencv-python-headless", "decord2")}}
    return DecodeBenchmark(rows=tuple(rows), machine=_machine(), versions=packages)


def render(benchmark: DecodeBenchmark) -> str:
    """The rows as a Markdown table, with machine and versions under it."""
    head = "| clip | way | CPU ms per video (median) | min to max | wall ms (median) | right frames |"
    lines = [head, "|---|---|---:|---:|---:|---:|"]
    for row in benchmark.rows:
        spread = f"{row.cpu_ms_min:.0f} to {row.cpu_ms_max:.0f}"
        right = f"{row.frames_right} of {row.num_frames}"
        cells = (
            f"{row.clip_seconds} s",
            row.way,
            f"{row.cpu_ms_median:.0f}",
            spread,
            f"{row.wall_ms_median:.0f}",
            right,
        )
        lines.append(f"| {' | '.join(cells)} |")
    versions = ", ".join(f"{name} {version}" for name, version in benchmark.versions.items())
    return "\n".join([*lines, "", f"{benchmark.machine}; {versions}."])


def _measure(path: Path, seconds: int, num_frames: int, repeats: int) -> list[DecodeRow]:
    wanted = _wanted(seconds, num_frames)
    results: dict[str, list[dict[str, Any]]] = {way: [] for way in _WAYS}
    for _ in range(repeats):
        for way in _WAYS:
            results[way].append(_in_own_process(way, path, wanted))
    expected = dict.fromkeys(_WAYS, wanted) | {"tidegate approximate": _keyframes_before(path, wanted)}
    return [_row(way, seconds, expected[way], results[way]) for way in _WAYS]


def _row(way: str, seconds: int, expected: list[int], results: list[dict[str, Any]]) -> DecodeRow:
    cpu = [1000 * result["cpu_seconds"] for result in results]
    shown = [number % (_BASE_SECONDS * _RATE) for number in expected]
    right = min(sum(a == b for a, b in zip(result["numbers"], shown, strict=True)) for result in results)
    return DecodeRow(
        way=way,
        clip_seconds=seconds,
        num_frames=len(expected),
        frames_right=right,
        repeats=len(results),
        cpu_ms_median=statistics.median(cpu),
        cpu_ms_min=min(cpu),
        cpu_ms_max=max(cpu),
        wall_ms_median=statistics.median(1000 * result["wall_seconds"] for result in results),
    )


def _in_own_process(way: str, path: Path, wanted: list[int]) -> dict[str, Any]:
    command = [sys.executable, "-m", "tidegate.bench.decode", way, str(path), json.dumps(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  (our own module)
    if done.returncode == 2:
        raise DependencyMissing(
            f"expected the extra 'bench' (pip install 'tidegate[bench]'), got: {done.stderr.strip()}"
        )
    if done.returncode:
        raise TidegateError(f"expected {way} to read {path}, got exit code {done.returncode}: {done.stderr[-500:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _wanted(seconds: int, num_frames: int) -> list[int]:
    count = seconds * _RATE
    return [int((place + 0.5) * count / num_frames) for place in range(num_frames)]


def _keyframes_before(path: Path, wanted: list[int]) -> list[int]:
    keys = np.rint(probe(path).keyframe_pts_seconds * _RATE).astype(int)
    return [int(keys[keys <= number].max()) for number in wanted]


def _clip(folder: Path, seconds: int) -> Path:
    if seconds % _BASE_SECONDS:
        raise ValueError(f"expected a multiple of {_BASE_SECONDS} s, got {seconds}")
    base, path = folder / f"decode-{_BASE_SECONDS}.mp4", folder / f"decode-{seconds}.mp4"
    folder.mkdir(parents=True, exist_ok=True)
    if not base.exists():
        encode_video(base, _pictures(_BASE_SECONDS * _RATE), _RATE, gop=250, bit_rate=_BITS_A_SECOND)
    if not path.exists():
        _repeat(base, path, seconds // _BASE_SECONDS)
    return path


def _pictures(count: int) -> Iterator[_Pictures]:
    """Numbered pictures of three textures that drift over each other, with grain: not cheap to decode."""
    rng = np.random.default_rng(0)
    height, width = _SIZE
    coarse = rng.integers(0, 100, (height // 8, width // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    fine = rng.integers(0, 50, (height // 2, width // 2, 3), dtype=np.uint8).repeat(2, 0).repeat(2, 1)
    grain = rng.integers(0, 6, (height * 2, width, 3), dtype=np.uint8)
    for number in range(count):
        picture = np.roll(coarse, 3 * number, axis=1) + np.roll(fine, (2 * number, -number), axis=(0, 1))
        start = int(rng.integers(0, height))
        picture += grain[start : start + height]
        yield _stamp(picture, number)


def _stamp(picture_HWC: _Pictures, number: int) -> _Pictures:
    for bit in range(_BITS):
        picture_HWC[:_SQUARE, bit * _SQUARE : (bit + 1) * _SQUARE] = 255 if number >> bit & 1 else 0
    return picture_HWC


def _read_stamp(picture_HWC: _Pictures) -> int:
    middle = _SQUARE // 2
    return sum(int(picture_HWC[middle, bit * _SQUARE + middle].mean() > 127) << bit for bit in range(_BITS))


def _repeat(source: Path, target: Path, times: int) -> None:
    """Join copies of a clip without encoding again."""
    with av.open(str(target), "w") as output:
        stream = None
        for copy in range(times):
            with av.open(str(source)) as container:
                video = container.streams.video[0]
                stream = stream or output.add_stream_from_template(video)
                shift = round(copy * _BASE_SECONDS / video.time_base) if video.time_base else 0
                for packet in container.demux(video):
                    if packet.dts is None or packet.pts is None:
                        continue
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                    output.mux(packet)


def _tidegate(path: str, wanted: list[int], *, exact: bool) -> Sequence[_Pictures]:
    return list(read_frames(path, [number / _RATE for number in wanted], exact=exact).frames_THWC)


def _pyav_in_order(path: str, wanted: list[int]) -> Sequence[_Pictures]:
    places: set[int] = set(wanted)
    pictures: list[_Pictures] = []
    with av.open(path) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number in places:
                pictures.append(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8))
    return pictures


def _opencv(path: str, wanted: list[int]) -> Sequence[_Pictures]:
    import cv2

    capture = cv2.VideoCapture(path)
    pictures: list[_Pictures] = []
    for number in wanted:
        capture.set(cv2.CAP_PROP_POS_FRAMES, number)
        pictures.append(np.asarray(cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB), np.uint8))
    return pictures


def _decord(path: str, wanted: list[int]) -> Sequence[_Pictures]:
    import decord

    return list(decord.VideoReader(path).get_batch(wanted).asnumpy())


_WAYS: dict[str, Callable[[str, list[int]], Sequence[_Pictures]]] = {
    "tidegate approximate": lambda path, wanted: _tidegate(path, wanted, exact=False),
    "tidegate exact": lambda path, wanted: _tidegate(path, wanted, exact=True),
    "PyAV in order": _pyav_in_order,
    "OpenCV, CAP_PROP_POS_FRAMES": _opencv,
    "decord2, get_batch": _decord,
}


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _machine() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{os.cpu_count()} cores {platform.machine()} ({model}), Python {platform.python_version()}, no GPU used"


def _main(way: str, path: str, wanted: str) -> int:
    numbers = json.loads(wanted)
    try:
        for name in {"OpenCV, CAP_PROP_POS_FRAMES": ["cv2"], "decord2, get_batch": ["decord"]}.get(way, []):
            __import__(name)
    except ImportError as error:
        sys.stderr.write(str(error))
        return 2
    wall, cpu = time.perf_counter(), sum(os.times()[:4])
    pictures = _WAYS[way](path, numbers)
    cpu, wall = sum(os.times()[:4]) - cpu, time.perf_counter() - wall
    result = {"cpu_seconds": cpu, "wall_seconds": wall, "numbers": [_read_stamp(picture) for picture in pictures]}
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
