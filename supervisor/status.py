"""A reading of a pool at one moment, for health pages and people."""

import enum
from dataclasses import dataclass
from typing import Any

from supervisor.deaths.death import Cause
from supervisor.deaths.history import DeathRecord
from supervisor.guard.guard import Guard
from supervisor.guard.status import GuardStatus
from supervisor.processes.lifecycle import ProcessLifecycle
from supervisor.processes.worker_handle import WorkerState


class PoolState(enum.Enum):
    """State of a pool: whether it takes jobs."""

    NOT_READY = "not_ready"
    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """Status of a worker. `growth_bytes`: its own memory; `rss_bytes`: all resident memory, mapped
    files too, None until it has been read."""

    slot: int
    pid: int
    state: WorkerState
    jobs_done: int
    growth_bytes: int
    rss_bytes: int | None
    busy_s: float
    """Seconds that it has worked."""
    silent_s: float
    """Seconds since its last sign of life."""


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """Status of the whole pool. `reason` says why no job is taken; `model` is the model's own
    report."""

    state: PoolState
    reason: str | None
    allocator: str
    sandbox: tuple[str, ...]
    """Sandbox measures in force in all workers; empty if it is off, or nothing is supported."""
    sandbox_missing: tuple[str, ...]
    """Sandbox measures that are missing, and why."""
    fork_server_pid: int | None
    model: dict[str, Any]
    workers: tuple[WorkerStatus, ...]
    admitted: int
    waiting: int
    deaths: dict[Cause, int]
    last_deaths: tuple[DeathRecord, ...]
    guard: GuardStatus | None
    """State of the guard; None until memory has been read."""
    starved_needs: str
    """Memory that would end starvation, in words; empty if the model is not starved."""
    s_per_unit: float | None
    """Recent seconds of work per unit of a job's size; None until some jobs were seen."""


def read_status(
    lifecycle: ProcessLifecycle,
    guard: Guard,
    *,
    draining: bool,
    admitted: int,
    waiting: int,
    s_per_unit: float | None,
) -> PoolStatus:
    """Return the present status."""
    server, loaded = lifecycle.live_server(), lifecycle.loaded()
    reason = lifecycle.unready_reason()
    if draining:
        state = PoolState.DRAINING
    else:
        state = PoolState.READY if reason is None else PoolState.NOT_READY
    promised = loaded.sandbox if loaded else []
    able = [worker for worker in lifecycle.workers if worker.able]
    in_force = tuple(name for name in promised if all(name in w.in_force for w in able))
    missing = [*loaded.sandbox_missing] if loaded else []
    missing += [f"{name}: not in every worker" for name in set(promised) - set(in_force)]
    return PoolStatus(
        state=state,
        reason=reason,
        allocator=lifecycle.loader.allocator,
        sandbox=in_force,
        sandbox_missing=tuple(missing),
        fork_server_pid=server.pid if server else None,
        model=lifecycle.report(),
        workers=tuple(
            WorkerStatus(
                w.slot,
                w.pid,
                w.state,
                w.jobs_done,
                guard.account(w).growth,
                guard.account(w).rss,
                w.worked_s,
                w.silent_s,
            )
            for w in sorted(lifecycle.workers, key=lambda w: (w.slot, w.pid))
        ),
        admitted=admitted,
        waiting=waiting,
        deaths=dict(lifecycle.deaths.by_cause),
        last_deaths=guard.history.deaths,
        guard=guard.status(),
        starved_needs=guard.starved_needs(),
        s_per_unit=s_per_unit,
    )
