"""What else can run out: space where spools go, open descriptors, processes."""

import resource
from dataclasses import dataclass
from pathlib import Path

import psutil

from supervisor.readings.cgroups import ROOT, UNIFIED, directories, own_cgroups, read_word


@dataclass(frozen=True, slots=True)
class ResourceReading:
    """One of them: `used` of `limit`, in bytes or pieces."""

    name: str
    used: int
    limit: int

    @property
    def free(self) -> int:
        """What is left."""
        return max(0, self.limit - self.used)


def read_disk(directory: Path) -> ResourceReading | None:
    """The file system that holds `directory`, for an ordinary user; None if it is not there."""
    try:
        usage = psutil.disk_usage(str(directory))
    except OSError:
        return None
    return ResourceReading("disk", usage.used, usage.used + usage.free)


def read_descriptors() -> ResourceReading:
    """This process's open files and sockets, against its soft limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ResourceReading("descriptors", psutil.Process().num_fds(), soft)


def raise_descriptor_limit() -> int:
    """Raise the soft limit to the hard one, as servers do; returns what is in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def read_processes(root: Path = ROOT) -> ResourceReading | None:
    """Processes and threads in the tightest pids cgroup on the path; None where there is none."""
    cgroups = own_cgroups()
    found = []
    for controller in (UNIFIED, "pids"):
        for directory in directories(root, cgroups, controller):
            limit = read_word(directory / "pids.max")
            if limit.isdigit():
                used = int(read_word(directory / "pids.current") or 0)
                found.append(ResourceReading("processes", used, int(limit)))
    return min(found, key=lambda reading: reading.free, default=None)
