"""Members: the pools that a guard looks after, and all their processes as one set."""

from collections.abc import Iterable, Iterator

from supervisor.guard.estimate import GrowthEstimate, Pace, StreamNeed
from supervisor.processes.forkserver_handle import ForkServerHandle
from supervisor.processes.helper import Helper
from supervisor.processes.lifecycle import ProcessLifecycle
from supervisor.processes.worker_handle import WorkerHandle
from supervisor.spool import JobInput


class Member:
    """A pool as the guard sees it, with estimates learned from its jobs and streams."""

    def __init__(self, lifecycle: ProcessLifecycle, slots: int) -> None:
        self.lifecycle = lifecycle
        self.slots = slots
        self.growth = GrowthEstimate()
        self.pace = Pace()
        self.stream_need = StreamNeed()

    def waiting_inputs(self) -> Iterable[JobInput]:
        """Return the inputs of jobs that wait for a worker."""
        return ()

    def memory_eased(self) -> None:
        """Do what has become possible: called after each reading, when more may begin than
        before."""


class Members:
    """Members of a guard, and the helpers beside them. Iterating gives each member."""

    def __init__(self) -> None:
        self._members: list[Member] = []
        self.helpers: set[Helper] = set()

    def __iter__(self) -> Iterator[Member]:
        return iter(tuple(self._members))

    def add(self, member: Member) -> None:
        """Add a pool."""
        self._members.append(member)

    def remove(self, member: Member) -> None:
        """Remove a pool."""
        self._members.remove(member)

    @property
    def slots(self) -> int:
        """Number of workers that there should be, of the pools whose model is loaded, or of all."""
        loaded = sum(m.slots for m in self._members if m.lifecycle.live_server() is not None)
        return loaded or sum(m.slots for m in self._members)

    @property
    def workers(self) -> list[WorkerHandle]:
        """Workers of all pools."""
        return [worker for member in self._members for worker in member.lifecycle.workers]

    @property
    def servers(self) -> list[ForkServerHandle]:
        """Fork servers that run, loaded or not."""
        return [server for member in self._members for server in member.lifecycle.servers]

    @property
    def processes(self) -> list[ForkServerHandle | WorkerHandle]:
        """Fork servers and workers that have not ended."""
        processes: list[ForkServerHandle | WorkerHandle] = [*self.servers, *self.workers]
        return [process for process in processes if process.running]

    @property
    def loading(self) -> bool:
        """True if a model is being loaded."""
        return any(not server.loaded.done() for server in self.servers)

    @property
    def busy(self) -> bool:
        """True if a worker has something to do."""
        return any(worker.busy for worker in self.workers)

    def helper_around(self, pid: int) -> Helper | None:
        """Return the helper that is `pid`, or an ancestor of it."""
        return next((h for h in self.helpers if h.is_above(pid)), None)

    @property
    def live_servers(self) -> list[ForkServerHandle]:
        """Fork servers that serve."""
        found = (member.lifecycle.live_server() for member in self._members)
        return [server for server in found if server is not None]

    def of(self, worker: WorkerHandle) -> Member | None:
        """Return the pool of the worker."""
        return next((m for m in self._members if worker in m.lifecycle.workers), None)

    def replaceable(self, worker: WorkerHandle) -> bool:
        """Return whether there is a fork server to make a replacement."""
        member = self.of(worker)
        return member is not None and member.lifecycle.live_server() is not None
