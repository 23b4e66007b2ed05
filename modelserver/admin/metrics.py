"""Prometheus metrics for `GET /metrics`: the numbers of the health document, and counters.

Names and units follow Prometheus's conventions: base units, `_total` for counters.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from modelserver.admin.health import Health, MemoryHealth
from modelserver.admin.lag import LoopLag
from modelserver.serving.counters import Histogram, Traffic
from supervisor import Cause

_WORKER_STATES = ("starting", "idle", "busy", "leaving")
_LEVELS = ("normal", "pressure", "critical")
_ByLabels = Mapping[Any, float]  # by the tuple of the labels
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Makes the text of each scrape."""

    def __init__(self, health: Callable[[], Health], traffic: Traffic, lag: LoopLag) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)  # the supervisor's own, under their usual names
        self._registry.register(_HealthCollector(health, traffic, lag))

    def text(self) -> bytes:
        """Return the metrics in Prometheus's text format."""
        return generate_latest(self._registry)


class _HealthCollector(Collector):
    def __init__(self, health: Callable[[], Health], traffic: Traffic, lag: LoopLag) -> None:
        self._health = health
        self._traffic = traffic
        self._lag = lag

    def describe(self) -> Iterable[Metric]:
        return ()  # registering must not ask for the health

    def collect(self) -> Iterable[Metric]:
        health = self._health()
        yield from _server(health)
        yield from _workers(health)
        yield from _requests(health)
        yield from _streams(health)
        yield from _held(health)
        if health.memory is not None:
            yield from _memory(health.memory)
        yield from _traffic(self._traffic)
        yield _gauge(
            "event_loop_lag_worst_seconds",
            "Largest event loop lag of the last minute.",
            self._lag.worst_s(),
        )
        yield HistogramMetricFamily(
            "modelserver_event_loop_lag_seconds",
            "Event loop lag.",
            buckets=list(self._lag.seen.buckets()),
            sum_value=self._lag.seen.sum,
        )


def _server(health: Health) -> Iterable[Metric]:
    version = {(health.version,): 1}
    yield _gauges("build_info", "Always 1; the version is in the label.", ["version"], version)
    yield _gauge("ready", "1 if the server accepts requests.", health.status in ("ok", "degraded"))
    yield _gauge("uptime_seconds", "Seconds since the server started.", health.uptime_s)
    # From 0: Prometheus does not see a first increase that comes with its counter.
    exits = {cause.value: 0 for cause in Cause} | health.exits_by_cause
    yield _counters(
        "process_exits",
        "Processes that ended, by cause.",
        ["cause"],
        {(cause,): count for cause, count in exits.items()},
    )
    ready = {(model.label,): model.state == "ready" for model in health.models}
    yield _gauges("model_ready", "1 if a worker of the model is ready.", ["model"], ready)
    yield _gauges(
        "model_info",
        "Always 1; the labels describe how a model is loaded.",
        ["engine", "form", "model", "name"],
        {(m.engine, m.form, m.label, m.model): 1 for m in health.models if m.engine},
    )


def _workers(health: Health) -> Iterable[Metric]:
    states = Counter((worker.state, worker.model) for worker in health.workers)
    labels = [(state, model.label) for model in health.models for state in _WORKER_STATES]
    counts = {label: states[label] for label in labels}
    yield _gauges("workers", "Workers by state.", ["state", "model"], counts)
    # Of two on one slot the newer, which comes later.
    slots = {(str(worker.id), worker.model): worker for worker in health.workers}
    yield _gauges(
        "worker_resident_memory_bytes",
        "RSS of a worker, including shared memory.",
        ["worker", "model"],
        {slot: one.rss_bytes for slot, one in slots.items() if one.rss_bytes is not None},
    )
    growth = {slot: worker.growth_bytes for slot, worker in slots.items()}
    yield _gauges(
        "worker_growth_bytes",
        "Private memory of a worker since its fork.",
        ["worker", "model"],
        growth,
    )


def _requests(health: Health) -> Iterable[Metric]:
    queue = health.queue
    yield _gauge(
        "requests_admitted",
        "Requests admitted and not answered, including running jobs.",
        queue.admitted,
    )
    yield _gauge("requests_waiting", "Admitted requests that wait for a worker.", queue.waiting)
    yield _gauge("requests_limit", "Most requests that are admitted at once.", queue.limit)


def _streams(health: Health) -> Iterable[Metric]:
    streams = health.streams
    yield _gauge("streams", "Open live streams.", streams.open)
    yield _gauge(
        "stream_behind_seconds",
        "Longest time that a stream's audio has waited for its result.",
        streams.behind_s,
    )
    yield _gauge(
        "stream_replay_bytes", "Stream audio that is held for a replay.", streams.replay_bytes
    )
    yield _counter(
        "stream_replays", "Streams that were replayed on another worker.", streams.replays
    )
    yield _counter(
        "streams_refused", "Streams rejected because the workers were busy.", streams.refused
    )


def _held(health: Health) -> Iterable[Metric]:
    jobs, spools = health.jobs, health.spools
    yield _gauge("jobs_bytes", "Disk space that jobs use.", jobs.bytes)
    counts = {(state,): count for state, count in jobs.counts.items()}
    yield _gauges("jobs", "Jobs by state.", ["state"], counts)
    yield _gauge("jobs_usable", "1 if jobs are accepted.", jobs.problem is None)
    held = {("memory",): spools.memory_bytes, ("disk",): spools.disk_bytes}
    yield _gauges("spool_bytes", "Stored uploads, in memory and on disk.", ["where"], held)
    used = {(resource.name,): resource.used for resource in health.resources}
    limit = {(resource.name,): resource.limit for resource in health.resources}
    yield _gauges(
        "resource_used",
        "Current use: bytes of disk, a count of descriptors and processes.",
        ["resource"],
        used,
    )
    yield _gauges("resource_limit", "Limit of the same resource.", ["resource"], limit)


def _memory(memory: MemoryHealth) -> Iterable[Metric]:
    level = {(name,): memory.level == name for name in _LEVELS}
    yield _gauges("memory_level", "1 for the current memory level.", ["level"], level)
    yield _gauge(
        "memory_starved", "1 while a model's mapped pages do not fit into memory.", memory.starved
    )
    yield _gauge(
        "memory_limit_bytes", "Memory limit: the smallest that applies.", memory.limit_bytes
    )
    yield _gauge(
        "memory_reserve_bytes", "Memory below the limit that is left unused.", memory.reserve_bytes
    )
    yield _gauge(
        "memory_used_bytes",
        "Unreclaimable memory of all processes, shared memory counted once.",
        memory.used_bytes,
    )
    yield _gauge("memory_left_bytes", "Memory left until the tightest limit.", memory.left_bytes)
    yield _gauge(
        "memory_reserved_bytes", "Memory reserved for running requests.", memory.reserved_bytes
    )
    yield _gauge(
        "memory_mapped_bytes", "Mapped model files in memory (file cache).", memory.mapped_bytes
    )
    yield _gauge(
        "memory_lost_ratio",
        "Share of the workers' time spent on re-reading evicted model pages.",
        memory.lost_share,
    )
    if memory.pressure_some_avg10 is not None and memory.pressure_stalled_s is not None:
        yield _gauge(
            "memory_pressure_ratio",
            "Share of time in which some task waited for memory (PSI, 10 s average).",
            memory.pressure_some_avg10 / 100,
        )
        yield _counter(
            "memory_pressure_seconds",
            "Time in which some task waited for memory (PSI).",
            memory.pressure_stalled_s,
        )
    yield _counter("worker_major_faults", "Major page faults of workers.", memory.major_faults)
    yield _counter(
        "memory_refaults", "Refaults: evicted file pages that were read again.", memory.refaults
    )
    yield _counter(
        "worker_waited_seconds",
        "Time in which a busy worker neither ran nor waited for a processor.",
        memory.waited_s,
    )
    yield _gauge("worker_budget_bytes", "Growth that is allowed to a worker.", memory.budget_bytes)


def _traffic(traffic: Traffic) -> Iterable[Metric]:
    requests = {
        (route, str(status), code): count
        for (route, status, code), count in traffic.requests.items()
    }
    yield _counters("requests", "Requests answered.", ["route", "status", "code"], requests)
    yield _counter(
        "requests_abandoned",
        "Requests whose client disconnected before the answer.",
        traffic.abandoned,
    )
    yield _counter("audio_seconds", "Audio recognised.", traffic.audio_s)
    ends = {(code,): count for code, count in traffic.stream_ends.items()}
    yield _counters("stream_ends", "Live streams that ended, by close code.", ["code"], ends)
    yield _histogram(
        "request_duration_seconds",
        "Time from the first byte of a request to its answer.",
        "route",
        traffic.durations,
    )
    yield _histogram(
        "queue_wait_seconds", "Time that a recording waited for a worker.", "model", traffic.waits
    )
    yield _histogram(
        "decode_duration_seconds", "Time that a worker took for a recording.", "model", traffic.work
    )
    yield _histogram(
        "real_time_factor",
        "Decoding time of a recording divided by its length.",
        "model",
        traffic.real_time_factors,
    )


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(f"modelserver_{name}", about, value=value)


def _counter(name: str, about: str, value: float) -> Metric:
    return CounterMetricFamily(f"modelserver_{name}", about, value=value)


def _gauges(name: str, about: str, labels: list[str], values: _ByLabels) -> Metric:
    family = GaugeMetricFamily(f"modelserver_{name}", about, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family


def _counters(name: str, about: str, labels: list[str], values: _ByLabels) -> Metric:
    family = CounterMetricFamily(f"modelserver_{name}", about, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family


def _histogram(name: str, about: str, label: str, by: dict[str, Histogram]) -> Metric:
    family = HistogramMetricFamily(f"modelserver_{name}", about, labels=[label])
    for value, histogram in by.items():
        family.add_metric([value], list(histogram.buckets()), histogram.sum)
    return family
