"""The pools that a guard looks after, and all their processes as one set."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from supervisor.dispatch.queue import JobQueue
from supervisor.guard.estimate import GrowthEstimate, Pace, StreamNeed
from supervisor.job import Job
from supervisor.processes.forkserver_handle import ForkServerHandle
from supervisor.processes.helper import Helper
from supervisor.processes.worker_handle import WorkerHandle, WorkerState


class Processes(Protocol):
    """What keeps a pool's processes."""

    @property
    def workers(self) -> set[WorkerHandle]:
        """All that run."""

    @property
    def servers(self) -> set[ForkServerHandle]:
        """All that run, loaded or not."""

    def live_server(self) -> ForkServerHandle | None:
        """The loaded fork server, if it lives."""

    def retire(self, worker: WorkerHandle, reason: str = "") -> None:
        """Recycle the worker, after its job."""


@dataclass(eq=False, slots=True)
class Member:
    """One pool. `growth` and `pace` are what its jobs have taught, `stream_need` its streams."""

    lifecycle: Processes
    slots: int
    queue: JobQueue
    growth: GrowthEstimate = field(default_factory=GrowthEstimate)
    pace: Pace = field(default_factory=Pace)
    stream_need: StreamNeed = field(default_factory=StreamNeed)

    def idle_worker(self) -> WorkerHandle | None:
        """Of the workers without a job those with the fewest streams that have something to do, and
        of these the one that had a job last, whose caches are the warmest; None if all have one."""
        idle = (w for w in self.lifecycle.workers if w.state is WorkerState.IDLE)
        return min(idle, key=_fewest_streams, default=None)


def _fewest_streams(worker: WorkerHandle) -> tuple[int, float]:
    return sum(stream.working for stream in worker.streams), -worker.idle_since


class Members:
    """All of them, and the helpers beside them. Iterating gives each member."""

    def __init__(self) -> None:
        self._members: list[Member] = []
        self.helpers: set[Helper] = set()

    def __iter__(self) -> Iterator[Member]:
        return iter(tuple(self._members))

    def add(self, member: Member) -> None:
        """It has come."""
        self._members.append(member)

    def remove(self, member: Member) -> None:
        """It has gone."""
        self._members.remove(member)

    @property
    def slots(self) -> int:
        """Workers that there should be, of the pools whose model is loaded, or of all."""
        loaded = sum(m.slots for m in self._members if m.lifecycle.live_server() is not None)
        return loaded or sum(m.slots for m in self._members)

    @property
    def workers(self) -> list[WorkerHandle]:
        """Everyone's."""
        return [worker for member in self._members for worker in member.lifecycle.workers]

    @property
    def servers(self) -> list[ForkServerHandle]:
        """All that run, loaded or not."""
        return [server for member in self._members for server in member.lifecycle.servers]

    def helper_around(self, pid: int) -> Helper | None:
        """The one that is `pid`, or is above it."""
        return next((h for h in self.helpers if h.is_above(pid)), None)

    @property
    def live_servers(self) -> list[ForkServerHandle]:
        """Those that serve."""
        found = (member.lifecycle.live_server() for member in self._members)
        return [server for server in found if server is not None]

    def next_in_line(self) -> tuple[Member, WorkerHandle, Job] | None:
        """Of the jobs that a worker is idle for, the one that has waited longest; and whose."""
        heads = [
            (member, worker, job)
            for member in self._members
            if (job := member.queue.first()) is not None
            and (worker := member.idle_worker()) is not None
        ]
        return min(heads, key=lambda head: head[2].submitted, default=None)

    def of(self, worker: WorkerHandle) -> Member | None:
        """The pool that it is of."""
        return next((m for m in self._members if worker in m.lifecycle.workers), None)

    def retire(self, worker: WorkerHandle, reason: str) -> None:
        """Recycle it, whosever it is."""
        if (member := self.of(worker)) is not None:
            member.lifecycle.retire(worker, reason)
