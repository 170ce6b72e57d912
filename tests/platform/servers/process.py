"""One server process that a test may stop, kill -9, freeze and start again at the same address.

Every process dies with the test process (PR_SET_PDEATHSIG), also if that one is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import psutil

DEADLINE_SECONDS = 120.0
_PORTS = range(20_000, 31_999)  # below Linux's range for outgoing connections, so that nobody is given one by chance


def free_port() -> int:
    """A port that nobody listens on now. Starting a server on it may still fail: callers try again."""
    draw = random.SystemRandom()
    for _ in range(1000):
        port = draw.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("expected a free port between 20000 and 31999")


def wait_until(
    condition: Callable[[], bool], what: str, seconds: float = DEADLINE_SECONDS, every_seconds: float = 0.02
) -> None:
    """Poll until ``condition()`` holds; an AssertionError that names ``what`` after the deadline."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"expected within {seconds} s: {what}"
        time.sleep(every_seconds)


_LIBC = ctypes.CDLL(None)  # loaded before any fork
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Server:
    """Base: subclasses say how to start (``command``) and when the server answers (``ready``)."""

    popen: ClassVar[dict[str, Any]] = {}

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def ready(self) -> bool:
        """Whether the server answers. May raise OSError for no."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Before every start."""

    def move(self) -> None:
        """Take another address: somebody took the port between choosing and starting. Only before the first start."""

    @property
    def log(self) -> str:
        path = self.folder / "server.log"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> Self:
        """Start and wait until it answers."""
        end = time.monotonic() + DEADLINE_SECONDS
        while True:
            self._spawn()
            while self.running and time.monotonic() < end:
                with contextlib.suppress(OSError):
                    if self.ready() and self.running:
                        return self
                time.sleep(0.02)
            self.kill()
            assert time.monotonic() < end, f"{type(self).__name__} did not come up: {self.log}"
            self.move()

    def _spawn(self) -> None:
        assert not self.running
        self.prepare()
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                start_new_session=True, preexec_fn=_die_with_parent, **self.popen,  # noqa: PLW1509
            )

    def kill(self) -> None:
        """kill -9 of the server and all its children; returns when it is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end; kill it if it does not."""
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        """kill -9 and start again at the same address."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _family(self) -> list[psutil.Process]:
        """The server and its children (PostgreSQL's have sessions of their own)."""
        assert self.process is not None
        try:
            leader = psutil.Process(self.process.pid)
            return [leader, *leader.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _signal(self, number: int) -> None:
        for member in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                member.send_signal(number)

    def _end(self, number: int) -> None:
        if self.process is None:
            return
        family = self._family()
        for member in family if number == signal.SIGKILL else family[:1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.send_signal(number)
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.send_signal(signal.SIGCONT)
        self._await(family, 10)
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        self.process.wait(30)
        self._await(family, 30)
        self.process = None

    def _await(self, family: list[psutil.Process], seconds: float) -> None:
        """Until all are gone or zombies, which an init that does not reap may leave."""
        assert self.process is not None
        end = time.monotonic() + seconds
        while time.monotonic() < end and (self.process.poll() is None or any(map(_alive, family[1:]))):
            time.sleep(0.005)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
