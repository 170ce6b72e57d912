"""Examples: rows of a table of clips with their targets, and the order in which a run sees them.

Enters: a table, labels, a seed. Leaves: prepared steps, made ahead by a thread of their own, so that reading or
decoding overlaps with training. What an item becomes under augmentation depends on (seed, epoch, item) alone, not on
how items are batched or over how many processes they are spread.

Shape legend: N examples, B clips of a batch, I issues.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tidegate.models.batch import Batch
from tidegate.models.processor import ClipProcessor
from tidegate.training.swapping import Swaps, with_part
from tidegate.types import Modality

__all__ = [
    "Change",
    "Examples",
    "MicroBatch",
    "Shard",
    "Table",
    "Targets",
    "ahead",
    "by_length",
    "prepared_steps",
    "step_rows",
]

Change = Callable[[Any, np.random.Generator], Any]
"""Augmentation: an item of a table and a generator in, the changed item out."""
Thing = TypeVar("Thing")


class Table(Protocol):
    """Clips after preprocessing, by row: a ``FeatureTable``, a ``FrozenTable`` or a ``LiveTable``."""

    @property
    def video_ids(self) -> tuple[str, ...]:
        """Ids by row."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> Any: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Rows of a table with their targets."""

    table: Table
    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    """``(N,)``, or ``(N, I)`` of several issues; ``losses.MISSING_LABEL`` where nobody judged."""
    auxiliary: Mapping[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    """Task to class of each item; ``losses.IGNORED`` where it has none."""
    soft: npt.NDArray[np.float64] | None = None
    """A teacher's log-odds of a violation, shaped as ``labels``; NaN where it has none. None: no teacher."""
    swaps: Swaps | None = None
    """Who takes a modality of whom, by number; None: nobody."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels_by_issue(self) -> npt.NDArray[np.int64]:
        """Labels ``(N, I)``."""
        return self.labels.reshape(len(self.labels), -1)

    @property
    def soft_by_issue(self) -> npt.NDArray[np.float64] | None:
        """Soft scores ``(N, I)``."""
        return None if self.soft is None else self.soft.reshape(len(self.soft), -1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """What a batch is to become."""

    labels_BI: Tensor
    soft_BI: Tensor | None = None
    auxiliary: Mapping[str, Tensor] = field(default_factory=dict)

    def to(self, device: str) -> Targets:
        """The same targets on another device."""
        return Targets(
            labels_BI=self.labels_BI.to(device),
            soft_BI=None if self.soft_BI is None else self.soft_BI.to(device),
            auxiliary={name: tensor.to(device) for name, tensor in self.auxiliary.items()},
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class MicroBatch:
    """One forward pass."""

    batch: Batch
    targets: Targets
    video_ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Which part of every step this process computes."""

    rank: int = 0
    world_size: int = 1

    def of(self, chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Every ``world_size``-th item, from ``rank`` on: shards are disjoint and cover the step."""
        return chosen[self.rank :: self.world_size]


def step_rows(count: int, batch_size: int, seed: int, epoch: int) -> list[npt.NDArray[np.int64]]:
    """The items of each step of an epoch, over all processes; what does not fill a step waits for another epoch."""
    order = np.random.default_rng([seed, epoch]).permutation(count)
    last = len(order) - len(order) % batch_size or len(order)
    return [order[start : min(start + batch_size, last)] for start in range(0, last, batch_size)]


def by_length(table: Table, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Places of ``rows`` in order of their clips' lengths, where the table has them: what is alike needs no padding."""
    length = getattr(table, "length", None)
    if length is None:
        return np.arange(len(rows))
    return np.argsort([length(int(row)) for row in rows], kind="stable")


def _items(examples: Examples, numbers: Sequence[int]) -> Sequence[Any]:
    """Clips by number; None where a table that decodes on demand fails."""
    rows = [int(row) for row in examples.rows[list(numbers)]]
    fetch = getattr(examples.table, "fetch", None)
    items: Sequence[Any] = [examples.table[row] for row in rows] if fetch is None else fetch(rows)
    return items


Taken = dict[Modality, int]
"""What an item took, and from which number."""


def _taken(examples: Examples, number: int, item: Any, key: tuple[int, int]) -> tuple[Any, Taken]:
    """The item with what it takes of others; the draws depend on (seed, epoch, number) alone."""
    if examples.swaps is None:
        return item, {}
    drawn = examples.swaps.drawn(number, np.random.default_rng([*key, number, 1]))
    taken: Taken = {}
    for name, giver in zip(drawn, _items(examples, list(drawn.values())), strict=True):
        changed = item if giver is None else with_part(item, giver, name)
        if changed is not item:
            item, taken[name] = changed, drawn[name]
    return item, taken


def _column(
    examples: Examples, task: str, numbers: npt.NDArray[np.int64], taken: Sequence[Taken]
) -> npt.NDArray[np.int64]:
    """Classes of an auxiliary task; those of the giver where the modality that it is about was taken."""
    about = None if examples.swaps is None else examples.swaps.tasks.get(task)
    of = [number if about is None else took.get(about, number) for number, took in zip(numbers, taken, strict=True)]
    return examples.auxiliary[task][np.asarray(of, dtype=np.int64)]


def _targets(examples: Examples, numbers: npt.NDArray[np.int64], taken: Sequence[Taken]) -> Targets:
    soft = examples.soft_by_issue
    return Targets(
        labels_BI=torch.from_numpy(examples.labels_by_issue[numbers]),
        soft_BI=None if soft is None else torch.from_numpy(soft[numbers]).float(),
        auxiliary={task: torch.from_numpy(_column(examples, task, numbers, taken)) for task in examples.auxiliary},
    )


def _micro_batch(
    examples: Examples,
    processor: ClipProcessor,
    chosen: npt.NDArray[np.int64],
    change: Change | None,
    key: tuple[int, int],
) -> MicroBatch:
    numbers: list[int] = []
    items: list[Any] = []
    taken: list[Taken] = []
    for number, own in zip(chosen.tolist(), _items(examples, chosen.tolist()), strict=True):
        if own is None:
            continue
        item, took = _taken(examples, number, own, key)
        numbers.append(number)
        taken.append(took)
        items.append(item if change is None else change(item, np.random.default_rng([*key, number])))
    kept = np.asarray(numbers, dtype=np.int64)
    return MicroBatch(
        batch=processor.collate(items),
        targets=_targets(examples, kept, taken),
        video_ids=tuple(examples.table.video_ids[int(examples.rows[number])] for number in numbers),
    )


def prepared_steps(
    examples: Examples,
    processor: ClipProcessor,
    steps: Iterable[npt.NDArray[np.int64]],
    *,
    pieces: int,
    shard: Shard,
    change: Change | None,
    key: tuple[int, int],
) -> Iterator[list[MicroBatch]]:
    """This process's micro-batches of each step, ``pieces`` of them; ``key``: (seed, epoch)."""
    for chosen in steps:
        mine = shard.of(chosen)
        if pieces > 1:
            mine = mine[by_length(examples.table, examples.rows[mine])]
        parts = [part for part in np.array_split(mine, pieces) if len(part)]
        made = [_micro_batch(examples, processor, part, change, key) for part in parts]
        yield [one for one in made if one.video_ids]


def ahead(things: Iterable[Thing], depth: int = 2) -> Iterator[Thing]:
    """The same things, made up to ``depth`` in advance by a thread; its exceptions come out here."""
    ready: queue.Queue[tuple[bool, Any]] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def put(ok: bool, thing: Any) -> None:
        while not stop.is_set():
            try:
                ready.put((ok, thing), timeout=0.1)
                return
            except queue.Full:
                continue

    def produce() -> None:
        try:
            for thing in things:
                if stop.is_set():
                    return
                put(True, thing)
            put(False, None)
        except BaseException as error:
            put(False, error)

    thread = threading.Thread(target=produce, name="tidegate-ahead", daemon=True)
    thread.start()
    try:
        while True:
            ok, thing = ready.get()
            if ok:
                yield thing
            elif thing is None:
                return
            else:
                raise thing
    finally:
        stop.set()
        thread.join()
