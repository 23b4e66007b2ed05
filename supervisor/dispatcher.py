"""The way of a job: into the queue, to a worker, and on to another if that one ends; and what the
processes tell of themselves meanwhile."""

import asyncio
import functools
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from supervisor.errors import DeadlineExceeded, Draining, JobCrashed, JobError, PoolError, given_up
from supervisor.guard.guard import Guard
from supervisor.guard.members import Member
from supervisor.job import Job, JobResult, JobState
from supervisor.poison import KEEP_S, PoisonInputs
from supervisor.processes.death import Cause, Death, Intent
from supervisor.processes.lifecycle import ProcessLifecycle
from supervisor.processes.worker import Worker, WorkerState
from supervisor.queue import JobQueue
from supervisor.settings import Headroom, PoolSettings, TargetSource
from supervisor.spool import JobInput
from supervisor.streams import Streams
from supervisor.tasks import Tasks
from supervisor.wire.channel import encoded
from supervisor.wire.messages import (
    AnyMessage,
    Cancelled,
    Done,
    Failed,
    Fed,
    Progress,
    Run,
    StreamFailed,
)

log: structlog.stdlib.BoundLogger = structlog.get_logger("supervisor")

_MOST_NEVER_BEGUN = 10
"""A job that so many workers did not even live to begin is given up."""


class Dispatcher:
    """Jobs, streams, and the processes that do them."""

    def __init__(
        self,
        target: TargetSource,
        settings: PoolSettings,
        guard: Guard,
        sound: Callable[[], Awaitable[bool]] | None,
        measure: Callable[[Any], float] | None,
    ) -> None:
        """As of a `Pool`."""
        self._attempts = settings.attempts
        self._guard = guard
        self.lifecycle = ProcessLifecycle(
            target, settings, self, guard.history, guard.evidence, guard.clock
        )
        self.queue = JobQueue()
        self.member = Member(self.lifecycle, settings.workers, self.queue)
        self.streams = Streams(
            settings.streams,
            lambda: self.lifecycle.workers,
            self.lifecycle.live_server,
            settings.workers,
            settings.attempts,
        )
        self._sound, self._measure = sound, measure
        self._suspended: set[Job] = set()
        """Jobs whose worker has crashed, while it is found out what that says of the model."""
        self._tasks = Tasks()
        self._poison = PoisonInputs()
        self._numbers = itertools.count(1)
        self.closed = False
        """Nothing is begun any more."""

    def next_number(self) -> int:
        """Of a job or stream."""
        return next(self._numbers)

    async def headroom(self) -> Headroom:
        """What there is for a model and its workers: for a target source to choose by."""
        return await self._guard.headroom(self.member)

    def close(self) -> None:
        """Fail all that is inside."""
        self.closed = True
        for job in (*self.queue.clear(), *self._suspended):
            job.fail(closing())
        self._suspended.clear()
        self.streams.close(closing())
        for worker in self.lifecycle.workers:
            if worker.job is not None:
                worker.job.fail(closing())

    async def end(self) -> None:
        """Wait for what was begun about them."""
        await self._tasks.close()

    async def run(
        self,
        request: dict[str, Any],
        spool: JobInput | None,
        units: float | None,
        timeout_s: float | None,
        on_progress: Callable[[Any], None] | None,
        request_id: str | None,
        client: str | None,
    ) -> JobResult:
        """One job; cancelling this coroutine drops it. Raises what `Admission.run` raises."""
        if spool is not None:
            await spool.flush()
        if self.closed:
            raise closing()
        if deaths := await self._poison.deaths_by(request, spool):
            log.warning("job.remembered", request_id=request_id, ended=len(deaths))
            raise given_up(deaths, again=True)
        loop = asyncio.get_running_loop()
        number = self.next_number()
        job = Job(
            number,
            encoded(Run(number, request, None if spool is None else spool.size)),
            spool,
            on_progress,
            loop.create_future(),
            submitted=loop.time(),
            units=units,
            request_id=request_id,
            client=client,
        )
        self.queue.add(job)
        self._guard.begin_what_may()
        try:
            async with asyncio.timeout(timeout_s):
                return await job.future
        except TimeoutError:
            where = "in the queue" if job.state is JobState.WAITING else "on a worker"
            if job.state is JobState.RUNNING:
                self._guard.overdue(self.member, units, loop.time() - job.started)
            raise DeadlineExceeded(
                f"not done after {timeout_s:g} s; the time ran out {where}"
            ) from None
        except PoolError:
            if len(job.deaths) >= self._attempts and await self._poison.remember(
                request, spool, job.deaths
            ):
                log.error("job.is_poison", request_id=request_id, remembered_s=KEEP_S)
            raise
        finally:
            self._forget(job)

    def _forget(self, job: Job) -> None:
        """Whoever waited for it has an answer, or has gone."""
        if job.state is JobState.WAITING:
            self.queue.forget(job)
        elif job.state is JobState.RUNNING:
            self._suspended.discard(job)
            for worker in self.lifecycle.workers:
                if worker.job is job:
                    worker.cancel()
        job.state = JobState.OVER
        job.spool = None

    def worker_changed(self, worker: Worker) -> None:
        """The lifecycle's call: it is idle, or takes no more jobs."""
        if worker.state is WorkerState.LEAVING:
            self.streams.worker_leaves(worker)
        if worker.state is WorkerState.IDLE:
            self.streams.place()
            self._guard.begin_what_may()

    def worker_message(self, worker: Worker, message: AnyMessage) -> None:
        """The lifecycle's call: it tells of its job, or of a stream."""
        if isinstance(message, Fed):
            self.streams.fed(worker, message)
            return
        if isinstance(message, StreamFailed):
            self.streams.failed(worker, message)
            return
        job = worker.job
        if job is None or getattr(message, "job", None) != job.id:
            log.error(
                "worker.unexpected_message",
                worker=worker.slot,
                pid=worker.pid,
                message=type(message).__name__,
            )
            worker.kill(Intent.HANG)
            return
        match message:
            case Progress():
                self._progress(worker, job, message.value)
                return
            case Done():
                growth_bytes = message.growth_bytes
                log.debug(
                    "job.done",
                    worker=worker.slot,
                    job=job.id,
                    queued_s=round(job.started - job.submitted, 6),
                    run_s=round(message.run_s, 6),
                    growth_bytes=growth_bytes,
                )
                job.succeed(message.value, message.run_s)
            case Failed(code=str() as code):
                job.fail(JobError(code, message.message))
            case Failed():
                log.error(
                    "job.crashed",
                    worker=worker.slot,
                    pid=worker.pid,
                    job=job.id,
                    request_id=job.request_id,
                    error=message.message,
                    traceback=message.traceback,
                )
                job.fail(JobCrashed(message.message, message.traceback))
            case Cancelled():
                log.info(
                    "job.cancelled",
                    worker=worker.slot,
                    pid=worker.pid,
                    job=job.id,
                    request_id=job.request_id,
                )
        self._guard.ended(worker)
        if isinstance(message, Done):
            units = job.units if self._measure is None else self._measure(message.value)
            self._guard.finished(self.member, worker, units, message.run_s, growth_bytes)
        worker.job_over(
            done=not isinstance(message, Cancelled)
        )  # from here on it may have the next one
        self._guard.begin_what_may()  # this pool's next job, or another's, now that fewer run

    def _progress(self, worker: Worker, job: Job, value: Any) -> None:
        if job.on_progress is None or job.state is not JobState.RUNNING:
            return
        try:
            job.on_progress(value)
        except Exception as error:
            # Its caller's own mistake: it is told, and nobody else is to suffer from it.
            log.exception("job.progress_failed", job=job.id, request_id=job.request_id)
            job.fail(error)
            worker.cancel()

    def worker_lost(self, worker: Worker, death: Death, *, began: bool) -> None:
        """The lifecycle's call: it has ended, or cannot be. Its job runs again elsewhere, or is
        given up; what it had not begun yet does not count."""
        self._guard.ended(worker)
        self.streams.worker_lost(worker, death)
        job = worker.job
        if worker.stuck:
            worker.job = None
        if job is not None and job.state is JobState.RUNNING:
            self._run_again(job, death, began=began)
        self._guard.begin_what_may()

    def _run_again(self, job: Job, death: Death, *, began: bool) -> None:
        if began and death.cause is not Cause.SHUTDOWN:  # which was no fault of the job's
            job.deaths.append(death)
        else:
            job.never_begun += 1
        if self.closed:
            job.fail(closing())
        elif len(job.deaths) >= self._attempts:
            job.fail(given_up(job.deaths))
        elif job.never_begun >= _MOST_NEVER_BEGUN:
            job.fail(given_up([*job.deaths, death]))
        else:
            log.warning(
                "job.retried", job=job.id, request_id=job.request_id, attempt=len(job.deaths) + 1
            )
            if self._sound is not None and death.cause is Cause.CRASH:
                self._suspended.add(job)
                self._tasks.once("what a crash says", functools.partial(self._ask_about, job))
            else:
                self.queue.put_back(job)

    async def _ask_about(self, job: Job) -> None:
        """One that crashed may, where the model is damaged, do so again and again."""
        assert self._sound is not None
        server = self.lifecycle.live_server()
        try:
            if not await self._sound() and server is self.lifecycle.live_server():
                self.lifecycle.discard("what its model was loaded from is damaged")
        finally:
            if job in self._suspended:
                self._suspended.remove(job)
                self.queue.put_back(job)
                self._guard.begin_what_may()


def closing() -> Draining:
    """What those hear who are inside when it ends."""
    return Draining("the server is shutting down")
