"""Memory: how much there is, how much of it is unreclaimable, and what bounds it: the machine, and
every memory cgroup on the path, version 1 or 2."""

import errno
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from supervisor.readings.cgroups import ROOT, UNIFIED, directories, own_cgroups
from supervisor.readings.files import field, read_file, read_number
from supervisor.readings.pressure import Pressure, read_pressure

_NO_LIMIT = 1 << 60
"""Version 1 writes a number of about this size if there is no limit."""

MEMINFO = "/proc/meminfo"


@dataclass(frozen=True, slots=True)
class CgroupMemory:
    """Memory of a cgroup, in bytes; counters since the cgroup was made. `limit` is None if it has
    none.

    `used` is what is charged to it, less the file cache and the slab that the kernel can reclaim.
    """

    directory: Path
    limit: int | None
    set_by: str
    """File that holds the limit."""
    used: int
    cache: int
    refaults: int | None
    pressure: Pressure | None
    limits_in: tuple[str, ...] = ()
    """Files in which its limits may be set."""


@dataclass(frozen=True, slots=True)
class MachineMemory:
    """Memory of the whole machine, in bytes (/proc/meminfo, proc(5))."""

    total: int
    available: int
    swap_total: int
    swap_free: int


@dataclass(frozen=True, slots=True)
class Bound:
    """Bound that memory has to fit into: the kernel acts when `used` reaches `limit`."""

    name: str
    limit: int
    used: int
    cgroup: Path | None = None
    """Cgroup that has the limit; None for another bound."""

    @property
    def left(self) -> int:
        """Bytes until the limit; negative past it."""
        return self.limit - self.used

    @property
    def headroom(self) -> int:
        """Bytes that may still be used."""
        return max(0, self.left)


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """Memory of the machine and the cgroups around this process, at `time` (CLOCK_MONOTONIC,
    seconds).

    `refaults`: pages of file cache that were read again soon after they were reclaimed; of the
    innermost cgroup that counts them, or else of the machine.
    """

    time: float
    machine: MachineMemory
    cgroups: tuple[CgroupMemory, ...]
    pressure: Pressure | None
    refaults: int

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """Bounds: the machine, then the cgroups that have a limit, outermost first."""
        machine = self.machine
        found = [Bound("the machine", machine.total, machine.total - machine.available)]
        found += [
            Bound(
                f"cgroup {cgroup.directory} ({cgroup.set_by})",
                cgroup.limit,
                cgroup.used,
                cgroup.directory,
            )
            for cgroup in self.cgroups
            if cgroup.limit is not None
        ]
        return tuple(found)

    @property
    def worst_pressure(self) -> Pressure | None:
        """Highest pressure: the machine's own, or that of a cgroup around this process."""
        known = [self.pressure, *(cgroup.pressure for cgroup in self.cgroups)]
        return max((p for p in known if p), key=lambda p: p.some_avg10, default=None)


class MemoryReader:
    """Reader of memory, for repeated use: the files are found once. `cgroups`: paths by controller;
    this process's own if None."""

    def __init__(self, root: Path = ROOT, cgroups: Mapping[str, str] | None = None) -> None:
        self._sources = _find_sources(root, own_cgroups() if cgroups is None else cgroups)

    def read(self) -> MemoryReading:
        """Read everything now, in about a hundred microseconds. Raises `OSError` if something that
        exists cannot be read."""
        now = time.monotonic()
        meminfo = read_file(MEMINFO)
        found = (source.read(meminfo) for source in self._sources)
        groups = tuple(group for group in found if group is not None)
        own = [group.refaults for group in groups if group.refaults is not None]
        return MemoryReading(
            now, _machine(meminfo), groups, read_pressure(), own[-1] if own else _machine_refaults()
        )


def available_in(meminfo: bytes) -> int:
    """Return what the kernel calls available, in bytes. Raises `OSError`."""
    return _kilobytes(meminfo, b"MemAvailable:")


def available_memory() -> int:
    """Return the bytes that this process and its children could use without an OOM kill: what the
    kernel calls available, and no more than the tightest cgroup on the path leaves."""
    return min(bound.headroom for bound in MemoryReader().read().bounds)


@dataclass(frozen=True, slots=True)
class _Source:
    """Files with one cgroup's figures. Version 1 has its totals under names of their own."""

    directory: Path
    usage: str
    limits: tuple[str, ...]
    prefix: bytes
    pressure: Path | None
    kernel: str
    """File in which version 1 counts kernel memory."""

    def read(self, meminfo: bytes) -> CgroupMemory | None:
        """Read the cgroup; `meminfo` is the content of /proc/meminfo. Return None if it has
        gone."""
        usage = read_file(f"{self.directory}/{self.usage}")
        if not usage:
            return None
        stat = read_file(f"{self.directory}/memory.stat")
        cache = sum(field(stat, self.prefix + kind) or 0 for kind in _RECLAIMABLE)
        cache += self._reclaimable_slab(stat, meminfo)
        limit, set_by = self._limit()
        return CgroupMemory(
            self.directory,
            limit,
            set_by,
            max(0, int(usage) - cache),
            cache,
            _refaults(stat, self.prefix),
            read_pressure(self.pressure) if self.pressure else None,
            self.limits,
        )

    def _reclaimable_slab(self, stat: bytes, meminfo: bytes) -> int:
        """Return the cached names and inodes of files: the kernel reclaims them before it kills."""
        if not self.kernel:
            return field(stat, b"slab_reclaimable ") or 0
        # Version 1 only counts kernel memory as a whole. The reclaimable share is known for the
        # machine, and assumed to be the same here.
        charged = read_number(f"{self.directory}/{self.kernel}")
        return int(charged * _reclaimable_share(meminfo))

    def _limit(self) -> tuple[int | None, str]:
        found: list[tuple[int, str]] = []
        for name in self.limits:
            text = read_file(f"{self.directory}/{name}").strip()
            if text.isdigit() and int(text) < _NO_LIMIT:
                found.append((int(text), name))
        return min(found, default=(None, ""))


_RECLAIMABLE = (b"inactive_file ", b"active_file ")


def _find_sources(root: Path, cgroups: Mapping[str, str]) -> list[_Source]:
    """Return every memory cgroup on the path from the root, version 2 first, outermost first."""
    found = [
        _Source(
            directory,
            "memory.current",
            ("memory.max", "memory.high"),
            b"",
            directory / "memory.pressure",
            "",
        )
        for directory in directories(root, cgroups, UNIFIED)
    ]
    found += [
        _Source(
            directory,
            "memory.usage_in_bytes",
            ("memory.limit_in_bytes",),
            b"total_",
            None,
            "memory.kmem.usage_in_bytes",
        )
        for directory in directories(root, cgroups, "memory")
    ]
    return [source for source in found if (source.directory / source.usage).is_file()]


def usage_files(reading: MemoryReading) -> list[Path]:
    """Return the counters of the cgroups that have a limit: what is charged now, cache included."""
    names = {
        "memory.limit_in_bytes": "memory.usage_in_bytes",
        "memory.max": "memory.current",
        "memory.high": "memory.current",
    }
    return [c.directory / names[c.set_by] for c in reading.cgroups if c.limit is not None]


def limit_files(reading: MemoryReading) -> list[Path]:
    """Return the files in which the limits of our cgroups are set, if they are."""
    found = (cgroup.directory / name for cgroup in reading.cgroups for name in cgroup.limits_in)
    return [path for path in found if path.is_file()]


def _machine(meminfo: bytes) -> MachineMemory:
    kinds = (b"MemTotal:", b"MemAvailable:", b"SwapTotal:", b"SwapFree:")
    return MachineMemory(*(_kilobytes(meminfo, kind) for kind in kinds))


def _kilobytes(meminfo: bytes, kind: bytes) -> int:
    """Return a field in bytes. Raises `OSError` if it is missing: that is not 0."""
    if (found := field(meminfo, kind)) is None:
        raise OSError(errno.EIO, f"{kind.decode()} cannot be read", MEMINFO)
    return found * 1024


def _reclaimable_share(meminfo: bytes) -> float:
    """Return the reclaimable share of the machine's kernel memory."""
    kinds = (b"SReclaimable:", b"SUnreclaim:", b"KernelStack:", b"PageTables:", b"Percpu:")
    sizes = [field(meminfo, kind) or 0 for kind in kinds]
    return sizes[0] / sum(sizes) if sum(sizes) else 0.0


def _machine_refaults() -> int:
    return _refaults(read_file("/proc/vmstat"), b"") or 0


def _refaults(text: bytes, prefix: bytes) -> int | None:
    """Return the refaults of file cache; before Linux 5.9 there was one count for all memory."""
    found = field(text, prefix + b"workingset_refault_file ")
    return field(text, prefix + b"workingset_refault ") if found is None else found
