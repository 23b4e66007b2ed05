"""How a process ended, and the right name for it."""

import enum
import signal
from dataclasses import dataclass


class Cause(enum.Enum):
    """Cause of a process's end; the value is what logs and metrics show."""

    KERNEL_OOM = "kernel_oom"
    """The kernel's out-of-memory killer, by the kernel's own count."""
    HANG = "hang"
    """Ended by us: its heartbeat had stopped."""
    GUARD = "guard"
    """Ended by us: it had more memory than its budget, or than was left."""
    SANDBOX = "sandbox"
    """Ended by us: it called what its sandbox forbids."""
    PROTOCOL = "protocol"
    """Ended by us: it sent what a worker may not send, or closed its channel and went on."""
    RECYCLED = "recycled"
    """It left because we asked it to, to begin anew."""
    SHUTDOWN = "shutdown"
    """It left, or was ended, because the pool closes."""
    CRASH = "crash"
    """A signal that a program brings upon itself, such as SIGSEGV or SIGABRT."""
    KILLED = "killed"
    """SIGKILL from somebody else."""
    TERMINATED = "terminated"
    """A polite signal (SIGTERM, SIGINT, SIGHUP) from somebody else: an operator."""
    EXITED = "exited"
    """It called exit by itself."""
    UNKNOWN = "unknown"
    """It is gone, and nobody could tell its status."""


EXPECTED = (Cause.RECYCLED, Cause.SHUTDOWN)
"""It was asked to go."""


class Intent(enum.Enum):
    """Measure that we took against a process before it ended."""

    NONE = "none"
    HANG = "hang"
    BUDGET = "budget"
    SHORTAGE = "shortage"
    SANDBOX = "sandbox"
    PROTOCOL = "protocol"
    RECYCLE = "recycle"
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """As `waitid` tells it: an exit code or a signal, or neither where nobody knows."""

    code: int | None = None
    signal: int | None = None


@dataclass(frozen=True, slots=True)
class Death:
    """One process that ended, with its cause."""

    pid: int
    cause: Cause
    status: ExitStatus
    sentence: str
    """For a person: "worker process 4711 was killed by SIGSEGV"."""
    intent: Intent = Intent.NONE


class Fault(enum.Enum):
    """Fault of a death, where a job or stream was at hand."""

    INPUT = "input"
    """That of what was at hand: its input would end another worker, too."""
    SHORTAGE = "shortage"
    """There was too little memory, whoever had it: the same may be tried later."""
    NOBODY = "nobody"
    """Of something outside: an operator, a shutdown, a change of models."""


def whose_fault(death: Death) -> Fault:
    """Decide it, for jobs, streams and the inputs that are remembered, alike.

    A worker ended for more than its own budget is its input's fault; one that was ended for what it
    could give, or that the kernel took, is not.
    """
    if death.cause is Cause.KERNEL_OOM or death.intent is Intent.SHORTAGE:
        return Fault.SHORTAGE
    if death.cause in (*EXPECTED, Cause.KILLED, Cause.TERMINATED):
        return Fault.NOBODY
    return Fault.INPUT


KILLED_BELOW = 128 + signal.SIGKILL
"""The exit status of a process that ended since one below it was ended by SIGKILL."""

_POLITE = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_OWN_DOING = {
    signal.SIGSEGV,
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGILL,
    signal.SIGFPE,
    signal.SIGSYS,
    signal.SIGTRAP,
    signal.SIGXCPU,
    signal.SIGXFSZ,
    signal.SIGPIPE,
}
_BY_INTENT = {
    Intent.HANG: (Cause.HANG, "stopped answering and was ended"),
    Intent.BUDGET: (Cause.GUARD, "was ended by the guard"),
    Intent.SHORTAGE: (Cause.GUARD, "was ended by the guard"),
    Intent.SANDBOX: (Cause.SANDBOX, "was ended by its sandbox"),
    Intent.PROTOCOL: (Cause.PROTOCOL, "was ended, as it broke the protocol"),
    Intent.RECYCLE: (Cause.RECYCLED, "was recycled"),
    Intent.SHUTDOWN: (Cause.SHUTDOWN, "was ended by the shutdown"),
}


def name_death(
    role: str,
    pid: int,
    status: ExitStatus,
    intent: Intent,
    *,
    reason: str = "",
    kernel_oom: bool = False,
) -> Death:
    """Name the end of the process `pid`, a `role` ("worker", "fork server").

    `intent` and `reason`: what we did that explains this end, if we did. `kernel_oom` says
    that the kernel counted an OOM kill here; without it a SIGKILL is never called one.
    """
    cause, what = _cause(status, intent, kernel_oom)
    why = f": {reason}" if reason and intent is not Intent.NONE else ""
    return Death(pid, cause, status, f"{role} process {pid} {what}{why}", intent)


def name_stuck(role: str, pid: int, intent: Intent) -> Death:
    """Name the end of a process that was ended by force and does not end."""
    sentence = f"{role} process {pid} cannot be ended"
    return Death(pid, _BY_INTENT[intent][0], ExitStatus(), sentence, intent)


def was_killed(status: ExitStatus) -> bool:
    """Whether it ended by SIGKILL, or, as shells report it, because a process below it did."""
    return status.signal == signal.SIGKILL or status.code == KILLED_BELOW


def _cause(status: ExitStatus, intent: Intent, kernel_oom: bool) -> tuple[Cause, str]:
    if kernel_oom and was_killed(status):
        return Cause.KERNEL_OOM, "was killed by the kernel, out of memory"
    # A crash on the way out is a crash, whatever we had asked for.
    if status.signal not in _OWN_DOING and intent is not Intent.NONE:
        return _BY_INTENT[intent]
    if status.signal is not None:
        name = _signal_name(status.signal)
        if status.signal in _POLITE:
            return Cause.TERMINATED, f"was told to end by {name}"
        if status.signal in _OWN_DOING:
            return Cause.CRASH, f"crashed with {name}"
        return Cause.KILLED, f"was killed by {name}"
    if status.code == KILLED_BELOW:
        return Cause.KILLED, "lost a process below it to SIGKILL"
    if status.code is not None:
        return Cause.EXITED, f"exited with status {status.code}"
    return Cause.UNKNOWN, "ended; its status is not known"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
