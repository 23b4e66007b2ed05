"""Readers of small files of the kernel: a few microseconds each, which is why they do not use
`pathlib`.

A missing file is information; a file that could not be opened because descriptors or memory have
run out is not, so that raises.
"""

import errno
import os

_MOST_BYTES = 64 * 1024
_NOT_TRIED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a small file; empty if there is none, or if it is not readable. Raises
    `OSError` if that is not known."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, _MOST_BYTES)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in _NOT_TRIED:
            raise
        return b""


class KernelFile:
    """Small file that stays open, to be read repeatedly."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the file. Raises `OSError`."""
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self) -> bytes:
        """Read it from its beginning. Raises `OSError`."""
        return os.pread(self._fd, _MOST_BYTES, 0)

    def close(self) -> None:
        """Close the file. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def field(text: bytes, name: bytes) -> int | None:
    """Return the number after `name` at the beginning of a line, such as "oom_kill 3" or "RssAnon:
    120 kB"; None if there is no such line."""
    at = 0 if text.startswith(name) else text.find(b"\n" + name) + 1
    if at == 0 and not text.startswith(name):
        return None
    end = text.find(b"\n", at)
    rest = text[at + len(name) : end if end >= 0 else None]
    number, *_ = rest.split(None, 1)
    return int(number)


def read_number(path: str | os.PathLike[str]) -> int:
    """Return the number in a small file; 0 if there is none. Raises `OSError` as `read_file`
    does."""
    text = read_file(path).strip()
    return int(text) if text.isdigit() else 0
