"""The health document: what a person asks first, in one piece of JSON."""

import os
import time
from collections.abc import Mapping

import msgspec

from modelserver import __version__
from modelserver.jobs.record import State
from modelserver.jobs.service import JobService
from modelserver.serving.served import ServedModel
from modelserver.serving.service import SpeechService
from modelserver.serving.verdict import verdict
from supervisor import DeathRecord, GuardStatus, PoolStatus, WorkerStatus


class WorkerHealth(msgspec.Struct):
    """Health of one worker. Sizes in bytes (`rss_bytes`: null until it has been read), times in
    seconds. `model`: the label of the model that it serves."""

    id: int
    model: str
    pid: int
    state: str
    jobs_done: int
    busy_s: float
    silent_s: float
    rss_bytes: int | None
    growth_bytes: int
    budget_bytes: int


class ModelHealth(msgspec.Struct):
    """Health of one model. `state`: "ready", "not_ready" (`reason` says why) or "unloaded".
    `not_prepared`: why preparing it failed. `engine`: the engine that decodes; `form`: how the
    model was loaded, such as "prepared"; `missing`: why no better form could be loaded; `details`:
    the engine's own facts. They are null or empty until the model is loaded."""

    label: str
    state: str
    reason: str | None
    model: str
    language: str
    load: str
    fork_server_pid: int | None
    workers: int
    admitted: int
    preparing: str | None
    not_prepared: str | None
    engine: str | None
    form: str | None
    missing: str | None
    details: dict[str, object]
    profile: str
    """Profile of requests that name none."""
    text_steps: dict[str, str]
    """Text steps by name, and whether each has an effect in this model's language."""
    sandbox: tuple[str, ...]
    """Rights that the model's workers have dropped; empty if none."""
    sandbox_missing: tuple[str, ...]
    """Rights that they could not drop on this machine, and why."""


class QueueHealth(msgspec.Struct):
    """Admitted requests, at most `limit`. `s_per_audio_s`: seconds of work for one second of audio,
    averaged over recent requests."""

    admitted: int
    waiting: int
    limit: int
    s_per_audio_s: float | None


class StreamsHealth(msgspec.Struct):
    """Live streams. `behind_s`: age of the oldest input that is not answered yet; `replay_bytes`:
    audio that is retained for a replay; `replays`: how often a stream continued on another worker;
    `refused`: how many were refused because others would have been late."""

    open: int
    behind_s: float
    replay_bytes: int
    replays: int
    refused: int


class BoundHealth(msgspec.Struct):
    """Limit on memory, and how much of it is used."""

    name: str
    limit_bytes: int
    used_bytes: int


class MemoryHealth(msgspec.Struct):
    """Memory, in the words of the guard: see the README.

    `lost_share`: of the workers' time of the last seconds, what went into reading the model's pages
    again; `waiting_share`: what they waited for anything but a processor; `pressure_*`: what the
    kernel says of all tasks, of the last ten seconds in percent, and since boot. The counts without
    a time are since the start (`refaults`: since boot).
    """

    level: str
    starved: bool
    starved_needs: str
    concurrency: int
    limit_bytes: int
    limit_is: str
    reserve_bytes: int
    reserve_is: str
    used_bytes: int
    left_bytes: int
    reserved_bytes: int
    headroom_bytes: int
    mapped_bytes: int
    budget_bytes: int
    budget_is: str
    hard_budget_bytes: int
    tightest: str
    bounds: list[BoundHealth]
    pressure_some_avg10: float | None
    pressure_stalled_s: float | None
    lost_share: float
    waiting_share: float
    major_faults_per_work_s: float
    refaults_per_work_s: float
    major_faults: int
    refaults: int
    waited_s: float
    available_bytes: int
    swap_total_bytes: int
    swap_free_bytes: int


class ResourceHealth(msgspec.Struct):
    """Resource other than memory that can run out, such as file descriptors."""

    name: str
    used: int
    limit: int


class SpoolHealth(msgspec.Struct):
    """Uploads that are held in memory and on the disk."""

    open: int
    memory_bytes: int
    disk_bytes: int
    directory: str


class JobsHealth(msgspec.Struct):
    """Transcription jobs, by state. `problem`: why none can be taken or looked up."""

    counts: Mapping[State, int]
    bytes: int
    problem: str | None


class DeathHealth(msgspec.Struct):
    """A process that ended without being asked, newest first."""

    time: float
    role: str
    worker: int | None
    pid: int
    cause: str
    sentence: str
    job: int | None
    rss_bytes: int | None
    growth_bytes: int | None
    memory: list["MomentHealth"]


class MomentHealth(msgspec.Struct):
    """Memory at one moment before a death."""

    time: float
    level: str
    left_bytes: int
    used_bytes: int
    process_rss_bytes: int | None
    process_growth_bytes: int | None


class Health(msgspec.Struct):
    """The document. `status`: "ok", "degraded", "unavailable" or "draining"; `reasons` say why."""

    status: str
    reasons: list[str]
    version: str
    pid: int
    uptime_s: float
    model: dict[str, object]
    fork_server_pid: int | None
    preparing: str | None
    models: list[ModelHealth]
    workers: list[WorkerHealth]
    queue: QueueHealth
    streams: StreamsHealth
    memory: MemoryHealth | None
    spools: SpoolHealth
    jobs: JobsHealth
    resources: list[ResourceHealth]
    exits_by_cause: dict[str, int]
    last_deaths: list[DeathHealth]
    url: str = ""
    """URL at which HTTP clients reach the server; empty until it accepts connections."""


def health(service: SpeechService, jobs: JobService, started: float) -> Health:
    """Return the document of this moment; `started` by CLOCK_MONOTONIC."""
    status = service.status()
    guard = status.guard
    state, reasons = verdict(service, status)
    usage = service.spools.usage()
    return Health(
        status=state,
        reasons=reasons,
        version=__version__,
        pid=os.getpid(),
        uptime_s=round(time.monotonic() - started, 1),
        model=status.model,
        fork_server_pid=status.fork_server_pid,
        preparing=service.preparing(),
        models=[_model(served) for served in service.models.values()],
        workers=[
            _worker(worker, service.models.label_of(worker.slot), guard)
            for worker in status.workers
        ],
        queue=QueueHealth(
            status.admitted, status.waiting, service.models.most_admitted, status.s_per_unit
        ),
        streams=_streams(service),
        memory=_memory(status, guard) if guard else None,
        spools=SpoolHealth(
            usage.open, usage.memory_bytes, usage.disk_bytes, str(service.spools.limits.directory)
        ),
        jobs=JobsHealth(jobs.counts, jobs.held_bytes, jobs.problem),
        resources=[ResourceHealth(r.name, r.used, r.limit) for r in guard.resources]
        if guard
        else [],
        exits_by_cause={cause.value: count for cause, count in status.deaths.items()},
        last_deaths=[_death(record) for record in reversed(status.last_deaths)],
        url=service.url,
    )


def _streams(service: SpeechService) -> StreamsHealth:
    pools = [served.pool for served in service.models.all_served() if served.pool is not None]
    return StreamsHealth(
        open=sum(len(pool.streams) for pool in pools),
        behind_s=round(max((pool.streams.behind_s for pool in pools), default=0.0), 3),
        replay_bytes=sum(pool.streams.replay_bytes for pool in pools),
        replays=sum(pool.streams.replays for pool in pools),
        refused=sum(pool.streams.refused for pool in pools),
    )


def _model(served: ServedModel) -> ModelHealth:
    report = served.report()
    status, reason = served.status(), served.unready_reason()
    state = "ready" if reason is None else "not_ready"
    return ModelHealth(
        label=served.label,
        state="unloaded" if status is None else state,
        reason=reason,
        model=str(status.model.get("model", "")) if status else "",
        language=served.language,
        load=served.own.load,
        fork_server_pid=status.fork_server_pid if status else None,
        workers=served.slots,
        admitted=status.admitted if status else 0,
        preparing=served.preparing(),
        not_prepared=served.not_prepared_because(),
        engine=report.get("engine"),
        form=report.get("form"),
        missing=served.missing(),
        details=report.get("details", {}),
        profile=served.settings.profile,
        text_steps=report.get("text_steps", {}),
        sandbox=status.sandbox if status else (),
        sandbox_missing=status.sandbox_missing if status else (),
    )


def _worker(worker: WorkerStatus, label: str, guard: GuardStatus | None) -> WorkerHealth:
    return WorkerHealth(
        id=worker.slot,
        model=label,
        pid=worker.pid,
        state=worker.state.value,
        jobs_done=worker.jobs_done,
        busy_s=round(worker.busy_s, 3),
        silent_s=round(worker.silent_s, 3),
        rss_bytes=worker.rss_bytes,
        growth_bytes=worker.growth_bytes,
        budget_bytes=guard.budget.growth.bytes if guard else 0,
    )


def _memory(status: PoolStatus, guard: GuardStatus) -> MemoryHealth:
    machine, pressure = guard.memory.machine, guard.memory.worst_pressure
    waiting = guard.waiting
    return MemoryHealth(
        level=guard.state.level.word,
        starved=guard.state.starved,
        starved_needs=status.starved_needs,
        concurrency=guard.state.concurrency,
        limit_bytes=guard.limits.limit.bytes,
        limit_is=guard.limits.limit.reason,
        reserve_bytes=guard.limits.reserve.bytes,
        reserve_is=guard.limits.reserve.reason,
        used_bytes=guard.used,
        left_bytes=guard.left,
        reserved_bytes=guard.reserved,
        headroom_bytes=guard.headroom,
        mapped_bytes=guard.mapped,
        budget_bytes=guard.budget.growth.bytes,
        budget_is=guard.budget.growth.reason,
        hard_budget_bytes=guard.budget.hard.bytes,
        tightest=guard.tightest.name,
        bounds=[BoundHealth(b.name, b.limit, b.used) for b in guard.bounds],
        pressure_some_avg10=pressure.some_avg10 if pressure else None,
        pressure_stalled_s=pressure.some_total_us / 1e6 if pressure else None,
        lost_share=round(waiting.lost, 3),
        waiting_share=round(waiting.share, 3),
        major_faults_per_work_s=round(waiting.faults, 1),
        refaults_per_work_s=round(waiting.refaults, 1),
        major_faults=guard.faults,
        refaults=guard.memory.refaults,
        waited_s=round(guard.waited_s, 3),
        available_bytes=machine.available,
        swap_total_bytes=machine.swap_total,
        swap_free_bytes=machine.swap_free,
    )


def _death(record: DeathRecord) -> DeathHealth:
    pid, last = record.death.pid, record.last
    moments = []
    for moment in record.moments:
        own = next((process for process in moment.processes if process.pid == pid), None)
        moments.append(
            MomentHealth(
                moment.time,
                moment.level.word,
                moment.left,
                moment.used,
                own.rss if own else None,
                own.growth if own else None,
            )
        )
    return DeathHealth(
        record.time,
        record.role,
        record.slot,
        pid,
        record.death.cause.value,
        record.death.sentence,
        record.job,
        last.rss if last else None,
        last.growth if last else None,
        moments,
    )
