"""Returning freed memory of this process to the kernel, with any allocator."""

import contextlib
import ctypes
import gc

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_LARGE = 128 * 1024
_ALL_ARENAS = 4096
"""Constant MALLCTL_ARENAS_ALL of jemalloc 5."""


def collect_and_release() -> None:
    """Collect garbage, then return free pages to the kernel."""
    gc.collect()
    release_free_memory()


def keep_together() -> None:
    """Have the C library's allocator serve all threads from one arena: otherwise the arena of each
    thread retains pieces of its own. Large blocks stay apart, and are returned when they are freed:
    otherwise they leave holes, and memory grows for hours. Call it before there are threads
    (mallopt(3))."""
    with contextlib.suppress(AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)  # fixed, where it would otherwise grow


def release_free_memory() -> None:
    """Return free pages to the kernel. It does not stop other threads, as garbage collection does,
    when the supervisor has to be quick."""
    libc = ctypes.CDLL(None)
    with contextlib.suppress(AttributeError):
        libc.mallctl(b"arena.%d.purge" % _ALL_ARENAS, None, None, None, ctypes.c_size_t(0))
    with contextlib.suppress(AttributeError):
        libc.malloc_trim(ctypes.c_size_t(0))
