"""The pool: takes jobs in, queues them, gives each to a worker, and again if the worker dies.

A twenty-line example, complete but for the model, which any module may hold::

    # toy.py
    class Toy:
        def run(self, request, spool):
            yield  # one step done: the worker looks whether the job is still wanted
            return {"shout": request["say"].upper(), "bytes": len(spool.read())}

    def load():
        return Toy()

    # main.py
    import asyncio
    from supervisor import Pool, PoolSettings, SpoolStore, Target

    async def main():
        async with Pool(Target("toy", import_path=(".",)), PoolSettings(workers=2)) as pool:
            await pool.wait_ready()
            async with SpoolStore().open() as spool:
                await spool.write(b"12345")
                result = await pool.run({"say": "hello"}, spool)
            print(result.value)  # {'shout': 'HELLO', 'bytes': 5}

    asyncio.run(main())
"""

import asyncio
import contextlib
import functools
import itertools
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import structlog

from supervisor.admission import Admission
from supervisor.errors import (
    DeadlineExceeded,
    Draining,
    JobCrashed,
    JobError,
    NotReady,
    PoolError,
    QueueFull,
    given_up,
)
from supervisor.guard.admission import Ask
from supervisor.guard.guard import Guard
from supervisor.guard.history import DeathRecord, Moment
from supervisor.guard.members import Member
from supervisor.job import Job, JobResult, JobState
from supervisor.poison import KEEP_S, PoisonInputs
from supervisor.processes.death import Cause, Death, Intent
from supervisor.processes.lifecycle import ProcessLifecycle
from supervisor.processes.worker import Worker, WorkerState
from supervisor.queue import JobQueue
from supervisor.settings import Headroom, PoolSettings, TargetSource
from supervisor.spool import JobInput, SpoolStore
from supervisor.status import PoolState, PoolStatus, WorkerStatus
from supervisor.stream import Stream
from supervisor.streams import Streams
from supervisor.tasks import Tasks
from supervisor.wire.channel import encoded
from supervisor.wire.messages import (
    AnyMessage,
    Cancelled,
    Done,
    Failed,
    Fed,
    Loaded,
    Progress,
    Run,
    StreamFailed,
)

log: structlog.stdlib.BoundLogger = structlog.get_logger("supervisor")

_MOST_NEVER_BEGUN = 10
"""A job that so many workers did not even live to begin is given up."""


class Pool:
    """Runs jobs on a fixed number of forked workers that share one loaded model.

    Use as `async with`; entering returns at once, while the model loads (see `wait_ready`).
    """

    def __init__(
        self,
        target: TargetSource,
        settings: PoolSettings | None = None,
        spools: SpoolStore | None = None,
        guard: Guard | None = None,
        sound: Callable[[], Awaitable[bool]] | None = None,
        measure: Callable[[Any], float] | None = None,
    ) -> None:
        """`spools`: where the inputs come from, if they shall be kept small too. `guard`: one that
        several pools share, and that is entered already; without it the pool has its own. `sound`:
        asked after a worker has crashed, before its job runs again: whether what the model was
        loaded from is still what it was. If not, the target is asked for and loaded anew.
        `measure`: the size in units that an answer tells of its job, where its caller could only
        believe what the input says of itself."""
        self.settings = settings or PoolSettings()
        self._guard = guard or Guard(self.settings.memory, spools)
        self._guard_is_mine = guard is None
        self._lifecycle = ProcessLifecycle(
            target,
            self.settings,
            self,
            self._guard.history,
            self._guard.evidence,
            self._guard.clock,
        )
        self._queue = JobQueue()
        self._sound, self._measure = sound, measure
        self._suspended: set[Job] = set()
        """Jobs whose worker has crashed, while it is found out what that says of the model."""
        self._tasks = Tasks()
        self._poison = PoisonInputs()
        self._member = Member(self._lifecycle, self.settings.workers, self._queue)
        self._job_ids = itertools.count(1)
        self._admitted = 0
        self._inside: set[Admission] = set()
        self._streams = Streams(
            self.settings.streams,
            lambda: self._lifecycle.workers,
            self._lifecycle.live_server,
            self.settings.workers,
            self.settings.attempts,
        )
        self._draining = False
        self._closed = False

    async def __aenter__(self) -> "Pool":
        if self._guard_is_mine:
            await self._guard.__aenter__()
        self._guard.join(self._member)
        await self._lifecycle.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._draining = self._closed = True
        for job in (*self._queue.clear(), *self._suspended):
            job.fail(_closing())
        self._suspended.clear()
        self._streams.close(_closing())
        for worker in self._lifecycle.workers:
            if worker.job is not None:
                worker.job.fail(_closing())
        try:
            await self._tasks.close()
            await self._lifecycle.__aexit__(*exception)
        finally:
            self._guard.leave(self._member)
            if self._guard_is_mine:
                await self._guard.__aexit__(*exception)

    async def wait_ready(self) -> None:
        """Until a worker is able to take a job."""
        await self._lifecycle.until(lambda: self._lifecycle.unready_reason() is None)

    def unready_reason(self) -> str | None:
        """Why no worker is able now; None if one is."""
        return self._lifecycle.unready_reason()

    async def headroom(self) -> Headroom:
        """What there is for a model and its workers: for a target source to choose by."""
        return await self._guard.headroom(self._member)

    async def renewed(self) -> str | None:
        """`renew`, and wait until it is over: None, or why it came to nothing."""
        wanted = self._lifecycle.renew()
        await self._lifecycle.until(lambda: self._lifecycle.answered >= wanted)
        return self._lifecycle.not_renewed or self.unready_reason()

    def not_renewed(self) -> str | None:
        """Why the last `renew` came to nothing; None if it did not, or there was none."""
        return self._lifecycle.not_renewed

    def renew(self) -> None:
        """Ask for the target again, load it beside the model that serves, and move over to it
        worker by worker, without losing a job. If it cannot be loaded all stays as it is.

        Where there is no room for both (`Target.needs`), the one that serves goes first."""
        self._lifecycle.renew()

    def hopeless(self) -> bool:
        """No worker is able, and it will take longer than the milliseconds of a replacement."""
        return self._lifecycle.hopeless()

    def failed(self) -> bool:
        """Loading has failed at least once, and no worker is able."""
        return self._lifecycle.load_failures > 0 and self.unready_reason() is not None

    async def settled(self) -> str | None:
        """Wait until a worker is able (None), or loading has failed (why)."""
        await self._lifecycle.until(lambda: self.unready_reason() is None or self.failed())
        return self.unready_reason()

    def load_death(self) -> DeathRecord | None:
        """How the fork server ended that was loading last, if it did not get its model loaded: for
        a target source, which may then choose something else."""
        death = self._lifecycle.load_death
        return None if death is None else self._guard.history.record(death)

    def report(self) -> dict[str, Any]:
        """What the loaded model tells about itself; empty while there is none."""
        server = self._lifecycle.live_server()
        return server.report() if server else {}

    @property
    def deaths(self) -> dict[Cause, int]:
        """How many of its processes have ended, by cause."""
        return dict(self._lifecycle.deaths)

    def load_times(self) -> tuple[float, float] | None:
        """Seconds that loading and warming took; None while no model is loaded."""
        loaded = self._loaded()
        return (loaded.load_s, loaded.warm_s) if loaded else None

    def _loaded(self) -> Loaded | None:
        """What the fork server told when its model was in memory."""
        server = self._lifecycle.live_server()
        return server.loaded.result() if server else None

    def watched(self) -> bool:
        """The pool's own tasks live, and the guard has looked lately."""
        return self._lifecycle.alive() and self._guard.alive()

    def recycle(self, slot: int, reason: str = "an operator asked for it") -> list[int]:
        """Replace the workers of this slot, after their jobs; returns their pids."""
        workers = [w for w in self._lifecycle.workers if w.slot == slot and w.running]
        for worker in workers:
            self._lifecycle.retire(worker, reason)
        return [worker.pid for worker in workers]

    def stop_admitting(self) -> None:
        """Take no new jobs; those inside go on. Streams are asked to come to their end."""
        self._draining = True
        self.end_streams()

    async def drain(self, timeout_s: float) -> bool:
        """Take no new jobs, and wait for those inside; True if all were done in time."""
        self.stop_admitting()
        try:
            async with asyncio.timeout(timeout_s):
                await self._lifecycle.until(lambda: self._admitted == 0)
        except TimeoutError:
            return False
        return True

    @contextlib.contextmanager
    def admit(
        self,
        *,
        units: float | None = None,
        input_bytes: int | None = None,
        deadline_s: float | None = None,
        stream: bool = False,
        client: str | None = None,
    ) -> Iterator[Admission]:
        """Take a place for one job, before its input is read.

        What is known of it helps to refuse it now rather than fail it later: its size in `units`
        of the caller's choice (always the same, such as seconds of audio), the bytes that will
        be spooled, and the seconds within which its answer is needed. `stream`: a job that may
        go on for ever. `client`: whose it is; one that brings much does not keep others waiting.

        Raises `Draining`, `NotReady`, `QueueFull`, `MemoryPressure`, `ResourceExhausted` or
        `TooLarge` at once rather than wait.
        """
        if self._draining:
            raise Draining("the server is shutting down")
        if self._lifecycle.hopeless():
            raise NotReady(self._lifecycle.unready_reason() or "no worker is able")
        places = self.settings.workers + self.settings.queue
        if not stream and self._admitted - len(self._streams) >= places:
            raise QueueFull(f"{self._admitted} requests are in progress, no more are allowed")
        ask = Ask(units, input_bytes, deadline_s, stream)
        if (refused := self._guard.refusal(self._member, ask, self._queued_units())) is not None:
            raise refused
        if stream and (full := self._streams.refusal(self._member.pace.s_per_unit)) is not None:
            raise full
        self._admitted += 1
        ticket = self._guard.admitted(ask)
        never = functools.partial(self._guard.never, self._member)
        admission = Admission(ask, never, self._run, client)
        self._inside.add(admission)
        try:
            yield admission
        finally:
            self._inside.discard(admission)
            self._guard.released(ticket)
            self._admitted -= 1
            self._lifecycle.notify()

    @contextlib.contextmanager
    def stream(self, *, request_id: str | None = None) -> Iterator[Stream]:
        """Admit a stream; `Stream.begin` says what it is, and it is over at the end of the block.
        It is carried by whatever worker is able, and goes on on another if that ends. Raises what
        `admit` raises, and `QueueFull` where the others would be late for it."""
        with self.admit(stream=True):
            stream = Stream(
                next(self._job_ids), self.settings.streams, request_id, self._streams.place
            )
            self._streams.add(stream)
            try:
                yield stream
            finally:
                self._streams.remove(stream)

    @contextlib.contextmanager
    def background_stream(self, *, request_id: str | None = None) -> Iterator[Stream]:
        """A stream that is part of a job: it needs no place beside that job's, and has its turns
        when its worker has nothing else to do, so that neither streams nor other jobs wait for
        it."""
        if self._closed:
            raise _closing()
        stream = Stream(
            next(self._job_ids),
            self.settings.streams,
            request_id,
            self._streams.place,
            background=True,
        )
        self._streams.add(stream)
        try:
            yield stream
        finally:
            self._streams.remove(stream)

    @property
    def admitted(self) -> int:
        """Jobs that are inside, without streams."""
        return self._admitted - len(self._streams)

    @property
    def waiting(self) -> int:
        """Of them, those that wait for a worker."""
        return len(self._queue)

    def end_streams(self) -> None:
        """Ask those that are open to come to their end."""
        for stream in self._streams.all:
            stream.ending.set()

    @property
    def streams(self) -> Streams:
        """Those that are open."""
        return self._streams

    async def run(
        self,
        request: dict[str, Any],
        spool: JobInput | None = None,
        *,
        units: float | None = None,
        timeout_s: float | None = None,
        on_progress: Callable[[Any], None] | None = None,
    ) -> JobResult:
        """Admit and run one job. Raises what `admit` and `Admission.run` raise."""
        size = None if spool is None else spool.size
        with self.admit(units=units, input_bytes=size, deadline_s=timeout_s) as admission:
            return await admission.run(request, spool, timeout_s=timeout_s, on_progress=on_progress)

    def status(self) -> PoolStatus:
        """A reading of the whole pool."""
        lifecycle = self._lifecycle
        server, loaded = lifecycle.live_server(), self._loaded()
        reason = lifecycle.unready_reason()
        if self._draining:
            state = PoolState.DRAINING
        else:
            state = PoolState.READY if reason is None else PoolState.NOT_READY
        return PoolStatus(
            state=state,
            reason=reason,
            allocator=lifecycle.allocator.name,
            sandbox=tuple(loaded.sandbox) if loaded else (),
            sandbox_missing=tuple(loaded.sandbox_missing) if loaded else (),
            fork_server_pid=server.pid if server else None,
            model=self.report(),
            workers=tuple(
                WorkerStatus(
                    w.slot,
                    w.pid,
                    w.state,
                    w.jobs_done,
                    self._guard.growth(w),
                    self._guard.rss(w),
                    lifecycle.scoreboard.read(w.record),
                )
                for w in sorted(lifecycle.workers, key=lambda w: (w.slot, w.pid))
            ),
            admitted=self.admitted,
            waiting=self.waiting,
            deaths=self.deaths,
            last_deaths=self._guard.history.deaths,
            guard=self._guard.status(),
            starved_needs=self._guard.starved_needs(),
            s_per_unit=self._member.pace.s_per_unit,
        )

    def recent_moments(self) -> tuple[Moment, ...]:
        """Memory in the last half minute, oldest first."""
        return tuple(self._guard.history.moments)

    # --- the way of a job -----------------------------------------------------------------------

    async def _run(
        self,
        request: dict[str, Any],
        spool: JobInput | None,
        units: float | None,
        timeout_s: float | None,
        on_progress: Callable[[Any], None] | None,
        request_id: str | None,
        client: str | None,
    ) -> JobResult:
        if spool is not None:
            await spool.flush()
        if self._closed:
            raise _closing()
        if deaths := await self._poison.deaths_by(request, spool):
            log.warning("job.remembered", request_id=request_id, ended=len(deaths))
            raise given_up(deaths, again=True)
        loop = asyncio.get_running_loop()
        number = next(self._job_ids)
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
        self._queue.add(job)
        self._guard.begin_what_may()
        try:
            async with asyncio.timeout(timeout_s):
                return await job.future
        except TimeoutError:
            where = "in the queue" if job.state is JobState.WAITING else "on a worker"
            if job.state is JobState.RUNNING:
                self._guard.overdue(self._member, units, loop.time() - job.started)
            raise DeadlineExceeded(
                f"not done after {timeout_s:g} s; the time ran out {where}"
            ) from None
        except PoolError:
            if len(job.deaths) >= self.settings.attempts and await self._poison.remember(
                request, spool, job.deaths
            ):
                log.error("job.is_poison", request_id=request_id, remembered_s=KEEP_S)
            raise
        finally:
            self._forget(job)

    def _queued_units(self) -> float:
        """Of everything that is inside, an answer that is half done counted whole."""
        return sum(admission.units or 0.0 for admission in self._inside)

    def _forget(self, job: Job) -> None:
        """Whoever waited for it has an answer, or has gone."""
        if job.state is JobState.WAITING:
            self._queue.forget(job)
        elif job.state is JobState.RUNNING:
            self._suspended.discard(job)
            for worker in self._lifecycle.workers:
                if worker.job is job:
                    worker.cancel()
        job.state = JobState.OVER
        job.spool = None

    def worker_changed(self, worker: Worker) -> None:
        """The lifecycle's call: it is idle, or takes no more jobs."""
        if worker.state is WorkerState.LEAVING:
            self._streams.worker_leaves(worker)
        if worker.state is WorkerState.IDLE:
            self._streams.place()
            self._guard.begin_what_may()

    def worker_message(self, worker: Worker, message: AnyMessage) -> None:
        """The lifecycle's call: it tells of its job, or of a stream."""
        if isinstance(message, Fed):
            self._streams.fed(worker, message)
            return
        if isinstance(message, StreamFailed):
            self._streams.failed(worker, message)
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
            self._guard.finished(self._member, worker, units, message.run_s, growth_bytes)
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
        self._streams.worker_lost(worker, death)
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
        if self._closed:
            job.fail(_closing())
        elif len(job.deaths) >= self.settings.attempts:
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
                self._queue.put_back(job)

    async def _ask_about(self, job: Job) -> None:
        """One that crashed may, where the model is damaged, do so again and again."""
        assert self._sound is not None
        server = self._lifecycle.live_server()
        try:
            if not await self._sound() and server is self._lifecycle.live_server():
                self._lifecycle.discard("what its model was loaded from is damaged")
        finally:
            if job in self._suspended:
                self._suspended.remove(job)
                self._queue.put_back(job)
                self._guard.begin_what_may()


def _closing() -> Draining:
    return Draining("the server is shutting down")
