"""Handle of a fork server: started by exec, asked for forks, and its end."""

import asyncio
import contextlib
import itertools
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import msgspec

from supervisor.contract import LoadRefused
from supervisor.deaths.death import Death, Intent
from supervisor.deaths.kernel_oom import OomEvidence
from supervisor.log import get_logger
from supervisor.loop.clock import LoopClock
from supervisor.process_control import kill_group
from supervisor.processes.environment import AllocatorChoice, process_environment
from supervisor.processes.output import WorkerOutput
from supervisor.processes.process import Process
from supervisor.processes.scratch import Scratch
from supervisor.settings import PoolSettings, Target
from supervisor.wire.async_channel import AsyncChannel
from supervisor.wire.channel import channel_pair, close_fds, encoded
from supervisor.wire.messages import (
    Fork,
    Forked,
    ForkFailed,
    FromForkServer,
    Load,
    Loaded,
    LoadFailed,
    Trim,
    from_fork_server,
    to_fork_server,
)
from supervisor.wire.page import Page, create_page

log = get_logger("supervisor")


class ForkServerLost(Exception):
    """End or failure of the fork server before it did what was asked; `death` tells how, if it has
    ended."""

    def __init__(self, message: str, death: Death | None = None) -> None:
        super().__init__(message)
        self.death = death


@dataclass(frozen=True, slots=True)
class StartingWorker:
    """Worker just forked: its process, our end of its channel, its page and its output."""

    pid: int
    pidfd: int
    sock: socket.socket
    page: Page
    output: WorkerOutput


class ForkServerHandle(Process):
    """Handle of a fork server, from exec to exit. `loaded` and `ended` are futures to wait for."""

    def __init__(
        self,
        target: Target,
        settings: PoolSettings,
        allocator: AllocatorChoice,
        evidence: OomEvidence,
        clock: LoopClock,
    ) -> None:
        """Start the process. Raises `OSError`, or what `encoded` raises for options that cannot be
        encoded."""
        loop = asyncio.get_running_loop()
        self._clock = clock
        self.target = target
        self.loaded: asyncio.Future[Loaded] = loop.create_future()
        self.ended: asyncio.Future[Death] = loop.create_future()
        self.load_traceback = ""
        """Traceback of the error that ended loading; empty if there was none."""
        self._forks: dict[int, asyncio.Future[tuple[int, int]]] = {}
        self.retired = False
        """True if it is being replaced: a worker that it still forks is to leave at once."""
        self._tickets = itertools.count(1)
        self._hang_s = settings.hang_s

        load = Load(
            target.module,
            target.function,
            dict(target.options),
            list(target.import_path),
            "",
            settings.heartbeat_s,
            settings.nice,
            settings.sandbox,
        )
        encoded(load, to_fork_server)
        # The supervisor owns the directory, since a process that is killed while it loads removes
        # nothing.
        self._scratch = Scratch()
        popen: subprocess.Popen[bytes] | None = None
        ours: socket.socket | None = None
        try:
            ours, theirs = channel_pair()
            with theirs:
                arguments = [theirs.fileno(), os.getpid()]
                popen = subprocess.Popen(
                    [sys.executable, "-P", "-m", "supervisor.child", *map(str, arguments)],
                    stdin=subprocess.DEVNULL,
                    # A group of its own, by which the processes that it leaves are known.
                    process_group=0,
                    pass_fds=(theirs.fileno(),),
                    env=process_environment(os.environ, allocator.variables, target.environment),
                )
            pidfd = os.pidfd_open(popen.pid)
        except BaseException:
            if ours is not None:
                ours.close()
            if popen is not None:
                popen.kill()
                popen.wait()
            self._scratch.remove()
            raise
        popen.returncode = 0  # reaped through its pidfd, by us and not by subprocess
        self._channel = AsyncChannel(ours, from_fork_server, self._on_message, self.channel_failed)
        super().__init__("fork server", popen.pid, pidfd, evidence)
        self._channel.send(msgspec.structs.replace(load, scratch=self._scratch.name))

    @property
    def forking(self) -> bool:
        """True while a requested fork is pending."""
        return bool(self._forks)

    async def fork(self) -> StartingWorker:
        """Fork a new worker. Raises `ForkServerLost`, or `OSError` if the kernel refuses the
        fork."""
        if self.ended.done():
            raise ForkServerLost(self.ended.result().sentence)
        ticket = next(self._tickets)
        future: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        with contextlib.ExitStack() as made:
            output = WorkerOutput()
            made.callback(output.close)
            page_fd = create_page()
            made.callback(os.close, page_fd)
            page = Page(os.dup(page_fd))
            made.callback(page.close)
            ours, theirs = channel_pair()
            made.callback(ours.close)  # a worker that was forked reads end-of-file and leaves
            self._forks[ticket] = future
            try:
                with theirs:
                    fds = [theirs.fileno(), page_fd, output.writer]
                    self._channel.send(Fork(ticket), fds)
                if not await self._clock.wait(future, self._hang_s):
                    self.kill(Intent.HANG)
                    raise ForkServerLost(f"fork server process {self.pid} does not answer")
                pid, pidfd = future.result()
            except BaseException:
                if future.done() and not future.cancelled() and future.exception() is None:
                    os.close(future.result()[1])
                raise
            finally:
                del self._forks[ticket]
            made.pop_all()
        os.close(page_fd)
        output.close_writer()
        return StartingWorker(pid, pidfd, ours, page, output)

    def trim(self) -> None:
        """Ask it to return freed memory to the kernel."""
        self._channel.send(Trim())

    def kill_all(self, intent: Intent, reason: str) -> None:
        """Send SIGKILL to it and to the processes that the model has started while it loads."""
        self.kill(intent, reason)
        kill_group(self.pid)

    def close(self) -> None:
        """Ask it to end by closing the channel; it is killed unless it ends within a second."""
        self.outcome.ask(Intent.SHUTDOWN)
        self._channel.close()
        self.kill_soon(Intent.SHUTDOWN)

    def abandon(self) -> None:
        """Stop waiting for its end: it cannot be ended."""
        self._channel.close()
        super().abandon()

    def report(self) -> dict[str, Any]:
        """Return what the loaded model reports about itself; empty before."""
        if self.loaded.done() and self.loaded.exception() is None:
            return self.loaded.result().report
        return {}

    def _on_message(self, message: FromForkServer, fds: list[int]) -> None:
        match message:
            case Loaded():
                self.loaded.set_result(message)
                self._scratch.remove_later()
            case LoadFailed(refused=True):
                self.loaded.set_exception(LoadRefused(message.error))
            case LoadFailed():
                self.load_traceback = message.traceback
                self.loaded.set_exception(ForkServerLost(message.error))
            case Forked():
                future = self._forks.get(message.ticket)
                if future is None or future.done():
                    close_fds(fds)
                else:
                    future.set_result((message.pid, fds[0]))
            case ForkFailed():
                self._fail_fork(message.ticket, OSError(message.error))

    def _fail_fork(self, ticket: int, error: Exception) -> None:
        future = self._forks.get(ticket)
        if future is not None and not future.done():
            future.set_exception(error)

    def _on_stuck(self, death: Death) -> None:
        log.error("fork_server.kill_failed", pid=self.pid)
        self._over(death)

    def _on_exit(self, death: Death) -> None:
        self._channel.drain()
        if not self.ended.done():
            self._over(death)

    def _over(self, death: Death) -> None:
        if not self.loaded.done():
            message = f"{death.sentence} while loading the model"
            self.loaded.set_exception(ForkServerLost(message, death))
        self.loaded.exception()  # so that asyncio does not log it if it has no waiter
        for ticket in list(self._forks):
            self._fail_fork(ticket, ForkServerLost(death.sentence))
        self.ended.set_result(death)
        self._scratch.remove_later()
