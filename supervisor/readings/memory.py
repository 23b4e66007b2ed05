"""How much memory there is, how much of it is used for good, and what bounds it: the machine, and
every memory cgroup on the path, version 1 or 2."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from supervisor.readings.cgroups import ROOT, UNIFIED, directories, own_cgroups, read_word
from supervisor.readings.pressure import Pressure, read_pressure

_NO_LIMIT = 1 << 60
"""Version 1 writes a number of about this size where there is no limit."""


@dataclass(frozen=True, slots=True)
class CgroupMemory:
    """One cgroup. `limit` is None where it has none. In bytes; counters since its birth.

    `used` is what is charged to it, less the file cache that the kernel can take back.
    """

    directory: Path
    limit: int | None
    set_by: str
    """The file that holds the limit."""
    used: int
    cache: int
    refaults: int
    pressure: Pressure | None


@dataclass(frozen=True, slots=True)
class MachineMemory:
    """The whole machine, in bytes: what psutil reads from /proc/meminfo."""

    total: int
    available: int
    swap_total: int
    swap_free: int


@dataclass(frozen=True, slots=True)
class Bound:
    """Something that memory has to fit into: the kernel acts when `used` reaches `limit`."""

    name: str
    limit: int
    used: int

    @property
    def headroom(self) -> int:
        """What may still be used."""
        return max(0, self.limit - self.used)


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """The machine and the cgroups around this process, at `time` (CLOCK_MONOTONIC, seconds).

    `refaults`: pages of file cache that were read again soon after they had been taken back; of
    the innermost cgroup that counts them, or else of the machine.
    """

    time: float
    machine: MachineMemory
    cgroups: tuple[CgroupMemory, ...]
    pressure: Pressure | None
    refaults: int

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """The machine first, then the cgroups that have a limit, outermost first."""
        machine = self.machine
        found = [Bound("the machine", machine.total, machine.total - machine.available)]
        found += [
            Bound(f"cgroup {cgroup.directory} ({cgroup.set_by})", cgroup.limit, cgroup.used)
            for cgroup in self.cgroups
            if cgroup.limit is not None
        ]
        return tuple(found)

    @property
    def worst_pressure(self) -> Pressure | None:
        """The machine's own, or that of a cgroup around us if it is higher."""
        known = [self.pressure, *(cgroup.pressure for cgroup in self.cgroups)]
        return max((p for p in known if p), key=lambda p: p.some_avg10, default=None)


def read_memory(root: Path = ROOT, cgroups: Mapping[str, str] | None = None) -> MemoryReading:
    """Read everything now; some hundred microseconds."""
    groups = read_cgroups(root, own_cgroups() if cgroups is None else cgroups)
    virtual, swap = psutil.virtual_memory(), psutil.swap_memory()
    own = [group.refaults for group in groups if group.refaults >= 0]
    return MemoryReading(
        time.monotonic(),
        MachineMemory(virtual.total, virtual.available, swap.total, swap.free),
        groups,
        read_pressure(),
        own[-1] if own else _machine_refaults(),
    )


def available_memory() -> int:
    """Bytes that this process and its children could use without anybody being killed: what the
    kernel calls available, and no more than the tightest cgroup on the path leaves."""
    return min(bound.headroom for bound in read_memory().bounds)


def read_cgroups(root: Path, cgroups: Mapping[str, str]) -> tuple[CgroupMemory, ...]:
    """Every memory cgroup on the path from the root, version 2 first, outermost first."""
    found = []
    for directory in directories(root, cgroups, UNIFIED):
        stat = _stat(directory)
        usage = read_word(directory / "memory.current")
        if not usage:
            continue
        limit, name = _tightest(directory, "memory.max", "memory.high")
        pressure = read_pressure(directory / "memory.pressure")
        found.append(_cgroup(directory, limit, name, int(usage), stat, "", pressure))
    for directory in directories(root, cgroups, "memory"):
        usage = read_word(directory / "memory.usage_in_bytes")
        if not usage:
            continue
        limit, name = _tightest(directory, "memory.limit_in_bytes")
        found.append(_cgroup(directory, limit, name, int(usage), _stat(directory), "total_", None))
    return tuple(found)


def usage_files(reading: MemoryReading) -> list[Path]:
    """The counters of the cgroups that have a limit: what is charged now, cache included."""
    names = {
        "memory.limit_in_bytes": "memory.usage_in_bytes",
        "memory.max": "memory.current",
        "memory.high": "memory.current",
    }
    return [c.directory / names[c.set_by] for c in reading.cgroups if c.limit is not None]


def _cgroup(
    directory: Path,
    limit: int | None,
    set_by: str,
    usage: int,
    stat: Mapping[str, int],
    prefix: str,
    pressure: Pressure | None,
) -> CgroupMemory:
    cache = stat.get(f"{prefix}inactive_file", 0) + stat.get(f"{prefix}active_file", 0)
    refaults = stat.get(
        f"{prefix}workingset_refault_file", stat.get(f"{prefix}workingset_refault", -1)
    )
    return CgroupMemory(directory, limit, set_by, max(0, usage - cache), cache, refaults, pressure)


def _tightest(directory: Path, *names: str) -> tuple[int | None, str]:
    found: list[tuple[int, str]] = []
    for name in names:
        text = read_word(directory / name)
        if text.isdigit() and int(text) < _NO_LIMIT:
            found.append((int(text), name))
    return min(found, default=(None, ""))


def _stat(directory: Path) -> dict[str, int]:
    return _counters(read_word(directory / "memory.stat"))


def _machine_refaults() -> int:
    counters = _counters(read_word(Path("/proc/vmstat")))
    return counters.get("workingset_refault_file", counters.get("workingset_refault", 0))


def _counters(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split() for line in text.splitlines())}
