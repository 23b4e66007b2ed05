"""The supervisor's hand on one worker: its state, the job it has, and its end."""

import asyncio
import enum
import signal
import time
from typing import Protocol

from supervisor.job import Job, JobState
from supervisor.processes.death import Death, ExitStatus, Intent, KillerWatch, Outcome
from supervisor.processes.forkserver import ForkServer, StartingWorker
from supervisor.processes.process import Process
from supervisor.wire.channel import AsyncChannel
from supervisor.wire.messages import AnyMessage, Cancel, Leave, Ready, Run, Trim


class WorkerState(enum.Enum):
    """`STARTING` -> `IDLE` <-> `BUSY` -> `LEAVING` -> `GONE`; death may come at any time."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    LEAVING = "leaving"
    GONE = "gone"


class WorkerStillborn(Exception):
    """It died before it could take a job."""


class WorkerOwner(Protocol):
    """Who hears of a worker's life."""

    def worker_message(self, worker: "Worker", message: AnyMessage) -> None:
        """It sent something other than `Ready`."""

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
    ) -> None:
        loop = asyncio.get_running_loop()
        self.slot = slot
        self.record = record
        self.server = server
        self.pid = born.pid
        self.state = WorkerState.STARTING
        self.job: Job | None = None
        self.jobs_done = 0
        self._worked_s = 0.0
        self._began = 0.0
        self.born_bytes = 0
        self.growth_bytes = 0
        self.outcome = Outcome("worker", born.pid, watch)
        self.ready: asyncio.Future[None] = loop.create_future()
        self.gone: asyncio.Future[Death] = loop.create_future()
        self._owner = owner
        self._channel = AsyncChannel(born.sock, self._on_message, self._on_channel_closed)
        self._process = Process(born.pid, born.pidfd, self._on_exit)
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
    def worked_s(self) -> float:
        """Seconds that it has had a job."""
        return self._worked_s + (time.monotonic() - self._began if self.job is not None else 0.0)

    def run(self, job: Job) -> None:
        """Give the idle worker a job."""
        assert self.state is WorkerState.IDLE
        self.state = WorkerState.BUSY
        self.job = job
        job.state = JobState.RUNNING
        job.started = asyncio.get_running_loop().time()
        self._began = time.monotonic()
        if job.spool is None:
            self._channel.send(Run(job.id, job.request, None))
        else:
            self._channel.send(Run(job.id, job.request, job.spool.size), [job.spool.fileno()])

    def cancel(self) -> None:
        """The result of its job is not wanted; it answers when it has stopped."""
        assert self.job is not None
        self._channel.send(Cancel(self.job.id))

    def job_over(self) -> None:
        """It answered, and is idle, unless it was told to leave."""
        self._worked_s = self.worked_s
        self.job = None
        self.jobs_done += 1
        if self.state is WorkerState.BUSY:
            self.state = WorkerState.IDLE

    def leave(self, intent: Intent, reason: str = "") -> None:
        """Ask it to exit after the job at hand."""
        if self.state in (WorkerState.LEAVING, WorkerState.GONE):
            return
        self.state = WorkerState.LEAVING
        self.outcome.meant(intent, reason)
        self._channel.send(Leave())

    def trim(self) -> None:
        """Ask it to give back what it has freed."""
        self._channel.send(Trim())

    def kill(self, intent: Intent, reason: str = "") -> None:
        """SIGKILL, remembering why."""
        if self._process.running:
            self.outcome.meant(intent, reason)
            self._process.signal(signal.SIGKILL)

    def _on_message(self, message: AnyMessage, fds: list[int]) -> None:
        if isinstance(message, Ready):
            self.born_bytes = message.anonymous_bytes
            if self.state is WorkerState.STARTING:
                self.state = WorkerState.IDLE
            if not self.ready.done():
                self.ready.set_result(None)
        else:
            self._owner.worker_message(self, message)

    def _on_channel_closed(self) -> None:
        # It is about to exit; give it the moment that an exit takes.
        asyncio.get_running_loop().call_later(1.0, self._process.signal, signal.SIGKILL)

    def _on_exit(self, status: ExitStatus) -> None:
        self._channel.drain()
        self.server.release(self.pid)
        self.state = WorkerState.GONE
        death = self.outcome.name(status)
        self.gone.set_result(death)
        if not self.ready.done():
            self.ready.set_exception(WorkerStillborn(death.sentence))
            self.ready.exception()  # whoever cares has asked
        self._owner.worker_gone(self, death)
