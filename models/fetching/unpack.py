"""Unpacks a model's zip archive, trusting nothing in it.

Refused before a byte is written: more entries, bytes or compression than a model has, names that
lead out of the target, links, devices, encrypted or doubled entries. While it is written no entry
may become longer than it said.
"""

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from models.contract import ModelError
from models.durable import free_for_us

_BLOCK_BYTES = 1 << 20
_CREATED_ON_UNIX = 3
_ENCRYPTED = 0x1
_BOUNDED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Methods of which a block is unpacked piece by piece; with the others a few bytes take all memory
before their length can be looked at."""
_LARGEST_DIRECTORY = 4 << 20
"""Bytes of the list of entries, which is read whole."""
_END_RECORD = struct.Struct("<4s4H2LH")
_END_MARK = b"PK\x05\x06"
_END_RECORD_64, _END_MARK_64 = struct.Struct("<4sQ2H2L4Q"), b"PK\x06\x06"
_LOCATOR, _LOCATOR_MARK = struct.Struct("<4sLQL"), b"PK\x06\x07"
"""The zip format's end of central directory, that of ZIP64, and its locator (APPNOTE.TXT, 4.3.14
to 4.3.16)."""
_SYNC_BYTES = 64 << 20
"""Written to disk after so many: on a slow disk progress is real, and others can write too."""


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What a model's archive may be. `ratio`: unpacked over packed, of a file of some size."""

    entries: int = 4096
    unpacked: int = 32 * 10**9
    ratio: float = 200.0
    ratio_from: int = 1 << 20
    depth: int = 8


def top_directory(archive: BinaryIO, limits: ArchiveLimits | None = None) -> str:
    """The one directory that all is in: what the archive calls its model. Raises `ModelError`."""
    with _opened(archive) as opened:
        return _checked(archive, opened, limits or ArchiveLimits())[0]


def unpack(
    archive: BinaryIO,
    target: Path,
    on_progress: Callable[[int, int], None],
    limits: ArchiveLimits | None = None,
) -> None:
    """Fill the directory `target` with what is inside the archive's one directory.

    `on_progress`: bytes written, and to be written. Raises `ModelError`, `OSError`.
    """
    with _opened(archive) as opened:
        top, files = _checked(archive, opened, limits or ArchiveLimits())
        total = sum(info.file_size for info in files)
        free = free_for_us(target)
        if total > free:
            raise ModelError(
                "no_space",
                f"{name_of(archive)} needs {total} bytes unpacked, {free} are free for it",
            )
        done = 0
        for info in files:
            inside = PurePosixPath(info.filename).relative_to(top)
            file = target.joinpath(*inside.parts)
            file.parent.mkdir(parents=True, exist_ok=True)
            done = _extract(archive, opened, info, file, done, total, on_progress)


def _opened(archive: BinaryIO) -> zipfile.ZipFile:
    _must_have_few_entries(archive)
    try:
        return zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        archive.seek(0)
        begins = archive.read(16)
        raise _bad(archive, f"it is no whole zip archive (it begins with {begins!r})") from error


def _must_have_few_entries(archive: BinaryIO) -> None:
    """Before the list of them is read: by every record that `zipfile` may take its length from."""
    size = archive.seek(0, 2)
    begin = max(0, size - (1 << 16) - _END_RECORD.size - _LOCATOR.size - _END_RECORD_64.size)
    archive.seek(begin)
    tail = archive.read()
    for at in _end_records(tail):
        _, _, _, _, entries, length, _, _ = _END_RECORD.unpack_from(tail, at)
        if length > _LARGEST_DIRECTORY:
            raise _too_many(archive, entries, length)
        locator = at - _LOCATOR.size
        if locator >= 0 and tail.startswith(_LOCATOR_MARK, locator):
            _must_have_few_entries_64(archive, tail, locator)


def _end_records(tail: bytes) -> Iterator[int]:
    """Where one may be: at the very end, without a comment, or the last that is found."""
    last = len(tail) - _END_RECORD.size
    if last >= 0 and tail.startswith(_END_MARK, last):
        yield last
    found = tail.rfind(_END_MARK)
    if 0 <= found < last:
        yield found


def _must_have_few_entries_64(archive: BinaryIO, tail: bytes, locator: int) -> None:
    """Of a ZIP64 archive. Its record is right before its locator, or where that one says; Python
    versions differ in which they believe, so they must agree."""
    at = locator - _END_RECORD_64.size
    _, _, said, _ = _LOCATOR.unpack_from(tail, locator)
    if at < 0 or not tail.startswith(_END_MARK_64, at):
        raise _bad(archive, "its ZIP64 record is not where it belongs")
    size = archive.seek(0, 2)
    if said != size - len(tail) + at:
        raise _bad(archive, "its ZIP64 record is not where it says")
    *_, entries, length, _ = _END_RECORD_64.unpack_from(tail, at)
    if length > _LARGEST_DIRECTORY:
        raise _too_many(archive, entries, length)


def _too_many(archive: BinaryIO, entries: int, length: int) -> ModelError:
    return _bad(archive, f"it lists {entries} entries in {length} bytes, more than a model has")


def _checked(
    archive: BinaryIO, opened: zipfile.ZipFile, limits: ArchiveLimits
) -> tuple[str, list[zipfile.ZipInfo]]:
    """The top directory's name and the files to be written."""
    infos = opened.infolist()
    if len(infos) > limits.entries:
        raise _bad(archive, f"it has {len(infos)} entries, {limits.entries} are the most")
    total = sum(info.file_size for info in infos)
    if total > limits.unpacked:
        raise _bad(archive, f"it would unpack to {total} bytes, {limits.unpacked} are the most")
    names: set[str] = set()
    for info in infos:
        _must_be_harmless(archive, info, limits)
        name = info.filename.rstrip("/").casefold()
        if name in names:
            raise _bad(archive, f"it has {info.filename!r} twice")
        names.add(name)
    tops = {PurePosixPath(info.filename).parts[0] for info in infos}
    if len(tops) != 1:
        raise _bad(archive, f"it holds {len(tops)} things at its top, and a model is one directory")
    files = [info for info in infos if not info.is_dir()]
    if any(len(PurePosixPath(info.filename).parts) < 2 for info in files):
        raise _bad(archive, "it holds a file where a model's directory should be")
    return tops.pop(), files


def _must_be_harmless(archive: BinaryIO, info: zipfile.ZipInfo, limits: ArchiveLimits) -> None:
    name, path = info.filename, PurePosixPath(info.filename)
    out = not path.parts or path.is_absolute() or ".." in path.parts
    if out or "\\" in name or "\0" in info.orig_filename or ":" in path.parts[0]:
        raise _bad(archive, f"{name!r} would lead out of the model's directory")
    if len(path.parts) > limits.depth or max(map(len, path.parts)) > 200:
        raise _bad(archive, f"{name!r} is nested or named beyond what a model has")
    if path.parts[0].startswith("."):
        raise _bad(archive, f"{name!r} is a hidden file")
    mode = info.external_attr >> 16
    kind = stat.S_IFMT(mode)
    if info.create_system == _CREATED_ON_UNIX and kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _bad(archive, f"{name!r} is a link or a device")
    if info.compress_type not in _BOUNDED:
        raise _bad(archive, f"{name!r} is packed by a method that models are not packed by")
    if info.flag_bits & _ENCRYPTED:
        raise _bad(archive, f"{name!r} is encrypted")
    packed = max(1, info.compress_size)
    if info.file_size > limits.ratio_from and info.file_size / packed > limits.ratio:
        raise _bad(
            archive, f"{name!r} would unpack to {info.file_size / packed:.0f} times its size"
        )


def _extract(
    archive: BinaryIO,
    opened: zipfile.ZipFile,
    info: zipfile.ZipInfo,
    file: Path,
    done: int,
    total: int,
    on_progress: Callable[[int, int], None],
) -> int:
    written = 0
    try:
        with opened.open(info) as reader, file.open("xb") as writer:
            while block := reader.read(_BLOCK_BYTES):
                written += len(block)
                if written > info.file_size:
                    raise _bad(archive, f"{info.filename!r} is longer than it says")
                writer.write(block)
                if written // _SYNC_BYTES != (written - len(block)) // _SYNC_BYTES:
                    writer.flush()
                    os.fdatasync(writer.fileno())
                on_progress(done + written, total)
    except (
        *(zipfile.BadZipFile, zlib.error, EOFError),
        *(NotImplementedError, RuntimeError, ValueError),
    ) as error:
        raise _bad(archive, f"{info.filename!r} cannot be unpacked: {error}") from error
    if written != info.file_size:
        raise _bad(archive, f"{info.filename!r} is shorter than it says")
    return done + written


def name_of(archive: BinaryIO) -> str:
    """The archive's, without its directories."""
    return Path(archive.name).name


def _bad(archive: BinaryIO, why: str) -> ModelError:
    return ModelError("bad_archive", f"{name_of(archive)} is not unpacked: {why}")
