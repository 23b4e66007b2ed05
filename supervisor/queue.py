"""A pool's queue: the jobs that wait. The guard says when the next one goes to an idle worker."""

from collections.abc import Iterator

from supervisor.fairness import FairQueue
from supervisor.job import Job, JobState
from supervisor.processes.worker import Worker


class JobQueue:
    """Iterating gives the jobs that wait, the next one first. Clients have their turns fairly: one
    that has brought many does not keep the others waiting."""

    def __init__(self) -> None:
        self._jobs: FairQueue[Job] = FairQueue()

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs)

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: Job) -> None:
        """It is new."""
        self._jobs.add(job, job.client, 1.0 if job.units is None else job.units)

    def put_back(self, job: Job) -> None:
        """Its worker has died: it has waited once already."""
        job.state = JobState.WAITING
        self._jobs.put_back(job)

    def forget(self, job: Job) -> None:
        """Nobody wants it any more, if it still waits."""
        self._jobs.discard(job)

    def clear(self) -> list[Job]:
        """Whoever still waited, and does not any more."""
        return self._jobs.clear()

    def next(self) -> Job | None:
        """Whose turn it is; None if nothing waits."""
        return self._jobs.first()

    def begin(self, worker: Worker) -> Job | None:
        """The next job goes to the idle worker; None if it could not be given to it, and waits."""
        job = self._jobs.first()
        if job is None or not worker.run(job):
            return None
        self._jobs.take(job)
        return job
