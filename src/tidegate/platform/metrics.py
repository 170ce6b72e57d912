"""What the loop reports, as Prometheus series and OpenTelemetry spans.

Enters: the calls of ``Measures``, once a batch. Leaves: the text that Prometheus scrapes. ``SERIES`` names every series
with its help text; the Grafana dashboard and the documentation are checked against it. Latencies are counted into
buckets a batch at a time; quantiles are exact over the last ``WINDOW`` items.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from tidegate.errors import DependencyMissing
from tidegate.pipeline.policy import Policy

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

__all__ = ["SERIES", "WINDOW", "PlatformMeasures"]

WINDOW = 20_000
_LATENCY_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0)
_BATCH_SIZES = (1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096)
SERIES = {
    "tidegate_items_in_total": "Deliveries taken",
    "tidegate_items_total": "Deliveries by what became of them (remained, removed, ignored, deleted, dead, waiting)",
    "tidegate_stage_items_total": "Items that a stage scored",
    "tidegate_stage_model_seconds_total": "Wall time of a stage's model, wherever it runs",
    "tidegate_gpu_seconds_total": "Model time of a stage times the GPUs that it holds; stages on a GPU only",
    "tidegate_qps_ratio": "Share of first-stage items that reached a later stage, over the last 100 batches",
    "tidegate_budget_used_ratio": "Model seconds per 1,000 items over the budget, over the last 100 batches",
    "tidegate_phase_seconds_total": "Wall time of the loop by phase",
    "tidegate_batch_size": "Deliveries in a batch",
    "tidegate_added_latency_seconds": "From received to written and acknowledged",
    "tidegate_added_latency_quantile_seconds": "Exact quantiles of the same over the last items",
    "tidegate_source_lag": "Deliveries that the source has not handed out yet",
    "tidegate_waiting": "Items that wait for a later stage or another attempt",
    "tidegate_dead_letters": "Dead letters that nobody has settled",
    "tidegate_outbox_depth": "Messages for downstream that are not delivered",
    "tidegate_index_writes_total": "Index records applied, and skipped because a newer version was there",
    "tidegate_shadow_items_total": "Verdicts of shadow policies",
    "tidegate_outages_total": "Waits for something outside that was away",
    "tidegate_outage_seconds_total": "Time spent in those waits",
    "tidegate_audit_entries_total": "Lines of the audit trail",
    "tidegate_audit_sealed_at_seconds": "Unix time of the audit trail's last seal",
    "tidegate_policy_info": "1 for the live policy, by name, version and hash",
    "tidegate_policy_loads_total": "Policies loaded while running: loaded, refused",
    "tidegate_certificate_info": "1 for each certificate that the live policy routes by, with its promise",
    "tidegate_ready": "1 while the loop works, 0 while it waits for something outside",
}


class PlatformMeasures:
    """``Measures`` for production. Safe to scrape from another thread."""

    def __init__(
        self, *, budget_seconds_per_thousand: float | None = None, tracer: Tracer | None = None,
        gpus_of: Callable[[str], float] = lambda stage: 0.0,
    ) -> None:
        """``gpus_of``: how many GPUs a stage holds while it computes."""
        try:
            import prometheus_client as prometheus
        except ImportError as error:
            raise DependencyMissing("metrics need the platform extra: pip install 'tidegate[platform]'") from error
        self._tracer, self._budget, self._gpus_of = tracer, budget_seconds_per_thousand, gpus_of
        self.registry = prometheus.CollectorRegistry()
        self._text = prometheus.generate_latest
        counter, gauge = self._maker(prometheus.Counter), self._maker(prometheus.Gauge)
        self._in = counter("tidegate_items_in_total")
        self._out = counter("tidegate_items_total", "status")
        self._stage_items = counter("tidegate_stage_items_total", "stage")
        self._stage_seconds = counter("tidegate_stage_model_seconds_total", "stage")
        self._phases = counter("tidegate_phase_seconds_total", "phase")
        self._writes = counter("tidegate_index_writes_total", "result")
        self._shadows = counter("tidegate_shadow_items_total", "policy", "status")
        self._outages = counter("tidegate_outages_total", "what")
        self._outage_seconds = counter("tidegate_outage_seconds_total", "what")
        self._entries = counter("tidegate_audit_entries_total")
        self._lag, self._waiting = gauge("tidegate_source_lag"), gauge("tidegate_waiting", "stage")
        self._ready, self._ratio = gauge("tidegate_ready"), gauge("tidegate_qps_ratio")
        self._budget_used = gauge("tidegate_budget_used_ratio") if self._budget else None
        self._gpu_seconds = counter("tidegate_gpu_seconds_total", "stage")
        self._policy = gauge("tidegate_policy_info", "name", "version", "hash")
        self._loads = counter("tidegate_policy_loads_total", "result")
        self._certificates = gauge("tidegate_certificate_info", "certificate", "promise", "delta", "region")
        self._gauge = gauge
        self._recent: deque[tuple[int, int, float, int]] = deque(maxlen=100)
        self._latencies = _Histogram("tidegate_added_latency_seconds", _LATENCY_SECONDS)
        self._sizes = _Histogram("tidegate_batch_size", _BATCH_SIZES)
        for collector in (self._latencies, self._sizes):
            self.registry.register(collector)  # type: ignore[arg-type]
        self._ready.set(1)

    def _maker(self, kind: Any) -> Callable[..., Any]:
        return lambda name, *labels: kind(name, SERIES[name], labels, registry=self.registry)

    def text(self) -> bytes:
        """What Prometheus scrapes."""
        exposition: bytes = self._text(self.registry)
        return exposition

    def watch(self, name: str, read: Callable[[], float]) -> None:
        """A gauge that is read at each scrape."""
        self._gauge(name).set_function(read)

    def timed(self, phase: str) -> AbstractContextManager[None]:
        return self._timing(phase)

    @contextmanager
    def _timing(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            if self._tracer is None:
                yield
            else:
                with self._tracer.start_as_current_span(phase):
                    yield
        finally:
            self._phases.labels(phase).inc(time.perf_counter() - started)

    def batch(self, size: int, counts: Mapping[str, int], latencies: Sequence[float]) -> None:
        self._in.inc(size)
        self._entries.inc(size)
        for status, count in counts.items():
            self._out.labels(status).inc(count)
        self._sizes.add([size])
        self._latencies.add(latencies)
        self._ready.set(1)

    def models(self, reached: Mapping[str, int], seconds: Mapping[str, float]) -> None:
        for stage, count in reached.items():
            self._stage_items.labels(stage).inc(count)
        for stage, spent in seconds.items():
            self._stage_seconds.labels(stage).inc(spent)
            if gpus := self._gpus_of(stage):
                self._gpu_seconds.labels(stage).inc(gpus * spent)
        if reached:
            first = max(reached.values())
            self._recent.append((first, sum(reached.values()) - first, sum(seconds.values()), first))
            items, later, spent = (sum(column) for column in list(zip(*self._recent, strict=True))[:3])
            self._ratio.set(later / items)
            if self._budget and self._budget_used is not None:
                self._budget_used.set(1000 * spent / items / self._budget)

    def shadowed(self, policy: str, status: str) -> None:
        self._shadows.labels(policy, status).inc()

    def written(self, applied: int, skipped: int) -> None:
        self._writes.labels("applied").inc(applied)
        self._writes.labels("skipped").inc(skipped)

    def outage(self, what: str, seconds: float) -> None:
        self._outages.labels(what).inc()
        self._outage_seconds.labels(what).inc(seconds)
        self._ready.set(0)

    def depth(self, source_lag: int | None, waiting: Mapping[str, int]) -> None:
        if source_lag is not None:
            self._lag.set(source_lag)
        self._waiting.clear()
        for stage, count in waiting.items():
            self._waiting.labels(stage).set(count)


    def policy(self, policy: Policy | None) -> None:
        self._loads.labels("refused" if policy is None else "loaded").inc()
        if policy is None:
            return
        self._policy.clear()
        self._policy.labels(policy.name, policy.version, policy.policy_hash).set(1)
        self._certificates.clear()
        for region in (None, *sorted(policy.regions)):
            certificate = policy.resolve(region).routing.certificate
            if certificate is not None:
                promise = certificate.guarantee
                self._certificates.labels(
                    promise.certificate_id, promise.target, f"{promise.delta:g}", region or "default"
                ).set(1)


class _Histogram:
    """A Prometheus histogram that takes a batch at a time, with exact quantiles of the last items."""

    def __init__(self, name: str, bounds: Sequence[float]) -> None:
        self._name, self._bounds = name, np.asarray(bounds, dtype=np.float64)
        self._counts = np.zeros(len(bounds) + 1, dtype=np.int64)
        self._sum = 0.0
        self._last: deque[float] = deque(maxlen=WINDOW)
        self._lock = Lock()

    def add(self, values: Sequence[float]) -> None:
        column = np.asarray(values, dtype=np.float64)
        places = np.searchsorted(self._bounds, column, side="left")
        with self._lock:
            self._counts += np.bincount(places, minlength=len(self._counts))
            self._sum += float(column.sum())
            self._last.extend(values)

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily

        with self._lock:
            running, total = np.cumsum(self._counts), self._sum
            last = np.asarray(self._last, dtype=np.float64)
        names = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        buckets = list(zip(names, map(float, running), strict=True))
        yield HistogramMetricFamily(self._name, SERIES[self._name], buckets=buckets, sum_value=total)
        quantile_name = self._name.replace("_seconds", "_quantile_seconds")
        if quantile_name in SERIES and quantile_name != self._name:
            family = GaugeMetricFamily(quantile_name, SERIES[quantile_name], labels=["quantile"])
            for quantile in (0.5, 0.95, 0.99):
                family.add_metric([f"{quantile:g}"], float(np.quantile(last, quantile)) if len(last) else float("nan"))
            yield family
