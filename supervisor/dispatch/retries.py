"""Retries of jobs whose worker has ended."""

import asyncio

from supervisor.deaths.death import EXPECTED, Death, Fault, whose_fault
from supervisor.dispatch.blame import MOST_LOST, own_deaths, pause_s, too_many
from supervisor.dispatch.poison import KEEP_S, PoisonInputs
from supervisor.dispatch.scheduler import Scheduler
from supervisor.errors import Draining, give_up
from supervisor.job import Job, JobState
from supervisor.log import get_logger

log = get_logger("supervisor")


class Retries:
    """Runs jobs again, up to `attempts` times, and remembers inputs that end every worker."""

    def __init__(self, scheduler: Scheduler, attempts: int) -> None:
        self._scheduler = scheduler
        self._attempts = attempts
        self._poison = PoisonInputs()
        self.suspended: set[Job] = set()
        """Jobs that wait until the model's files have been checked after a crash, or for a moment
        after several kills from outside."""
        self.closed = False

    async def check(self, job: Job) -> None:
        """Reject a job whose input has recently ended every worker. Raises a `PoolError`."""
        if deaths := await self._poison.deaths_by(job):
            log.warning("job.rejected", request_id=job.request_id, ended=len(deaths))
            raise give_up(deaths, again=True)

    async def given_up(self, job: Job) -> None:
        """Remember the input of a job that has failed, if it was tried often enough."""
        own = own_deaths(job.deaths)
        if len(own) >= self._attempts and await self._poison.remember(job, own):
            log.error("job.quarantined", request_id=job.request_id, remembered_s=KEEP_S)

    def worker_lost(self, job: Job | None, death: Death, at_hand: int, *, suspend: bool) -> None:
        """Queue the job of a worker that has ended again, `suspend` it before that, or fail it.
        `at_hand`: number of the job or stream that the worker was working on, as it said."""
        if job is None or job.state is not JobState.RUNNING:
            return
        wait_s = 0.0
        # A worker that broke the protocol may claim that it was working on nothing.
        guilty = at_hand == 0 and whose_fault(death) is Fault.INPUT
        if (at_hand == job.id or guilty) and death.cause not in EXPECTED:
            job.deaths.append(death)
            wait_s = pause_s(job.deaths)
        elif death.cause not in EXPECTED:
            job.never_begun += 1
        if self.closed:
            job.fail(closing())
        elif blamed := too_many(job.deaths, self._attempts):
            job.fail(give_up(blamed))
        elif job.never_begun >= MOST_LOST:
            job.fail(give_up([*job.deaths, death]))
        else:
            if suspend or wait_s:
                self.suspended.add(job)
            else:
                self._scheduler.put_back(job)
            if wait_s and not suspend:
                asyncio.get_running_loop().call_later(wait_s, self._wait_over, job)
            log.warning(
                "job.retried",
                job=job.id,
                request_id=job.request_id,
                attempt=len(job.deaths) + 1,
                wait_s=wait_s or None,
            )

    def _wait_over(self, job: Job) -> None:
        self.resume(job)
        self._scheduler.schedule()

    def resume(self, job: Job | None) -> None:
        """Queue a job again that was suspended."""
        if job is not None and job in self.suspended:
            self.suspended.remove(job)
            self._scheduler.put_back(job)

    def close(self) -> None:
        """Fail the waiting jobs; no job is tried again."""
        self.closed = True
        for job in (*self._scheduler.queue.clear(), *self.suspended):
            job.fail(closing())
        self.suspended.clear()


def closing() -> Draining:
    """Return the error for jobs that are inside when the pool closes."""
    return Draining("it is shutting down")
