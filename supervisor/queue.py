"""A pool's queue: the jobs that wait, and the workers that are idle. The guard says when the one
gets the other."""

from collections import deque
from collections.abc import Iterator

from supervisor.job import Job, JobState
from supervisor.processes.worker import Worker


class JobQueue:
    """Iterating gives the jobs that wait, the next one first."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self._idle: list[Worker] = []

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

    def able(self, worker: Worker) -> None:
        """The worker is idle."""
        self._idle.append(worker)

    def unable(self, worker: Worker) -> None:
        """The worker takes no more jobs."""
        if worker in self._idle:
            self._idle.remove(worker)

    def next(self) -> Job | None:
        """What would begin now, if it may; None if nothing waits or nobody is idle."""
        return self._jobs[0] if self._jobs and self._idle else None

    def begin(self) -> tuple[Worker, Job]:
        """The next job goes to the worker that was busy last, whose caches are the warmest."""
        worker, job = self._idle.pop(), self._jobs.popleft()
        worker.run(job)
        return worker, job
