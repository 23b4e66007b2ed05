"""An admission: a slot in a pool, from before a job's input is read until its answer is given."""

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

from supervisor.guard.refusal import Ask
from supervisor.job import Job, JobResult
from supervisor.spool import JobInput


class Admission:
    """A slot in the pool, held from before a job's input is read until its answer is given."""

    def __init__(
        self,
        ask: Ask,
        never: Callable[[Ask], Exception | None],
        run: Callable[[Job, float | None], Awaitable[JobResult]],
        client: str | None = None,
    ) -> None:
        """`never`: why what is asked for could not be done at all. `run` runs a job, within
        seconds."""
        self._ask, self._client = ask, client
        self._never, self._run = never, run

    @property
    def units(self) -> float | None:
        """The job's size, in units of the caller's choice."""
        return self._ask.units

    def resize(self, units: float, *, known: bool = True) -> None:
        """Take note of the job's size, which is `known` now or guessed better. Raises `TooLarge`
        where it is known and could not be done at all."""
        self._ask = dataclasses.replace(self._ask, units=units)
        if not known:
            return
        if (refused := self._never(self._ask)) is not None:
            raise refused

    async def run(
        self,
        request: dict[str, Any],
        spool: JobInput | None = None,
        *,
        timeout_s: float | None = None,
        on_progress: Callable[[Any], None] | None = None,
        request_id: str | None = None,
    ) -> JobResult:
        """Run one job; cancelling this coroutine drops it between two steps. `request_id`: what
        the log shall call it beside its own number.

        Raises `JobError` (the model refused), `JobCrashed`, `WorkerLost`, `DeadlineExceeded` or
        `Draining`; for a request that MessagePack cannot carry `TypeError`, `ValueError`,
        `OverflowError` or `RecursionError`; and what `on_progress` raises.
        """
        job = Job(request, spool, on_progress, self.units, request_id, self._client)
        return await self._run(job, timeout_s)
