"""A worker: one thread in a blocking loop, which does a step and then looks at the channel.

It has at most one job and any number of streams; `supervisor.child.turns` decides which has the
next step.
"""

import gc
import os
import signal
import time
import traceback

from supervisor.child import sandbox
from supervisor.child.streams import CarriedStreams
from supervisor.child.turns import Turn, Turns
from supervisor.contract import Servable
from supervisor.errors import JobError
from supervisor.settings import Sandbox
from supervisor.spool_view import SpoolView, open_view
from supervisor.trim import collect_and_release
from supervisor.wire.channel import Channel, ChannelClosed
from supervisor.wire.messages import (
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
    ToWorker,
    Trim,
    sendable,
)
from supervisor.wire.page import Page
from supervisor.wire.payload import Unsendable, pack_value

_IDLE_S = 5.0
"""Seconds after which an idle worker returns memory that it has freed to the kernel. Allocating it
again costs page faults: some milliseconds for an utterance."""


class Worker:
    """The loop of a worker, and its state."""

    def __init__(
        self,
        channel: "Channel[ToWorker]",
        servable: Servable,
        page: Page,
        heartbeat_s: float,
        mode: Sandbox,
        nowhere: int,
    ) -> None:
        """Take over the channel and the page. `nowhere` is a descriptor of an empty directory (see
        `sandbox.enter`)."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        gc.enable()
        self._channel = channel
        self._servable = servable
        self._page = page
        self._heartbeat_s = heartbeat_s
        self._mode = mode
        self._nowhere = nowhere
        self._leaving = False
        self._worked_at: float | None = None
        """Time of its last work; None once freed memory has been returned since."""
        self._turns = Turns()
        self._streams = CarriedStreams(servable, channel, page)

    def serve(self) -> int:
        """Work until asked to leave or until the supervisor is gone; return the exit status."""
        try:
            self._get_ready()
            # A worker that is to leave stays for its streams until they move to another.
            while not self._leaving or self._streams:
                waiting = self._streams.turns()
                received = self._channel.receive(0.0 if waiting else self._heartbeat_s)
                self._page.beat()
                if received is not None:
                    self._obey(*received)
                elif waiting:
                    self._step_of(self._turns.next(waiting), waiting)
                self._rest(idle=received is None and not waiting)
        except ChannelClosed:
            return 0
        return 0

    def _rest(self, *, idle: bool) -> None:
        """Return freed memory to the kernel, once, after some idle seconds."""
        now = time.monotonic()
        if not idle:
            self._worked_at = now
        elif self._worked_at is not None and now - self._worked_at > _IDLE_S:
            self._worked_at = None
            collect_and_release()

    def _get_ready(self) -> None:
        if self._mode is Sandbox.OFF:
            os.close(self._nowhere)
            self._channel.send(Ready([]))
            return
        entered = sandbox.enter(self._nowhere)
        listener = [] if entered.listener is None else [entered.listener]
        self._channel.send(Ready(entered.in_force), listener)
        for fd in listener:
            os.close(fd)

    def _obey(self, message: ToWorker, fds: list[int]) -> None:
        match message:
            case Run():
                self._run(message, fds)
            case Leave():
                self._leaving = True
            case Trim():
                collect_and_release()
            case Open() | Feed() | Drop():
                self._streams.obey(message)
            case Cancel():
                pass  # it crossed the result on the way

    def _step_of(self, turn: Turn, waiting: set[Turn]) -> None:
        started = time.monotonic()
        self._streams.step(turn)
        self._turns.ran(turn, time.monotonic() - started, waiting)

    def _run(self, run: Run, fds: list[int]) -> None:
        self._page.turn_to(run.job)
        answer: Message
        try:
            answer = self._answer(run, fds)
        except JobError as error:
            answer = Failed(run.job, sendable(error.code, 100), sendable(error.message), "")
        except ChannelClosed:
            raise
        except Exception as error:  # noqa: BLE001 - a model's bug costs the job, not the worker
            answer = _failed(run.job, f"{type(error).__name__}: {error}")
        self._channel.send(answer)
        self._page.turn_to(0)

    def _answer(self, run: Run, fds: list[int]) -> Message:
        # The view is not closed, only dropped: the model may still hold slices of it.
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
                started = time.monotonic()
                try:
                    value = next(steps)
                except StopIteration as stop:
                    try:
                        return Done(run.job, pack_value(stop.value))
                    except Unsendable as error:
                        return _failed(run.job, f"its result cannot be carried: {error}")
                self._page.beat()
                if value is not None:
                    self._channel.send(Progress(run.job, pack_value(value)))
                waiting = {Turn.FILE, *self._streams.turns()}
                self._turns.ran(Turn.FILE, time.monotonic() - started, waiting)
                if not self._still_wanted(run.job):
                    return Cancelled(run.job)
        finally:
            steps.close()

    def _still_wanted(self, job: int) -> bool:
        """Look at the channel between two steps, and let the streams have their turns; return False
        as soon as the job is cancelled. Raises `ChannelClosed`."""
        while True:
            while (received := self._channel.receive(0)) is not None:
                if not self._obey_beside(job, received[0]):
                    return False
            waiting = {Turn.FILE, *self._streams.turns()}
            if (turn := self._turns.next(waiting)) is Turn.FILE:
                return True
            self._step_of(turn, waiting)

    def _obey_beside(self, job: int, message: ToWorker) -> bool:
        """Handle a message while a job runs; return False if it cancels that job."""
        match message:
            case Cancel(job=cancelled):
                return cancelled != job
            case Leave():
                self._leaving = True
            case Trim():
                pass  # it was idle when this was sent; now it uses its memory
            case Open() | Feed() | Drop():
                self._streams.obey(message)
            case Run():
                raise AssertionError("a second job for a busy worker")
        return True


def _failed(job: int, message: str) -> Failed:
    return Failed(job, None, sendable(message), sendable(traceback.format_exc()))
