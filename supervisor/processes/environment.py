"""The allocator of a fork server, and the environment that its process gets before exec.

An allocator is chosen by environment variables, so it cannot be chosen later.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from supervisor.settings import Allocator

JEMALLOC_CONF = "narenas:1,dirty_decay_ms:60000,muzzy_decay_ms:60000"
"""Settings of jemalloc. A worker has one thread, lives long, and soon uses its memory again: one
arena, and freed pages are retained for a minute. Measured in docs/decisions.md."""

JEMALLOC_HUGE_PAGES = ",thp:always"
GLIBC_HUGE_PAGES = "glibc.malloc.hugetlb=1"
"""Settings with which the allocators use transparent huge pages."""

_PRELOAD = "LD_PRELOAD"

_LIBRARY_DIRECTORIES = ("/usr/lib", "/usr/lib64", "/lib", "/usr/local/lib")


@dataclass(frozen=True, slots=True)
class AllocatorChoice:
    """Allocator of a fork server, and the environment variables that select it."""

    name: str
    variables: Mapping[str, str]


class AllocatorMissing(Exception):
    """Error: jemalloc was requested by name and is not installed."""


def choose_allocator(
    wanted: Allocator, jemalloc: str | None, *, huge_pages: bool = True
) -> AllocatorChoice:
    """Return the variables for `wanted`, given the path of jemalloc's library or None, with the
    heap on huge pages or not.

    Raises `AllocatorMissing`.
    """
    if wanted is not Allocator.GLIBC and jemalloc is not None:
        conf = JEMALLOC_CONF + (JEMALLOC_HUGE_PAGES if huge_pages else "")
        variables = {_PRELOAD: jemalloc, "MALLOC_CONF": conf}
        return AllocatorChoice("jemalloc", variables)
    if wanted is Allocator.JEMALLOC:
        raise AllocatorMissing(
            "the setting allocator is jemalloc, but libjemalloc.so.2 is not installed "
            "(Debian: apt-get install libjemalloc2)"
        )
    return AllocatorChoice("glibc", {"GLIBC_TUNABLES": GLIBC_HUGE_PAGES} if huge_pages else {})


def process_environment(*layers: Mapping[str, str]) -> dict[str, str]:
    """Merge layers, later ones on top. A library that a later layer preloads comes before those of
    earlier layers, and does not replace them (`LD_PRELOAD`, ld.so(8))."""
    merged: dict[str, str] = {}
    for layer in layers:
        preloaded = [part for part in (layer.get(_PRELOAD), merged.get(_PRELOAD)) if part]
        merged |= layer
        if preloaded:
            merged[_PRELOAD] = ":".join(preloaded)
    return merged


def find_jemalloc() -> str | None:
    """Return the path of `libjemalloc.so.2`, or None."""
    for directory in _LIBRARY_DIRECTORIES:
        for path in (Path(directory), *Path(directory).glob("*-linux-gnu")):
            library = path / "libjemalloc.so.2"
            if library.is_file():
                return str(library)
    return None


def allocator_in_use() -> str:
    """Return the allocator of this process, by the libraries that are mapped into it."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    if "libjemalloc" in maps:
        return "jemalloc"
    if "hugetlb" in os.environ.get("GLIBC_TUNABLES", ""):
        return "glibc (huge pages)"
    return "glibc"
