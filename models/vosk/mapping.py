"""Maps a compiled graph into memory instead of copying it, inside a library that does not offer it.

OpenFst maps a const graph if its read mode is "map" and it can open the graph's file by name.
libvosk opens the stream itself and calls the file `<unspecified>`, so the mapping is made possible
by a link of that name in the working directory while the model loads. Every step is checked; if the
library is not as expected the graph is not mapped, and nothing is changed.
"""

import contextlib
import ctypes
import functools
import importlib.util
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FLAG = "FLAGS_fst_read_mode"

UNSPECIFIED = "<unspecified>"
"""File name that libvosk gives OpenFst for the graph."""

_MADV_RANDOM = mmap.MADV_RANDOM


class CannotMap(Exception):
    """Library that is not the expected build; the text says how."""


@functools.cache
def mapping_problem() -> str | None:
    """Return why the installed engine cannot map a graph, in words; None if it probably can. Looks
    for OpenFst's flag in its library, without loading it."""
    spec = importlib.util.find_spec("vosk")
    if spec is None or spec.origin is None:
        return "the engine (the package vosk) is not installed"
    library = Path(spec.origin).parent / "libvosk.so"
    try:
        with (
            library.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            found = data.find(f"\0{_FLAG}\0".encode()) >= 0
    except (OSError, ValueError):
        return f"{library} cannot be read"
    return None if found else f"{library} has no {_FLAG}: graphs would be copied instead of mapped"


@dataclass(frozen=True, slots=True)
class MappedArea:
    """Addresses at which a file is mapped into this process."""

    address: int
    length: int


class _OldString(ctypes.Structure):
    """Heap block behind a `std::string` of libstdc++'s old, reference-counted ABI, up to the
    characters (`_Rep`, basic_string.h): the string itself points behind it."""

    _fields_ = (
        ("length", ctypes.c_size_t),
        ("capacity", ctypes.c_size_t),
        ("references", ctypes.c_int),
        ("padding", ctypes.c_int),
        ("characters", ctypes.c_char * 16),
    )


# Never freed: the library points to it. The reference count means that it is shared.
_MAP = _OldString(3, 3, 1 << 30, 0, b"map")


@contextlib.contextmanager
def mapped_reading(library: Path, graph: Path, directory: Path) -> Iterator[None]:
    """Have the loaded library at path `library` map the graph that it reads in the block.

    `directory` is an empty directory, which becomes the working directory; `graph` and `directory`
    are absolute. Afterwards the working directory is the former one, or the root directory if this
    user may not enter that. Raises `CannotMap`.
    """
    flag = _read_mode_flag(library)
    before = flag.value
    (directory / UNSPECIFIED).symlink_to(graph.resolve())
    with _working_directory_kept():
        flag.value = ctypes.addressof(_MAP) + _OldString.characters.offset
        os.chdir(directory)
        try:
            yield
        finally:
            flag.value = before


@contextlib.contextmanager
def _working_directory_kept() -> Iterator[None]:
    """Return to the working directory after the block, also to one that was deleted. A directory
    that this user may not enter (such as root's) cannot be returned to."""
    try:
        descriptor = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        descriptor = None
    try:
        yield
    finally:
        if descriptor is None:
            os.chdir("/")
        else:
            try:
                os.fchdir(descriptor)
            except OSError:
                os.chdir("/")
            os.close(descriptor)


def find_mappings(file: Path) -> list[MappedArea]:
    """Return where `file` is mapped, by /proc/self/maps; an empty list if it is not.

    In an overlay (a container's image) the kernel shows other devices there than stat(2) does. So a
    mapping of our own tells how it shows this file.
    """
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 1, access=mmap.ACCESS_COPY) as own:
        byte = ctypes.c_char.from_buffer(own)
        ours = ctypes.addressof(byte)
        del byte  # it would keep the mapping open
        areas = list(_areas())
    shown = next((device, inode) for start, _, _, device, inode in areas if start == ours)
    return [
        MappedArea(start, end - start)
        for start, end, _, device, inode in areas
        if (device, inode) == shown and start != ours
    ]


def advise_random(mappings: list[MappedArea]) -> None:
    """Advise the kernel not to read ahead around each page (`MADV_RANDOM`): under memory pressure
    read-ahead would evict pages that are needed. Raises `OSError`."""
    libc = ctypes.CDLL(None, use_errno=True)
    for mapping in mappings:
        address, length = ctypes.c_void_p(mapping.address), ctypes.c_size_t(mapping.length)
        if libc.madvise(address, length, _MADV_RANDOM) != 0:
            raise OSError(ctypes.get_errno(), "madvise")


def read_through(file: Path) -> None:
    """Read the file once from end to end, so that it is in the file cache."""
    buffer = bytearray(4 * 1024 * 1024)
    with file.open("rb", buffering=0) as reader:
        os.posix_fadvise(reader.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while reader.readinto(buffer):
            pass


def _read_mode_flag(library: Path) -> ctypes.c_void_p:
    """Return OpenFst's flag `fst_read_mode` inside the library: a pointer to characters."""
    if ctypes.sizeof(ctypes.c_void_p) != 8:
        raise CannotMap("this is not a 64-bit machine")
    try:
        flag = ctypes.c_void_p.in_dll(ctypes.CDLL(str(library)), _FLAG)
    except (OSError, ValueError) as error:
        raise CannotMap(f"{library.name} has no {_FLAG}") from error
    if flag.value is None or not _readable(flag.value - _OldString.characters.offset):
        raise CannotMap("FLAGS_fst_read_mode is not a string of the old ABI")
    string = _OldString.from_address(flag.value - _OldString.characters.offset)
    if flag.value == ctypes.addressof(_MAP) + _OldString.characters.offset:
        raise CannotMap("the read mode is being changed already")
    if (string.length, string.characters) != (4, b"read") or string.capacity < 4:
        raise CannotMap("FLAGS_fst_read_mode does not say read")
    return flag


def _readable(address: int) -> bool:
    """Return whether the bytes of an `_OldString` at `address` are mapped and readable, so that
    reading them cannot crash."""
    last = address + ctypes.sizeof(_OldString)
    return any(
        start <= address and last <= end and permissions.startswith("r")
        for start, end, permissions, _, _ in _areas()
    )


def _areas() -> Iterator[tuple[int, int, str, str, str]]:
    """Yield the areas of this process's memory, by /proc/self/maps: beginning, end, permissions,
    and device and inode of the file."""
    with Path("/proc/self/maps").open(encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            addresses, permissions, _, device, inode, *_ = line.split(maxsplit=5)
            start, end = (int(part, 16) for part in addresses.split("-"))
            yield start, end, permissions, device, inode
