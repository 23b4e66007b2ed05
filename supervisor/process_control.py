"""Process control: parents, orphans and groups, as the kernel handles them (prctl(2), waitid(2)).

Without an event loop, since the processes of the tree use it too.
"""

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path

from supervisor.readings.processes import descendants

PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_ADOPTED_TRIES, _ADOPTED_PAUSE_S = 20_000, 0.001


def become_subreaper() -> None:
    """Orphans below this process become its children, so that it can learn how they ended."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent(parent_pid: int) -> bool:
    """SIGKILL for this process when its parent, `parent_pid`, dies; False if it is dead already,
    in which case nobody would tell."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == parent_pid


def wait_for_parent(parent_pid: int) -> bool:
    """Wait until this process, whose parent is about to end, is a child of `parent_pid`; False
    where that takes too long, since the adopter is gone as well."""
    for _ in range(_ADOPTED_TRIES):
        if os.getppid() == parent_pid:
            return True
        time.sleep(_ADOPTED_PAUSE_S)
    return False


def kill_descendant(pid: int) -> None:
    """SIGKILL for a process below this one that nobody holds a pidfd of; one that is not below us
    (any more) is left alone."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            # Held first, then looked up: from here on the number cannot be somebody else's.
            if pid in descendants(os.getpid()):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)


def reap_orphan(pid: int) -> bool:
    """Let go of a child that has ended and that nobody else waits for; False if it is none."""
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    return False


def kill_group(group: int) -> None:
    """SIGKILL for all processes of that group, if there are any."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def reap_group(group: int) -> bool:
    """Let go of the children of this process in that group that have ended, and end the others;
    False if there are none any more."""
    try:
        while os.waitid(os.P_PGID, group, os.WEXITED | os.WNOHANG) is not None:
            pass
    except ChildProcessError:
        return False
    kill_group(group)
    return True


def not_started(error: BaseException) -> str:
    """Explain why a process could not be, for a person. The kernel says the same of several
    limits."""
    if isinstance(error, BlockingIOError):
        return (
            "no more processes may be started: pids.max of a cgroup, ulimit -u, or the machine's "
            f"own limit is reached ({error})"
        )
    return str(error)


def raise_oom_score(by: int) -> None:
    """Let the kernel's OOM killer take this process before others (proc(5), oom_score_adj)."""
    file = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError):  # a sandbox may forbid it: then they are all alike
        now = int(file.read_text(encoding="ascii"))
        file.write_text(str(min(1000, now + by)), encoding="ascii")


def prctl(option: int, value: int) -> None:
    """prctl(2) of one argument. Raises `OSError`."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
