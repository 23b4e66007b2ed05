"""The fork server: loads the model once, warms it, then only forks.

It is started by exec, has one thread, and lives as long as the supervisor's end of its channel.
Each worker is forked twice, so that it becomes a child of the supervisor, which can then ask the
kernel how it ended even after the fork server has gone.
"""

import contextlib
import ctypes
import gc
import importlib
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from typing import Any

from supervisor.child import sandbox
from supervisor.child.worker import Worker
from supervisor.contract import LoadError, LoadRefused, Reporting, Servable, Warmable
from supervisor.process_control import (
    end_with_parent,
    not_started,
    raise_oom_score,
    wait_for_parent,
)
from supervisor.settings import Sandbox
from supervisor.trim import collect_and_release, release_free_memory
from supervisor.wire.channel import Channel, ChannelClosed, close_fds
from supervisor.wire.messages import (
    Fork,
    Forked,
    ForkFailed,
    Load,
    Loaded,
    LoadFailed,
    ToForkServer,
    Trim,
    sendable,
    to_fork_server,
    to_worker,
)
from supervisor.wire.page import Page

EXIT_LOAD_FAILED = 3

_FORK_SERVER_OOM_SCORE, _WORKER_OOM_SCORE = 200, 700
"""Values added to oom_score_adj for the fork server and again for a worker: if the kernel must
kill, it takes a worker, whose work can be repeated, and the supervisor last."""

_libc = ctypes.PyDLL(None, use_errno=True)


def main(channel_fd: int, supervisor_pid: int) -> int:
    """Serve forks over the channel until it closes; return the exit status."""
    # Ctrl-C reaches the whole terminal group; the supervisor decides whether this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not end_with_parent(supervisor_pid):
        return 0
    raise_oom_score(_FORK_SERVER_OOM_SCORE)
    channel = Channel(socket.socket(fileno=channel_fd), to_fork_server)
    try:
        received = channel.receive(None)
        assert received is not None
        request = received[0]
        assert isinstance(request, Load)
        os.nice(request.nice)
        nowhere = os.open(request.scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            servable = _load(channel, request, nowhere)
        except LoadRefused as error:
            channel.send(LoadFailed(sendable(str(error)), "", refused=True))
            return EXIT_LOAD_FAILED
        except LoadError as error:
            channel.send(LoadFailed(sendable(str(error)), sendable(traceback.format_exc())))
            return EXIT_LOAD_FAILED
        except Exception as error:  # noqa: BLE001 - a model may raise anything
            message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            channel.send(LoadFailed(sendable(message), sendable(traceback.format_exc())))
            return EXIT_LOAD_FAILED
        ForkServer(channel, servable, request, nowhere, supervisor_pid).serve()
    except ChannelClosed:
        pass
    return 0


def _load(channel: "Channel[ToForkServer]", request: Load, nowhere: int) -> Servable:
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
    in_force, missing = ([], []) if off else sandbox.try_sandbox(nowhere)
    if request.sandbox is Sandbox.ON and sandbox.ESSENTIAL not in in_force:
        raise RuntimeError(f"no sandbox can be made here: {'; '.join(missing)}")
    # Collected now, so that garbage is not found, and its pages copied, in every worker.
    gc.collect()
    gc.freeze()
    release_free_memory()
    channel.send(Loaded(loaded - started, warmed - loaded, report, in_force, missing))
    return servable


class ForkServer:
    """Forks workers on request."""

    def __init__(
        self,
        channel: "Channel[ToForkServer]",
        servable: Servable,
        request: Load,
        nowhere: int,
        supervisor_pid: int,
    ) -> None:
        """Take over the channel. `nowhere` is a descriptor of the directory that held temporary
        files of the load; the supervisor has removed it."""
        self._channel = channel
        self._servable = servable
        self._heartbeat_s = request.heartbeat_s
        self._mode = request.sandbox
        self._nowhere = nowhere
        self._supervisor_pid = supervisor_pid

    def serve(self) -> None:
        """Fork until the supervisor closes the channel. Raises `ChannelClosed` then."""
        while True:
            received = self._channel.receive(None)
            assert received is not None
            match received:
                case (Trim(), _):
                    collect_and_release()
                case (Fork() as request, fds):
                    self._fork(request, fds)
                    close_fds(fds)

    def _fork(self, request: Fork, fds: list[int]) -> None:
        try:
            pid, pidfd = self._fork_worker(fds)
        except OSError as error:
            self._channel.send(ForkFailed(request.ticket, sendable(not_started(error))))
            return
        try:
            self._channel.send(Forked(request.ticket, pid), [pidfd])
        finally:
            os.close(pidfd)

    def _fork_worker(self, fds: list[int]) -> tuple[int, int]:
        """Fork twice; return the worker's pid and a pidfd of it. Raises `OSError`."""
        reader, writer = os.pipe()
        try:
            # The C library's fork: hooks that a model has registered for children are for the
            # worker.
            between = _libc.fork()
            if between == 0:
                os.close(reader)
                self._fork_again(writer, fds)
            os.close(writer)
            if between < 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
            os.waitpid(between, 0)  # from here on the worker is the supervisor's child
            told = os.read(reader, 1024).decode()
        finally:
            os.close(reader)
        if not told.isdigit():
            raise OSError(told or "the process in between was ended")
        # The supervisor does not reap a process that it does not know yet, so the pid is still
        # valid.
        return int(told), os.pidfd_open(int(told))

    def _fork_again(self, writer: int, fds: list[int]) -> None:
        """Fork the worker from the process in between; never returns."""
        try:
            pid = os.fork()
        except OSError as error:
            os.write(writer, sendable(not_started(error), 1000).encode())
            os._exit(1)
        if pid == 0:
            os.close(writer)
            self._become_worker(*fds)
        os.write(writer, str(pid).encode())
        os._exit(0)

    def _become_worker(self, channel_fd: int, page_fd: int, output_fd: int) -> None:
        """Run the worker in this process; never returns."""
        status = 1
        try:
            raise_oom_score(_WORKER_OOM_SCORE)
            self._channel.close()
            for standard in (1, 2):
                os.dup2(output_fd, standard)
            os.close(output_fd)
            channel = Channel(socket.socket(fileno=channel_fd), to_worker)
            page = Page(page_fd)
            page.beat()
            if not (
                wait_for_parent(self._supervisor_pid) and end_with_parent(self._supervisor_pid)
            ):
                os._exit(1)
            worker = Worker(
                channel, self._servable, page, self._heartbeat_s, self._mode, self._nowhere
            )
            status = worker.serve()
        except BaseException:  # noqa: BLE001 - a worker must never unwind into the fork server's code
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError):
                sys.stderr.flush()
            os._exit(status)
