"""Durable changes on disk: files are synced before they are moved into place, and trees are deleted
in one step."""

import ctypes
import errno
import os
import shutil
from pathlib import Path

_DISK_RESERVE = 256 << 20
"""Bytes of a disk that are left to other programs, or a twentieth of a smaller disk."""

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def free_for_us(directory: Path) -> int:
    """Return the bytes that may be written to the disk of `directory`, which need not exist yet:
    the free space less a reserve for other programs. Raises `OSError`."""
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    usage = shutil.disk_usage(existing)
    return max(0, usage.free - min(_DISK_RESERVE, usage.total // 20))


def sync_tree(directory: Path) -> None:
    """Sync every directory in a tree, and every file that is not a link. Raises `OSError`."""
    for path in (directory, *directory.rglob("*")):
        if not path.is_symlink() and (path.is_file() or path.is_dir()):
            sync(path)


def sync(path: Path) -> None:
    """Sync a file, or a directory's names. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def place_tree(made: Path, target: Path) -> None:
    """Sync the directory `made`, then move it to `target` in one step: at any time `target` is
    either the former directory, which ends up in place of `made`, or the new one. Raises
    `OSError`."""
    sync_tree(made)
    try:
        if target.exists():
            _exchange(made, target)
        else:
            made.rename(target)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
        # A file system that cannot exchange two names (NFS) needs two steps.
        remove_tree(target, made.with_name(f"{made.name}-replaced"))
        made.rename(target)
    sync(target.parent)


def _exchange(one: Path, other: Path) -> None:
    """Exchange two names (renameat2(2) with RENAME_EXCHANGE)."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(other))


def remove_tree(directory: Path, aside: Path) -> None:
    """Delete a directory, in one step for readers: it is first renamed to `aside`, which may be
    left from an earlier call. Raises `OSError`."""
    if aside.exists():
        shutil.rmtree(aside)
    directory.rename(aside)
    shutil.rmtree(aside)
