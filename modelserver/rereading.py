"""Files that are read again when they have changed, while the server runs."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")
Stamp = tuple[int, int, int]
"""Time of the last change, size and inode of a file."""


def read_if_changed(
    file: Path, before: Stamp | None, read: Callable[[Path], _T]
) -> tuple[Stamp | None, _T] | None:
    """Return the stamp of `file` and what `read` returns; None if the stamp is the one `before`.

    `read` raises its own error for a file that cannot be read: keep the old stamp then, and the
    next call reads again.
    """
    stamp = _stamp_of(file)
    return None if stamp is not None and stamp == before else (stamp, read(file))


def _stamp_of(file: Path) -> Stamp | None:
    """Return the stamp of a file; None if there is none, or the name is not possible."""
    try:
        status = file.stat()
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
