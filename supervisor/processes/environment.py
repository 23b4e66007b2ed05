"""What a fork server's process is given before exec: its allocator; what its workers give up; and
how many fit.

An allocator is chosen by environment variables, so it cannot be chosen later.
"""

import enum
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from supervisor.readings.cgroups import ROOT, UNIFIED, directories, own_cgroups, read_word

JEMALLOC_CONF = "narenas:1,dirty_decay_ms:60000,muzzy_decay_ms:60000"
"""A worker has one thread, lives long, and uses its memory again at once: one arena, and freed
pages kept for a minute. Measured in docs/decisions.md."""

JEMALLOC_HUGE_PAGES = ",thp:always"
GLIBC_HUGE_PAGES = "glibc.malloc.hugetlb=1"
"""Each allocator's own way to transparent huge pages."""

_PERIOD_US = 100_000

_PRELOAD = "LD_PRELOAD"

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


class Sandbox(enum.Enum):
    """The setting: whether workers give up, after their warm-up, what they do not need. `AUTO`: as
    much of it as this machine can; `ON`: or no model is served."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


def choose_allocator(
    wanted: Allocator, jemalloc: str | None, *, huge_pages: bool = True
) -> AllocatorChoice:
    """The variables for `wanted`, given the path of jemalloc's library or None, with the heap on
    huge pages or not.

    Raises `AllocatorMissing`.
    """
    if wanted is not Allocator.GLIBC and jemalloc is not None:
        conf = JEMALLOC_CONF + (JEMALLOC_HUGE_PAGES if huge_pages else "")
        variables = {_PRELOAD: jemalloc, "MALLOC_CONF": conf}
        return AllocatorChoice("jemalloc", variables)
    if wanted is Allocator.JEMALLOC:
        raise AllocatorMissing(
            "allocator is jemalloc, and libjemalloc.so.2 is not installed "
            "(Debian: apt-get install libjemalloc2)"
        )
    return AllocatorChoice("glibc", {"GLIBC_TUNABLES": GLIBC_HUGE_PAGES} if huge_pages else {})


def process_environment(*layers: Mapping[str, str]) -> dict[str, str]:
    """The layers on top of each other. What a later one preloads comes before what an earlier one
    does, and does not take its place (`LD_PRELOAD`, ld.so(8))."""
    merged: dict[str, str] = {}
    for layer in layers:
        preloaded = [part for part in (layer.get(_PRELOAD), merged.get(_PRELOAD)) if part]
        merged |= layer
        if preloaded:
            merged[_PRELOAD] = ":".join(preloaded)
    return merged


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
    quota = cpu_quota(ROOT, own_cgroups())
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def cpu_quota(root: Path, cgroups: Mapping[str, str]) -> float | None:
    """The tightest cgroup quota along the path, in CPUs; None where there is none."""
    quotas = []
    for directory in directories(root, cgroups, UNIFIED):
        quota, _, period = read_word(directory / "cpu.max").partition(" ")
        if quota not in ("", "max"):
            quotas.append(int(quota) / int(period or _PERIOD_US))
    for directory in directories(root, cgroups, "cpu"):
        us = read_word(directory / "cpu.cfs_quota_us")
        if us and int(us) > 0:
            period = read_word(directory / "cpu.cfs_period_us")
            quotas.append(int(us) / int(period or _PERIOD_US))
    return min(quotas, default=None)
