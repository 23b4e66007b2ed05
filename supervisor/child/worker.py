"""A worker: one thread in a blocking loop. Do a step, look at the channel, do the next.

It has at most one job, and any number of streams, which go first."""

import gc
import os
import signal
import time
import traceback

from supervisor.child import sandbox
from supervisor.child.streams import CarriedStreams
from supervisor.contract import Servable
from supervisor.errors import JobError
from supervisor.processes.environment import Sandbox
from supervisor.processes.kin import set_parent_death_signal
from supervisor.readings.files import field
from supervisor.spool_view import SpoolView, open_view
from supervisor.trim import give_back
from supervisor.wire.channel import Channel, ChannelClosed
from supervisor.wire.messages import (
    AnyMessage,
    Cancel,
    Cancelled,
    Done,
    Drop,
    Failed,
    Feed,
    Leave,
    Message,
    Open,
    Progress,
    Ready,
    Run,
    Trim,
)
from supervisor.wire.scoreboard import RecordWriter


def work(
    channel: Channel, servable: Servable, record: RecordWriter, heartbeat_s: float, mode: Sandbox
) -> int:
    """Run jobs until told to leave or until the supervisor is gone; returns the exit status."""
    return Worker(channel, servable, record, heartbeat_s, mode).serve()


class Worker:
    """The loop and what it must remember."""

    def __init__(
        self,
        channel: Channel,
        servable: Servable,
        record: RecordWriter,
        heartbeat_s: float,
        mode: Sandbox,
    ) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        gc.enable()
        self._channel = channel
        self._servable = servable
        self._record = record
        self._heartbeat_s = heartbeat_s
        self._mode = mode
        self._status_fd = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
        self._born_with_bytes = self._anonymous_bytes()
        self._leaving = False
        self._streams = CarriedStreams(servable, channel, record)
        self._parent = os.getppid()

    def serve(self) -> int:
        try:
            self._channel.send(Ready(self._born_with_bytes), self._enter_sandbox())
            # One that is to leave stays for its streams until they go on elsewhere.
            while not self._leaving or self._streams:
                wait_s = 0.0 if self._streams.waiting else self._heartbeat_s
                received = self._channel.receive(wait_s)
                self._watch_parent()
                self._record.beat()
                if received is not None:
                    self._obey(*received)
                elif self._streams.waiting:
                    self._streams.step()
        except ChannelClosed:
            return 0
        return 0

    def _enter_sandbox(self) -> list[int]:
        """Returns the descriptor by which the supervisor hears of forbidden calls, if any are."""
        if self._mode is Sandbox.OFF:
            return []
        listener = sandbox.enter().listener
        if listener is None and self._mode is Sandbox.ON:
            raise RuntimeError("no sandbox can be made any more")
        return [] if listener is None else [listener]

    def _anonymous_bytes(self) -> int:
        """Anonymous memory of this process, shared pages included (`RssAnon`, proc(5))."""
        return (field(os.pread(self._status_fd, 4096, 0), b"RssAnon:") or 0) * 1024

    def _obey(self, message: AnyMessage, fds: list[int]) -> None:
        match message:
            case Run():
                self._run(message, fds)
            case Leave():
                self._leaving = True
            case Trim():
                give_back()
            case Open() | Feed() | Drop():
                self._streams.obey(message)
            case Cancel():
                pass  # it crossed the result on the way
            case _:
                raise AssertionError(f"not a worker's message: {message}")

    def _run(self, run: Run, fds: list[int]) -> None:
        self._record.busy(run.job)
        started = time.monotonic_ns()
        answer: Message
        try:
            answer = self._answer(run, fds, started)
        except JobError as error:
            answer = Failed(run.job, error.code, error.message, "")
        except ChannelClosed:
            raise
        except Exception as error:  # noqa: BLE001 - a model's bug costs the job, not the worker
            message = f"{type(error).__name__}: {error}"
            answer = Failed(run.job, None, message, traceback.format_exc())
        try:
            self._channel.send(answer)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            message = f"its result cannot be carried: {error}"
            self._channel.send(Failed(run.job, None, message, traceback.format_exc()))
        self._record.finished(time.monotonic_ns() - started)

    def _answer(self, run: Run, fds: list[int], started: int) -> Message:
        # The view is not closed but forgotten: the model may still hold slices of it.
        view: SpoolView | None = None
        if run.spool_bytes is not None:
            (fd,) = fds
            try:
                if os.fstat(fd).st_size < run.spool_bytes:
                    raise JobError("input_cut_short", "the job's input was cut short meanwhile")
                view = open_view(fd, run.spool_bytes)
            finally:
                os.close(fd)
        steps = self._servable.run(run.request, view)
        try:
            while True:
                try:
                    value = next(steps)
                except StopIteration as stop:
                    run_s = (time.monotonic_ns() - started) / 1e9
                    growth = self._anonymous_bytes() - self._born_with_bytes
                    return Done(run.job, stop.value, run_s, growth)
                self._record.beat()
                if value is not None:
                    self._channel.send(Progress(run.job, value))
                if not self._still_wanted(run.job):
                    return Cancelled(run.job)
        finally:
            steps.close()

    def _still_wanted(self, job: int) -> bool:
        """Look at the channel between two steps, and let the streams have their turns. Raises
        `ChannelClosed`."""
        self._watch_parent()
        wanted = True
        while True:
            while (received := self._channel.receive(0)) is not None:
                wanted = self._obey_beside(job, received[0]) and wanted
            if not self._streams.urgent:
                return wanted
            self._streams.step()

    def _obey_beside(self, job: int, message: AnyMessage) -> bool:
        """With a job at hand. False if that is not wanted any more."""
        match message:
            case Cancel(job=cancelled):
                return cancelled != job
            case Leave():
                self._leaving = True
            case Trim():
                pass  # it was idle when this was sent; what it has now it is using
            case Open() | Feed() | Drop():
                self._streams.obey(message)
            case other:
                raise AssertionError(f"not for a busy worker: {other}")
        return True

    def _watch_parent(self) -> None:
        """While the fork server lives, it ends us if the supervisor dies. Then nobody would, until
        a step is over: so the kernel is asked to."""
        if (parent := os.getppid()) != self._parent:
            self._parent = parent
            set_parent_death_signal(signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
