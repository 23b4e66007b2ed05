"""Admission control: which jobs may come in and begin, and what is reserved for those inside."""

import contextlib
from collections.abc import Callable, Iterator

from supervisor.errors import PoolError
from supervisor.guard.members import Member
from supervisor.guard.observer import Observer
from supervisor.guard.policy import GuardState
from supervisor.guard.refusal import (
    Ask,
    MemorySupply,
    StaticSupply,
    Supply,
    may_begin,
    never,
    refusal,
)
from supervisor.job import Job
from supervisor.processes.worker_handle import WorkerHandle
from supervisor.spool import SpoolStore


class AdmissionControl:
    """Reservations: growth for running jobs, space for inputs that are on their way."""

    def __init__(
        self, observer: Observer, spools: SpoolStore | None, state: Callable[[], GuardState]
    ) -> None:
        self._observer, self._state = observer, state
        self._spools = spools
        self._expected_of: dict[WorkerHandle, int] = {}
        """Growth expected of each of these workers by its job."""
        self._coming: list[int] = []
        """Bytes of the inputs that are on their way."""

    def refusal(self, member: Member, ask: Ask, queued_units: float) -> PoolError | None:
        """Explain why a job cannot be admitted; return None if it can."""
        supply = self._supply(member, ask, queued_units)
        least = min(supply.most, self._observer.budgets.most_growth_ever)
        return refusal(ask, supply, member.growth.certain(ask.units or 0.0, least))

    def never(self, member: Member, ask: Ask) -> PoolError | None:
        """Explain why a job whose size is known could not be done here at all; return None if it
        could."""
        disk, most = self._observer.resource("disk"), self._observer.budgets.most_growth_ever
        static = StaticSupply(
            most, member.pace.s_per_unit, disk.limit if disk else None, self._memory_each
        )
        return never(ask, static, member.growth.certain(ask.units or 0.0, most))

    @contextlib.contextmanager
    def expecting(self, ask: Ask) -> Iterator[None]:
        """Reserve space for the input of an admitted job, while the block lasts."""
        size = 0
        if self._spools is not None and not ask.stream:
            size = ask.input_bytes or self._spools.limits.memory_each
        self._coming.append(size)
        try:
            yield
        finally:
            self._coming.remove(size)

    def may_begin(self, member: Member, job: Job) -> bool:
        """Return whether the job may be given to an idle worker now."""
        running = len(self._running())
        if running >= self._state().concurrency:
            return False
        memory = MemorySupply(self._state(), self._observer.budgets.left, self.reserved())
        return may_begin(self._expected(member, job), memory, alone=running == 0)

    def began(self, member: Member, worker: WorkerHandle, job: Job) -> None:
        """Reserve the growth that the job is expected to cause."""
        worker.grown_before = self._observer.accounting.of(worker.pid).growth
        self._expected_of[worker] = self._expected(member, job)

    def ended(self, worker: WorkerHandle) -> None:
        """Release the reservation for the worker's job, which has ended."""
        self._expected_of.pop(worker, None)

    def _running(self) -> dict[WorkerHandle, int]:
        """Return the workers that still have a job, with the growth expected of it."""
        return {w: expected for w, expected in self._expected_of.items() if w.job is not None}

    def reserved(self) -> int:
        """Return the reserved bytes: expected growth of running jobs and open streams that has not
        happened yet, and memory for inputs that are on their way."""
        accounting = self._observer.accounting
        jobs = sum(
            max(0, expected - max(0, accounting.of(worker.pid).growth - worker.grown_before))
            for worker, expected in self._running().items()
        )
        jobs += self._observer.budgets.reserved_for_streams()
        if self._spools is None or not self._state().spools_in_memory:
            return jobs
        limits = self._spools.limits
        coming = sum(min(size, limits.memory_each) for size in self._coming)
        coming = min(coming, limits.memory_total)
        return jobs + max(0, coming - self._spools.memory_bytes)

    def _expected(self, member: Member, job: Job) -> int:
        return min(
            member.growth.expected(job.units or 0.0), self._observer.budgets.budget.hard.bytes
        )

    @property
    def _memory_each(self) -> int:
        return self._spools.limits.memory_each if self._spools else 0

    def _supply(self, member: Member, ask: Ask, queued_units: float) -> Supply:
        """Return the supply for a job; of memory that is reserved, only for a stream, which needs
        it at once."""
        observer = self._observer
        disk, descriptors = observer.resource("disk"), observer.resource("descriptors")
        in_memory = self._spools.memory_bytes if self._spools else 0
        return Supply(
            state=self._state(),
            left=observer.budgets.left,
            reserved=self.reserved() if ask.stream else 0,
            capacity=observer.budgets.left + observer.budgets.growths() + in_memory,
            most_growth=observer.budgets.budget.hard.bytes,
            ever=observer.budgets.most_growth_ever,
            stream_need=member.stream_need.bytes,
            s_per_unit=member.pace.s_per_unit,
            slots=member.slots,
            queued_units=queued_units,
            disk_total=disk.limit if disk else None,
            disk_left=self._disk_left(),
            spool_memory_each=self._memory_each,
            descriptors_free=descriptors.free if descriptors else None,
            descriptors_total=descriptors.limit if descriptors else None,
        )

    def _disk_left(self) -> int | None:
        """Return the space on the disk for uploads that is not reserved."""
        room = self._spools.disk_room() if self._spools else None
        if self._spools is None or room is None:
            return None
        each = self._spools.limits.memory_each
        coming = sum(size for size in self._coming if size > each)
        return room - max(0, coming - self._spools.disk_bytes)
