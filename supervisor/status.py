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
    """Whether jobs are taken."""

    NOT_READY = "not_ready"
    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker. `growth_bytes`: what it holds of its own; `rss_bytes`: all, mapped files
    too, None until it has been read."""

    slot: int
    pid: int
    state: WorkerState
    jobs_done: int
    growth_bytes: int
    rss_bytes: int | None
    busy_s: float
    """Seconds that it has been at work."""
    silent_s: float
    """Seconds since it last showed that it lives."""


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """The whole pool. `reason` says why no job is taken; `model` is the model's own report."""

    state: PoolState
    reason: str | None
    allocator: str
    sandbox: tuple[str, ...]
    """What the workers have given up; empty where it is off, or nothing could be."""
    sandbox_missing: tuple[str, ...]
    """What they could not, and why."""
    fork_server_pid: int | None
    model: dict[str, Any]
    workers: tuple[WorkerStatus, ...]
    admitted: int
    waiting: int
    deaths: dict[Cause, int]
    last_deaths: tuple[DeathRecord, ...]
    guard: GuardStatus | None
    """Memory and what is done about it; None until it has been read."""
    starved_needs: str
    """How much memory would end the model's being starved; empty if it is not."""
    s_per_unit: float | None
    """Seconds of work that a unit of a job's size takes, of late; None until some were seen."""


def read_status(
    lifecycle: ProcessLifecycle,
    guard: Guard,
    *,
    draining: bool,
    admitted: int,
    waiting: int,
    s_per_unit: float | None,
) -> PoolStatus:
    """Read what there is now."""
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
