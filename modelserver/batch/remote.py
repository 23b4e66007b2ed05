"""Files at URLs (`s3://bucket/a.wav`, `https://...`), read by fsspec and its installed backends.
Blocks."""

import contextlib
import importlib
import re
from collections.abc import Iterator
from typing import IO, Any

from models.extras import how_to_install
from modelserver.batch.errors import EngineUnusable

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://.+")
_PATTERN = frozenset("*?[")


def is_url(file: str) -> bool:
    """Return whether a file is a URL, not a path."""
    return _URL.fullmatch(file) is not None


def names_several(url: str) -> bool:
    """Return whether a URL is a directory (it ends with /) or a pattern."""
    return url.endswith("/") or any(letter in _PATTERN for letter in url.partition("://")[2])


def expanded(url: str) -> list[str]:
    """List the files of a directory and below, or those that match a pattern. Raises `OSError` or
    `EngineUnusable`."""
    with _as_os_errors(url):
        system, path = _system(url)
        if url.endswith("/"):
            found = system.find(path)
        else:
            found = [one for one in system.glob(path) if not system.isdir(one)]
        return sorted(str(system.unstrip_protocol(one)) for one in found)


@contextlib.contextmanager
def opened(url: str) -> Iterator[IO[bytes]]:
    """Open a URL for reading. Raises `OSError` or `EngineUnusable`."""
    with _as_os_errors(url):
        system, path = _system(url)
        file = system.open(path, "rb")
    try:
        yield file
    finally:
        file.close()


def read(file: IO[bytes], url: str, size: int) -> bytes:
    """Read the next part. Raises `OSError`."""
    with _as_os_errors(url):
        return file.read(size)


def stamp(url: str) -> str:
    """Return what changes with the content of a URL; empty if nothing is known of it."""
    try:
        with _as_os_errors(url):
            system, path = _system(url)
            known = system.info(path)
    except (OSError, EngineUnusable):
        return ""
    marks = ("size", "ETag", "etag", "mtime", "LastModified", "last_modified", "updated")
    return " ".join(str(known[mark]) for mark in marks if known.get(mark) is not None)


def _system(url: str) -> tuple[Any, str]:
    try:
        core = importlib.import_module("fsspec.core")
    except ImportError as error:
        raise EngineUnusable(
            f"{url}: URLs need the package fsspec: {how_to_install('fsspec')}"
        ) from error
    try:
        system, path = core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise EngineUnusable(f"{url}: {error}") from error
    return system, str(path)


@contextlib.contextmanager
def _as_os_errors(url: str) -> Iterator[None]:
    """Turn the exceptions of all backends into `OSError`."""
    try:
        yield
    except EngineUnusable:
        raise
    except FileNotFoundError as error:
        raise OSError(0, f"{url} is not there") from error
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise OSError(0, f"{url} cannot be read: {reason}") from error
