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

import structlog

from supervisor.processes.death import Death, ExitStatus, Intent, KillerWatch, Outcome
from supervisor.processes.environment import AllocatorChoice
from supervisor.processes.process import Process
from supervisor.settings import PoolSettings, Target
from supervisor.wire.channel import AsyncChannel, channel_pair
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
    ) -> None:
        loop = asyncio.get_running_loop()
        self.target = target
        self.loaded: asyncio.Future[Loaded] = loop.create_future()
        self.ended: asyncio.Future[Death] = loop.create_future()
        self._forks: dict[int, asyncio.Future[tuple[int, int]]] = {}
        self._workers: dict[int, Process] = {}
        self._tickets = itertools.count(1)
        self._hang_s = settings.hang_s

        # Ours, since one that is killed while it loads removes nothing.
        self._scratch = tempfile.TemporaryDirectory(prefix="modelserver-load-")
        ours, theirs = channel_pair()
        with theirs:
            arguments = [theirs.fileno(), scoreboard_fd, os.getpid()]
            try:
                popen = subprocess.Popen(
                    [sys.executable, "-m", "supervisor.child", *map(str, arguments)],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), scoreboard_fd),
                    env={**os.environ, **allocator.variables, **target.environment},
                )
            except OSError:
                ours.close()
                self._scratch.cleanup()
                raise
        self.pid = popen.pid
        self.outcome = Outcome("fork server", popen.pid, watch)
        self._channel = AsyncChannel(ours, self._on_message, self._on_channel_closed)
        self._process = Process(popen.pid, os.pidfd_open(popen.pid), self._on_exit)
        popen.returncode = 0  # reaped through its pidfd, by us and not by subprocess
        self._channel.send(
            Load(
                target.module,
                target.function,
                dict(target.options),
                list(target.import_path),
                self._scratch.name,
                records,
                settings.heartbeat_s,
                settings.nice,
            )
        )

    @property
    def running(self) -> bool:
        """Its process has not ended."""
        return self._process.running

    async def fork(self, record: int) -> StartingWorker:
        """A new worker that writes `record` of the scoreboard.

        Raises `ForkServerLost`, or `OSError` where the kernel refuses the fork.
        """
        if self.ended.done():
            raise ForkServerLost(self.ended.result().sentence)
        ticket = next(self._tickets)
        future = asyncio.get_running_loop().create_future()
        self._forks[ticket] = future
        ours, theirs = channel_pair()
        with theirs:
            self._channel.send(Fork(ticket, record), [theirs.fileno()])
        try:
            async with asyncio.timeout(self._hang_s):
                pid, pidfd = await future
        except TimeoutError:
            ours.close()
            self.kill(Intent.HANG)
            raise ForkServerLost(f"fork server process {self.pid} does not answer") from None
        except BaseException:
            ours.close()  # a worker born all the same reads end-of-file and leaves
            raise
        finally:
            del self._forks[ticket]
        return StartingWorker(pid, pidfd, ours)

    def adopt(self, process: Process) -> None:
        """Tell `process`, one of its workers, what the fork server reports of its end."""
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
            self.outcome.meant(intent, reason)
            self._process.signal(signal.SIGKILL)

    def close(self) -> None:
        """Ask it to end its workers and itself: it reads end-of-file."""
        self.outcome.meant(Intent.SHUTDOWN)
        self._channel.close()

    def _on_message(self, message: AnyMessage, fds: list[int]) -> None:
        match message:
            case Loaded():
                self._scratch.cleanup()
                self.loaded.set_result(message)
            case LoadFailed():
                log.error("model.load_failed", error=message.error, traceback=message.traceback)
                self.loaded.set_exception(ForkServerLost(message.error))
            case Forked():
                (pidfd,) = fds
                future = self._forks.get(message.ticket)
                if future is None or future.done():
                    os.close(pidfd)
                else:
                    future.set_result((message.pid, pidfd))
            case ForkFailed():
                self._settle_fork(message.ticket, OSError(message.error))
            case Reaped():
                if process := self._workers.pop(message.pid, None):
                    process.reported(ExitStatus(message.exit_code, message.signal))
            case _:
                log.error("fork_server.unexpected_message", message=type(message).__name__)

    def _settle_fork(self, ticket: int, error: Exception) -> None:
        future = self._forks.get(ticket)
        if future is not None and not future.done():
            future.set_exception(error)

    def _on_channel_closed(self) -> None:
        # It ends by itself, having read the same; a stopped one would not.
        asyncio.get_running_loop().call_later(1.0, self._process.signal, signal.SIGKILL)

    def _on_exit(self, status: ExitStatus) -> None:
        self._channel.drain()
        self._scratch.cleanup()
        death = self.outcome.name(status)
        if not self.loaded.done():
            message = f"{death.sentence} while loading the model"
            self.loaded.set_exception(ForkServerLost(message, death))
        self.loaded.exception()  # whoever cares has asked
        for ticket in list(self._forks):
            self._settle_fork(ticket, ForkServerLost(death.sentence))
        self.ended.set_result(death)

    def report(self) -> dict[str, Any]:
        """What the loaded model told about itself; empty before."""
        if self.loaded.done() and self.loaded.exception() is None:
            return self.loaded.result().report
        return {}
