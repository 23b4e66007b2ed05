"""What can go wrong for a job, as exceptions with a stable code and a sentence for a person."""

import errno

from supervisor.deaths.death import Death, Fault, Intent, whose_fault


class PoolError(Exception):
    """Base of what `Pool` raises. `code` is stable; `retry_after_s` is None where waiting is
    no help."""

    code = "internal"
    retry_after_s: float | None = None

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s


class NotReady(PoolError):
    """No worker can take a job now, and why."""

    code = "not_ready"
    retry_after_s = 5.0


class QueueFull(PoolError):
    """As many jobs as allowed are already waiting."""

    code = "queue_full"
    retry_after_s = 1.0


class Draining(PoolError):
    """The pool takes no new jobs because it is about to end."""

    code = "shutting_down"
    retry_after_s = 10.0


class MemoryPressure(PoolError):
    """Memory is short now."""

    code = "memory_pressure"
    retry_after_s = 2.0


class TooLarge(PoolError):
    """Work that could not be done here, however long one waited."""

    code = "too_large_for_server"


class ResourceExhausted(PoolError):
    """Something other than memory has run out: descriptors."""

    code = "resource_exhausted"
    retry_after_s = 5.0


class DeadlineExceeded(PoolError):
    """The job was not done in the time it was given."""

    code = "deadline_exceeded"


class SpoolFull(PoolError):
    """There is no space left to spool the job's input."""

    code = "spool_full"
    retry_after_s = 10.0

    @classmethod
    def from_os_error(cls, error: OSError) -> "SpoolFull":
        """Translate an error; one that is not a lack of space keeps the errno's text."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return cls("no space left to hold the upload")
        return cls(f"the upload cannot be held: {error.strerror}")


class WorkerLost(PoolError):
    """The job was tried as often as allowed and its worker died each time."""

    code = "worker_lost"

    def __init__(self, deaths: list[Death], *, again: bool = False) -> None:
        causes = "; ".join(death.sentence for death in deaths)
        what = "was not tried again" if again else "was given up"
        super().__init__(f"the job ended {len(deaths)} workers and {what}: {causes}")
        self.deaths = deaths


class StreamLost(PoolError):
    """The stream's worker has gone, and not enough of its input was retained to go on elsewhere."""

    code = "stream_lost"
    retry_after_s = 1.0


def give_up(deaths: list[Death], *, again: bool = False) -> PoolError:
    """The job, or, `again`, the same one before, was tried as often as allowed. If its workers took
    more than their budget each time, then it is the job that does not fit; if memory was short, it
    may be tried later."""
    causes = "; ".join(death.sentence for death in deaths)
    if all(death.intent is Intent.BUDGET for death in deaths):
        return TooLarge(f"the job takes more memory than there is for it: {causes}")
    if all(d.intent is Intent.BUDGET or whose_fault(d) is Fault.SHORTAGE for d in deaths):
        return MemoryPressure(f"memory was too short to finish the job: {causes}")
    return WorkerLost(deaths, again=again)


class JobError(PoolError):
    """The model refused the job. Raise it from `run` in a worker: the code, the sentence and
    the class arrive at the caller; any other exception arrives as `JobCrashed`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class JobCrashed(PoolError):
    """The model raised something unexpected; the worker goes on. The log has the traceback."""

    def __init__(self, message: str, traceback: str) -> None:
        super().__init__(message)
        self.traceback = traceback
