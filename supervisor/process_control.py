"""Process control: parents, orphans and groups, as the kernel handles them (prctl(2), waitid(2)).

It uses no event loop, since child processes use it, too.
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
    """Make orphans below this process its children, so that it can learn how they ended."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent(parent_pid: int) -> bool:
    """Have this process get SIGKILL when its parent, `parent_pid`, dies; return False if the parent
    is dead already, when the signal would not come."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == parent_pid


def wait_for_parent(parent_pid: int) -> bool:
    """Wait until this process, whose parent is about to end, is a child of `parent_pid`; return
    False if that takes too long, because `parent_pid` is gone as well."""
    for _ in range(_ADOPTED_TRIES):
        if os.getppid() == parent_pid:
            return True
        time.sleep(_ADOPTED_PAUSE_S)
    return False


def kill_descendant(pid: int) -> None:
    """Send SIGKILL to a process below this one for which there is no pidfd; a process that is not
    below us (any more) is left alone."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            # Opened first, then looked up: from here on the pid cannot be that of another process.
            if pid in descendants(os.getpid()):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)


def reap_orphan(pid: int) -> bool:
    """Reap a child that has ended and has no other waiter; return False if it is not such a
    child."""
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    return False


def kill_group(group: int) -> None:
    """Send SIGKILL to all processes of that group, if there are any."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def reap_group(group: int) -> bool:
    """Reap the children of this process in that group that have ended, and end the others; return
    False if there are none left."""
    try:
        while os.waitid(os.P_PGID, group, os.WEXITED | os.WNOHANG) is not None:
            pass
    except ChildProcessError:
        return False
    kill_group(group)
    return True


def not_started(error: BaseException) -> str:
    """Explain to people why a process could not be started. The kernel's error is the same for
    several limits."""
    if isinstance(error, BlockingIOError):
        return (
            "no more processes may be started: pids.max of a cgroup, ulimit -u, or the machine's "
            f"own limit is reached ({error})"
        )
    return str(error)


def raise_oom_score(by: int) -> None:
    """Let the kernel's OOM killer take this process before others (proc(5), oom_score_adj)."""
    file = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError):  # a sandbox may forbid it: then all are alike
        now = int(file.read_text(encoding="ascii"))
        file.write_text(str(min(1000, now + by)), encoding="ascii")


def prctl(option: int, value: int) -> None:
    """Call prctl(2) with one argument. Raises `OSError`."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
