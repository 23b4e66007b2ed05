"""The health document of this moment, from the running service. Apart from the document's form,
which the commands read without importing the server."""

import os
import time

from modelserver import __version__
from modelserver.admin.health import (
    BoundHealth,
    DeathHealth,
    Health,
    JobsHealth,
    MemoryHealth,
    ModelHealth,
    MomentHealth,
    QueueHealth,
    ResourceHealth,
    SpoolHealth,
    StreamsHealth,
    WorkerHealth,
)
from modelserver.jobs.service import JobService
from modelserver.serving.served import ServedModel
from modelserver.serving.service import SpeechService
from modelserver.serving.verdict import verdict
from supervisor import DeathRecord, GuardStatus, PoolStatus, WorkerStatus


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
