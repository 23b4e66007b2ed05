"""How much memory there is still to be had, by the kernel's own figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from supervisor.cgroups import ROOT, UNIFIED, directories, own_cgroups, read_word

_NO_LIMIT = 1 << 60
"""Version 1 writes a number of about this size where there is no limit."""


@dataclass(frozen=True, slots=True)
class CgroupMemory:
    """One cgroup's limit and what of it cannot be taken back. In bytes."""

    directory: Path
    limit: int
    used: int

    @property
    def headroom(self) -> int:
        """What may still be used."""
        return max(0, self.limit - self.used)


def available_memory() -> int:
    """Bytes that this process and its children could use without anybody being killed: what the
    kernel calls available, and no more than the tightest cgroup on the path leaves."""
    available: int = psutil.virtual_memory().available
    groups = limited_cgroups(ROOT, own_cgroups())
    return min([available, *(group.headroom for group in groups)])


def limited_cgroups(root: Path, cgroups: Mapping[str, str]) -> list[CgroupMemory]:
    """Every cgroup on the path that has a memory limit. File cache is not counted as used."""
    found = []
    for directory in directories(root, cgroups, UNIFIED):
        limits = [read_word(directory / name) for name in ("memory.max", "memory.high")]
        numbers = [int(limit) for limit in limits if limit.isdigit()]
        if numbers:
            used = _used(directory, "memory.current", "inactive_file", "active_file")
            found.append(CgroupMemory(directory, min(numbers), used))
    for directory in directories(root, cgroups, "memory"):
        limit = read_word(directory / "memory.limit_in_bytes")
        if limit.isdigit() and int(limit) < _NO_LIMIT:
            used = _used(
                directory, "memory.usage_in_bytes", "total_inactive_file", "total_active_file"
            )
            found.append(CgroupMemory(directory, int(limit), used))
    return found


def _used(directory: Path, usage: str, *reclaimable: str) -> int:
    stat = dict(
        line.split(maxsplit=1) for line in read_word(directory / "memory.stat").splitlines()
    )
    cache = sum(int(stat.get(name, 0)) for name in reclaimable)
    return max(0, int(read_word(directory / usage) or 0) - cache)
