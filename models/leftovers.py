"""Leftovers: files and directories that no model needs any more, and their removal."""

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from models.locks import Held, hold


@dataclass(frozen=True, slots=True)
class Leftover:
    """File or directory that no model needs, with its bytes on the disk and the reason. `lock`:
    lock that is held while a process still makes it. `certain`: no other version and no model that
    is temporarily missing needs it either, so a server removes it by itself."""

    path: Path
    why: str
    bytes: int
    lock: Path
    certain: bool = False


def remove_leftover(leftover: Leftover) -> bool:
    """Remove it, unless a process is still making it. Return whether it is gone. Raises
    `OSError`."""
    try:
        with hold(leftover.lock):
            if leftover.path.is_dir() and not leftover.path.is_symlink():
                shutil.rmtree(leftover.path)
            else:
                leftover.path.unlink(missing_ok=True)
    except Held:
        return False
    return True


def bytes_of(path: Path) -> int:
    """Return the bytes of a file, or of a directory with all its content; links do not count."""
    total = 0
    for file in (path, *path.rglob("*")):
        with contextlib.suppress(OSError):
            if not file.is_symlink() and file.is_file():
                total += file.stat().st_size
    return total
