"""Gives memory that this process has freed back to the kernel, whichever allocator it has."""

import contextlib
import ctypes
import gc

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_LARGE = 128 * 1024
_ALL_ARENAS = 4096
"""MALLCTL_ARENAS_ALL of jemalloc 5."""


def give_back() -> None:
    """Collect garbage, then have the allocator let its free pages go."""
    gc.collect()
    let_go()


def keep_together() -> None:
    """Have the C library's allocator serve all threads from one place: else each thread's keeps
    pieces of its own. What is large stays apart, and is given back when it is freed: else large
    ones that come and go leave holes, and the memory grows for hours. To be called before there are
    threads (mallopt(3))."""
    with contextlib.suppress(AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)  # which ends its moving up, too


def let_go() -> None:
    """Have the allocator let its free pages go. No other thread waits for it, as all would for the
    garbage collector, at a moment when the supervisor has to be quick."""
    libc = ctypes.CDLL(None)
    with contextlib.suppress(AttributeError):
        libc.mallctl(b"arena.%d.purge" % _ALL_ARENAS, None, None, None, ctypes.c_size_t(0))
    with contextlib.suppress(AttributeError):
        libc.malloc_trim(ctypes.c_size_t(0))
