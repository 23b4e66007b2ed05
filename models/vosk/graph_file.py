"""Header of an OpenFst graph, enough to tell whether a const graph's file is whole.

Source: OpenFst 1.7.9, `fst.cc` (FstHeader) and `const-fst.h`.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

_MAGIC = 2125659606
_IS_ALIGNED = 4
_ALIGNMENT = 16
STATE_BYTES, ARC_BYTES = 20, 16
_LONGEST_NAME = 64


@dataclass(frozen=True, slots=True)
class GraphHeader:
    """What the first bytes of a graph say."""

    kind: str
    arc_kind: str
    flags: int
    start: int
    states: int
    arcs: int
    header_bytes: int

    @property
    def mappable(self) -> bool:
        """It is what OpenFst can map without copying."""
        return (self.kind, self.arc_kind) == ("const", "standard") and bool(
            self.flags & _IS_ALIGNED
        )

    @property
    def states_at(self) -> int:
        """Where the states of an aligned const graph begin in its file, in bytes."""
        return _aligned(self.header_bytes)

    @property
    def arcs_at(self) -> int:
        """Where its arcs begin, in bytes."""
        return _aligned(self.states_at + self.states * STATE_BYTES)

    @property
    def file_bytes(self) -> int:
        """How long an aligned const graph with this header is."""
        return self.arcs_at + self.arcs * ARC_BYTES


def read_graph_header(file: Path) -> GraphHeader | None:
    """The header, or None if the file has none. Raises `OSError`."""
    with file.open("rb") as reader:
        data = reader.read(512)
    try:
        (magic,) = struct.unpack_from("<i", data)
        if magic != _MAGIC:
            return None
        kind, at = _name(data, 4)
        arc_kind, at = _name(data, at)
        _, flags, _, start, states, arcs = struct.unpack_from("<iiQqqq", data, at)
    except (struct.error, ValueError):
        return None
    end = at + struct.calcsize("<iiQqqq")
    return GraphHeader(kind, arc_kind, flags, start, states, arcs, end)


def graph_problem(file: Path) -> str | None:
    """Why this is no whole, mappable graph, in words; None if it is. Reads the header only."""
    try:
        header = read_graph_header(file)
        size = file.stat().st_size
    except OSError as error:
        return f"{file.name} cannot be read: {error.strerror}"
    if header is None or not header.mappable:
        return f"{file.name} is not an aligned const graph"
    if size != header.file_bytes:
        return f"{file.name} has {size} bytes where its header means {header.file_bytes}"
    if not 0 <= header.start < header.states:
        return f"{file.name} has no start state"
    return None


def _name(data: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<i", data, at)
    if not 0 < length <= _LONGEST_NAME:
        raise ValueError(length)
    start = at + 4
    return data[start : start + length].decode("ascii"), start + length


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT
