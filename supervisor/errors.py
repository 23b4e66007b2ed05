"""Errors of jobs and streams: exceptions with a stable code and a sentence for people."""

import errno

from supervisor.deaths.death import Death, Fault, Intent, whose_fault
from supervisor.sizes import counted


class PoolError(Exception):
    """Base of the exceptions that `Pool` raises. `code` is stable; `retry_after_s` is None if
    waiting does not help."""

    code = "internal"
    retry_after_s: float | None = None

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s


class NotReady(PoolError):
    """No worker can take a job now; the message says why."""

    code = "not_ready"
    retry_after_s = 5.0


class QueueFull(PoolError):
    """Queue is full: as many jobs as allowed are waiting."""

    code = "queue_full"
    retry_after_s = 1.0


class Draining(PoolError):
    """Pool takes no new jobs because it is about to end."""

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
    """Resource other than memory has run out: file descriptors."""

    code = "resource_exhausted"
    retry_after_s = 5.0


class DeadlineExceeded(PoolError):
    """Job was not done in the time it was given."""

    code = "deadline_exceeded"


class SpoolFull(PoolError):
    """Space for the job's input has run out."""

    code = "spool_full"
    retry_after_s = 10.0

    @classmethod
    def from_os_error(cls, error: OSError) -> "SpoolFull":
        """Translate an error; if it is not a lack of space, keep the errno's text."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return cls("no space left to hold the upload")
        return cls(f"the upload cannot be held: {error.strerror}")


class WorkerLost(PoolError):
    """Job was tried as often as allowed and its worker died each time."""

    code = "worker_lost"

    def __init__(self, deaths: list[Death], *, again: bool = False) -> None:
        causes = "; ".join(death.sentence for death in deaths)
        what = "was not tried again" if again else "failed"
        super().__init__(f"the job ended {counted(len(deaths), 'worker')} and {what}: {causes}")
        self.deaths = deaths


class StreamLost(PoolError):
    """Worker of the stream has gone, and too little of its input was retained to continue on
    another."""

    code = "stream_lost"
    retry_after_s = 1.0


def give_up(deaths: list[Death], *, again: bool = False) -> PoolError:
    """Return the error for a job that was tried as often as allowed, or, with `again`, whose input
    was tried before. If its workers exceeded their budgets each time, the job does not fit; if
    memory was short, it may be tried later."""
    causes = "; ".join(death.sentence for death in deaths)
    if all(death.intent is Intent.BUDGET for death in deaths):
        return TooLarge(f"the job takes more memory than there is for it: {causes}")
    if all(d.intent is Intent.BUDGET or whose_fault(d) is Fault.SHORTAGE for d in deaths):
        return MemoryPressure(f"memory was too short to finish the job: {causes}")
    return WorkerLost(deaths, again=again)


class JobError(PoolError):
    """Refusal of a job by the model. Raise it from `run` in a worker: the code, the sentence and
    the class reach the caller; any other exception arrives as `JobCrashed`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class JobCrashed(PoolError):
    """Unexpected exception of the model; the worker continues. The log has the traceback."""

    def __init__(self, message: str, traceback: str) -> None:
        super().__init__(message)
        self.traceback = traceback
