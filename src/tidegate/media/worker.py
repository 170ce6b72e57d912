"""The process in which untrusted files are decoded: ``python -m tidegate.media.worker``, started by ``DecoderPool``.

Enters: jobs on standard input. Leaves: replies on standard output, until standard input ends.
Why this method: a crash, an endless loop or a memory bomb in a decoder takes down this process and nothing else.
Limits of the operating system hold even if the parent is gone: address space, processor time, an alarm, no core
file.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from typing import BinaryIO

import av.logging

from tidegate.errors import LimitExceeded, MediaError
from tidegate.media.clip import ReadMedia, read_media
from tidegate.media.limits import Limits
from tidegate.media.probe import probe
from tidegate.media.wire import LENGTH, READY, Failure, Job, Success, buffers, decode_job, encode

__all__ = ["main"]

_GRACE_SECONDS = 5


def main() -> None:
    """Serve jobs until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    av.logging.set_level(None)
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a library prints must not mix with the replies
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    replies.write(READY)
    while (body := _receive(sys.stdin.buffer)) is not None:
        job = decode_job(body)
        _limit(job.limits)
        header, payload = _answer(job)
        _send(replies, header, payload)
        if isinstance(header, Failure) and header.is_last:
            return


def _receive(stream: BinaryIO) -> bytes | None:
    head = stream.read(LENGTH.size)
    return stream.read(*LENGTH.unpack(head)) if len(head) == LENGTH.size else None


def _limit(limits: Limits) -> None:
    """Renew the limits of the operating system for one job."""
    signal.setitimer(signal.ITIMER_REAL, limits.max_wall_seconds + _GRACE_SECONDS)
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime + limits.max_wall_seconds) + _GRACE_SECONDS
    for kind, value in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, limits.max_memory_bytes)):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _answer(job: Job) -> tuple[Failure | Success, list[memoryview]]:
    try:
        if job.request is None:
            media = ReadMedia(info=probe(job.path, job.limits), frames=None, audio=None)
        else:
            media = read_media(job.path, job.request, job.limits)
        return Success.of(media), buffers(media)
    except MediaError as error:
        return Failure(code=error.code, message=str(error), is_last=isinstance(error, LimitExceeded)), []
    except MemoryError:
        message = f"expected decoding within max_memory_bytes={job.limits.max_memory_bytes}, it needs more"
        return Failure(code=LimitExceeded.code, message=message, is_last=True), []


def _send(stream: BinaryIO, header: Failure | Success, payload: list[memoryview]) -> None:
    for part in (memoryview(encode(header)), *payload):
        sent = 0
        while sent < len(part):
            sent += stream.write(part[sent:]) or 0
    signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    main()
