"""The end of a process, and its cause."""

import enum
import signal
from dataclasses import dataclass


class Cause(enum.Enum):
    """Cause of a process's end; the value is what logs and metrics show."""

    KERNEL_OOM = "kernel_oom"
    """The kernel's out-of-memory killer, by the kernel's own count."""
    HANG = "hang"
    """The supervisor ended it: its heartbeat had stopped."""
    GUARD = "guard"
    """The supervisor ended it: it used more memory than its budget, or than was left."""
    SANDBOX = "sandbox"
    """The supervisor ended it: it made a call that its sandbox forbids."""
    PROTOCOL = "protocol"
    """The supervisor ended it: it broke the protocol, or closed its channel and did not exit."""
    RECYCLED = "recycled"
    """Left because the supervisor asked it to, to be replaced."""
    SHUTDOWN = "shutdown"
    """Left, or was ended, because the pool closes."""
    CRASH = "crash"
    """Signal that a program causes itself, such as SIGSEGV or SIGABRT."""
    KILLED = "killed"
    """SIGKILL from outside the supervisor."""
    TERMINATED = "terminated"
    """Polite signal (SIGTERM, SIGINT, SIGHUP) from outside: an operator."""
    EXITED = "exited"
    """Exit with a status of its own, or a call of exit."""
    UNKNOWN = "unknown"
    """Ended without a known status."""


EXPECTED = (Cause.RECYCLED, Cause.SHUTDOWN)
"""Causes of processes that were asked to end."""


class Intent(enum.Enum):
    """Measure that the supervisor took against a process before it ended."""

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
    """Exit code or signal, as `waitid` reports it; both None where they are not known."""

    code: int | None = None
    signal: int | None = None


@dataclass(frozen=True, slots=True)
class Death:
    """End of a process, with its cause."""

    pid: int
    cause: Cause
    status: ExitStatus
    sentence: str
    """Description for people, such as "worker process 4711 was killed by SIGSEGV"."""
    intent: Intent = Intent.NONE
    memory_short: bool = False
    """True if memory was short at the last reading before a kill from outside."""


class Fault(enum.Enum):
    """Fault of a death, if a job or stream was being worked on."""

    INPUT = "input"
    """Input's fault: it would end another worker, too."""
    SHORTAGE = "shortage"
    """Memory was too short: the same input may be tried later."""
    OUTSIDE = "outside"
    """Outside cause: an operator, a shutdown, a change of models."""


def whose_fault(death: Death) -> Fault:
    """Decide which fault a death was, for jobs, streams and remembered inputs alike.

    A worker that was ended for exceeding its own budget is its input's fault. A worker that was
    ended to free memory, or that the kernel killed, is not. Not every kernel counts its kills, and
    programs such as earlyoom kill, too: a kill while memory was short counts as one for memory.
    """
    if death.cause is Cause.KERNEL_OOM or death.intent is Intent.SHORTAGE or death.memory_short:
        return Fault.SHORTAGE
    if death.cause in (*EXPECTED, Cause.KILLED, Cause.TERMINATED):
        return Fault.OUTSIDE
    return Fault.INPUT


KILLED_BELOW = 128 + signal.SIGKILL
"""Exit status of a process that ended because a process below it got SIGKILL."""

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
    memory_short: bool = False,
) -> Death:
    """Name the end of process `pid`, which had `role` ("worker", "fork server").

    `intent` and `reason`: the measure of the supervisor that explains this end, if there was one.
    `kernel_oom`: the kernel counted an OOM kill here; without it a SIGKILL is never called one.
    `memory_short`: memory was short at the last reading.
    """
    cause, what = _cause(status, intent, kernel_oom, memory_short)
    why = f": {reason}" if reason and intent is not Intent.NONE else ""
    memory_short = memory_short and cause is Cause.KILLED
    return Death(pid, cause, status, f"{role} process {pid} {what}{why}", intent, memory_short)


def name_stuck(role: str, pid: int, intent: Intent) -> Death:
    """Name the end of a process that got SIGKILL and does not end."""
    sentence = f"{role} process {pid} cannot be ended"
    return Death(pid, _BY_INTENT[intent][0], ExitStatus(), sentence, intent)


def was_killed(status: ExitStatus) -> bool:
    """Return whether the process ended by SIGKILL, or, as shells report it, because a process below
    it did."""
    return status.signal == signal.SIGKILL or status.code == KILLED_BELOW


def _cause(
    status: ExitStatus, intent: Intent, kernel_oom: bool, memory_short: bool
) -> tuple[Cause, str]:
    if kernel_oom and was_killed(status):
        return Cause.KERNEL_OOM, "was killed by the kernel, out of memory"
    # A crash on the way out is a crash, whatever was asked for.
    if status.signal not in _OWN_DOING and intent is not Intent.NONE:
        return _BY_INTENT[intent]
    if status.signal is not None:
        name = _signal_name(status.signal)
        if status.signal in _POLITE:
            return Cause.TERMINATED, f"was told to end by {name}"
        if status.signal in _OWN_DOING:
            return Cause.CRASH, f"crashed with {name}"
        if memory_short:
            return Cause.KILLED, f"was killed by {name} while memory was short"
        return Cause.KILLED, f"was killed by {name}"
    if status.code == KILLED_BELOW:
        return Cause.KILLED, "lost a process below it to SIGKILL"
    if status.code is not None:
        return Cause.EXITED, f"exited with status {status.code}"
    return Cause.UNKNOWN, "ended with unknown status"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
