"""The fork server: loads the model once, warms it, then only forks and reaps.

It is started by exec, has one thread, and lives as long as the supervisor's end of its channel.
"""

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
import tempfile
import time
import traceback
from typing import Any

from supervisor.child import sandbox
from supervisor.child.worker import work
from supervisor.contract import Reporting, Servable, Warmable
from supervisor.processes.environment import Sandbox
from supervisor.processes.kin import (
    end_with_parent,
    not_started,
    raise_oom_score,
    set_parent_death_signal,
    wait_status,
)
from supervisor.trim import give_back, let_go
from supervisor.wire.channel import Channel, ChannelClosed
from supervisor.wire.messages import (
    Fork,
    Forked,
    ForkFailed,
    Load,
    Loaded,
    LoadFailed,
    Reaped,
    Trim,
)
from supervisor.wire.scoreboard import Scoreboard

EXIT_LOAD_FAILED = 3

_FORK_SERVER_OOM_SCORE, _WORKER_OOM_SCORE = 200, 700
"""Added on the way from the supervisor to a worker: if the kernel must kill, then a worker, whose
work can be done again; the supervisor last."""


def main(channel_fd: int, scoreboard_fd: int, supervisor_pid: int) -> int:
    """Serve forks over the channel until it closes; returns the exit status."""
    # Ctrl-C reaches the whole terminal group; whether it ends us is the supervisor's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # No end-of-file is read while the model loads, and there is nothing to clean up yet.
    if not end_with_parent(supervisor_pid):
        return 0
    raise_oom_score(_FORK_SERVER_OOM_SCORE)
    channel = Channel(socket.socket(fileno=channel_fd))
    try:
        received = channel.receive(None)
        assert received is not None
        request = received[0]
        assert isinstance(request, Load)
        os.nice(request.nice)
        scoreboard = Scoreboard(scoreboard_fd, request.records)
        os.close(scoreboard_fd)
        try:
            servable = _load(channel, request)
        except Exception as error:  # noqa: BLE001 - whatever a model raises, the supervisor is told
            message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            channel.send(LoadFailed(message, traceback.format_exc()))
            return EXIT_LOAD_FAILED
        ForkServer(channel, servable, scoreboard, request.heartbeat_s, request.sandbox).serve()
    except ChannelClosed:
        pass
    return 0


def _load(channel: Channel, request: Load) -> Servable:
    sys.path[:0] = request.import_path
    tempfile.tempdir = request.scratch
    gc.disable()
    started = time.monotonic()
    function = getattr(importlib.import_module(request.module), request.function)
    servable: Servable = function(**request.options)
    loaded = time.monotonic()
    if isinstance(servable, Warmable):
        servable.warm()
    warmed = time.monotonic()
    report: dict[str, Any] = servable.report() if isinstance(servable, Reporting) else {}
    tempfile.tempdir = None  # the supervisor removes it now
    off = request.sandbox is Sandbox.OFF
    in_force, missing = ([], []) if off else sandbox.try_sandbox()
    if request.sandbox is Sandbox.ON and sandbox.ESSENTIAL not in in_force:
        raise RuntimeError(f"no sandbox can be made here: {'; '.join(missing)}")
    # What is garbage now must not be found, and its pages copied, in every worker.
    gc.collect()
    gc.freeze()
    let_go()
    channel.send(Loaded(loaded - started, warmed - loaded, report, in_force, missing))
    return servable


class ForkServer:
    """Forks workers on request and reports their ends."""

    def __init__(
        self,
        channel: Channel,
        servable: Servable,
        scoreboard: Scoreboard,
        heartbeat_s: float,
        mode: Sandbox,
    ) -> None:
        self._mode = mode
        self._channel = channel
        self._servable = servable
        self._scoreboard = scoreboard
        self._heartbeat_s = heartbeat_s
        self._children: dict[int, int] = {}  # pidfd -> pid
        self._poll = select.poll()
        self._poll.register(channel, select.POLLIN)

    def serve(self) -> None:
        """Until the supervisor closes the channel or dies; no worker outlives that."""
        # From here on a dead supervisor is read from the channel, and the workers go first.
        set_parent_death_signal(0)
        try:
            while True:
                for fd, _ in self._poll.poll():
                    if fd == self._channel.fileno():
                        self._answer()
                    else:
                        self._reap(fd)
        except ChannelClosed:
            for pidfd in self._children:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def _answer(self) -> None:
        received = self._channel.receive(0)
        if received is None:
            return
        request, fds = received
        if isinstance(request, Trim):
            give_back()
            return
        assert isinstance(request, Fork)
        (worker_fd,) = fds
        try:
            pid = os.fork()
        except OSError as error:
            os.close(worker_fd)
            self._channel.send(ForkFailed(request.ticket, not_started(error)))
            return
        if pid == 0:
            self._become_worker(request, worker_fd)
        os.close(worker_fd)
        # Only this process reaps its children, so the pid cannot have been recycled.
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = pid
        self._poll.register(pidfd, select.POLLIN)
        self._channel.send(Forked(request.ticket, pid), [pidfd])

    def _become_worker(self, request: Fork, worker_fd: int) -> None:
        """In the child; never returns."""
        status = 1
        try:
            raise_oom_score(_WORKER_OOM_SCORE)
            self._channel.close()
            for pidfd in self._children:
                os.close(pidfd)
            record = self._scoreboard.writer(request.record)
            channel = Channel(socket.socket(fileno=worker_fd))
            status = work(channel, self._servable, record, self._heartbeat_s, self._mode)
        except BaseException:  # noqa: BLE001 - a worker must never unwind into the fork server's code
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)

    def _reap(self, pidfd: int) -> None:
        # Told before it is reaped: if this process dies in between, the supervisor inherits the
        # zombie and reads the status itself.
        status = wait_status(pidfd, reap=False)
        if status is None:
            return
        self._channel.send(Reaped(self._children[pidfd], status.code, status.signal))
        wait_status(pidfd)
        self._poll.unregister(pidfd)
        del self._children[pidfd]
        os.close(pidfd)
