"""What a fork server's process is given before exec: its allocator; and how many workers fit.

An allocator is chosen by environment variables, so it cannot be chosen later.
"""

import enum
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

JEMALLOC_CONF = "narenas:1,thp:always,dirty_decay_ms:60000,muzzy_decay_ms:60000"
"""A worker has one thread, lives long, and uses its memory again at once: one arena, huge pages,
and freed pages kept for a minute. Measured in benchmarks/README.md."""

GLIBC_TUNABLES = "glibc.malloc.hugetlb=1"
"""glibc's own way to transparent huge pages."""

_LIBRARY_DIRECTORIES = ("/usr/lib", "/usr/lib64", "/lib", "/usr/local/lib")


@dataclass(frozen=True, slots=True)
class AllocatorChoice:
    """Which allocator a fork server gets, by which variables."""

    name: str
    variables: Mapping[str, str]


class AllocatorMissing(Exception):
    """jemalloc was asked for by name and is not on this machine."""


class Allocator(enum.Enum):
    """The setting; `AUTO` takes jemalloc where the machine has it."""

    AUTO = "auto"
    JEMALLOC = "jemalloc"
    GLIBC = "glibc"


def choose_allocator(wanted: Allocator, jemalloc: str | None) -> AllocatorChoice:
    """The variables for `wanted`, given the path of jemalloc's library or None.

    Raises `AllocatorMissing`.
    """
    if wanted is not Allocator.GLIBC and jemalloc is not None:
        variables = {"LD_PRELOAD": jemalloc, "MALLOC_CONF": JEMALLOC_CONF}
        return AllocatorChoice("jemalloc", variables)
    if wanted is Allocator.JEMALLOC:
        raise AllocatorMissing(
            "allocator is jemalloc, and libjemalloc.so.2 is not installed "
            "(Debian: apt-get install libjemalloc2)"
        )
    return AllocatorChoice("glibc", {"GLIBC_TUNABLES": GLIBC_TUNABLES})


def find_jemalloc() -> str | None:
    """The path of `libjemalloc.so.2`, or None."""
    for directory in _LIBRARY_DIRECTORIES:
        for path in (Path(directory), *Path(directory).glob("*-linux-gnu")):
            library = path / "libjemalloc.so.2"
            if library.is_file():
                return str(library)
    return None


def allocator_in_use() -> str:
    """The allocator of this very process, by what is mapped into it."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    if "libjemalloc" in maps:
        return "jemalloc"
    if "hugetlb" in os.environ.get("GLIBC_TUNABLES", ""):
        return "glibc (huge pages)"
    return "glibc"


def usable_cpus() -> int:
    """The CPUs this process may use: its affinity, and its cgroup's quota (v1 or v2)."""
    allowed = len(os.sched_getaffinity(0))
    quota = _cgroup_cpu_quota(Path("/sys/fs/cgroup"), _own_cgroups())
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def _own_cgroups() -> dict[str, str]:
    """Controller name to path; the unified hierarchy is under the empty name (cgroups(7))."""
    cgroups = {}
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            cgroups[controller] = path
    return cgroups


def _cgroup_cpu_quota(root: Path, cgroups: Mapping[str, str]) -> float | None:
    """The tightest quota along the paths, in CPUs; None where there is none."""
    quotas = []
    for base in (root, root / "unified"):
        for directory in _along(base, cgroups.get("")):
            quota, _, period = _read(directory / "cpu.max").partition(" ")
            if quota not in ("", "max"):
                quotas.append(int(quota) / int(period or 100_000))
    for base in (root / "cpu", root / "cpu,cpuacct"):
        for directory in _along(base, cgroups.get("cpu")):
            us = _read(directory / "cpu.cfs_quota_us")
            if us and int(us) > 0:
                quotas.append(int(us) / int(_read(directory / "cpu.cfs_period_us") or 100_000))
    return min(quotas, default=None)


def _along(base: Path, path: str | None) -> list[Path]:
    """`base` and every directory on the way down `path`: inside a container the path that the
    kernel tells may not exist, and then the base is the container's own."""
    if path is None:
        return []
    directory, directories = base, [base]
    for part in Path(path).parts[1:]:
        directory = directory / part
        directories.append(directory)
    return directories


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError:
        return ""
