"""A worker's page: two words of memory that it shares with the supervisor only.

The page is sealed, so that no worker can shrink it while the supervisor reads it, and each worker
has its own. Its content is a claim of the worker: a heartbeat that stops means a hang, and the
number of a job or stream that the worker does not have means nothing.
"""

import fcntl
import mmap
import os

PAGE_BYTES = mmap.PAGESIZE
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_HEARTBEAT, _AT_HAND = 0, 1


def create_page() -> int:
    """Return a descriptor of a new, sealed page. Raises `OSError`."""
    fd = os.memfd_create("page", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, PAGE_BYTES)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


class Page:
    """Shared page behind `fd`, which is closed."""

    def __init__(self, fd: int) -> None:
        try:
            self._map = mmap.mmap(fd, PAGE_BYTES)
        finally:
            os.close(fd)
        self._words = memoryview(self._map).cast("Q")

    @property
    def heartbeat(self) -> int:
        """Number that changes while the worker lives."""
        return self._words[_HEARTBEAT]

    @property
    def at_hand(self) -> int:
        """Number of the job or stream that the worker is working on, or 0."""
        return self._words[_AT_HAND]

    def beat(self) -> None:
        """Show that the worker lives."""
        self._words[_HEARTBEAT] = (self._words[_HEARTBEAT] + 1) & 0xFFFFFFFF

    def turn_to(self, number: int) -> int:
        """Announce what the worker works on from now on; return the number before."""
        before, self._words[_AT_HAND] = self._words[_AT_HAND], number
        self.beat()
        return before

    def close(self) -> None:
        """Unmap the page. May be called twice."""
        self._words.release()
        self._map.close()
