"""Common parts of zip and tar archives: the size limits of a model's archive, the names that its
entries may have, and how a file of it is written."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from models.contract import ModelError
from models.durable import free_for_us

Progress = Callable[[int, int], None]
"""Receiver of the bytes done, and of the total."""


class Reader(Protocol):
    """Reader of bytes in order: at most `size` of them, none at the end."""

    def read(self, size: int = -1, /) -> bytes: ...


_BLOCK_BYTES = 1 << 20
_SYNC_BYTES = 64 << 20
"""Bytes after which a file is synced: on a slow disk progress is real, and others can write,
too."""


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """Limits of a model's archive. `ratio`: unpacked over packed size, for files of at least
    `ratio_from` bytes."""

    entries: int = 4096
    unpacked: int = 32 * 10**9
    ratio: float = 200.0
    ratio_from: int = 1 << 20
    depth: int = 8


@dataclass(slots=True)
class Entries:
    """Names of an archive's entries, checked one by one: all below one directory, none twice, none
    that would be written outside."""

    archive: BinaryIO
    limits: ArchiveLimits
    tops: set[str] = field(default_factory=set)
    _names: set[str] = field(default_factory=set)

    def add(self, name: str) -> PurePosixPath:
        """Return the path of the entry called `name`. Raises `ModelError`."""
        path = PurePosixPath(name)
        self._must_stay_inside(name, path)
        folded = str(path).casefold()
        if folded in self._names:
            raise bad(self.archive, f"it has {name!r} twice")
        if len(self._names) >= self.limits.entries:
            raise too_many(self.archive, len(self._names) + 1, self.limits)
        self._names.add(folded)
        self.tops.add(path.parts[0])
        return path

    def top(self) -> str:
        """Return the one directory that contains everything. Raises `ModelError`."""
        if len(self.tops) != 1:
            raise bad(
                self.archive,
                f"it holds {len(self.tops)} things at its top, and a model is one directory",
            )
        return next(iter(self.tops))

    def _must_stay_inside(self, name: str, path: PurePosixPath) -> None:
        out = not path.parts or path.is_absolute() or ".." in path.parts
        if out or "\\" in name or "\0" in name or ":" in path.parts[0]:
            raise bad(self.archive, f"{name!r} would lead out of the model's directory")
        if len(path.parts) > self.limits.depth or max(map(len, path.parts)) > 200:
            raise bad(self.archive, f"{name!r} is nested or named beyond what a model has")
        if path.parts[0].startswith("."):
            raise bad(self.archive, f"{name!r} is a hidden file")


def must_have_room(archive: BinaryIO, target: Path, total: int) -> None:
    """Raise `ModelError` if the disk of `target` has less than `total` bytes to spare."""
    free = free_for_us(target)
    if total > free:
        raise ModelError(
            "no_space", f"{name_of(archive)} needs {total} bytes unpacked, {free} are free for it"
        )


def write_file(
    reader: Reader, file: Path, size: int, on_block: Callable[[int], None]
) -> int | None:
    """Write the content of `reader` to the new `file`, at most `size` bytes; return how many, or
    None if there are more. `on_block` receives the bytes written so far."""
    file.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with file.open("xb") as writer:
        while block := reader.read(_BLOCK_BYTES):
            written += len(block)
            if written > size:
                return None
            writer.write(block)
            if written // _SYNC_BYTES != (written - len(block)) // _SYNC_BYTES:
                writer.flush()
                os.fdatasync(writer.fileno())
            on_block(written)
    return written


def name_of(archive: BinaryIO) -> str:
    """Return the archive's file name."""
    return Path(archive.name).name


def bad(archive: BinaryIO, why: str) -> ModelError:
    """Make the error of an archive that is not unpacked."""
    return ModelError("bad_archive", f"{name_of(archive)} is not unpacked: {why}")


def too_many(archive: BinaryIO, entries: int, limits: ArchiveLimits) -> ModelError:
    """Make the error of an archive with more entries than a model has."""
    return bad(archive, f"it has {entries} entries, {limits.entries} are the most")


def too_large(archive: BinaryIO, total: int, limits: ArchiveLimits) -> ModelError:
    """Make the error of an archive with more bytes than a model has."""
    return bad(archive, f"it would unpack to {total} bytes, {limits.unpacked} are the most")
