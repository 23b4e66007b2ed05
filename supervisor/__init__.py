"""Keeps workers that share one loaded model alive, and runs jobs on them.

Usable by itself: it knows neither HTTP nor speech. `supervisor.pool` has a short example.
The names below are all that other packages may use; they are imported on first use, so that the
processes of the tree, which start in this package too, carry no event loop.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from supervisor.child.sandbox import try_sandbox as try_sandbox
    from supervisor.contract import LoadError as LoadError
    from supervisor.contract import LoadRefused as LoadRefused
    from supervisor.contract import Reporting as Reporting
    from supervisor.contract import Servable as Servable
    from supervisor.contract import StreamAnswer as StreamAnswer
    from supervisor.contract import Streaming as Streaming
    from supervisor.contract import StreamSession as StreamSession
    from supervisor.contract import Warmable as Warmable
    from supervisor.deaths.death import Cause as Cause
    from supervisor.deaths.death import Death as Death
    from supervisor.deaths.death import ExitStatus as ExitStatus
    from supervisor.deaths.history import DeathRecord as DeathRecord
    from supervisor.deaths.kernel_oom import KernelLog as KernelLog
    from supervisor.deaths.kernel_oom import OomCounter as OomCounter
    from supervisor.deaths.kernel_oom import OomReport as OomReport
    from supervisor.dispatch.admission import Admission as Admission
    from supervisor.dispatch.fairness import FairQueue as FairQueue
    from supervisor.dispatch.stream import Stream as Stream
    from supervisor.errors import DeadlineExceeded as DeadlineExceeded
    from supervisor.errors import Draining as Draining
    from supervisor.errors import JobCrashed as JobCrashed
    from supervisor.errors import JobError as JobError
    from supervisor.errors import MemoryPressure as MemoryPressure
    from supervisor.errors import NotReady as NotReady
    from supervisor.errors import PoolError as PoolError
    from supervisor.errors import QueueFull as QueueFull
    from supervisor.errors import ResourceExhausted as ResourceExhausted
    from supervisor.errors import SpoolFull as SpoolFull
    from supervisor.errors import StreamLost as StreamLost
    from supervisor.errors import TooLarge as TooLarge
    from supervisor.errors import WorkerLost as WorkerLost
    from supervisor.guard.guard import Guard as Guard
    from supervisor.guard.limits import explain_limits as explain_limits
    from supervisor.guard.limits import find_headroom as find_headroom
    from supervisor.guard.status import GuardStatus as GuardStatus
    from supervisor.job import JobResult as JobResult
    from supervisor.log import RepeatLimit as RepeatLimit
    from supervisor.loop.tasks import Tasks as Tasks
    from supervisor.packed import PackedRing as PackedRing
    from supervisor.pool import Pool as Pool
    from supervisor.process_control import end_with_parent as end_with_parent
    from supervisor.processes.environment import AllocatorMissing as AllocatorMissing
    from supervisor.processes.environment import allocator_in_use as allocator_in_use
    from supervisor.processes.environment import choose_allocator as choose_allocator
    from supervisor.processes.environment import find_jemalloc as find_jemalloc
    from supervisor.readings.cpus import usable_cpus as usable_cpus
    from supervisor.readings.memory import MemoryReader as MemoryReader
    from supervisor.readings.memory import available_memory as available_memory
    from supervisor.readings.processes import read_process as read_process
    from supervisor.readings.resources import raise_descriptor_limit as raise_descriptor_limit
    from supervisor.readings.resources import read_processes as read_processes
    from supervisor.readings.resources import read_processes_of_user as read_processes_of_user
    from supervisor.settings import Allocator as Allocator
    from supervisor.settings import Headroom as Headroom
    from supervisor.settings import MemorySettings as MemorySettings
    from supervisor.settings import PoolSettings as PoolSettings
    from supervisor.settings import Sandbox as Sandbox
    from supervisor.settings import SpoolLimits as SpoolLimits
    from supervisor.settings import StreamSettings as StreamSettings
    from supervisor.settings import Target as Target
    from supervisor.settings import TargetSource as TargetSource
    from supervisor.settings import TargetUnavailable as TargetUnavailable
    from supervisor.sizes import counted as counted
    from supervisor.sizes import in_units as in_units
    from supervisor.spool import FileInput as FileInput
    from supervisor.spool import JobInput as JobInput
    from supervisor.spool import Spool as Spool
    from supervisor.spool import SpoolStore as SpoolStore
    from supervisor.spool import SpoolUsage as SpoolUsage
    from supervisor.spool import directory_problem as directory_problem
    from supervisor.spool_view import SpoolView as SpoolView
    from supervisor.status import PoolState as PoolState
    from supervisor.status import PoolStatus as PoolStatus
    from supervisor.status import WorkerStatus as WorkerStatus
    from supervisor.trim import keep_together as keep_together

_HOMES = (
    *("settings", "contract", "errors", "spool_view", "sizes", "packed", "trim", "log"),
    *("process_control", "deaths.death", "processes.environment", "child.sandbox"),
    *("readings.cpus", "readings.processes", "readings.memory", "readings.resources"),
    *("dispatch.fairness", "deaths.kernel_oom", "deaths.history", "spool", "loop.tasks", "job"),
    *("dispatch.stream", "guard.limits", "guard.guard", "guard.status", "dispatch.admission"),
    *("status", "pool"),
)
"""Modules that hold the names above; those that need little come before those that need more. First
come those that a model uses in a worker, which has them already: it may open no file."""


def __getattr__(name: str) -> Any:
    for home in () if name.startswith("_") else _HOMES:
        module = importlib.import_module(f"{__name__}.{home}")
        if name in vars(module):
            value = globals()[name] = vars(module)[name]
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
