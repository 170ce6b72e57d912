"""Work shared between processes, results in order; whoever has seen enough may stop reading."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

__all__ = ["shared"]

Told = TypeVar("Told")
Found = TypeVar("Found")


def shared(work: Callable[[Told], Found], told: Sequence[Told], workers: int) -> Generator[Found, None, None]:
    """``work`` of each, in order; with more than one worker in fresh processes, each with one thread of its own.

    Closing the iterator lets what has begun end and begins nothing more.
    """
    if workers == 1 or len(told) < 2:
        yield from map(work, told)
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread)
    try:
        yield from pool.map(work, told)
    finally:
        pool.shutdown(cancel_futures=True)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
