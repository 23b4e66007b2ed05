"""The scheduler: which waiting job runs next, and on which worker."""

import errno
from collections.abc import Iterable

from supervisor.dispatch.fairness import FairQueue
from supervisor.errors import PoolError
from supervisor.guard.guard import Guard
from supervisor.guard.members import Member
from supervisor.job import Job, JobState
from supervisor.log import get_logger
from supervisor.processes.lifecycle import ProcessLifecycle
from supervisor.processes.worker_handle import WorkerHandle, WorkerState
from supervisor.spool import JobInput, open_for_reading
from supervisor.wire.channel import close_fds

log = get_logger("supervisor")

_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors that concern this moment, and not the input."""


class Scheduler(Member):
    """A pool's queue of jobs. Clients take turns fairly, and so do the pools of one guard."""

    def __init__(self, guard: Guard, lifecycle: ProcessLifecycle, workers: int) -> None:
        super().__init__(lifecycle, workers)
        self._guard = guard
        self.queue: FairQueue[Job] = FairQueue()

    def waiting_inputs(self) -> Iterable[JobInput]:
        """Inputs of the jobs that wait."""
        return [job.spool for job in self.queue if job.spool is not None]

    def memory_eased(self) -> None:
        """Handle the guard's notice that more jobs may begin than before."""
        self.schedule()

    def put_back(self, job: Job) -> None:
        """Queue a job again whose worker has died: it is the next."""
        job.state = JobState.WAITING
        self.queue.put_back(job)

    def schedule(self) -> None:
        """Give jobs to idle workers as long as memory allows, of all pools of the guard: the job
        that has waited longest is not overtaken."""
        while (head := self._next_in_line()) is not None:
            scheduler, worker, job = head
            if not self._guard.admission.may_begin(scheduler, job):
                return
            if scheduler._begin(worker, job):
                self._guard.admission.began(scheduler, worker, job)
            elif worker.able and job.state is JobState.WAITING:
                return  # it is tried again soon

    def _next_in_line(self) -> tuple["Scheduler", WorkerHandle, Job] | None:
        heads = [
            (member, worker, job)
            for member in self._guard.members
            if isinstance(member, Scheduler)
            and (job := member.queue.first()) is not None
            and (worker := member._idle_worker()) is not None
        ]
        return min(heads, key=lambda head: head[2].submitted, default=None)

    def _idle_worker(self) -> WorkerHandle | None:
        """Return the worker for the next job: of those without a job, one with the fewest streams
        that have something to do, and of these the one that had a job last, whose caches are the
        warmest."""
        idle = (w for w in self.lifecycle.workers if w.state is WorkerState.IDLE)
        return min(idle, key=_fewest_streams, default=None)

    def _begin(self, worker: WorkerHandle, job: Job) -> bool:
        """Give the job to the worker; return False if that fails."""
        fds: list[int] = []
        try:
            if job.spool is not None:
                fds = [open_for_reading(job.spool)]
        except OSError as error:
            if error.errno not in _PASSING:
                self.queue.discard(job)
                job.fail(PoolError(f"the job's input cannot be opened: {error.strerror}"))
            log.warning("job.start_failed", job=job.id, reason=str(error))
            return False
        try:
            begun = worker.run(job, fds)
        finally:
            close_fds(fds)
        if begun:
            self.queue.take(job)
        return begun


def _fewest_streams(worker: WorkerHandle) -> tuple[int, float]:
    return sum(stream.working for stream in worker.streams), -worker.idle_since
