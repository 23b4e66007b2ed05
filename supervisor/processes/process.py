"""A process held by its pidfd: never a signal to a recycled pid, never a guessed exit status."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

from supervisor.processes.death import ExitStatus
from supervisor.processes.kin import wait_status, zombie_status

_STATUS_ASKS = 500
_STATUS_POLL_S = 0.01


class Process:
    """One process of the tree; owns `pidfd`. `on_end` is called when it has ended, before it is
    known how; `on_exit` once, with the true status.

    A worker is the fork server's child while that lives, and then ours: whoever can reap it
    tells. The fork server reports through `reported`.
    """

    def __init__(
        self,
        pid: int,
        pidfd: int,
        on_exit: Callable[[ExitStatus], None],
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.pid = pid
        self._on_end = on_end
        self._pidfd = pidfd
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._over = False
        self._ended_already = False
        self._asks_left = _STATUS_ASKS
        self._loop.add_reader(pidfd, self._ended)

    @property
    def running(self) -> bool:
        """It has not ended; once it has, how may still take a moment to learn."""
        return not self._over and not self._ended_already

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; to a process that has ended it goes nowhere."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def reported(self, status: ExitStatus) -> None:
        """Its parent has reaped it and found this."""
        self._finish(status)

    def _ended(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._ended_already = True
        self._on_end()
        self._ask()

    def abandon(self) -> None:
        """Hear no more of it: it cannot be ended, and nobody is there any more who would care."""
        if not self._over:
            self._over = True
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)

    def _ask(self) -> None:
        if self._over:
            return
        try:
            status = wait_status(self._pidfd)
        except ChildProcessError:
            # Its parent is about to report, or about to die and leave it to us. One that does
            # neither, since it stands still, leaves a zombie that can be read.
            status = zombie_status(self.pid)
            if status is None and self._asks_left > 0:
                self._asks_left -= 1
                self._loop.call_later(_STATUS_POLL_S, self._ask)
                return
        self._finish(status or ExitStatus())

    def _finish(self, status: ExitStatus) -> None:
        if self._over:
            return
        self._over = True
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._on_exit(status)
