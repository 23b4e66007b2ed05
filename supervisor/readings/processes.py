"""Memory of single processes: a glance, a reading, and an exact one."""

import errno
import functools
import os
import stat
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from supervisor.readings.files import field, read_file

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_MAJFLT = 9  # of the fields of /proc/PID/stat that follow the command: the twelfth of all


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """Memory of a process by `/proc/PID/status` (proc_pid_status(5)). Sizes in bytes;
    `major_faults` since its start.

    `mapped` is file cache, which the kernel can reclaim; `anonymous` includes memory shared with
    the parent since the fork.
    """

    pid: int
    rss: int
    anonymous: int
    mapped: int
    shared_memory: int
    swap: int
    major_faults: int
    threads: int = 1

    @property
    def unreclaimable(self) -> int:
        """Memory that cannot be reclaimed: anonymous memory, also in swap, and shared memory."""
        return self.unreclaimable_beside(0)

    def unreclaimable_beside(self, spool: int) -> int:
        """Return the unreclaimable memory without `spool` bytes of its job's input, which are
        counted as spools."""
        return self.anonymous + self.swap + max(0, self.shared_memory - spool)


@dataclass(frozen=True, slots=True)
class PreciseMemory:
    """Memory of a process by `/proc/PID/smaps_rollup`, which tells what is shared. Sizes in bytes.
    Reading it walks the process's page tables: milliseconds if it is large."""

    pid: int
    pss_anonymous: int
    private_anonymous: int
    """Private unreclaimable memory, including its share of swap, without shared memory."""
    swap_pss: int
    pss_shared: int
    """Proportional share of shared memory: its spool, and whatever else it maps."""


def read_process(pid: int, *, held: bool = False) -> ProcessMemory | None:
    """Read a process; return None if there is none, or it has ended. `held`: shared memory of which
    it has a descriptor counts as its own, mapped or not. Raises `OSError` if it cannot be known."""
    status = read_file(f"/proc/{pid}/status")
    fields = read_file(f"/proc/{pid}/stat")
    anonymous = field(status, b"RssAnon:")
    if anonymous is None or not fields:
        return None  # gone, a zombie, or a thread of the kernel
    mapped, shared = field(status, b"RssFile:") or 0, field(status, b"RssShmem:") or 0
    if held:
        shared = max(shared, _held(pid) // 1024)
    return ProcessMemory(
        pid,
        rss=(anonymous + mapped + shared) * 1024,
        anonymous=anonymous * 1024,
        mapped=mapped * 1024,
        shared_memory=shared * 1024,
        swap=(field(status, b"VmSwap:") or 0) * 1024,
        major_faults=int(fields[fields.rindex(b")") + 2 :].split(None, _MAJFLT + 1)[_MAJFLT]),
        threads=field(status, b"Threads:") or 1,
    )


def read_precise(pid: int) -> PreciseMemory | None:
    """Read a process exactly; return None if there is none, or reading it is not allowed."""
    sizes = _kilobytes(read_file(f"/proc/{pid}/smaps_rollup"))
    if b"Pss" not in sizes:
        return None
    dirty = sizes[b"Private_Dirty"]
    private = max(0, dirty - min(dirty, sizes.get(b"Pss_Shmem", 0)))
    swap = sizes.get(b"SwapPss", 0)
    return PreciseMemory(
        pid,
        pss_anonymous=sizes.get(b"Pss_Anon", 0),
        private_anonymous=private + swap,
        swap_pss=swap,
        pss_shared=sizes.get(b"Pss_Shmem", 0),
    )


def read_ran(pid: int) -> float | None:
    """Return the seconds that the process's first thread has run or waited for a processor; None if
    the kernel does not tell (`/proc/PID/schedstat`, Documentation/scheduler/sched-stats.rst)."""
    fields = read_file(f"/proc/{pid}/schedstat").split()
    return (int(fields[0]) + int(fields[1])) / 1e9 if len(fields) == 3 else None


def quick_look(statm_fd: int) -> tuple[int, int] | None:
    """Return RSS and its anonymous part, in bytes, from an open `/proc/PID/statm`: a microsecond.
    None if the process has ended."""
    try:
        _, resident, shared, *_ = os.pread(statm_fd, 128, 0).split()
    except (OSError, ValueError):
        return None
    if not int(resident):
        return None  # while it exits it has no memory any more
    return int(resident) * _PAGE_BYTES, (int(resident) - int(shared)) * _PAGE_BYTES


def read_standing(pid: int) -> tuple[bool, int] | None:
    """Return whether the process is a zombie, and its process group; None if there is no such
    process."""
    fields = read_file(f"/proc/{pid}/stat")
    if not fields:
        return None
    state, _, group, *_ = fields[fields.rindex(b")") + 2 :].split(None, 3)
    return state == b"Z", int(group)


def _held(pid: int) -> int:
    """Return the bytes of the memory files that the process has open: files without a name, and on
    no disk."""
    total = 0
    try:
        with os.scandir(f"/proc/{pid}/fd") as descriptors:
            for entry in descriptors:
                file = entry.stat()
                if stat.S_ISREG(file.st_mode) and file.st_dev == _memory_device():
                    total += file.st_blocks * 512
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
    return total


@functools.cache
def _memory_device() -> int:
    """Return the device on which the kernel holds files of memfd_create(2)."""
    fd = os.memfd_create("device", os.MFD_CLOEXEC)
    try:
        return os.fstat(fd).st_dev
    finally:
        os.close(fd)


def descendants(pid: int, but: Collection[int] = ()) -> list[int]:
    """Return the pids below `pid`, without a walk over all of /proc; `but`: pids to leave out, with
    all below them."""
    found: list[int] = []
    unseen = [pid]
    while unseen:
        children = [child for child in _children(unseen.pop()) if child not in but]
        found += children
        unseen += children
    return found


def _children(pid: int) -> Iterable[int]:
    try:
        with os.scandir(f"/proc/{pid}/task") as tasks:
            for task in tasks:
                yield from map(int, read_file(f"{task.path}/children").split())
    except OSError:
        return  # it has ended


def _kilobytes(text: bytes) -> dict[bytes, int]:
    sizes = {}
    for line in text.splitlines():
        name, _, rest = line.partition(b":")
        if rest.endswith(b" kB"):
            sizes[name] = int(rest[:-3]) * 1024
    return sizes
