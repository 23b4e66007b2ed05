"""A job: one request to the model, its input, and what became of it."""

import asyncio
import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from supervisor.deaths.death import Death
from supervisor.spool import JobInput


class JobState(enum.Enum):
    """Where a job is: `WAITING` -> `RUNNING` -> `OVER`, and back to `WAITING` if its worker
    dies."""

    WAITING = "waiting"
    RUNNING = "running"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class JobResult:
    """What a finished job brought. Times in seconds."""

    value: Any
    queued_s: float
    run_s: float
    deaths: tuple[Death, ...]
    """The workers that died of earlier attempts."""


@dataclass(slots=True, eq=False)
class Job:
    """One job in the pool's hands."""

    id: int
    message: bytes
    """What its worker is sent."""
    spool: JobInput | None
    on_progress: Callable[[Any], None] | None
    future: asyncio.Future[JobResult]
    submitted: float
    units: float | None = None
    """Its size, in units of the caller's choice, such as seconds of audio."""
    request_id: str | None = None
    """What the caller calls it, for the log."""
    client: str | None = None
    """Whose it is: clients have their turns fairly."""
    started: float = 0.0
    state: JobState = JobState.WAITING
    deaths: list[Death] = field(default_factory=list)
    never_begun: int = 0
    """How many workers it was given to that ended before they had taken it up."""

    def succeed(self, value: Any, run_s: float) -> None:
        """Give the result to whoever waits."""
        self.state = JobState.OVER
        if not self.future.done():
            queued_s = self.started - self.submitted
            self.future.set_result(JobResult(value, queued_s, run_s, tuple(self.deaths)))

    def fail(self, error: Exception) -> None:
        """Give the error to whoever waits."""
        self.state = JobState.OVER
        if not self.future.done():
            self.future.set_exception(error)
