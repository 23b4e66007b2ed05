"""The supervisor's hand on one fork server: start it by exec, ask it for forks, learn its end."""

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog

from supervisor.clock import LoopClock
from supervisor.processes.death import Death, ExitStatus, Intent, KillerWatch, Outcome
from supervisor.processes.environment import AllocatorChoice, process_environment
from supervisor.processes.process import Process
from supervisor.settings import PoolSettings, Target
from supervisor.wire.async_channel import AsyncChannel
from supervisor.wire.channel import channel_pair, encoded
from supervisor.wire.messages import (
    AnyMessage,
    Fork,
    Forked,
    ForkFailed,
    Load,
    Loaded,
    LoadFailed,
    Reaped,
    Trim,
)

log: structlog.stdlib.BoundLogger = structlog.get_logger("supervisor")

_LEAVE_S = 1.0
"""How long it may take to end after its channel was closed."""


class ForkServerLost(Exception):
    """The fork server died, or failed, before it did what was asked; `death` says how, if it has
    ended."""

    def __init__(self, message: str, death: Death | None = None) -> None:
        super().__init__(message)
        self.death = death


@dataclass(frozen=True, slots=True)
class StartingWorker:
    """A worker just forked: its process and our end of its channel."""

    pid: int
    pidfd: int
    sock: socket.socket


class ForkServer:
    """One fork server, from exec to exit. `loaded` and `ended` are futures to wait for."""

    def __init__(
        self,
        target: Target,
        settings: PoolSettings,
        allocator: AllocatorChoice,
        scoreboard_fd: int,
        records: int,
        watch: KillerWatch,
        clock: LoopClock,
    ) -> None:
        """Raises `OSError`, or what `encoded` raises for options that cannot be carried."""
        loop = asyncio.get_running_loop()
        self._clock = clock
        self.target = target
        self.loaded: asyncio.Future[Loaded] = loop.create_future()
        self.ended: asyncio.Future[Death] = loop.create_future()
        self._forks: dict[int, asyncio.Future[tuple[int, int]]] = {}
        self._workers: dict[int, Process] = {}
        self._born: dict[int, ExitStatus | None] = {}
        """Workers that were forked and not adopted yet, and how they have ended if they have."""
        self._tickets = itertools.count(1)
        self._hang_s = settings.hang_s

        load = Load(
            target.module,
            target.function,
            dict(target.options),
            list(target.import_path),
            "",
            records,
            settings.heartbeat_s,
            settings.nice,
            settings.sandbox,
        )
        encoded(load)
        # Ours, since one that is killed while it loads removes nothing.
        self._scratch = tempfile.TemporaryDirectory(
            prefix="modelserver-load-", ignore_cleanup_errors=True
        )
        popen: subprocess.Popen[bytes] | None = None
        ours: socket.socket | None = None
        try:
            ours, theirs = channel_pair()
            with theirs:
                arguments = [theirs.fileno(), scoreboard_fd, os.getpid()]
                popen = subprocess.Popen(
                    [sys.executable, "-P", "-m", "supervisor.child", *map(str, arguments)],
                    stdin=subprocess.DEVNULL,
                    # A group of its own: whatever it leaves is known by that.
                    process_group=0,
                    pass_fds=(theirs.fileno(), scoreboard_fd),
                    env=process_environment(os.environ, allocator.variables, target.environment),
                )
            pidfd = os.pidfd_open(popen.pid)
        except BaseException:
            if ours is not None:
                ours.close()
            if popen is not None:
                popen.kill()
                popen.wait()
            self._scratch.cleanup()
            raise
        self.pid = popen.pid
        popen.returncode = 0  # reaped through its pidfd, by us and not by subprocess
        self.outcome = Outcome("fork server", popen.pid, watch)
        self._channel = AsyncChannel(ours, self._on_message, self._on_channel_closed)
        self._process = Process(popen.pid, pidfd, self._on_exit)
        self._channel.send(msgspec.structs.replace(load, scratch=self._scratch.name))

    @property
    def running(self) -> bool:
        """Its process has not ended."""
        return self._process.running

    @property
    def forking(self) -> bool:
        """A fork was asked for and is not there yet."""
        return bool(self._forks)

    async def fork(self, record: int) -> StartingWorker:
        """A new worker that writes `record` of the scoreboard.

        Raises `ForkServerLost`, or `OSError` where the kernel refuses the fork.
        """
        if self.ended.done():
            raise ForkServerLost(self.ended.result().sentence)
        ours, theirs = channel_pair()
        ticket = next(self._tickets)
        future: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        self._forks[ticket] = future
        try:
            with theirs:
                self._channel.send(Fork(ticket, record), [theirs.fileno()])
            if not await self._clock.wait(future, self._hang_s):
                self.kill(Intent.HANG)
                raise ForkServerLost(f"fork server process {self.pid} does not answer")
            pid, pidfd = future.result()
        except BaseException:
            ours.close()  # a worker born all the same reads end-of-file and leaves
            if future.done() and not future.cancelled() and future.exception() is None:
                pid, pidfd = future.result()
                self._born.pop(pid, None)
                os.close(pidfd)
            raise
        finally:
            del self._forks[ticket]
        return StartingWorker(pid, pidfd, ours)

    def adopt(self, process: Process) -> None:
        """Tell `process`, one of its workers, what the fork server reports of its end."""
        if (status := self._born.pop(process.pid, None)) is not None:
            process.reported(status)
        else:
            self._workers[process.pid] = process

    def release(self, pid: int) -> None:
        """The worker's end is known."""
        self._workers.pop(pid, None)

    def trim(self) -> None:
        """Ask it to give back what it has freed."""
        self._channel.send(Trim())

    def kill(self, intent: Intent, reason: str = "") -> None:
        """SIGKILL, remembering why."""
        if self._process.running:
            self.outcome.force(intent, reason)
            self._process.signal(signal.SIGKILL)

    def close(self) -> None:
        """Ask it to end its workers and itself: it reads end-of-file. It gets a second for it."""
        self.outcome.ask(Intent.SHUTDOWN)
        self._channel.close()
        asyncio.get_running_loop().call_later(_LEAVE_S, self.kill, Intent.SHUTDOWN)

    def abandon(self) -> None:
        """It cannot be ended."""
        self._channel.close()
        self._process.abandon()

    def _on_message(self, message: AnyMessage, fds: list[int]) -> None:
        match message:
            case Loaded():
                self.loaded.set_result(message)
                self._remove_scratch()
            case LoadFailed():
                log.error("model.load_failed", error=message.error, traceback=message.traceback)
                self.loaded.set_exception(ForkServerLost(message.error))
            case Forked():
                (pidfd,) = fds
                future = self._forks.get(message.ticket)
                if future is None or future.done():
                    os.close(pidfd)
                else:
                    self._born[message.pid] = None
                    future.set_result((message.pid, pidfd))
            case ForkFailed():
                self._settle_fork(message.ticket, OSError(message.error))
            case Reaped():
                status = ExitStatus(message.exit_code, message.signal)
                if process := self._workers.pop(message.pid, None):
                    process.reported(status)
                elif message.pid in self._born:
                    self._born[message.pid] = status  # it has not been adopted yet
            case _:
                log.error("fork_server.unexpected_message", message=type(message).__name__)

    def _settle_fork(self, ticket: int, error: Exception) -> None:
        future = self._forks.get(ticket)
        if future is not None and not future.done():
            future.set_exception(error)

    def _on_channel_closed(self) -> None:
        # It ends by itself, having read the same; a stopped one would not.
        reason = "it had closed its channel and went on"
        asyncio.get_running_loop().call_later(_LEAVE_S, self.kill, Intent.HANG, reason)

    def _on_exit(self, status: ExitStatus) -> None:
        self._channel.drain()
        death = self.outcome.name(status)
        if not self.loaded.done():
            message = f"{death.sentence} while loading the model"
            self.loaded.set_exception(ForkServerLost(message, death))
        self.loaded.exception()  # whoever cares has asked
        for ticket in list(self._forks):
            self._settle_fork(ticket, ForkServerLost(death.sentence))
        self.ended.set_result(death)
        self._remove_scratch()

    def _remove_scratch(self) -> None:
        """There may be much, and somebody may still write there: none of it on the loop."""
        try:
            asyncio.get_running_loop().run_in_executor(None, self._scratch.cleanup)
        except RuntimeError:  # no thread can be started
            self._scratch.cleanup()

    def report(self) -> dict[str, Any]:
        """What the loaded model told about itself; empty before."""
        if self.loaded.done() and self.loaded.exception() is None:
            return self.loaded.result().report
        return {}
