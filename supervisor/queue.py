"""A pool's queue: the jobs that wait. The guard says when the next one goes to an idle worker."""

from collections import deque
from collections.abc import Iterator

from supervisor.job import Job, JobState
from supervisor.processes.worker import Worker


class JobQueue:
    """Iterating gives the jobs that wait, the next one first."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()

    def __iter__(self) -> Iterator[Job]:
        return iter(tuple(self._jobs))

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: Job) -> None:
        """It is new."""
        self._jobs.append(job)

    def put_back(self, job: Job) -> None:
        """Its worker has died: it has waited once already."""
        job.state = JobState.WAITING
        self._jobs.appendleft(job)

    def forget(self, job: Job) -> None:
        """Nobody wants it any more, if it still waits."""
        if job in self._jobs:
            self._jobs.remove(job)

    def clear(self) -> list[Job]:
        """Whoever still waited, and does not any more."""
        jobs, self._jobs = list(self._jobs), deque()
        return jobs

    def next(self) -> Job | None:
        """What has waited longest; None if nothing waits."""
        return self._jobs[0] if self._jobs else None

    def begin(self, worker: Worker) -> Job | None:
        """The next job goes to the idle worker; None if it could not be given to it, and waits."""
        job = self._jobs[0]
        if not worker.run(job):
            return None
        self._jobs.popleft()
        return job
