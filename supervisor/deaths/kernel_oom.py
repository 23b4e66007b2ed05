"""Evidence of the kernel's out-of-memory killer: its counters, and its log if that is readable.
SIGKILL alone does not prove an OOM kill."""

import contextlib
import os
import re
import signal
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from supervisor.readings.cgroups import ROOT, UNIFIED, directories, own_cgroups, read_word
from supervisor.readings.files import KernelFile, field, read_file
from supervisor.sizes import in_units

_KILLED = re.compile(
    r"(?:Out of memory|Memory cgroup out of memory): Killed process (\d+) \((.*?)\)"
    r"(?:.*?anon-rss:(\d+)kB)?"
)
_KILLS = b"oom_kill "
_MACHINE = "/proc/vmstat"
_RECORD_BYTES = 8192
_WHOLE_LOG = 100_000
_A_GLANCE = 1_000
"""Number of records that are read at once: a few milliseconds, if something floods the log."""
_FRESH_S = 10.0
"""Seconds for which evidence counts. A death is known within milliseconds; older evidence is of
something else."""
_COUNTED_BEFORE_S = 0.05
_PF_EXITING = 0x4
"""Flag in /proc/PID/stat (include/linux/sched.h)."""
_FRESH_OF_MACHINE_S = 1.0
"""Seconds for which it counts where kills of the whole machine are counted."""


@dataclass(frozen=True, slots=True)
class OomReport:
    """Kill that the kernel's log reports. `seconds` since boot; sizes in bytes."""

    pid: int
    command: str
    anonymous: int | None
    in_cgroup: bool
    seconds: float

    @property
    def sentence(self) -> str:
        """Description for people."""
        where = "a memory cgroup's limit" if self.in_cgroup else "the machine's memory"
        size = f" holding {in_units(self.anonymous)}" if self.anonymous is not None else ""
        return f"process {self.pid} ({self.command}){size}, at {where}"


def parse_record(record: str) -> OomReport | None:
    """Parse a record of /dev/kmsg (Documentation/ABI/testing/dev-kmsg); return None if it does not
    report a kill."""
    prefix, _, text = record.partition(";")
    match = _KILLED.search(text)
    if match is None:
        return None
    pid, command, kilobytes = match.groups()
    microseconds = prefix.split(",")[2]
    return OomReport(
        int(pid),
        command,
        int(kilobytes) * 1024 if kilobytes else None,
        "Memory cgroup" in match.group(0),
        int(microseconds) / 1e6 if microseconds.isdigit() else 0.0,
    )


class KernelLog:
    """The kernel's log from now on, or from its beginning; empty where it is not readable, or where
    its pids are of another namespace (inside a container)."""

    def __init__(self, *, from_start: bool = False) -> None:
        self._fd = -1
        self._most = _WHOLE_LOG if from_start else _A_GLANCE
        if not _in_first_pid_namespace():
            return
        with contextlib.suppress(OSError):
            self._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._fd, 0, os.SEEK_SET if from_start else os.SEEK_END)
            # Opening may be allowed where reading is not.
            os.read(self._fd, 0)

    @property
    def readable(self) -> bool:
        """True if the log can be read."""
        return self._fd >= 0

    def new_reports(self) -> list[OomReport]:
        """Return the kills logged since the last call; if the log is very long, the rest at the
        next call."""
        reports = []
        for _ in range(self._most if self.readable else 0):
            try:
                record = os.read(self._fd, _RECORD_BYTES)
            except BlockingIOError:
                break
            except BrokenPipeError:
                continue  # records were overwritten before they were read
            except OSError:
                self.close()
                break
            if report := parse_record(record.decode("utf-8", "replace")):
                reports.append(report)
        return reports

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class OomCounter:
    """Count of processes that the OOM killer has ended: in our innermost memory cgroup, or on the
    whole machine where no cgroup counts them."""

    def __init__(self, root: Path = ROOT, cgroups: Mapping[str, str] | None = None) -> None:
        cgroups = own_cgroups() if cgroups is None else cgroups
        candidates = [
            f"{directory}/{name}"
            for controller, name in ((UNIFIED, "memory.events"), ("memory", "memory.oom_control"))
            for directory in reversed(directories(root, cgroups, controller))
        ]
        counts = (file for file in candidates if field(read_file(file), _KILLS) is not None)
        name = next(counts, _MACHINE)
        self.of_machine = name == _MACHINE
        """True if kills anywhere on the machine are counted."""
        self._file: KernelFile | None = None
        with contextlib.suppress(OSError):
            self._file = KernelFile(name)

    def read(self) -> int | None:
        """Return the count now; None where it cannot be read."""
        try:
            return field(self._file.read(), _KILLS) if self._file else None
        except OSError:
            return None

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def oom_groups(root: Path = ROOT, cgroups: Mapping[str, str] | None = None) -> list[Path]:
    """Return the cgroups around this process in which the OOM killer ends all processes at once
    (`memory.oom.group`, Documentation/admin-guide/cgroup-v2.rst)."""
    around = directories(root, own_cgroups() if cgroups is None else cgroups, UNIFIED)
    return [group for group in around if read_word(group / "memory.oom.group") == "1"]


class OomEvidence:
    """Decides whether the kernel killed a process that has just ended by SIGKILL.

    A kill that the log ascribes to a process explains the death of that process. A kill that was
    counted but is not in the log explains the next death, and only one.
    """

    def __init__(self, memory_short: Callable[[], bool] = lambda: False) -> None:
        """Begin to look. `memory_short`: returns whether memory was short at the last reading."""
        self.memory_short = memory_short
        self.ours: Callable[[], Collection[int]] = list
        """Our processes. If none of them is dying, a counted kill without a name in the log was of
        another process in the same cgroup, such as a health check."""
        self._counter = OomCounter()
        self._fresh_s = _FRESH_OF_MACHINE_S if self._counter.of_machine else _FRESH_S
        self._count = self._counter.read()
        self._log = KernelLog()
        self._unascribed: deque[float] = deque()
        self._reported: dict[int, float] = {}
        self._explained: dict[int, float] = {}

    def look(self) -> None:
        """Record new evidence. Call it often, so that old evidence is known to be old."""
        now = time.monotonic()
        count = self._counter.read()
        if count is not None:
            before = count if self._count is None else self._count
            self._unascribed.extend([now] * (count - before))
            self._count = count
        for report in self._log.new_reports():
            if self._explained.pop(report.pid, None) is None:
                self._reported[report.pid] = now
                if self._unascribed:
                    self._unascribed.popleft()
        while self._unascribed and now - self._unascribed[0] > self._fresh_s:
            self._unascribed.popleft()
        # The kernel counts a moment before it kills.
        if self._unascribed and now - self._unascribed[-1] > _COUNTED_BEFORE_S:
            ours = self.ours()
            if ours and not any(map(_is_dying, ours)):
                self._unascribed.clear()
        for known in (self._reported, self._explained):
            for pid in [pid for pid, seen in known.items() if now - seen > _FRESH_S]:
                del known[pid]

    def killed(self, pid: int, *, by_log_only: bool = False) -> bool:
        """Return whether the kernel's OOM killer ended `pid`, which has just gone."""
        self.look()
        if self._reported.pop(pid, None) is not None:
            return True
        if by_log_only or not self._unascribed:
            return False
        # The log may lag behind the counter, or may not be readable.
        self._unascribed.popleft()
        self._explained[pid] = time.monotonic()
        return True

    def any_killed(self, pids: Collection[int]) -> bool:
        """Return whether the kernel's log says that it recently ended one of `pids`."""
        self.look()
        found = [pid for pid in pids if self._reported.pop(pid, None) is not None]
        return bool(found)

    def close(self) -> None:
        """Close the kernel's log and its counter."""
        self._log.close()
        self._counter.close()


def _is_dying(pid: int) -> bool:
    """Return whether the process has gone, is exiting, or has been sent SIGKILL."""
    status = read_file(f"/proc/{pid}/status")
    if not status or b"\nState:\tZ" in status or b"\nState:\tX" in status:
        return True
    for name in (b"SigPnd:\t", b"ShdPnd:\t"):
        _, found, mask = status.partition(name)
        if found and int(mask[:16], 16) & 1 << (signal.SIGKILL - 1):
            return True
    flags = read_file(f"/proc/{pid}/stat").rpartition(b") ")[2].split()[6:7]
    return bool(flags and int(flags[0]) & _PF_EXITING)


def _in_first_pid_namespace() -> bool:
    """Return whether this is the first pid namespace, whose inode number is fixed
    (PROC_PID_INIT_INO, include/linux/proc_ns.h)."""
    try:
        return str(Path("/proc/self/ns/pid").readlink()) == "pid:[4026531836]"
    except OSError:
        return False
