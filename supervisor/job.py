"""A job: one request to the model, its input, and its outcome."""

import asyncio
import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from supervisor.deaths.death import Death
from supervisor.spool import JobInput


class JobState(enum.Enum):
    """State of a job: `WAITING` -> `RUNNING` -> `OVER`, and back to `WAITING` if its worker
    dies."""

    WAITING = "waiting"
    RUNNING = "running"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class JobResult:
    """Result of a finished job. Times in seconds."""

    value: Any
    queued_s: float
    run_s: float
    deaths: tuple[Death, ...]
    """Ends of workers in earlier attempts."""


def _new_future() -> "asyncio.Future[JobResult]":
    return asyncio.get_running_loop().create_future()


def _now() -> float:
    return asyncio.get_running_loop().time()


@dataclass(slots=True, eq=False)
class Job:
    """A job that was given to the pool."""

    request: dict[str, Any]
    spool: JobInput | None = None
    on_progress: Callable[[Any], None] | None = None
    units: float | None = None
    """Size, in units of the caller's choice, such as seconds of audio."""
    request_id: str | None = None
    """Identifier that the caller chose, for the log."""
    client: str | None = None
    """Client that sent it, for fair queueing."""
    id: int = 0
    message: bytes = b""
    """Message for its worker."""
    future: "asyncio.Future[JobResult]" = field(default_factory=_new_future)
    submitted: float = field(default_factory=_now)
    started: float = 0.0
    state: JobState = JobState.WAITING
    deaths: list[Death] = field(default_factory=list)
    never_begun: int = 0
    """Number of workers that ended before they had begun it."""

    def succeed(self, value: Any, run_s: float) -> None:
        """Resolve with the result."""
        self.state = JobState.OVER
        if not self.future.done():
            queued_s = self.started - self.submitted
            self.future.set_result(JobResult(value, queued_s, run_s, tuple(self.deaths)))

    def fail(self, error: Exception) -> None:
        """Resolve with the error."""
        self.state = JobState.OVER
        if not self.future.done():
            self.future.set_exception(error)
