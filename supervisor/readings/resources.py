"""Resources other than memory that can run out: disk space for spools, open descriptors,
processes."""

import contextlib
import errno
import functools
import os
import resource
from dataclasses import dataclass
from pathlib import Path

import psutil

from supervisor.readings.cgroups import ROOT, UNIFIED, directories, own_cgroups
from supervisor.readings.files import read_number


@dataclass(frozen=True, slots=True)
class ResourceReading:
    """Resource that can run out: `used` of `limit`, in bytes or pieces."""

    name: str
    used: int
    limit: int

    @property
    def free(self) -> int:
        """Amount that is left."""
        return max(0, self.limit - self.used)


def read_disk(directory: Path) -> ResourceReading | None:
    """Read the file system that holds `directory`, as an ordinary user; return None if it does not
    exist."""
    try:
        usage = psutil.disk_usage(str(directory))
    except OSError:
        return None
    return ResourceReading("disk", usage.used, usage.used + usage.free)


def unwritable(directory: Path) -> str | None:
    """Explain why no file can be made there, without trying to; return None if one can."""
    try:
        flags = os.statvfs(directory).f_flag
    except OSError as error:
        return error.strerror
    if flags & os.ST_RDONLY:
        return os.strerror(errno.EROFS)
    return None if os.access(directory, os.W_OK | os.X_OK) else os.strerror(errno.EACCES)


def read_descriptors() -> ResourceReading:
    """Count this process's open files and sockets, against its soft limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    with os.scandir("/proc/self/fd") as descriptors:
        used = sum(1 for _ in descriptors) - 1  # the one by which they are read
    return ResourceReading("descriptors", used, soft)


def raise_descriptor_limit() -> int:
    """Raise the soft limit to the hard one, as servers do; return the limit in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def read_processes(root: Path = ROOT) -> ResourceReading | None:
    """Count processes and threads in the tightest pids cgroup on the path; return None if there is
    none."""
    found = []
    for directory in _pids_cgroups(root):
        if limit := read_number(directory / "pids.max"):
            used = read_number(directory / "pids.current")
            found.append(ResourceReading("processes", used, limit))
    return min(found, key=lambda reading: reading.free, default=None)


def read_processes_of_user() -> ResourceReading | None:
    """Count processes and threads of this user, against `ulimit -u`; return None if there is no
    limit, or the user is root, whom it does not bind (setrlimit(2)). Reads every process of the
    machine."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    user = os.getuid()
    if soft == resource.RLIM_INFINITY or user == 0:
        return None
    used = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.uids().real == user:
                used += process.num_threads()
    return ResourceReading("processes of this user", used, soft)


@functools.cache
def _pids_cgroups(root: Path) -> tuple[Path, ...]:
    cgroups = own_cgroups()
    found = (d for kind in (UNIFIED, "pids") for d in directories(root, cgroups, kind))
    return tuple(directory for directory in found if (directory / "pids.max").exists())
