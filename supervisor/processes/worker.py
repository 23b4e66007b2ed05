"""The supervisor's hand on one worker: its state, the job it has, and its end.

Every event of its life comes in here, in whatever order they arrive, and moves the one state there
is; who may take a job is read from that state and kept nowhere else.
"""

import asyncio
import enum
import signal
import time
from collections.abc import Sequence
from typing import Protocol

import structlog

from supervisor.clock import LoopClock
from supervisor.job import Job, JobState
from supervisor.processes.death import Death, ExitStatus, Intent, KillerWatch, Outcome
from supervisor.processes.forbidden import ForbiddenCalls
from supervisor.processes.forkserver import ForkServer, StartingWorker
from supervisor.processes.process import Process
from supervisor.stream import Stream
from supervisor.wire.async_channel import AsyncChannel
from supervisor.wire.messages import AnyMessage, Cancel, Leave, Message, Ready, Trim, encode

log: structlog.stdlib.BoundLogger = structlog.get_logger("supervisor")

_LEAVE_S = 1.0
"""How long it may take to end after its channel was closed."""
_STUCK_S = 5.0
"""A process that has not ended so long after SIGKILL is not waited for any more."""


class WorkerState(enum.Enum):
    """`STARTING` -> `IDLE` <-> `BUSY` -> `LEAVING` -> `ENDED` -> `GONE`; an end may come any time.

    `LEAVING`: it was asked to leave, or is being ended; it may have a job still. `ENDED`: its
    process is no more, and it is not known yet how that came. `GONE`: it is."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    LEAVING = "leaving"
    ENDED = "ended"
    GONE = "gone"


_OVER = (WorkerState.ENDED, WorkerState.GONE)


class WorkerStillborn(Exception):
    """It died before it could take a job."""


class WorkerOwner(Protocol):
    """Who hears of a worker's life."""

    def worker_changed(self, worker: "Worker") -> None:
        """It can take a job now, or none any more."""

    def worker_message(self, worker: "Worker", message: AnyMessage) -> None:
        """It sent something other than `Ready`."""

    def worker_stuck(self, worker: "Worker", death: Death) -> None:
        """It cannot be ended; its job, if any, is still in `worker.job`."""

    def worker_gone(self, worker: "Worker", death: Death) -> None:
        """It has ended; its job, if any, is still in `worker.job`."""


class Worker:
    """One worker process. `ready` and `gone` are futures to wait for."""

    def __init__(
        self,
        slot: int,
        record: int,
        server: ForkServer,
        born: StartingWorker,
        owner: WorkerOwner,
        watch: KillerWatch,
        clock: LoopClock,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.slot = slot
        self.record = record
        self.server = server
        self.pid = born.pid
        self.state = WorkerState.STARTING
        self.job: Job | None = None
        self.streams: set[Stream] = set()
        self.at_hand = 0
        """What it worked on when it ended: the number of its job, or of a stream."""
        self.useful = False
        """It has answered a stream."""
        self.jobs_done = 0
        self.idle_since = 0.0
        self.stuck = False
        """It cannot be ended; nobody waits for it any more."""
        self._worked_s = 0.0
        self._began = 0.0
        self.born_bytes = 0
        self.growth_bytes = 0
        self.outcome = Outcome("worker", born.pid, watch)
        self.ready: asyncio.Future[None] = loop.create_future()
        self.gone: asyncio.Future[Death] = loop.create_future()
        self._owner = owner
        self._clock = clock
        self._heartbeat_ns, self._heard_at = 0, clock.now()
        self._stuck_timer: asyncio.TimerHandle | None = None
        self._forbidden: ForbiddenCalls | None = None
        self._channel = AsyncChannel(born.sock, self._on_message, self._on_channel_closed)
        self._process = Process(born.pid, born.pidfd, self._on_exit, self._on_end)
        server.adopt(self._process)

    @property
    def able(self) -> bool:
        """It has a job or could take one."""
        return self.state in (WorkerState.IDLE, WorkerState.BUSY)

    @property
    def running(self) -> bool:
        """Its process has not ended."""
        return self._process.running

    @property
    def vacated(self) -> bool:
        """Its slot is free for another: it is gone, or cannot be ended."""
        return self.stuck or self.gone.done()

    @property
    def ending(self) -> bool:
        """It is being ended, or has ended: no sign of life is expected of it."""
        return self.state in _OVER or self.outcome.forced is not Intent.NONE

    @property
    def worked_s(self) -> float:
        """Seconds that it has had a job."""
        return self._worked_s + (time.monotonic() - self._began if self.job is not None else 0.0)

    def silent_s(self, heartbeat_ns: int, now: float) -> float:
        """Seconds, by the loop's clock, since its heartbeat was first seen as it is now."""
        if heartbeat_ns != self._heartbeat_ns:
            self._heartbeat_ns, self._heard_at = heartbeat_ns, now
        return now - self._heard_at

    def run(self, job: Job) -> bool:
        """Give the idle worker a job. False if the kernel would not carry it: then the job has not
        begun, and the worker is ended."""
        assert self.state is WorkerState.IDLE
        fds = [] if job.spool is None else [job.spool.fileno()]
        if not self._send(job.message, fds):
            return False
        self.state = WorkerState.BUSY
        self.job = job
        self._began = time.monotonic()
        job.state = JobState.RUNNING
        job.started = asyncio.get_running_loop().time()
        return True

    def cancel(self) -> None:
        """Its job is not wanted; it answers when it has stopped."""
        if self.job is not None:
            self._tell(Cancel(self.job.id))

    def job_over(self, *, done: bool = True) -> None:
        """It answered, and is idle, unless it was told to leave. `done`: not only given up."""
        self._worked_s = self.worked_s
        self.job = None
        self.jobs_done += done
        if self.state is WorkerState.BUSY:
            self._become_idle()

    def leave(self, intent: Intent, reason: str = "") -> None:
        """Ask it to exit after the job at hand."""
        if self.state in (WorkerState.LEAVING, *_OVER):
            return
        self.outcome.ask(intent, reason)
        self._move(WorkerState.LEAVING)
        self._tell(Leave())

    def send_stream(self, message: bytes) -> None:
        """Tell it of a stream; nothing if it has ended, which its end tells."""
        if self.running:
            self._send(message, [])

    def trim(self) -> None:
        """Ask it to give back what it has freed."""
        self._tell(Trim())

    def kill(self, intent: Intent, reason: str = "") -> None:
        """SIGKILL, remembering why."""
        if not self._process.running or self.outcome.forced is not Intent.NONE:
            return
        self.outcome.force(intent, reason)
        self._process.signal(signal.SIGKILL)
        loop = asyncio.get_running_loop()
        self._stuck_timer = loop.call_later(_STUCK_S, self._must_have_ended)
        if self.state not in _OVER:
            self._move(WorkerState.LEAVING)

    def abandon(self) -> None:
        """It cannot be ended, and the pool closes."""
        self._channel.close()
        self._process.abandon()
        self._on_exit(ExitStatus())

    def _tell(self, message: Message) -> None:
        self._send(encode(message), [])

    def _send(self, body: bytes, fds: Sequence[int]) -> bool:
        try:
            self._channel.send_encoded(body, fds)
        except OSError as error:
            log.error("worker.not_reached", worker=self.slot, pid=self.pid, reason=str(error))
            self.kill(Intent.RECYCLE, f"the kernel would not carry a message to it: {error}")
            return False
        return True

    def _become_idle(self) -> None:
        self.idle_since = time.monotonic()
        self._move(WorkerState.IDLE)

    def _move(self, state: WorkerState) -> None:
        self.state = state
        self._owner.worker_changed(self)

    # Events.

    def _on_message(self, message: AnyMessage, fds: list[int]) -> None:
        if isinstance(message, Ready):
            if fds:
                self._forbidden = ForbiddenCalls(fds[0], self._on_forbidden_call)
            self.born_bytes = message.anonymous_bytes
            if not self.ready.done():
                self.ready.set_result(None)
            if self.state is WorkerState.STARTING:
                self._become_idle()
        else:
            self._owner.worker_message(self, message)

    def _on_forbidden_call(self, name: str) -> None:
        log.error("worker.forbidden_call", worker=self.slot, pid=self.pid, call=name)
        self.kill(Intent.SANDBOX, f"it called {name}")

    def _on_channel_closed(self) -> None:
        # It is about to exit; give it the moment that an exit takes.
        reason = "it had closed its channel and went on"
        asyncio.get_running_loop().call_later(_LEAVE_S, self.kill, Intent.HANG, reason)

    def _on_end(self) -> None:
        self._move(WorkerState.ENDED)

    def _must_have_ended(self) -> None:
        if self.state in _OVER:
            return
        self.stuck = True
        death = self.outcome.stuck()
        log.error("worker.cannot_be_ended", worker=self.slot, pid=self.pid)
        if not self.ready.done():
            self.ready.set_exception(WorkerStillborn(death.sentence))
            self.ready.exception()
        self._owner.worker_stuck(self, death)

    def _on_exit(self, status: ExitStatus) -> None:
        self._channel.drain()
        if self._forbidden is not None:
            self._forbidden.close()
        self.server.release(self.pid)
        if self._stuck_timer is not None:
            self._stuck_timer.cancel()
        self.state = WorkerState.GONE
        death = self.outcome.name(status)
        self.gone.set_result(death)
        if not self.ready.done():
            self.ready.set_exception(WorkerStillborn(death.sentence))
        self.ready.exception()  # whoever cares has asked
        self._owner.worker_gone(self, death)
