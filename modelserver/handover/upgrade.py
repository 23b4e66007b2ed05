"""Start of a new process that replaces this one: `modelserver upgrade`, or SIGUSR2.

The new process receives the sockets and loads its model beside this one's or after it; then this
process exits. If the new one fails, this one continues.
"""

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import structlog

from modelserver.handover.sockets import Sockets
from modelserver.handover.systemd import Notifier
from modelserver.handover.wire import Connection, Ended, Failed, Held, MakeWay, Ready, Wire
from modelserver.refusal import Refusal
from modelserver.serving.service import SpeechService
from modelserver.settings.configuration import HANDOVER_VARIABLE, Configuration, ConfigurationError
from supervisor import in_units

log: structlog.stdlib.BoundLogger = structlog.get_logger("server")

_LONGEST_S = 3600.0
"""A successor may have to prepare its model first."""
_END_S = 5.0


class UpgradeRefused(Refusal):
    """Failure to start a new process; the old one serves as before. The text says why."""

    def __init__(self, message: str) -> None:
        super().__init__("not_upgraded", message)


class Upgrader:
    """Starts a successor, one at a time."""

    def __init__(
        self,
        service: SpeechService,
        configuration: Configuration,
        sockets: Sockets,
        notifier: Notifier,
    ) -> None:
        self._service, self._sockets, self._notifier = service, sockets, notifier
        self._configuration = configuration
        self._wire: Wire | None = None
        self._under_way = False
        self.process: subprocess.Popen[bytes] | None = None
        self.leaving = asyncio.Event()
        """A successor has taken over, or waits for us to end."""
        self.why_after = ""
        """Why it waits; empty where it serves already."""

    async def upgrade(self) -> int:
        """Start one; returns its pid once it serves, or waits for us to end. Raises
        `UpgradeRefused`."""
        if self._under_way:
            raise UpgradeRefused("an upgrade is in progress already")
        if os.getpid() == 1:
            raise UpgradeRefused(
                "this server is the first process of a container, which ends with it: start "
                "another container beside it instead"
            )
        if self._notifier.listened_to:
            # A main process that is not a child of systemd is killed at a stop without being
            # asked first (main_pid_alien, systemd 252).
            raise UpgradeRefused(
                "systemd runs this server, and keeps its sockets over a restart: systemctl restart "
                "lets clients wait, too"
            )
        if self._service.drain.reason:
            raise UpgradeRefused(self._service.drain.reason)
        self._under_way = True
        try:
            return await self._upgrade()
        except UpgradeRefused as error:
            log.error("upgrade.failed", reason=str(error))
            raise
        finally:
            self._under_way = self.leaving.is_set()

    async def _upgrade(self) -> int:
        try:
            await asyncio.to_thread(self._configuration.again)
        except ConfigurationError as error:
            raise UpgradeRefused(str(error)) from error
        self._wire, theirs = Wire.pair()
        try:
            self.process = _start(theirs)
        except OSError as error:
            self._wire.close()
            raise UpgradeRefused(f"it cannot be started: {error}") from error
        finally:
            theirs.close()
        pid = self.process.pid
        log.info("upgrade.started", pid=pid)
        self._service.guard.leave_alone(pid)
        try:
            async with asyncio.timeout(_LONGEST_S):
                held = tuple(self._sockets.held())
                names = tuple(name for name, _ in held)
                await self._wire.send(
                    Held(names, self._service.guard.held_bytes()), [sock for _, sock in held]
                )
                message, _ = await self._wire.receive()
        except Ended:
            reason = "the new process exited before it served; see the log for the reason"
            await self._give_up(reason)
        except TimeoutError:
            await self._give_up(f"the new process did not serve within {_LONGEST_S / 60:g} min")
        match message:
            case Ready():
                log.info("upgrade.completed", pid=pid)
            case MakeWay(needs, left):
                self.why_after = (
                    f"{in_units(needs)} are needed for the new process and {in_units(left)} are "
                    "left beside the old one"
                )
                log.warning("upgrade.postponed", pid=pid, reason=self.why_after)
            case Failed(reason):
                await self._give_up(reason)
            case _:
                raise AssertionError(message)
        self.leaving.set()
        return pid

    async def _give_up(self, reason: str) -> None:
        """End the new process and raise `UpgradeRefused`."""
        assert self._wire is not None
        assert self.process is not None
        self._wire.close()
        process, self.process = self.process, None
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, _END_S)
        except subprocess.TimeoutExpired:
            process.kill()
        self._service.guard.leave_alone(None)
        raise UpgradeRefused(reason)

    async def give(self, name: str, sock: socket.socket) -> bool:
        """Hand it a connection that waits for its next request; False if it has gone."""
        assert self._wire is not None
        try:
            await self._wire.send(Connection(name), [sock])
        except Ended:
            return False
        return True

    def abandon(self) -> None:
        """End the new process, because this one exits and is not to be replaced; do nothing if it
        serves already."""
        if self.process is not None and not self.leaving.is_set():
            log.info("upgrade.abandoned", pid=self.process.pid)
            self.process.terminate()

    def close(self) -> None:
        """Close the wire, which tells the successor that we have gone."""
        if self._wire is not None:
            self._wire.close()


def _start(theirs: socket.socket) -> subprocess.Popen[bytes]:
    """Start the same command again, as it is installed now."""
    environment = {**os.environ, HANDOVER_VARIABLE: str(theirs.fileno())}
    return subprocess.Popen(_command(), env=environment, pass_fds=[theirs.fileno()])


def _command() -> list[str]:
    """Return the command that started this process. A program names its interpreter itself, which
    may be another one than this process's after an installation; `python -m modelserver` does not.
    """
    program = sys.orig_argv[1]
    try:
        with Path(program).open("rb") as file:
            begins = file.read(2)
    except OSError:
        begins = b""
    own = begins == b"#!" and os.access(program, os.X_OK)
    return sys.orig_argv[1:] if own else [sys.executable, *sys.orig_argv[1:]]
