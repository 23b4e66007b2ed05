"""Unpacks a tar archive packed with bzip2, gzip or xz, in one pass and in bounded memory.

It does not use `tarfile`, which reads extended headers and sparse maps whole before its caller can
check their length. It reads the headers of POSIX.1-1988 (ustar), the `path` and `size` records of
POSIX.1-2001 (pax) and GNU's long names; everything that is neither a file nor a directory is
refused.
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from models.fetching.archive import (
    ArchiveLimits,
    Entries,
    Progress,
    Reader,
    bad,
    must_have_room,
    too_large,
    too_many,
    write_file,
)

_BLOCK = 512
_READ_BYTES = 1 << 16
_MOST_HEADER_BYTES = 1 << 16
"""Bytes of an extended header, at most."""
_MOST_FILLING_BYTES = 1 << 21
"""Bytes after the last entry, at most: tar writes records of 10 KB, or of another size (up to 1
MB)."""
_MOST_XZ_BYTES = 128 << 20
"""Memory that unpacking xz may take; `xz -9` needs 65 MB."""
_PAX, _PAX_GLOBAL, _GNU_NAME = b"x", b"g", b"L"
_FILE, _DIRECTORY = (b"0", b"\0", b"7"), b"5"
_APPLE = "._"
"""Beginning of the names of extended attributes, which macOS writes as files of their own."""


def is_tar(archive: BinaryIO) -> bool:
    """Return whether the file begins as a packed tar archive does."""
    return _opener(archive) is not None


def top_directory(archive: BinaryIO, limits: ArchiveLimits) -> str:
    """Return the directory of the first entry. Raises `ModelError`."""
    entries = Entries(archive, limits)
    for header in _headers(archive, _opened(archive), limits):
        return entries.add(header.name).parts[0]
    raise bad(archive, "it holds 0 things at its top, and a model is one directory")


def unpack(archive: BinaryIO, target: Path, on_progress: Progress, limits: ArchiveLimits) -> None:
    """Fill `target` with what is inside the archive's one directory. Raises `ModelError`,
    `OSError`. Progress is that of the packed file."""
    packed = archive.seek(0, io.SEEK_END)
    entries = Entries(archive, limits)
    unpacked = 0

    def report(written: int) -> None:
        here = archive.tell()
        total = unpacked + written
        if total > limits.ratio_from and total > limits.ratio * max(here, 1):
            raise bad(archive, f"it would unpack to more than {limits.ratio:g} times its size")
        on_progress(here, packed)

    stream = _opened(archive)
    for header in _headers(archive, stream, limits):
        if unpacked + header.size > limits.unpacked:
            raise too_large(archive, unpacked + header.size, limits)
        path = entries.add(header.name)
        entries.top()
        if header.directory:
            continue
        if len(path.parts) < 2:
            raise bad(archive, "it holds a file where a model's directory should be")
        must_have_room(archive, target, header.size)
        content = _Content(archive, stream, header)
        file = target.joinpath(*path.parts[1:])
        try:
            write_file(content, file, header.size, report)
        except (FileExistsError, NotADirectoryError) as error:
            raise bad(archive, f"{header.name!r} is a file and a directory") from error
        unpacked += header.size
    entries.top()
    on_progress(packed, packed)


@dataclass(frozen=True, slots=True)
class _Header:
    name: str
    size: int
    directory: bool


def _headers(archive: BinaryIO, stream: Reader, limits: ArchiveLimits) -> Iterator[_Header]:
    """Yield the files and directories in order, without Apple's attribute files. The caller reads
    each file's content before it requests the next one."""
    name, size = None, None
    for _ in range(2 * limits.entries + 2):
        block = _read(archive, stream, _BLOCK)
        if not block.strip(b"\0"):
            _must_end(archive, stream)
            return
        kind, declared = _checked(archive, block)
        padding = -declared % _BLOCK
        if kind in (_PAX, _PAX_GLOBAL, _GNU_NAME):
            if declared > _MOST_HEADER_BYTES:
                raise bad(archive, f"it has an extended header of {declared} bytes")
            data = _read(archive, stream, declared + padding)[:declared]
            if kind == _GNU_NAME:
                name = _text(archive, data)
            elif kind == _PAX:
                records = _pax_records(archive, data)
                name = records.get("path", name)
                size = _number(archive, records["size"]) if "size" in records else size
            continue
        header = _header(archive, block, kind, name, declared if size is None else size)
        name, size = None, None
        if PurePosixPath(header.name).name.startswith(_APPLE):
            _skip(archive, stream, header.size + -header.size % _BLOCK, limits)
            continue
        if header.directory and header.size:
            raise bad(archive, f"{header.name!r} is a directory with {header.size} bytes")
        if not header.directory or PurePosixPath(header.name).parts:  # "./"
            yield header
    raise too_many(archive, 2 * limits.entries, limits)


def _header(archive: BinaryIO, block: bytes, kind: bytes, name: str | None, size: int) -> _Header:
    if name is None:
        own, prefix = _text(archive, block[:100]), ""
        if block[257:262] == b"ustar" and block[257:265] != b"ustar  \0":
            prefix = _text(archive, block[345:500])
        name = f"{prefix}/{own}" if prefix else own
    if kind not in (*_FILE, _DIRECTORY):
        raise bad(archive, f"{name!r} is a link or a device (type {kind!r})")
    return _Header(name, size, kind == _DIRECTORY or name.endswith("/"))


def _checked(archive: BinaryIO, block: bytes) -> tuple[bytes, int]:
    """Return the type and size in a header, after checking its checksum."""
    total = sum(block[:148]) + 8 * ord(" ") + sum(block[156:])
    if _octal(archive, block[148:156]) != total:
        raise bad(archive, "it is damaged: the checksum of a header is wrong")
    return block[156:157], _octal(archive, block[124:136])


def _octal(archive: BinaryIO, field: bytes) -> int:
    if field[0] & 0x80:  # GNU's form of numbers that do not fit into eleven octal digits
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    try:
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        raise bad(archive, "it is damaged: a number in a header is not one") from None


def _pax_records(archive: BinaryIO, data: bytes) -> dict[str, str]:
    """Return the records of an extended header ("LENGTH KEY=VALUE\\n"), without values that are not
    text."""
    records = {}
    while data:
        length, blank, _ = data.partition(b" ")
        count = _number(archive, length.decode("ascii", "replace")) if blank else 0
        key, equals, value = data[len(length) + 1 : count].partition(b"=")
        if count <= len(length) or not equals or value[-1:] != b"\n" or count > len(data):
            raise bad(archive, "it is damaged: an extended header is not one")
        if key.startswith(b"GNU.sparse"):
            raise bad(archive, "it holds a sparse file")
        if key in (b"path", b"size"):
            records[key.decode()] = _text(archive, value[:-1])
        data = data[count:]
    return records


def _number(archive: BinaryIO, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise bad(archive, "it is damaged: a number in an extended header is not one")
    return int(text)


def _text(archive: BinaryIO, data: bytes) -> str:
    try:
        return data.partition(b"\0")[0].decode()
    except UnicodeDecodeError:
        raise bad(archive, "it has a name that is not UTF-8") from None


def _read(archive: BinaryIO, stream: Reader, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        if not (block := _unpacked(archive, stream, count - len(data))):
            raise bad(archive, "it breaks off")
        data += block
    return bytes(data)


def _unpacked(archive: BinaryIO, stream: Reader, count: int) -> bytes:
    try:
        return stream.read(count)
    except (EOFError, OSError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise bad(archive, f"it cannot be unpacked: {error}") from error


def _must_end(archive: BinaryIO, stream: Reader) -> None:
    """Read the padding of the last record, and with it the checksum of the compression."""
    for _ in range(0, _MOST_FILLING_BYTES, _READ_BYTES):
        if not _unpacked(archive, stream, _READ_BYTES):
            return
    raise bad(archive, "it continues after its end")


def _skip(archive: BinaryIO, stream: Reader, count: int, limits: ArchiveLimits) -> None:
    if count > limits.ratio_from:
        raise bad(archive, f"it has an attribute file of {count} bytes")
    _read(archive, stream, count)


class _Content:
    """Content of one file, with its padding read at its end."""

    def __init__(self, archive: BinaryIO, stream: Reader, header: _Header) -> None:
        self._archive = archive
        self._stream = stream
        self._left = header.size
        self._padding = -header.size % _BLOCK

    def read(self, size: int = -1, /) -> bytes:
        if self._left == 0:
            _read(self._archive, self._stream, self._padding)
            self._padding = 0
            return b""
        block = _read(self._archive, self._stream, min(size, self._left))
        self._left -= len(block)
        return block


# --- compression ----------------------------------------------------------------------------------


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


class _Unpacked(io.RawIOBase):
    """Content of a packed file; several packed streams in a row are one."""

    def __init__(self, archive: BinaryIO, make: Callable[[], _Decompressor]) -> None:
        super().__init__()
        self._archive = archive
        self._make = make
        self._decompressor = make()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        while True:
            data = b""
            if self._decompressor.eof:
                data = self._decompressor.unused_data or self._archive.read(_READ_BYTES)
                if not data:
                    return 0
                self._decompressor = self._make()
            elif self._decompressor.needs_input:
                data = self._archive.read(_READ_BYTES)
                if not data:
                    raise EOFError("it breaks off")
            block = self._decompressor.decompress(data, len(buffer))
            if block:
                buffer[: len(block)] = block
                return len(block)


def _xz() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_XZ_BYTES)


def _buffered(archive: BinaryIO, make: Callable[[], _Decompressor]) -> Reader:
    return io.BufferedReader(_Unpacked(archive, make), _READ_BYTES)


_OPENERS: dict[bytes, Callable[[BinaryIO], Reader]] = {
    b"BZh": lambda archive: _buffered(archive, bz2.BZ2Decompressor),
    b"\xfd7zXZ\0": lambda archive: _buffered(archive, _xz),
    b"\x1f\x8b": lambda archive: gzip.GzipFile(fileobj=archive),
}


def _opener(archive: BinaryIO) -> Callable[[BinaryIO], Reader] | None:
    archive.seek(0)
    begins = archive.read(6)
    archive.seek(0)
    return next((make for mark, make in _OPENERS.items() if begins.startswith(mark)), None)


def _opened(archive: BinaryIO) -> Reader:
    opener = _opener(archive)
    if opener is None:
        raise bad(archive, "it is not a tar archive")
    return opener(archive)
