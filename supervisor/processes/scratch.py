"""The directory for temporary files of a load. It is locked while its supervisor lives, so that the
next supervisor can recognise and remove the directory of one that was killed."""

import asyncio
import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

_PREFIX = "modelserver-load-"
_LOCKED_WITHIN_S = 60.0


class Scratch:
    """New temporary directory."""

    def __init__(self) -> None:
        """Make and lock the directory. Raises `OSError`."""
        _in_thread(remove_left_over)
        self.name = tempfile.mkdtemp(prefix=_PREFIX)
        self._fd = os.open(self.name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        # a file system without locks: a later supervisor does not find it
        with contextlib.suppress(OSError):
            fcntl.flock(self._fd, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Remove it with all its content. May be called twice."""
        shutil.rmtree(self.name, ignore_errors=True)
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def remove_later(self) -> None:
        """Remove it in a thread: there may be much, and a process may still write there."""
        _in_thread(self.remove)


def _in_thread(remove: Callable[[], None]) -> None:
    try:
        asyncio.get_running_loop().run_in_executor(None, remove)
    except RuntimeError:  # there is no loop, or no thread can be started
        remove()


def remove_left_over() -> None:
    """Remove the directories of this user's supervisors that are gone."""
    for found in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            fd = os.open(found, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                status = os.fstat(fd)
                old = time.time() - status.st_mtime > _LOCKED_WITHIN_S
                if status.st_uid == os.getuid() and old:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(found, ignore_errors=True)
            finally:
                os.close(fd)
