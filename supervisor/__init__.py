"""Keeps workers that share one loaded model alive, and runs jobs on them.

Usable by itself: it knows neither HTTP nor speech. `supervisor.pool` has a short example.
The names below are all that other packages may use; they are imported on first use, so that the
processes of the tree, which start in this package too, carry no event loop.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from supervisor.admission import Admission
    from supervisor.child.sandbox import try_sandbox
    from supervisor.contract import (
        Reporting,
        Servable,
        StreamAnswer,
        Streaming,
        StreamSession,
        Warmable,
    )
    from supervisor.errors import (
        DeadlineExceeded,
        Draining,
        JobCrashed,
        JobError,
        MemoryPressure,
        NotReady,
        PoolError,
        QueueFull,
        ResourceExhausted,
        SpoolFull,
        StreamLost,
        TooLarge,
        WorkerLost,
    )
    from supervisor.fairness import FairQueue
    from supervisor.guard.beforehand import explain_limits, find_headroom
    from supervisor.guard.guard import Guard, GuardStatus
    from supervisor.guard.history import DeathRecord
    from supervisor.job import JobResult
    from supervisor.packed import PackedRing
    from supervisor.pool import Pool
    from supervisor.processes.death import Cause, Death, ExitStatus
    from supervisor.processes.environment import (
        Allocator,
        AllocatorMissing,
        Sandbox,
        allocator_in_use,
        choose_allocator,
        find_jemalloc,
        usable_cpus,
    )
    from supervisor.processes.kin import end_with_parent
    from supervisor.readings.kernel_oom import KernelLog, OomCounter, OomReport
    from supervisor.readings.memory import MemoryReader, available_memory
    from supervisor.readings.processes import read_process
    from supervisor.readings.resources import (
        raise_descriptor_limit,
        read_processes,
        read_processes_of_user,
    )
    from supervisor.settings import (
        Headroom,
        MemorySettings,
        PoolSettings,
        StreamSettings,
        Target,
        TargetSource,
        TargetUnavailable,
    )
    from supervisor.sizes import in_units
    from supervisor.spool import (
        FileInput,
        JobInput,
        Spool,
        SpoolLimits,
        SpoolStore,
        SpoolUsage,
        directory_problem,
    )
    from supervisor.spool_view import SpoolView
    from supervisor.status import PoolState, PoolStatus, WorkerStatus
    from supervisor.stream import Stream
    from supervisor.tasks import Tasks
    from supervisor.trim import keep_together

_HOMES = (
    *("contract", "errors", "spool_view", "sizes", "packed", "trim", "processes.death"),
    *("processes.environment", "processes.kin", "settings", "child.sandbox", "fairness"),
    *("readings.processes", "readings.memory", "readings.resources", "readings.kernel_oom"),
    *("spool", "tasks", "job", "stream", "admission", "guard.beforehand", "guard.history"),
    *("guard.guard", "status", "pool"),
)
"""Where the names are, the modules that need little before those that need more."""

__all__ = [
    "Admission",
    "Allocator",
    "AllocatorMissing",
    "Cause",
    "DeadlineExceeded",
    "Death",
    "DeathRecord",
    "Draining",
    "ExitStatus",
    "FairQueue",
    "FileInput",
    "Guard",
    "GuardStatus",
    "Headroom",
    "JobCrashed",
    "JobError",
    "JobInput",
    "JobResult",
    "KernelLog",
    "MemoryPressure",
    "MemoryReader",
    "MemorySettings",
    "NotReady",
    "OomCounter",
    "OomReport",
    "PackedRing",
    "Pool",
    "PoolError",
    "PoolSettings",
    "PoolState",
    "PoolStatus",
    "QueueFull",
    "Reporting",
    "ResourceExhausted",
    "Sandbox",
    "Servable",
    "Spool",
    "SpoolFull",
    "SpoolLimits",
    "SpoolStore",
    "SpoolUsage",
    "SpoolView",
    "Stream",
    "StreamAnswer",
    "StreamLost",
    "StreamSession",
    "StreamSettings",
    "Streaming",
    "Target",
    "TargetSource",
    "TargetUnavailable",
    "Tasks",
    "TooLarge",
    "Warmable",
    "WorkerLost",
    "WorkerStatus",
    "allocator_in_use",
    "available_memory",
    "choose_allocator",
    "directory_problem",
    "end_with_parent",
    "explain_limits",
    "find_headroom",
    "find_jemalloc",
    "in_units",
    "keep_together",
    "raise_descriptor_limit",
    "read_process",
    "read_processes",
    "read_processes_of_user",
    "try_sandbox",
    "usable_cpus",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for home in _HOMES:
        module = importlib.import_module(f"{__name__}.{home}")
        if name in vars(module):
            value = globals()[name] = vars(module)[name]
            return value
    raise AttributeError(f"{name!r} is in no module of {__name__!r}")
