"""What nobody may see by halves: files that are on disk before they are put in their place, and
trees that are gone all at once."""

import ctypes
import errno
import os
import shutil
from pathlib import Path

_DISK_RESERVE = 256 << 20
"""Bytes of a disk that are left to other programs, or a twentieth of a smaller one."""

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def free_for_us(directory: Path) -> int:
    """Bytes that may be written to the disk of `directory`, which need not exist yet: what is free
    less a reserve for other programs. Raises `OSError`."""
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    usage = shutil.disk_usage(existing)
    return max(0, usage.free - min(_DISK_RESERVE, usage.total // 20))


def sync_tree(directory: Path) -> None:
    """Every file in it that is not a link, and every directory. Raises `OSError`."""
    for path in (directory, *directory.rglob("*")):
        if not path.is_symlink() and (path.is_file() or path.is_dir()):
            sync(path)


def sync(path: Path) -> None:
    """A file, or a directory's names. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def place_tree(made: Path, target: Path) -> None:
    """Make sure that the directory `made` is on disk, then move it to `target` in one step: at any
    time there is either what was there before, which ends up in place of `made`, or the new one.
    Raises `OSError`."""
    sync_tree(made)
    try:
        if target.exists():
            _exchange(made, target)
        else:
            made.rename(target)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
        # A file system that cannot exchange two names (NFS): in two steps.
        remove_tree(target, made.with_name(f"{made.name}-replaced"))
        made.rename(target)
    sync(target.parent)


def _exchange(one: Path, other: Path) -> None:
    """renameat2(2) with RENAME_EXCHANGE."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(other))


def remove_tree(directory: Path, aside: Path) -> None:
    """Delete it, all at once for who looks: first it is out of sight, under the name of `aside`,
    which may be left of a time before. Raises `OSError`."""
    if aside.exists():
        shutil.rmtree(aside)
    directory.rename(aside)
    shutil.rmtree(aside)
