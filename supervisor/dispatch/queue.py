"""A pool's queue: the jobs that wait. The guard says when the next one goes to an idle worker."""

from supervisor.dispatch.fairness import FairQueue
from supervisor.job import Job, JobState
from supervisor.processes.worker_handle import WorkerHandle


class JobQueue(FairQueue[Job]):
    """Clients have their turns fairly: one that has brought many does not keep the others
    waiting."""

    def put_back(self, job: Job) -> None:
        """Its worker has died: it has waited once already."""
        job.state = JobState.WAITING
        super().put_back(job)

    def begin(self, worker: WorkerHandle) -> Job | None:
        """The next job goes to the idle worker; None if it could not be given to it, and waits."""
        job = self.first()
        if job is None or not worker.run(job):
            return None
        self.take(job)
        return job
