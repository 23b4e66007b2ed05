"""The way of a job: into the queue, to a worker, to another worker if that one ends; and the
handling of events that processes report meanwhile."""

import asyncio
import functools
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

from supervisor.deaths.death import Death
from supervisor.dispatch.crashes import CrashChecks
from supervisor.dispatch.retries import Retries, closing
from supervisor.dispatch.scheduler import Scheduler
from supervisor.dispatch.streams import Streams, model_failure
from supervisor.errors import DeadlineExceeded, PoolError
from supervisor.guard.guard import Guard
from supervisor.job import Job, JobResult, JobState
from supervisor.log import get_logger
from supervisor.loop.tasks import Tasks, each_of
from supervisor.processes.lifecycle import ProcessLifecycle
from supervisor.processes.worker_handle import WorkerHandle, WorkerState
from supervisor.settings import Headroom, PoolSettings, TargetSource
from supervisor.wire.channel import encoded
from supervisor.wire.messages import (
    Cancelled,
    Done,
    Failed,
    Fed,
    FromWorker,
    Progress,
    ProtocolError,
    Run,
    StreamFailed,
)
from supervisor.wire.payload import unpack_value

log = get_logger("supervisor")

_LOOK_EVERY_S = 0.5


class Dispatcher:
    """Jobs, streams, and the processes that run them."""

    def __init__(
        self,
        target: TargetSource,
        settings: PoolSettings,
        guard: Guard,
        sound: Callable[[], Awaitable[bool]] | None,
        measure: Callable[[Any], float] | None,
    ) -> None:
        """Take the arguments of a `Pool`."""
        self._guard = guard
        self.lifecycle = ProcessLifecycle(
            target, settings, self, self.headroom, guard.history, guard.evidence, guard.clock
        )
        self.scheduler = Scheduler(guard, self.lifecycle, settings.workers)
        self.streams = Streams(settings, self.lifecycle, guard.clock)
        self._measure = measure
        self._jobs: set[Job] = set()
        """Jobs that are admitted and not finished."""
        self._tasks = Tasks()
        self._crashes = CrashChecks(sound, self.lifecycle, self._tasks)
        self._retries = Retries(self.scheduler, settings.attempts)
        self._numbers = itertools.count(1)

    def begin(self) -> None:
        """Start the task that looks after streams and waiting jobs."""
        self._tasks.keep("streams and queue", self._keep_looking)

    def alive(self) -> bool:
        """Return whether its task runs."""
        return self._tasks.alive()

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            each_of(self.streams.look, self._find_lost, self.scheduler.schedule)

    def _find_lost(self) -> None:
        """Queue jobs again that no worker has, because something failed when theirs ended."""
        running = {worker.job for worker in self.lifecycle.workers} | self._retries.suspended
        for job in [job for job in self._jobs if job.state is JobState.RUNNING]:
            if job not in running:
                self.scheduler.put_back(job)

    @property
    def closed(self) -> bool:
        """True once no new work is started."""
        return self._retries.closed

    def next_number(self) -> int:
        """Return a new number for a job or stream."""
        return next(self._numbers)

    async def headroom(self) -> Headroom:
        """Return the memory for a model and its workers, by which a target source may choose."""
        return await self._guard.headroom(self.scheduler)

    def close(self) -> None:
        """Fail all jobs and streams."""
        self._retries.close()
        self.streams.close(closing())
        for worker in self.lifecycle.workers:
            if worker.job is not None:
                worker.job.fail(closing())

    async def end(self) -> None:
        """Wait for the tasks that were started for jobs and streams."""
        await self._tasks.close()

    async def run(self, job: Job, timeout_s: float | None) -> JobResult:
        """Run one job; cancelling this coroutine drops it. Raises what `Admission.run` raises."""
        if job.spool is not None:
            await job.spool.flush()
        await self._retries.check(job)
        if self.closed:  # checked after the last await: the queue is not cleared again
            raise closing()
        job.id = self.next_number()
        size = None if job.spool is None else job.spool.size
        job.message = encoded(Run(job.id, job.request, size))
        loop = asyncio.get_running_loop()
        job.submitted = loop.time()
        limit = asyncio.timeout(timeout_s)
        try:
            self._jobs.add(job)
            self.scheduler.queue.add(job, job.client, 1.0 if job.units is None else job.units)
            self.scheduler.schedule()
            async with limit:
                return await job.future
        except TimeoutError:
            if not limit.expired():
                raise  # what `on_progress` has raised
            waits = job.state is JobState.WAITING or job in self._retries.suspended
            where = "in the queue" if waits else "on a worker"
            if job.units and not waits:
                self.scheduler.pace.at_least(job.units, loop.time() - job.started)
            raise DeadlineExceeded(
                f"not done after {timeout_s:g} s; the time ran out {where}"
            ) from None
        except PoolError:
            await self._retries.given_up(job)
            raise
        finally:
            self._forget(job)

    def _forget(self, job: Job) -> None:
        """Forget a job whose caller has an answer, or has gone."""
        self._jobs.discard(job)
        if job.state is JobState.WAITING:
            self.scheduler.queue.discard(job)
        elif job.state is JobState.RUNNING:
            self._retries.suspended.discard(job)
            for worker in self.lifecycle.workers:
                if worker.job is job:
                    worker.cancel()
        job.state = JobState.OVER
        job.spool = None

    def worker_changed(self, worker: WorkerHandle) -> None:
        """Handle the lifecycle's notice that the worker is idle, or takes no more jobs."""
        if worker.state is WorkerState.LEAVING:
            self.streams.worker_leaves(worker)
        if worker.state is WorkerState.IDLE:
            self.streams.schedule()
            self.scheduler.schedule()

    def worker_busy(self, worker: WorkerHandle) -> None:
        """Handle the lifecycle's notice that the worker has something to do."""
        self._guard.hasten()

    def worker_message(self, worker: WorkerHandle, message: FromWorker) -> None:
        """Handle a worker's message about its job or a stream. Raises `ProtocolError` for a message
        that is not allowed now."""
        match message:
            case Fed():
                self.streams.fed(worker, message)
            case StreamFailed():
                self.streams.failed(worker, message)
            case Progress():
                self._progress(_job_of(worker, message.job), worker, message)
            case Done():
                self._done(_job_of(worker, message.job), worker, message)
            case Failed():
                self._failed(_job_of(worker, message.job), worker, message)
            case Cancelled():
                job = _job_of(worker, message.job)
                if job.state is JobState.RUNNING:
                    raise ProtocolError("it cancelled a job that is wanted")
                self._worker_is_free(worker, done=False)
                log.info(
                    "job.cancelled",
                    worker=worker.slot,
                    pid=worker.pid,
                    job=job.id,
                    request_id=job.request_id,
                )
            case _:
                raise ProtocolError(f"{type(message).__name__} from a worker at work")

    def _progress(self, job: Job, worker: WorkerHandle, message: Progress) -> None:
        if job.on_progress is None or job.state is not JobState.RUNNING:
            return
        value = unpack_value(message.value)
        try:
            job.on_progress(value)
        except Exception as error:
            # The caller's own mistake is reported to the caller only.
            job.fail(error)
            worker.cancel()
            log.exception("job.progress_failed", job=job.id, request_id=job.request_id)

    def _done(self, job: Job, worker: WorkerHandle, message: Done) -> None:
        run_s = asyncio.get_running_loop().time() - job.started
        wanted = job.state is JobState.RUNNING
        value = unpack_value(message.value) if wanted else None
        job.succeed(value, run_s)
        learn = functools.partial(self._learn, job, worker, value, run_s)
        self._worker_is_free(worker, learn if wanted else None)
        log.debug(
            "job.done",
            worker=worker.slot,
            job=job.id,
            queued_s=round(job.started - job.submitted, 6),
            run_s=round(run_s, 6),
        )

    def _failed(self, job: Job, worker: WorkerHandle, message: Failed) -> None:
        job.fail(model_failure("job", worker, message, job=job.id, request_id=job.request_id))
        self._worker_is_free(worker)

    def _learn(self, job: Job, worker: WorkerHandle, value: Any, run_s: float) -> None:
        """Learn what a job cost. `measure` reads a value that a worker sent: it may raise
        anything."""
        units = job.units if self._measure is None else self._measure(value)
        self._guard.finished(self.scheduler, worker, units, run_s)

    def _worker_is_free(
        self, worker: WorkerHandle, learn: Callable[[], None] | None = None, *, done: bool = True
    ) -> None:
        """Free a worker that has answered, whatever else fails."""
        each_of(
            functools.partial(self._guard.admission.ended, worker),
            *(() if learn is None else (learn,)),
            functools.partial(worker.job_over, done=done),
            self.scheduler.schedule,  # this pool's next job, or another's, now that fewer run
        )

    def worker_lost(self, worker: WorkerHandle, death: Death) -> None:
        """Handle the lifecycle's notice that the worker has ended, or cannot be ended. Its job runs
        again on another worker, or fails; a job that it had not begun is not to blame."""
        at_hand, job, worker.job = worker.at_hand, worker.job, None
        check = self._crashes.due(death) and not self.closed
        each_of(
            functools.partial(self._guard.admission.ended, worker),
            functools.partial(self._retries.worker_lost, job, death, at_hand, suspend=check),
            functools.partial(self.streams.worker_lost, worker, death, at_hand, suspend=check),
            self.scheduler.schedule,
        )
        if check:
            self._crashes.begin(functools.partial(self._resume, job, at_hand))

    def _resume(self, job: Job | None, at_hand: int) -> None:
        """Resume the job or stream that a crashed worker was working on."""
        each_of(
            functools.partial(self._retries.resume, job),
            functools.partial(self.streams.resume, at_hand),
            self.scheduler.schedule,
        )


def _job_of(worker: WorkerHandle, number: int) -> Job:
    """Return the worker's job. Raises `ProtocolError` where that has another number."""
    if worker.job is None or worker.job.id != number:
        raise ProtocolError(f"an answer for job {number}, which it does not have")
    return worker.job
