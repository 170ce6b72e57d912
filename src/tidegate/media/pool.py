"""Decode untrusted files in processes that may die.

Enters: paths and requests, from any thread. Leaves: the same results and errors as ``probe`` and ``read_clip``.
Why this method: a decoder that crashes, hangs or eats memory on a hostile file must not take the caller with it. Each
worker is a fresh interpreter (no fork of a threaded parent), takes one job at a time over a pipe, and is killed and
replaced when it misses the wall time or dies. Workers start when first needed.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

import tidegate
from tidegate.errors import DecoderCrashed, LimitExceeded
from tidegate.media.clip import ReadMedia
from tidegate.media.container import PathArg
from tidegate.media.info import MediaInfo
from tidegate.media.limits import Limits
from tidegate.media.wire import LENGTH, MAX_HEADER_BYTES, READY, Failure, Job, decode_reply, encode
from tidegate.types import Clip, ClipRequest, TextSpan, VideoContext

__all__ = ["DecoderPool"]

_SINGLE_THREADED = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_START_SECONDS = 30.0
_REAP_SECONDS = 2.0


class DecoderPool:
    """At most ``workers`` decoding processes, shared by any number of threads; use it in a ``with`` block.

    Besides the errors of ``probe`` and ``read_clip``: ``LimitExceeded`` when a job passes ``limits.max_wall_seconds``
    (its worker is killed) or ``limits.max_memory_bytes``; ``DecoderCrashed`` when the worker dies under it.
    """

    def __init__(self, workers: int, limits: Limits = Limits()) -> None:  # noqa: B008  (frozen)
        if workers < 1:
            raise ValueError(f"expected workers >= 1, got {workers}")
        self._limits = limits
        self._slots = threading.BoundedSemaphore(workers)
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        self._alive: set[_Worker] = set()
        self._lock = threading.Lock()
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers, also those at work (their callers get ``DecoderCrashed``). Safe to call twice."""
        with self._lock:
            self._is_closed = True
            workers, self._alive = self._alive, set()
        while not self._idle.empty():
            worker = self._idle.get()
            workers.discard(worker)
            worker.kill()
        for worker in workers:  # at work: the thread that waits for it sees its end, and reaps it
            worker.interrupt()

    def probe(self, path: PathArg) -> MediaInfo:
        """``tidegate.media.probe`` in a worker."""
        return self._read(path, None).info

    def read_clip(
        self,
        path: PathArg,
        request: ClipRequest,
        *,
        video_id: str,
        texts: tuple[TextSpan, ...] = (),
        context: VideoContext = VideoContext(),  # noqa: B008  (frozen)
    ) -> tuple[MediaInfo, Clip]:
        """``tidegate.media.read_clip`` in a worker."""
        media = self._read(path, request)
        return media.info, media.clip(video_id, texts, context)

    def _read(self, path: PathArg, request: ClipRequest | None) -> ReadMedia:
        job = Job(path=os.path.abspath(os.fsencode(path)), limits=self._limits, request=request)
        with self._worker() as worker:
            return worker.run(job)

    @contextmanager
    def _worker(self) -> Iterator[_Worker]:
        """A worker for one job; one that did not end it cleanly is gone afterwards."""
        with self._slots:
            worker = self._take()
            try:
                yield worker
            finally:
                with self._lock:
                    reusable = worker.is_clean and not self._is_closed
                    if not reusable:
                        self._alive.discard(worker)
                if reusable:
                    self._idle.put(worker)
                else:
                    worker.kill()

    def _take(self) -> _Worker:
        with self._lock:
            if self._is_closed:
                raise ValueError("expected an open DecoderPool, got a closed one")
            while True:
                try:
                    worker = self._idle.get_nowait()
                except Empty:
                    worker = _Worker()
                    self._alive.add(worker)
                if worker.is_alive:
                    return worker
                self._alive.discard(worker)
                worker.kill()


class _Worker:
    """One decoding process and the pipe to it."""

    def __init__(self) -> None:
        root = str(Path(tidegate.__file__).parents[1])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tidegate.media.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
            env={**os.environ, **_SINGLE_THREADED, "PYTHONPATH": os.pathsep.join(paths)},
        )
        self.is_clean = True
        self._is_started = False

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def interrupt(self) -> None:
        """End the process while another thread talks to it."""
        self._process.kill()

    def kill(self) -> None:
        """End the process and wait for it; no zombie stays."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def run(self, job: Job) -> ReadMedia:
        """Send one job and take its reply within the wall time."""
        self.is_clean = False
        seconds = job.limits.max_wall_seconds
        try:
            self._await_start()
            reply = self._exchange(job, time.monotonic() + seconds)
        except TimeoutError:
            self.kill()
            raise LimitExceeded(f"expected an answer within max_wall_seconds={seconds:g}, got none") from None
        except (EOFError, OSError, ValueError) as error:  # ValueError: replies that make no sense, msgspec's too
            raise self._post_mortem(job, error) from error
        self.is_clean = not (isinstance(reply, Failure) and reply.is_last)
        if isinstance(reply, Failure):
            raise reply.error()
        return reply

    def _await_start(self) -> None:
        if not self._is_started:
            word = bytearray(len(READY))
            try:
                self._fill(memoryview(word), time.monotonic() + _START_SECONDS)
            except TimeoutError:
                raise EOFError(f"the worker did not start within {_START_SECONDS:g} s") from None
            self._is_started = True

    def _exchange(self, job: Job, deadline: float) -> ReadMedia | Failure:
        assert self._process.stdin is not None
        self._process.stdin.write(encode(job))
        head = bytearray(LENGTH.size)
        self._fill(memoryview(head), deadline)
        (size,) = LENGTH.unpack(head)
        if size > MAX_HEADER_BYTES:
            raise ValueError(f"expected a header within {MAX_HEADER_BYTES} bytes, got {size}")
        body = bytearray(size)
        self._fill(memoryview(body), deadline)
        header = decode_reply(bytes(body))
        if isinstance(header, Failure):
            return header
        return header.receive(lambda view: self._fill(view, deadline), job.limits.max_memory_bytes)

    def _fill(self, view: memoryview, deadline: float) -> None:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        filled = 0
        while filled < len(view):
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise TimeoutError
            count = os.readv(pipe, [view[filled:]])
            if count == 0:
                raise EOFError("the worker closed its pipe")
            filled += count

    def _post_mortem(self, job: Job, error: Exception) -> DecoderCrashed | LimitExceeded:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_REAP_SECONDS)
        self.kill()
        status = self._process.returncode
        if status in {-signal.SIGXCPU, -signal.SIGALRM}:
            return LimitExceeded(f"expected max_wall_seconds={job.limits.max_wall_seconds:g}, the decoder ran longer")
        how = signal.Signals(-status).name if status and status < 0 else f"exit status {status}"
        return DecoderCrashed(f"expected a reply from the decoder, it died ({how}): {error}")
