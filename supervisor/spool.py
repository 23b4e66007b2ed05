"""A spool: storage for a job's input, in shared memory while it is small, else in an unnamed file.

A worker gets the descriptor and maps it, so the supervisor never has the bytes in its own heap, and
a job that has to run again still has its input.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from supervisor.errors import SpoolFull
from supervisor.loop.tasks import retrieve
from supervisor.settings import SpoolLimits

_DISK_WRITE_BYTES = 512 * 1024
"""Bytes that are collected before a thread writes them to disk."""
_OF_LATE_S = 60.0
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@dataclass(frozen=True, slots=True)
class SpoolUsage:
    """Usage of the open spools of one store at one moment."""

    open: int
    memory_bytes: int
    disk_bytes: int


class JobInput(Protocol):
    """Input that a pool can give to a worker: a `Spool`, or an existing file."""

    @property
    def size(self) -> int:
        """Size in bytes."""
        ...

    def fileno(self) -> int:
        """Return a descriptor that can be mapped."""
        ...

    async def flush(self) -> None:
        """Write everything to where the descriptor points. Raises `SpoolFull`."""
        ...


class FileInput:
    """Regular file as a job's input, read in place."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = os.fstat(file.fileno()).st_size

    def fileno(self) -> int:
        """Return the file's descriptor."""
        return self._file.fileno()

    async def flush(self) -> None:
        """Do nothing: the file is complete."""


class SpoolStore:
    """Opens spools and keeps their total within `limits`."""

    def __init__(self, limits: SpoolLimits | None = None) -> None:
        self.limits = limits or SpoolLimits()
        self.memory_allowed = True
        """True if new input may be held in memory."""
        self._disk_room: int | None = None
        self._on_disk_then = 0
        self._open: set[Spool] = set()
        self.memory_bytes = self.disk_bytes = 0
        """Bytes of all open spools, in memory and on the disk."""
        self._failure: tuple[float, str] | None = None

    def open(self) -> "Spool":
        """Open a new, empty spool; close it, or use it as `async with`."""
        spool = Spool(self)
        self._open.add(spool)
        return spool

    def note_disk(self, room: int) -> None:
        """Record the bytes that may still be written in the spools' directory."""
        self._disk_room, self._on_disk_then = room, self.disk_bytes

    def disk_room(self) -> int | None:
        """Return the recorded bytes less what was written since; None if nothing was recorded."""
        if self._disk_room is None:
            return None
        return self._disk_room - (self.disk_bytes - self._on_disk_then)

    def failure(self) -> str | None:
        """Explain why the disk could not be used the last time, if that was recent."""
        if self._failure is None or time.monotonic() - self._failure[0] > _OF_LATE_S:
            return None
        return self._failure[1]

    @contextlib.contextmanager
    def _on_disk(self) -> Iterator[None]:
        """Run a block that uses the disk. Raises `SpoolFull` for any `OSError` but
        `FileExistsError`."""
        try:
            yield
        except FileExistsError:
            raise  # an answer of the file system, and not a failure
        except OSError as error:
            self._failure = time.monotonic(), error.strerror or str(error)
            raise SpoolFull.from_os_error(error) from error
        self._failure = None

    def usage(self) -> SpoolUsage:
        """Return the present usage."""
        return SpoolUsage(len(self._open), self.memory_bytes, self.disk_bytes)

    def _fits_memory(self, spool: "Spool", size: int) -> bool:
        if not self.memory_allowed:
            return False
        others = self.memory_bytes - (spool.size if spool.in_memory else 0)
        return size <= self.limits.memory_each and others + size <= self.limits.memory_total

    def _closed(self, spool: "Spool") -> None:
        self._open.discard(spool)
        self._count(spool, -spool.size)

    def _count(self, spool: "Spool", more: int) -> None:
        """Count `more` bytes of a spool, in memory or on disk."""
        if spool.in_memory:
            self.memory_bytes += more
        else:
            self.disk_bytes += more


class Spool:
    """Input of one job: written once from front to back, then read by the processes that map it."""

    def __init__(self, store: SpoolStore) -> None:
        self._store = store
        self._fd = os.memfd_create("spool", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._unwritten = bytearray()
        self._writing: asyncio.Future[None] | None = None
        self.in_memory = True
        self.size = 0
        self._closed = False

    def fileno(self) -> int:
        """Return the descriptor, for a worker. Its file is complete only after `flush`."""
        return self._fd

    async def write(self, data: bytes | memoryview) -> None:
        """Append data. Raises `SpoolFull` if there is no space left for it."""
        if self.in_memory and not self._store._fits_memory(self, self.size + len(data)):
            await self._move_to_disk()
        self._grow(len(data))
        if self.in_memory:
            try:
                _write_all(self._fd, data)  # a copy to memory: shorter than a hop to a thread
            except OSError as error:
                raise SpoolFull.from_os_error(error) from error
            return
        if (room := self._store.disk_room()) is not None and room < 0:
            raise SpoolFull("no space left to hold the upload")
        self._unwritten += data
        if len(self._unwritten) >= _DISK_WRITE_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Write everything to where the descriptor points. Raises `SpoolFull`."""
        if self._unwritten:
            data, self._unwritten = self._unwritten, bytearray()
            await self._in_thread(_write_all, self._fd, data)

    async def read(self, offset: int, size: int) -> bytes:
        """Read a part of what was written. Raises `SpoolFull` if that fails."""
        await self.flush()
        if self.in_memory:
            return os.pread(self._fd, size, offset)
        fd = os.dup(self._fd)  # the spool may be closed meanwhile
        loop = asyncio.get_running_loop()
        return await asyncio.shield(loop.run_in_executor(None, _read_and_close, fd, size, offset))

    async def keep(self, directory: int, name: str) -> None:
        """Give the content a name in the open directory, safe from a loss of power. Raises
        `SpoolFull`, and `FileExistsError`."""
        await self.to_disk()
        await self.flush()
        await self._in_thread(_name, self._fd, directory, name)

    async def clear(self) -> None:
        """Remove the content, to write another. Raises `SpoolFull`."""
        await self.flush()
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._grow(-self.size)

    def close(self) -> None:
        """Free the space (a worker that still maps it retains it until it is done)."""
        if not self._closed:
            self._closed = True
            self._store._closed(self)
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._close_when_written(fd)

    async def __aenter__(self) -> "Spool":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def to_disk(self) -> None:
        """Move a complete spool out of memory. Raises `SpoolFull`, and then it stays."""
        if self.in_memory and self._fd >= 0 and self.size > 0:
            await self._move_to_disk()

    def seal(self) -> None:
        """Seal content in memory: no process can change it any more."""
        if self.in_memory:
            fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, _SEALS)

    def _grow(self, more: int) -> None:
        self.size += more
        if not self._closed:
            self._store._count(self, more)

    async def _move_to_disk(self) -> None:
        memfd = os.dup(self._fd)  # the spool may be closed meanwhile
        copied = False
        try:
            with self._store._on_disk():
                file = os.open(
                    self._store.limits.directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600
                )
        except BaseException:
            os.close(memfd)
            raise
        try:
            await self._in_thread(_copy, memfd, file, self.size)
            copied = self._fd >= 0
        finally:
            self._close_when_written(memfd)
            if copied:
                os.close(self._fd)
                self._store._count(self, -self.size)
                self._fd, self.in_memory = file, False
                self._store._count(self, self.size)
            else:
                self._close_when_written(file)

    async def _in_thread(self, write: Callable[..., None], *arguments: object) -> None:
        """Run a write that may wait for the disk. A cancelled caller does not end the thread: see
        `_close_when_written`."""
        loop = asyncio.get_running_loop()
        self._writing = loop.run_in_executor(None, write, *arguments)
        self._writing.add_done_callback(retrieve)
        with self._store._on_disk():
            await asyncio.shield(self._writing)

    def _close_when_written(self, fd: int) -> None:
        """Close a descriptor when no thread uses it any more. A thread continues if its caller is
        cancelled: until it has ended, the descriptor's number must not be reused, or it would write
        to another file."""
        if self._writing is not None and not self._writing.done():
            self._writing.add_done_callback(lambda _: os.close(fd))
        else:
            os.close(fd)


def _write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _name(fd: int, directory: int, name: str) -> None:
    os.fsync(fd)
    os.link(
        f"/proc/self/fd/{fd}",
        name,
        src_dir_fd=directory,
        dst_dir_fd=directory,
        follow_symlinks=True,
    )
    os.fsync(directory)


def _read_and_close(fd: int, size: int, offset: int) -> bytes:
    try:
        return os.pread(fd, size, offset)
    finally:
        os.close(fd)


def _copy(source: int, target: int, size: int) -> None:
    at = 0
    while at < size:
        copied = os.sendfile(target, source, at, size - at)
        if copied == 0:
            raise OSError(errno.EIO, "the upload was cut short meanwhile")
        at += copied


def open_for_reading(spool: JobInput) -> int:
    """Open a new descriptor of a job's input, for a worker: it can only be read, and content in
    memory is sealed. Raises `OSError`."""
    if isinstance(spool, Spool):
        spool.seal()
    return os.open(f"/proc/self/fd/{spool.fileno()}", os.O_RDONLY | os.O_CLOEXEC)


def directory_problem(directory: Path) -> str | None:
    """Explain why spools cannot be stored there; return None if they can."""
    try:
        os.close(os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        return f"{directory} cannot be written to: {error.strerror}"
    return None
