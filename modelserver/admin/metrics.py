"""`GET /metrics`: the health document's numbers and the counters, for Prometheus.

Names and units follow Prometheus's conventions: base units, `_total` for counters.
"""

from collections.abc import Callable, Iterable

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
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Makes the text of each scrape."""

    def __init__(self, health: Callable[[], Health], traffic: Traffic, lag: LoopLag) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)  # the supervisor's own, under their usual names
        self._registry.register(_HealthCollector(health, traffic, lag))

    def text(self) -> bytes:
        """In Prometheus's text format."""
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
        yield _gauge(
            "build_info", "Always 1; the version is in the label.", 1, version=health.version
        )
        yield _gauge("ready", "1 if requests are taken.", health.status in ("ok", "degraded"))
        yield _gauge("uptime_seconds", "Since the supervisor started.", health.uptime_s)
        yield from _workers(health)
        yield _counters(
            "process_exits",
            "Processes that have ended, by cause.",
            "cause",
            # From 0: Prometheus does not see a first increase that comes with its counter.
            {cause.value: 0 for cause in Cause} | health.exits_by_cause,
        )
        ready = GaugeMetricFamily(
            "modelserver_model_ready", "1 if a worker of it is able.", labels=["model"]
        )
        for model in health.models:
            ready.add_metric([model.label], model.state == "ready")
        yield ready
        info = GaugeMetricFamily(
            "modelserver_model_info",
            "Always 1; how a model is loaded is in the labels.",
            labels=["blas", "model", "name", "simd"],
        )
        for model in health.models:
            if model.simd is not None:
                info.add_metric([model.blas or "", model.label, model.model, model.simd], 1)
        yield info
        queue = health.queue
        yield _gauge("requests_admitted", "Requests inside, with jobs at work.", queue.admitted)
        yield _gauge("requests_waiting", "Requests that wait for a worker.", queue.waiting)
        yield _gauge("requests_limit", "Requests that may be inside at once.", queue.places)
        streams = health.streams
        yield _gauge("streams", "Live streams that are open.", streams.open)
        yield _gauge(
            "stream_behind_seconds", "Longest that audio waits for an answer.", streams.behind_s
        )
        yield _gauge(
            "stream_replay_bytes", "Audio of streams that is held for a replay.", streams.kept_bytes
        )
        yield CounterMetricFamily(
            "modelserver_stream_replays", "Streams that changed workers.", streams.replays
        )
        yield CounterMetricFamily(
            "modelserver_streams_refused",
            "Streams refused because the workers were busy.",
            streams.refused,
        )
        yield _gauge("jobs_bytes", "Held by jobs on the disk.", health.jobs.bytes)
        jobs = GaugeMetricFamily("modelserver_jobs", "Jobs that are kept.", labels=["state"])
        for state, count in health.jobs.counts.items():
            jobs.add_metric([state], count)
        yield jobs
        yield _gauge("jobs_usable", "1 if jobs can be taken.", health.jobs.problem is None)
        spools = health.spools
        held = GaugeMetricFamily("modelserver_spool_bytes", "Uploads held.", labels=["where"])
        held.add_metric(["memory"], spools.memory_bytes)
        held.add_metric(["disk"], spools.disk_bytes)
        yield held
        used = GaugeMetricFamily(
            "modelserver_resource_used", "In bytes or pieces.", labels=["resource"]
        )
        limit = GaugeMetricFamily(
            "modelserver_resource_limit", "In bytes or pieces.", labels=["resource"]
        )
        for resource in health.resources:
            used.add_metric([resource.name], resource.used)
            limit.add_metric([resource.name], resource.limit)
        yield used
        yield limit
        if health.memory is not None:
            yield from _memory(health.memory)
        yield from _traffic(self._traffic)
        yield _gauge(
            "event_loop_lag_worst_seconds",
            "Largest lag of the event loop in the last minute.",
            self._lag.worst_s(),
        )
        yield HistogramMetricFamily(
            "modelserver_event_loop_lag_seconds",
            "How late the event loop ran what was due.",
            buckets=list(self._lag.seen.buckets()),
            sum_value=self._lag.seen.sum,
        )


def _workers(health: Health) -> Iterable[Metric]:
    states = GaugeMetricFamily(
        "modelserver_workers", "Workers by state.", labels=["state", "model"]
    )
    for model in health.models:
        for state in _WORKER_STATES:
            count = sum((w.state, w.model) == (state, model.label) for w in health.workers)
            states.add_metric([state, model.label], count)
    yield states
    rss = GaugeMetricFamily(
        "modelserver_worker_resident_memory_bytes",
        "RSS, with what is shared.",
        labels=["worker", "model"],
    )
    growth = GaugeMetricFamily(
        "modelserver_worker_growth_bytes", "Memory of its own.", labels=["worker", "model"]
    )
    seen = set()
    for worker in reversed(health.workers):  # the newer of two on one slot
        if worker.id not in seen:
            seen.add(worker.id)
            if worker.rss_bytes is not None:
                rss.add_metric([str(worker.id), worker.model], worker.rss_bytes)
            growth.add_metric([str(worker.id), worker.model], worker.growth_bytes)
    yield rss
    yield growth


def _memory(memory: MemoryHealth) -> Iterable[Metric]:
    level = GaugeMetricFamily(
        "modelserver_memory_level", "1 for the one in force.", labels=["level"]
    )
    for name in _LEVELS:
        level.add_metric([name], memory.level == name)
    yield level
    yield _gauge("memory_starved", "1 while the model's pages are taken back.", memory.starved)
    yield _gauge("memory_limit_bytes", "The smallest limit.", memory.limit_bytes)
    yield _gauge("memory_reserve_bytes", "Left unused below the limit.", memory.reserve_bytes)
    yield _gauge("memory_used_bytes", "Of all processes, shared counted once.", memory.used_bytes)
    yield _gauge("memory_left_bytes", "Until the tightest limit.", memory.left_bytes)
    yield _gauge("memory_reserved_bytes", "Promised to running requests.", memory.reserved_bytes)
    yield _gauge("memory_mapped_bytes", "File cache of the model in RAM.", memory.mapped_bytes)
    yield _gauge(
        "memory_lost_ratio",
        "Of the workers' time, what goes into reading the model's pages again.",
        memory.lost_share,
    )
    if memory.pressure_some_avg10 is not None and memory.pressure_stalled_s is not None:
        yield _gauge(
            "memory_pressure_ratio",
            "Time in which some task waited for memory (PSI, ten seconds).",
            memory.pressure_some_avg10 / 100,
        )
        yield CounterMetricFamily(
            "modelserver_memory_pressure_seconds",
            "Time in which some task waited for memory (PSI).",
            memory.pressure_stalled_s,
        )
    yield CounterMetricFamily(
        "modelserver_worker_major_faults", "Pages that workers waited for.", memory.major_faults
    )
    yield CounterMetricFamily(
        "modelserver_memory_refaults", "Pages of file cache read again.", memory.refaults
    )
    yield CounterMetricFamily(
        "modelserver_worker_waited_seconds",
        "Work in which a worker neither ran nor waited for a processor.",
        memory.waited_s,
    )
    yield _gauge("worker_budget_bytes", "What a worker may grow by.", memory.budget_bytes)


def _traffic(traffic: Traffic) -> Iterable[Metric]:
    requests = CounterMetricFamily(
        "modelserver_requests", "Answered.", labels=["route", "status", "code"]
    )
    for (route, status, code), count in traffic.requests.items():
        requests.add_metric([route, str(status), code], count)
    yield requests
    yield CounterMetricFamily(
        "modelserver_requests_abandoned", "Left by their clients.", traffic.abandoned
    )
    yield CounterMetricFamily("modelserver_audio_seconds", "Recognised.", traffic.audio_s)
    ends = CounterMetricFamily(
        "modelserver_stream_ends", "Live streams that ended, by close code.", labels=["code"]
    )
    for code, count in traffic.stream_ends.items():
        ends.add_metric([code], count)
    yield ends
    yield _histogram(
        "request_duration_seconds",
        "From the first byte in to the answer, by route.",
        "route",
        traffic.durations,
    )
    yield _histogram(
        "queue_wait_seconds", "What recordings waited for a worker.", "model", traffic.waits
    )
    yield _histogram(
        "decode_duration_seconds",
        "What recordings took, once a worker had them.",
        "model",
        traffic.work,
    )
    yield _histogram(
        "real_time_factor",
        "Of recordings, decoding's time as a share of their length.",
        "model",
        traffic.real_time_factors,
    )


def _gauge(name: str, about: str, value: float, **labels: str) -> Metric:
    family = GaugeMetricFamily(f"modelserver_{name}", about, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def _histogram(name: str, about: str, label: str, by: dict[str, Histogram]) -> Metric:
    family = HistogramMetricFamily(f"modelserver_{name}", about, labels=[label])
    for value, histogram in by.items():
        family.add_metric([value], list(histogram.buckets()), histogram.sum)
    return family


def _counters(name: str, about: str, label: str, counts: dict[str, int]) -> Metric:
    family = CounterMetricFamily(f"modelserver_{name}", about, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family
