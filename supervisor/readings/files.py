"""Reads small files of the kernel: a few microseconds each, which is why not by `pathlib`."""

import os

_MOST_BYTES = 64 * 1024


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The whole of a small file; empty where it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, _MOST_BYTES)
    except OSError:
        return b""
    finally:
        os.close(fd)


def field(text: bytes, name: bytes) -> int | None:
    """The number after `name` at the beginning of a line, such as "oom_kill 3" or
    "RssAnon:  120 kB"; None if there is no such line."""
    at = 0 if text.startswith(name) else text.find(b"\n" + name) + 1
    if at == 0 and not text.startswith(name):
        return None
    end = text.find(b"\n", at)
    rest = text[at + len(name) : end if end >= 0 else None]
    number, *_ = rest.split(None, 1)
    return int(number)


def read_number(path: str | os.PathLike[str]) -> int:
    """A small file that is a number; 0 where it cannot be read or is none."""
    text = read_file(path).strip()
    return int(text) if text.isdigit() else 0
