"""Runner: items through retriever, cascade, filter and sink, decoding while stages score.

Enters: items. Leaves: ``Finished`` outcomes as they come (the order of the files that the sink writes is by path).
Decoding threads wait for the decoder's processes, each stage has a thread of its own that scores batches, and the
caller's thread applies the policy, writes, and only then acknowledges.

What goes wrong with an item is that item's failed outcome. A batch that a stage cannot score is tried again one by
one, so that a bug under one clip does not take its neighbours. What goes wrong with the run itself (the index
cannot be written, the list of items breaks) stops the run and is raised. Always: items taken = remained + removed +
ignored + failed + dropped, where only a run that was stopped drops anything, and what it drops was not acknowledged
and is done by the next run.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import Lock

from tidegate.cascade import Escalate
from tidegate.cascade.stages import score_batch
from tidegate.pipeline.boundary import UNEXPECTED, Failure, attempt
from tidegate.pipeline.evidence import EvidenceStore
from tidegate.pipeline.filter import Filter
from tidegate.pipeline.flow import Floor, RunnerConfig, Work
from tidegate.pipeline.index import Record
from tidegate.pipeline.item import Item, fingerprint
from tidegate.pipeline.outcome import failed, judged
from tidegate.pipeline.resume import Resume
from tidegate.pipeline.retriever import Retriever, listen
from tidegate.pipeline.routing import CalibratedStage, RegionalCascades
from tidegate.pipeline.sink import Sink
from tidegate.types import Decision, Observation, Outcome, Score

__all__ = ["Finished", "RunStats", "Runner"]

_PRODUCER = "pipeline.runner"


@dataclass(frozen=True)
class Finished:
    """One item's end."""

    outcome: Outcome
    resumed: bool = False
    """True: an earlier run stored it, and nothing was done now."""


@dataclass
class RunStats:
    """What a run did, and where its time went."""

    taken: int = 0
    resumed: int = 0
    dropped: int = 0
    """Taken but not written, because the run was stopped."""
    by_status: Counter[str] = field(default_factory=Counter)
    """New outcomes by status."""
    busy_seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Wall seconds by phase, added over threads: ``fingerprint``, ``decode``, ``listen``, the stages, ``finish``."""
    reached: Counter[str] = field(default_factory=Counter)
    """Clips that each stage scored."""

    @property
    def accounted(self) -> bool:
        """The identity that must hold: whatever came in went out exactly once."""
        return self.taken == self.by_status.total() + self.resumed + self.dropped


class Runner:
    """One run over items. Use it once."""

    def __init__(
        self,
        *,
        stages: Sequence[CalibratedStage],
        cascades: RegionalCascades,
        retriever: Retriever,
        policy_filter: Filter,
        config: RunnerConfig,
        sink: Sink | None = None,
        evidence: EvidenceStore | None = None,
        version: int = 0,
        resume: Resume | None = None,
        abort: Callable[[], None] | None = None,
    ) -> None:
        self._stages, self._cascades, self._retrieve = tuple(stages), cascades, retriever
        self._filter, self._config, self._sink, self._evidence = policy_filter, config, sink, evidence
        self._resume = resume or Resume()
        self._version, self._abort = version, abort
        self._floor: Floor | None = None
        self.stop_asked = False
        self._busy_lock = Lock()
        self.stats = RunStats()

    @property
    def interrupted(self) -> bool:
        """Whether the run was left before its end."""
        return self._floor is not None and self._floor.interrupted

    def stop(self) -> None:
        """Leave the run: take no more, write what is done, drop the rest. Safe in a signal handler."""
        self.stop_asked = True
        if self._floor is not None:
            self._floor.stop()

    def run(self, items: Iterable[Item]) -> Iterator[Finished]:
        """Outcomes as they finish. Closing the iterator stops the run."""
        floor = self._floor = Floor(items, len(self._stages), self._config)
        if self.stop_asked:
            floor.stop()
        loops: list[Callable[[], None]] = [partial(self._decode_loop, floor)] * self._config.decode_threads
        loops += [partial(self._stage_loop, floor, number) for number in range(len(self._stages))]
        executor = ThreadPoolExecutor(len(loops), thread_name_prefix="tidegate")
        futures = [executor.submit(loop) for loop in loops]
        for future in futures:
            future.add_done_callback(lambda _: floor.wake())
        try:
            while ended := floor.next_finished(partial(_is_broken, futures)):
                yield from self._write(floor, ended)
            self._leave(floor, executor)
            yield from self._write(floor, floor.next_finished(lambda: True))
            for future in futures:
                future.result()
        finally:
            self._leave(floor, executor)
            self._account(floor)

    def _leave(self, floor: Floor, executor: ThreadPoolExecutor) -> None:
        """Wait for the threads; on the way out before the end, the decoder is told to give up first."""
        floor.stop()
        if floor.interrupted and self._abort is not None:
            self._abort()
        executor.shutdown(wait=True)

    def _account(self, floor: Floor) -> None:
        stats = self.stats
        stats.taken = floor.taken
        stats.dropped = stats.taken - stats.by_status.total() - stats.resumed
        assert stats.dropped >= 0, f"more outcomes than items: {stats}"
        assert stats.dropped == 0 or floor.interrupted, f"items were lost: {stats}"

    def _decode_loop(self, floor: Floor) -> None:
        while (work := floor.next_to_decode()) is not None:
            failure = attempt(partial(self._decode, work))
            if isinstance(failure, Failure):
                work.result = failure
            if work.result is None:
                floor.decoded(work)
            else:
                floor.finished(work)

    def _decode(self, work: Work) -> None:
        if work.item.trouble is not None:
            raise work.item.trouble
        if work.stage == 0:
            with self._timed("fingerprint"):
                work.fingerprint = fingerprint(work.item)
                work.result = self._resume(work.item.video_id, work.fingerprint)
            if work.result is not None:
                return
        started = time.perf_counter()
        try:
            with self._timed("decode"):
                work.retrieved = self._retrieve(work.item, self._stages[work.stage].stage.request, work.known)
        finally:
            work.decode_seconds += time.perf_counter() - started
        work.known = work.retrieved.known
        with self._timed("listen"):
            work.known = listen(work.retrieved)

    def _stage_loop(self, floor: Floor, number: int) -> None:
        while works := floor.next_batch(number):
            with self._timed(self._stages[number].stage.name):
                scores = self._score(number, works)
            for work, score in zip(works, scores, strict=True):
                self._route(floor, work, score)

    def _score(self, number: int, works: Sequence[Work]) -> Sequence[Score | Failure]:
        stage = self._stages[number].stage
        clips = [work.retrieved.clip for work in works if work.retrieved is not None]
        scores = attempt(partial(score_batch, stage, clips))
        if not isinstance(scores, Failure):
            return scores
        if len(works) == 1:
            return [scores]
        return [score for work in works for score in self._score(number, [work])]

    def _route(self, floor: Floor, work: Work, score: Score | Failure) -> None:
        step = score if isinstance(score, Failure) else attempt(partial(self._step, work, score))
        if isinstance(step, Escalate):
            work.stage = step.to
            floor.escalated(work)
            return
        work.result = step
        floor.finished(work)

    def _step(self, work: Work, score: Score) -> Escalate | Decision:
        self.stats.reached[score.stage] += 1
        work.scores.append(score)
        step = self._cascades.step(work.scores, work.item.context)
        if isinstance(step, Escalate):
            value = {"stage": score.stage, "rule": step.route, "reason": step.reason, "threshold": step.threshold}
            work.routes.append(Observation(kind="route", value=value, producer=_PRODUCER))
        return step

    def _write(self, floor: Floor, ended: Sequence[Work]) -> Iterator[Finished]:
        """Apply the policy, write, acknowledge; only then is an item shown to the caller."""
        with self._timed("finish"):
            finished = [self._finish(work) for work in ended]
            new = [
                self._record(work, end.outcome) for work, end in zip(ended, finished, strict=True) if not end.resumed
            ]
            if self._sink is not None and new:
                self._sink.write(new)
            self.stats.resumed += len(finished) - len(new)
            self.stats.by_status.update(record.outcome.status for record in new)
        floor.acknowledge(ended)
        yield from finished

    def _record(self, work: Work, outcome: Outcome) -> Record:
        setup = self._resume.setup
        return Record(outcome=outcome, version=self._version, fingerprint=work.fingerprint, setup=setup)

    def _finish(self, work: Work) -> Finished:
        if isinstance(work.result, Outcome):
            return Finished(work.result, resumed=True)
        if isinstance(work.result, Decision):
            outcome = attempt(partial(judged, work, work.result, self._filter, self._evidence))
        else:
            outcome = work.result or Failure(UNEXPECTED, "the item ended without a result")
        return Finished(failed(work, outcome) if isinstance(outcome, Failure) else outcome)

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            with self._busy_lock:
                self.stats.busy_seconds[phase] += time.perf_counter() - started


def _is_broken(futures: Sequence[Future[None]]) -> bool:
    return any(future.done() and future.exception() is not None for future in futures)
