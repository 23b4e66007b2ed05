"""A process held by its pidfd: signals never reach a recycled pid, and exit statuses are never
guessed."""

import asyncio
import contextlib
import os
import signal

from supervisor.deaths.death import Death, ExitStatus, Intent
from supervisor.deaths.kernel_oom import OomEvidence
from supervisor.deaths.outcome import Outcome

_LEAVE_S = 1.0
"""Seconds that a process may take to end after its channel was closed."""
_STUCK_S = 5.0
"""Seconds after SIGKILL for which a process is waited for."""


class Process:
    """Child of this process, and its end; owns `pidfd`. One of `_on_exit` and `_on_stuck` is
    called, or both if a process that was stuck ends later."""

    def __init__(self, role: str, pid: int, pidfd: int, evidence: OomEvidence) -> None:
        self.pid = pid
        self.running = True
        """True until it has ended."""
        self.stuck = False
        """True if it cannot be ended, and is not waited for any more."""
        self.outcome = Outcome(role, pid, evidence)
        self._pidfd = pidfd
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pidfd, self._ended)

    def _on_exit(self, death: Death) -> None:
        raise NotImplementedError

    def _on_stuck(self, death: Death) -> None:
        raise NotImplementedError

    @property
    def ending(self) -> bool:
        """True if it is being ended or has ended: no sign of life is expected of it."""
        return not self.running or self.outcome.forced is not Intent.NONE

    def kill(self, intent: Intent, reason: str = "") -> None:
        """Send SIGKILL, and remember why; the first reason counts."""
        if self.ending:
            return
        self.outcome.force(intent, reason)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self._loop.call_later(_STUCK_S, self._must_have_ended)

    def kill_soon(self, intent: Intent, reason: str = "") -> None:
        """Kill it unless it ends by itself within a second."""
        self._loop.call_later(_LEAVE_S, self.kill, intent, reason)

    def channel_failed(self, reason: Exception | None) -> None:
        """End a process whose channel cannot be used any more. None: it has closed its end."""
        if reason is not None:
            self.kill(Intent.PROTOCOL, str(reason))
        else:  # it is about to exit; a stopped one would not
            self.kill_soon(Intent.PROTOCOL, "it had closed its channel and kept running")

    def abandon(self) -> None:
        """Stop waiting for its end: it cannot be ended."""
        self._release()

    def _release(self) -> None:
        if self.running:
            self.running = False
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)

    def _ended(self) -> None:
        try:
            status = _wait_status(self._pidfd)
        except ChildProcessError:  # something else in this process has reaped it
            status = ExitStatus()
        if status is None:
            return
        self._release()
        self._on_exit(self.outcome.name(status))

    def _must_have_ended(self) -> None:
        """Report a process that has not ended after SIGKILL, in a frozen cgroup or deep in the
        kernel: everything else continues without it."""
        if self.running:
            self.stuck = True
            self._on_stuck(self.outcome.stuck())


def _wait_status(pidfd: int) -> ExitStatus | None:
    """Reap the child behind `pidfd`; return its status, or None if it still runs.

    Raises `ChildProcessError` if it is not a child of this process, or was reaped already.
    """
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    if result is None:
        return None
    if result.si_code == os.CLD_EXITED:
        return ExitStatus(code=result.si_status)
    return ExitStatus(signal=result.si_status)
