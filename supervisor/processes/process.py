"""A process held by its pidfd: never a signal to a recycled pid, never a guessed exit status."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

from supervisor.deaths.death import ExitStatus


class Process:
    """A child of this process; owns `pidfd`. `on_exit` is called once, with the true status, or
    with one that knows nothing where something else in this process has reaped it."""

    def __init__(self, pid: int, pidfd: int, on_exit: Callable[[ExitStatus], None]) -> None:
        self.pid = pid
        self.running = True
        """It has not ended."""
        self._pidfd = pidfd
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pidfd, self._ended)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; to a process that has ended it goes nowhere."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def abandon(self) -> None:
        """Wait for its end no more: it cannot be ended."""
        if self.running:
            self.running = False
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)

    def _ended(self) -> None:
        try:
            status = _wait_status(self._pidfd)
        except ChildProcessError:
            status = ExitStatus()
        if status is None:
            return
        self.abandon()
        self._on_exit(status)


def _wait_status(pidfd: int) -> ExitStatus | None:
    """Reap the child behind `pidfd`: how it ended; None if it still runs.

    Raises `ChildProcessError` if it is not a child of this process, or was reaped already.
    """
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    if result is None:
        return None
    if result.si_code == os.CLD_EXITED:
        return ExitStatus(code=result.si_status)
    return ExitStatus(signal=result.si_status)
