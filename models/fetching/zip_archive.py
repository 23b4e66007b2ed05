"""Unpacks a zip archive: every entry that it lists is checked before a byte is written."""

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from models.contract import ModelError
from models.fetching.archive import (
    ArchiveLimits,
    Entries,
    Progress,
    bad,
    must_have_room,
    too_large,
    too_many,
    write_file,
)

_CREATED_ON_UNIX = 3
_ENCRYPTED = 0x1
_BOUNDED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Compression methods that are unpacked in blocks; with the others a few bytes can fill all memory
before their length can be checked."""
_LARGEST_DIRECTORY = 4 << 20
"""Bytes of the list of entries, which is read whole."""
_END_RECORD = struct.Struct("<4s4H2LH")
_END_MARK = b"PK\x05\x06"
_END_RECORD_64, _END_MARK_64 = struct.Struct("<4sQ2H2L4Q"), b"PK\x06\x06"
_LOCATOR, _LOCATOR_MARK = struct.Struct("<4sLQL"), b"PK\x06\x07"
"""Records of the zip format: end of central directory, that of ZIP64, and its locator (APPNOTE.TXT,
4.3.14 to 4.3.16)."""


def top_directory(archive: BinaryIO, limits: ArchiveLimits) -> str:
    """Return the one directory that contains everything. Raises `ModelError`."""
    with _opened(archive) as opened:
        return _checked(archive, opened, limits)[0]


def unpack(archive: BinaryIO, target: Path, on_progress: Progress, limits: ArchiveLimits) -> None:
    """Fill `target` with the content of the archive's one directory. Raises `ModelError`,
    `OSError`."""
    with _opened(archive) as opened:
        top, files = _checked(archive, opened, limits)
        total = sum(info.file_size for info in files)
        must_have_room(archive, target, total)
        done = 0
        for info in files:
            inside = PurePosixPath(info.filename).relative_to(top)
            file = target.joinpath(*inside.parts)
            done = _extract(archive, opened, info, file, done, total, on_progress)


def _opened(archive: BinaryIO) -> zipfile.ZipFile:
    _must_have_few_entries(archive)
    try:
        return zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        archive.seek(0)
        begins = archive.read(16)
        what = f"it is not a complete zip archive (it begins with {begins!r})"
        raise bad(archive, what) from error


def _must_have_few_entries(archive: BinaryIO) -> None:
    """Check the length of the list of entries before it is read, in every record that `zipfile` may
    take it from."""
    size = archive.seek(0, 2)
    begin = max(0, size - (1 << 16) - _END_RECORD.size - _LOCATOR.size - _END_RECORD_64.size)
    archive.seek(begin)
    tail = archive.read()
    for at in _end_records(tail):
        _, _, _, _, entries, length, _, _ = _END_RECORD.unpack_from(tail, at)
        if length > _LARGEST_DIRECTORY:
            raise _lists_too_many(archive, entries, length)
        locator = at - _LOCATOR.size
        if locator >= 0 and tail.startswith(_LOCATOR_MARK, locator):
            _must_have_few_entries_64(archive, tail, locator)


def _end_records(tail: bytes) -> Iterator[int]:
    """Yield where an end record may be: at the very end, without a comment, and the last one
    found."""
    last = len(tail) - _END_RECORD.size
    if last >= 0 and tail.startswith(_END_MARK, last):
        yield last
    found = tail.rfind(_END_MARK)
    if 0 <= found < last:
        yield found


def _must_have_few_entries_64(archive: BinaryIO, tail: bytes, locator: int) -> None:
    """Check a ZIP64 archive. Its record is right before its locator, or where that points; Python
    versions differ in which they use, so they must agree."""
    at = locator - _END_RECORD_64.size
    _, _, said, _ = _LOCATOR.unpack_from(tail, locator)
    if at < 0 or not tail.startswith(_END_MARK_64, at):
        raise bad(archive, "its ZIP64 record is not where it belongs")
    size = archive.seek(0, 2)
    if said != size - len(tail) + at:
        raise bad(archive, "its ZIP64 record is not where it says")
    *_, entries, length, _ = _END_RECORD_64.unpack_from(tail, at)
    if length > _LARGEST_DIRECTORY:
        raise _lists_too_many(archive, entries, length)


def _lists_too_many(archive: BinaryIO, entries: int, length: int) -> ModelError:
    return bad(archive, f"it lists {entries} entries in {length} bytes, more than a model has")


def _checked(
    archive: BinaryIO, opened: zipfile.ZipFile, limits: ArchiveLimits
) -> tuple[str, list[zipfile.ZipInfo]]:
    """Return the top directory's name and the files to write."""
    infos = opened.infolist()
    if len(infos) > limits.entries:
        raise too_many(archive, len(infos), limits)
    total = sum(info.file_size for info in infos)
    if total > limits.unpacked:
        raise too_large(archive, total, limits)
    entries = Entries(archive, limits)
    for info in infos:
        if "\0" in info.orig_filename:
            raise bad(archive, f"{info.filename!r} would lead out of the model's directory")
        entries.add(info.filename)
        _must_be_a_plain_file(archive, info, limits)
    top = entries.top()
    files = [info for info in infos if not info.is_dir()]
    if any(len(PurePosixPath(info.filename).parts) < 2 for info in files):
        raise bad(archive, "it holds a file where a model's directory should be")
    return top, files


def _must_be_a_plain_file(archive: BinaryIO, info: zipfile.ZipInfo, limits: ArchiveLimits) -> None:
    name = info.filename
    mode = info.external_attr >> 16
    kind = stat.S_IFMT(mode)
    if info.create_system == _CREATED_ON_UNIX and kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise bad(archive, f"{name!r} is a link or a device")
    if info.compress_type not in _BOUNDED:
        raise bad(archive, f"{name!r} is packed by a method that models are not packed by")
    if info.flag_bits & _ENCRYPTED:
        raise bad(archive, f"{name!r} is encrypted")
    packed = max(1, info.compress_size)
    if info.file_size > limits.ratio_from and info.file_size / packed > limits.ratio:
        raise bad(archive, f"{name!r} would unpack to {info.file_size / packed:.0f} times its size")


def _extract(
    archive: BinaryIO,
    opened: zipfile.ZipFile,
    info: zipfile.ZipInfo,
    file: Path,
    done: int,
    total: int,
    on_progress: Progress,
) -> int:
    def report(written: int) -> None:
        on_progress(done + written, total)

    try:
        with opened.open(info) as reader:
            written = write_file(reader, file, info.file_size, report)
    except (
        *(zipfile.BadZipFile, zlib.error, EOFError),
        *(NotImplementedError, RuntimeError, ValueError),
    ) as error:
        raise bad(archive, f"{info.filename!r} cannot be unpacked: {error}") from error
    if written is None:
        raise bad(archive, f"{info.filename!r} is longer than it says")
    if written != info.file_size:
        raise bad(archive, f"{info.filename!r} is shorter than it says")
    return done + written
