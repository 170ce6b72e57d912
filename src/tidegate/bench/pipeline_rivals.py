"""The benchmark's flow on Bytewax, an existing Python stream framework.

Enters: the same configuration, log, cache and index. Leaves: the same measurement. Deciding and writing call the very
same code (``Flow.process``, ``put_many``, the audit trail), so what is compared is the framework around it: reading
partitions, batching, handing on. Bytewax has no acknowledgements: its answer to a crash is a snapshot of the input's
position, which is left out here (to its advantage).
"""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tidegate.bench.pipeline import PipelineRun, server_cpu, stored
from tidegate.errors import DependencyMissing
from tidegate.platform.config import PlatformConfig, read_config
from tidegate.platform.contracts import Delivery, Shard
from tidegate.platform.event import EventCodec
from tidegate.platform.eventlog import LogSource
from tidegate.platform.flow import Processed
from tidegate.platform.worker import Worker

__all__ = ["run_bytewax"]


def run_bytewax(path: Path, videos: int, expected: int, batch: int, url: str) -> PipelineRun:
    """The flow with one Bytewax worker in this process."""
    try:
        from bytewax.testing import run_main
    except ImportError as error:
        raise DependencyMissing("the comparison needs bytewax: pip install bytewax") from error
    config = read_config(path)
    for position in Path(config.source.settings.folder).glob("*.position"):
        position.unlink()
    with Worker(config) as worker:
        taken = [0]
        flow = _dataflow(config, worker, batch, taken)
        before, begin, cpu = server_cpu(url), time.perf_counter(), time.process_time()
        run_main(flow)
        wall, spent = time.perf_counter() - begin, time.process_time() - cpu
        served = server_cpu(url) - before
    return PipelineRun(
        flow="bytewax", workers=1, videos=videos, wall_seconds=wall, videos_per_second=videos / wall, cpu_seconds=spent,
        videos_per_cpu_second=videos / spent, server_cpu_seconds=served,
        peak_memory_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        lost=expected - stored(config), doubled=max(0, taken[0] - videos),
    )


def _dataflow(config: PlatformConfig, worker: Worker, batch: int, taken: list[int]) -> Any:
    import bytewax.operators as op
    from bytewax.dataflow import Dataflow
    from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
    from bytewax.outputs import DynamicSink, StatelessSinkPartition

    folder = Path(config.source.settings.folder)
    names = sorted(path.stem for path in folder.glob("*.log"))

    class Partition(StatefulSourcePartition):  # type: ignore[type-arg]
        def __init__(self, number: int) -> None:
            shard = Shard(worker=number, workers=len(names))
            self._source = LogSource(folder, EventCodec(config.limits, config.locations), shard)

        def next_batch(self) -> Sequence[Delivery]:
            found = self._source.poll(batch, 0.0)
            if not found:
                raise StopIteration
            taken[0] += len(found)
            return found

        def snapshot(self) -> None:
            return None

        def close(self) -> None:
            self._source.close()

    class Log(FixedPartitionedSource):  # type: ignore[type-arg]
        def list_parts(self) -> list[str]:
            return names

        def build_part(self, step_id: str, for_part: str, resume_state: Any) -> Partition:
            return Partition(names.index(for_part))

    class Writer(StatelessSinkPartition):  # type: ignore[type-arg]
        def write_batch(self, items: list[Processed]) -> None:
            for processed in items:
                worker.stores.audit.append(processed.lines)
                worker.stores.index.put_many(processed.records)

    class Index(DynamicSink):  # type: ignore[type-arg]
        def build(self, step_id: str, worker_index: int, worker_count: int) -> Writer:
            return Writer()

    dataflow = Dataflow("vmp")
    deliveries = op.input("log", dataflow, Log())
    decided = op.flat_map_batch("decide", deliveries, lambda batch: [worker.flow.process(batch)])
    op.output("index", decided, Index())
    return dataflow
