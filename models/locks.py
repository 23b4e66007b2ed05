"""Locks between processes, as files: held by one process at a time, and released however it
ends."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO


class Held(Exception):
    """Lock that another process holds; the text is its process id, if it has written that."""


@contextlib.contextmanager
def hold(file: Path) -> Iterator[None]:
    """Hold the lock in `file` during the block, and remove the file afterwards.

    Raises `Held` if another process holds it, and `OSError`.
    """
    lock = _lock(file)
    try:
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
    finally:
        # A process that has opened it meanwhile notices that the name is gone, and opens it again.
        file.unlink(missing_ok=True)
        lock.close()


def _lock(file: Path) -> TextIO:
    while True:
        lock = file.open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip()
            lock.close()
            raise Held(holder) from None
        except BaseException:
            lock.close()
            raise
        if _is_at(lock.fileno(), file):
            return lock
        lock.close()


def _is_at(descriptor: int, path: Path) -> bool:
    """Return whether the open file still has this name: its last holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
