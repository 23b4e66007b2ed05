"""Handle of a worker: its state, its job and its end.

Every event of a worker's life arrives here, in any order, and moves its single state; whether it
may take a job is read from that state and stored nowhere else.
"""

import asyncio
import contextlib
import enum
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from supervisor.deaths.death import Death, ExitStatus, Intent
from supervisor.deaths.kernel_oom import OomEvidence
from supervisor.job import Job, JobState
from supervisor.log import get_logger
from supervisor.loop.changes import Changes
from supervisor.loop.clock import LoopClock
from supervisor.processes.forbidden import ForbiddenCalls
from supervisor.processes.forkserver_handle import ForkServerHandle, StartingWorker
from supervisor.processes.life_signs import LifeSigns
from supervisor.processes.process import Process
from supervisor.readings.processes import read_process
from supervisor.wire.async_channel import AsyncChannel
from supervisor.wire.channel import close_fds
from supervisor.wire.messages import (
    Cancel,
    FromWorker,
    Leave,
    Message,
    ProtocolError,
    Ready,
    Trim,
    encode,
    from_worker,
)

log = get_logger("supervisor")

_START_S = 10.0
"""Seconds that a worker may take to get ready, before it counts as silent."""


class WorkerState(enum.Enum):
    """State of a worker: `STARTING` -> `IDLE` <-> `BUSY` -> `LEAVING` -> `GONE`; an end may come
    any time.

    `LEAVING`: it was asked to leave, or is being ended; it may have a job still. `GONE`: its
    process has ended, and its status is known.
    """

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    LEAVING = "leaving"
    GONE = "gone"


class WorkerStillborn(Exception):
    """Worker that died before it could take a job."""


class CarriedStream(Protocol):
    """Stream, as the worker that carries it sees it."""

    number: int
    background: bool

    @property
    def working(self) -> bool:
        """True if its worker has input that is not answered."""


class WorkerOwner(Protocol):
    """Receiver of the events in a worker's life."""

    def worker_changed(self, worker: "WorkerHandle") -> None:
        """Handle a worker that can take a job now, or none any more."""

    def worker_busy(self, worker: "WorkerHandle") -> None:
        """Handle a worker that has something to do from now on."""

    def worker_message(self, worker: "WorkerHandle", message: FromWorker) -> None:
        """Handle a message other than `Ready`. Raises `ProtocolError` if it is not allowed now."""

    def worker_lost(self, worker: "WorkerHandle", death: Death) -> None:
        """Handle a worker that has ended, or cannot be ended. `worker.job` is the job that it had,
        and `worker.at_hand` the number of its current work."""


class _BusyTime:
    """Time that a worker has been busy."""

    def __init__(self) -> None:
        self._before_s = 0.0
        self._since: float | None = None

    @property
    def total_s(self) -> float:
        """Seconds of work so far."""
        return self._before_s + (0.0 if self._since is None else time.monotonic() - self._since)

    def switch(self, busy: bool) -> bool:
        """Start or stop counting; return False if that changes nothing."""
        if busy == (self._since is not None):
            return False
        self._before_s, self._since = self.total_s, time.monotonic() if busy else None
        return True


class WorkerHandle(Process):
    """Handle of a worker process. `ready` and `gone` are futures to wait for."""

    def __init__(
        self,
        slot: int,
        server: ForkServerHandle,
        born: StartingWorker,
        owner: WorkerOwner,
        on_gone: Callable[["WorkerHandle", Death], None],
        changes: Changes,
        evidence: OomEvidence,
        clock: LoopClock,
    ) -> None:
        """Take over a worker that was forked. `on_gone` is called at its end, and notifies
        `owner`."""
        self.slot = slot
        self.server = server
        self.state = WorkerState.STARTING
        self.job: Job | None = None
        self.streams: set[CarriedStream] = set()
        self.useful = False
        """True once it was given a job, or has answered a stream."""
        self.jobs_done = 0
        self.idle_since = 0.0
        self.hurried = False
        """True if it is to leave because memory is short: its streams are moved at once."""
        self._busy_time = _BusyTime()
        self.born_bytes = 0
        """Unreclaimable memory that it held when it got ready: nearly all of it is shared."""
        self.grown_before = 0
        """Growth in bytes when its job began."""
        self.in_force: tuple[str, ...] = ()
        """Sandbox measures that are in force."""
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.gone: asyncio.Future[Death] = asyncio.get_running_loop().create_future()
        self._owner, self._on_gone, self._changes = owner, on_gone, changes
        self._clock = clock
        self._signs, self._output = LifeSigns(born.page, clock), born.output
        self._started, self._leaving_since = clock.now(), 0.0
        self.answered_at = clock.now()
        """Time of its last answer to a stream, by the loop's clock."""
        self._forbidden: ForbiddenCalls | None = None
        self._channel = AsyncChannel(born.sock, from_worker, self._on_message, self._on_close)
        super().__init__("worker", born.pid, born.pidfd, evidence)

    @property
    def able(self) -> bool:
        """True if it has a job or could take one."""
        return self.state in (WorkerState.IDLE, WorkerState.BUSY)

    @property
    def busy(self) -> bool:
        """True if it has a job, or a stream that does not wait for input."""
        return self.job is not None or any(stream.working for stream in self.streams)

    @property
    def vacated(self) -> bool:
        """True if its slot is free for another: it is gone, or cannot be ended."""
        return self.stuck or self.gone.done()

    @property
    def at_hand(self) -> int:
        """Number of its job or stream on which it was working when last seen; 0 for none."""
        number = self._signs.at_hand
        job = [] if self.job is None else [self.job.id]
        return number if number in (*job, *(stream.number for stream in self.streams)) else 0

    @property
    def worked_s(self) -> float:
        """Seconds that it has been busy."""
        return self._busy_time.total_s

    @property
    def silent_s(self) -> float:
        """Seconds, by the loop's clock, since its heartbeat was first seen as it is now."""
        return self._signs.silent_s()

    @property
    def overdue_s(self) -> float:
        """Seconds for which it has been expected to get ready, to stop its job, or to leave."""
        starts = self.state is WorkerState.STARTING and self._clock.now() - self._started > _START_S
        stops = self.job is not None and self.job.state is JobState.OVER
        leaves = self.state is WorkerState.LEAVING and self.job is None and not self.streams
        return self._signs.overdue_s(expected=starts or stops or leaves)

    def stays_for_streams(self, checkpoint_wait_s: float) -> bool:
        """Return whether it is to leave, and has only streams left that would lose something by a
        move: another worker is needed beside it, after `checkpoint_wait_s`."""
        if self.state is not WorkerState.LEAVING or self.job is not None or not self.streams:
            return False
        return self._clock.now() - self._leaving_since > checkpoint_wait_s

    def output(self) -> str:
        """Return the text that it has written to its standard output and error since."""
        return self._output.take() if not self.gone.done() else ""

    def work_changed(self) -> None:
        """Update the time that it is busy, after it was given something or has answered."""
        if self._busy_time.switch(busy := self.busy) and busy:
            self._owner.worker_busy(self)

    def run(self, job: Job, fds: Sequence[int]) -> bool:
        """Give the idle worker a job, with the descriptor of its input. Return False if the kernel
        refuses the message: then the job has not begun, and the worker is ended."""
        assert self.state is WorkerState.IDLE
        if not self._send(job.message, fds):
            return False
        self.state, self.useful = WorkerState.BUSY, True
        self.job = job
        job.state = JobState.RUNNING
        job.started = asyncio.get_running_loop().time()
        self.work_changed()
        return True

    def cancel(self) -> None:
        """Cancel its job; it answers when it has stopped."""
        if self.job is not None:
            self._tell(Cancel(self.job.id))

    def job_over(self, *, done: bool = True) -> None:
        """Finish a job that it has answered: it is idle, unless it was asked to leave. `done`: the
        job was not cancelled."""
        self.job = None
        self.jobs_done += done
        self.work_changed()
        if self.state is WorkerState.BUSY:
            self._become_idle()

    def leave(self, intent: Intent, reason: str = "") -> None:
        """Ask it to exit after its current job, and once its streams have moved."""
        if self.state in (WorkerState.LEAVING, WorkerState.GONE):
            return
        self.outcome.ask(intent, reason)
        self.state, self._leaving_since = WorkerState.LEAVING, self._clock.now()
        self._tell(Leave())
        self._changes.notify()
        self._owner.worker_changed(self)

    def recycle(self, reason: str = "") -> None:
        """Have it leave after its job, to be replaced."""
        self.leave(Intent.RECYCLE, reason)

    def send_stream(self, message: bytes) -> None:
        """Send it a message about a stream; do nothing if it has ended."""
        if self.running:
            self._send(message, [])

    def trim(self) -> None:
        """Ask it to return freed memory to the kernel."""
        self._tell(Trim())

    def kill(self, intent: Intent, reason: str = "") -> None:
        """Send SIGKILL, and remember why: it takes no more jobs."""
        if not self.ending:
            super().kill(intent, reason)
            self._move(WorkerState.LEAVING)

    def abandon(self) -> None:
        """Stop waiting for its end, because it cannot be ended and the pool closes."""
        super().abandon()
        if self.state is not WorkerState.GONE:
            self._on_exit(self.outcome.name(ExitStatus()))

    def _tell(self, message: Message) -> None:
        self._send(encode(message), [])

    def _send(self, body: bytes, fds: Sequence[int]) -> bool:
        try:
            self._channel.send_encoded(body, fds)
        except OSError as error:
            self._not_reached(error)
            return False
        return True

    def _not_reached(self, error: OSError) -> None:
        self.kill(Intent.RECYCLE, f"the kernel refused a message to it: {error}")
        log.error("worker.send_failed", worker=self.slot, pid=self.pid, reason=str(error))

    def _become_idle(self) -> None:
        self.idle_since = time.monotonic()
        self._move(WorkerState.IDLE)

    def _move(self, state: WorkerState) -> None:
        self.state = state
        self._changes.notify()
        self._owner.worker_changed(self)

    # Events.

    def _on_message(self, message: FromWorker, fds: list[int]) -> None:
        if isinstance(message, Ready):
            self._on_ready(message, fds)
        elif self.state is WorkerState.STARTING:
            raise ProtocolError(f"{type(message).__name__} before it was ready")
        else:
            self._owner.worker_message(self, message)

    def _on_ready(self, message: Ready, fds: list[int]) -> None:
        if self.ready.done():
            close_fds(fds)
            raise ProtocolError("Ready for a second time")
        if fds:
            self._forbidden = ForbiddenCalls(fds[0], self._on_forbidden_call)
        self.in_force = tuple(message.in_force)
        with contextlib.suppress(OSError):  # not known yet: the guard's next reading tells
            held = read_process(self.pid)
            self.born_bytes = held.unreclaimable if held is not None else 0
        self.ready.set_result(None)
        if self.state is WorkerState.STARTING:
            self._become_idle()

    def _on_forbidden_call(self, name: str) -> None:
        self.kill(Intent.SANDBOX, f"it called {name}")
        log.error("worker.call_blocked", worker=self.slot, pid=self.pid, call=name)

    def _on_close(self, reason: Exception | None) -> None:
        if isinstance(reason, OSError):
            self._not_reached(reason)
            return
        if reason is not None:
            log.error("worker.protocol_broken", worker=self.slot, pid=self.pid, reason=str(reason))
        elif self.able:  # it is about to exit, and gets nothing to do
            self._move(WorkerState.LEAVING)
        self.channel_failed(reason)

    def _on_stuck(self, death: Death) -> None:
        log.error("worker.kill_failed", worker=self.slot, pid=self.pid)
        if not self.ready.done():
            self._stillborn(death)
        self._changes.notify()
        self._owner.worker_lost(self, death)

    def _on_exit(self, death: Death) -> None:
        self.state = WorkerState.GONE
        self._signs.close()
        self._channel.drain()
        try:
            self._on_gone(self, death)
        finally:
            self.gone.set_result(death)
            if not self.ready.done():
                self._stillborn(death)
            if self._forbidden is not None:
                self._forbidden.close()
            self._output.close()

    def _stillborn(self, death: Death) -> None:
        self.ready.set_exception(WorkerStillborn(death.sentence))
        self.ready.exception()  # so that asyncio does not log it if it has no waiter
