"""An admission: a slot in a pool, from before a job's input is read until its answer is given."""

import contextlib
import dataclasses
import functools
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from supervisor.dispatch.dispatcher import Dispatcher
from supervisor.dispatch.retries import closing
from supervisor.errors import NotReady, QueueFull
from supervisor.guard.guard import Guard
from supervisor.guard.refusal import Ask
from supervisor.job import Job, JobResult
from supervisor.settings import PoolSettings
from supervisor.sizes import counted
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
        """Take a slot. `never` explains why a request could not be served at all; `run` runs a job,
        within a number of seconds."""
        self._ask, self._client = ask, client
        self._never, self._run = never, run

    @property
    def units(self) -> float | None:
        """The job's size, in units of the caller's choice."""
        return self._ask.units

    def resize(self, units: float, *, known: bool = True) -> None:
        """Update the job's size, which is `known` now or guessed better. Raises `TooLarge` if it is
        known and the job could not be done at all."""
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
        """Run one job; cancelling this coroutine drops it between two steps. `request_id`: what the
        log calls it beside its number.

        Raises `JobError` (the model refused), `JobCrashed`, `WorkerLost`, `DeadlineExceeded` or
        `Draining`; for a request that MessagePack cannot carry `TypeError`, `ValueError`,
        `OverflowError` or `RecursionError`; and any exception of `on_progress`.
        """
        job = Job(request, spool, on_progress, self.units, request_id, self._client)
        return await self._run(job, timeout_s)


class Admissions:
    """Slots of a pool that are taken."""

    def __init__(self, settings: PoolSettings, guard: Guard, dispatcher: Dispatcher) -> None:
        self._slots = settings.workers + settings.queue
        self._guard, self._dispatcher = guard, dispatcher
        self.inside: set[Admission] = set()
        self.draining = False
        """True if no more slots are given."""

    @contextlib.contextmanager
    def take(self, ask: Ask, client: str | None) -> Iterator[Admission]:
        """Take a slot. Raises what `Pool.admit` raises."""
        lifecycle, scheduler = self._dispatcher.lifecycle, self._dispatcher.scheduler
        streams, control = self._dispatcher.streams, self._guard.admission
        if self.draining:
            raise closing()
        if lifecycle.hopeless():
            raise NotReady(lifecycle.unready_reason() or "no worker is able")
        if not ask.stream and len(self.inside) - len(streams) >= self._slots:
            raise QueueFull(
                f"{counted(len(self.inside), 'request')} in progress, no more are allowed"
            )
        # A job that is half done counts as a whole one.
        queued_units = sum(admission.units or 0.0 for admission in self.inside)
        if (refused := control.refusal(scheduler, ask, queued_units)) is not None:
            raise refused
        if ask.stream and (full := streams.refusal(scheduler.pace.s_per_unit)) is not None:
            raise full
        never = functools.partial(control.never, scheduler)
        admission = Admission(ask, never, self._dispatcher.run, client)
        self.inside.add(admission)
        try:
            with control.expecting(ask):
                yield admission
        finally:
            self.inside.discard(admission)
            lifecycle.changes.notify()
