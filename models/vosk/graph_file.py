"""Header and symbol tables of an OpenFst graph. Its beginning is enough to tell whether the file of
a const graph is complete, how many words it has and how much of it their table takes.

Source: OpenFst 1.7.9, `fst.cc` (FstHeader), `const-fst.h` and `symbol-table.cc`.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

_MAGIC = 2125659606
_HAS_TABLES, _IS_ALIGNED = 1 | 2, 4
"""Flags: a table of input symbols and one of output symbols; states and arcs that can be mapped."""
_ALIGNMENT = 16
STATE_BYTES, ARC_BYTES = 20, 16
_LONGEST_NAME = 64
_SYMBOLS_MAGIC = 2125658996
_SAMPLE_BYTES, _SAMPLES = 1 << 17, 16
_MOST_SYMBOLS = 100_000_000


@dataclass(frozen=True, slots=True)
class GraphHeader:
    """Header of a graph file (OpenFst)."""

    kind: str
    arc_kind: str
    flags: int
    start: int
    states: int
    arcs: int
    header_bytes: int

    @property
    def mappable(self) -> bool:
        """True if OpenFst can map the graph without copying it."""
        return (self.kind, self.arc_kind) == ("const", "standard") and bool(
            self.flags & _IS_ALIGNED
        )

    @property
    def states_at(self) -> int:
        """Offset of the states of an aligned const graph in its file, in bytes."""
        return _aligned(self.header_bytes)

    @property
    def arcs_at(self) -> int:
        """Offset of its arcs, in bytes."""
        return _aligned(self.states_at + self.states * STATE_BYTES)

    @property
    def file_bytes(self) -> int:
        """Size of an aligned const graph with this header, in bytes."""
        return self.arcs_at + self.arcs * ARC_BYTES


def read_graph_header(file: Path) -> GraphHeader | None:
    """Return the header, or None if the file has none. Raises `OSError`."""
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
    """Return why this is not a complete graph that can be mapped, in words; None if it is. Reads
    the header only."""
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


@dataclass(frozen=True, slots=True)
class Symbols:
    """Symbol tables in a file. `count`: symbols of all tables; a file may have one for its input
    and one for its output. `disk`: their bytes, estimated from the first words."""

    count: int
    disk: int


NONE = Symbols(0, 0)


def symbols_in_graph(graph: Path) -> Symbols:
    """Measure the symbol tables inside an OpenFst file, if it has any. Raises `OSError`."""
    header = read_graph_header(graph)
    tables = (header.flags & _HAS_TABLES).bit_count() if header else 0
    if header is None or not tables:
        return NONE
    with graph.open("rb") as reader:
        reader.seek(header.header_bytes)
        data = reader.read(_SAMPLE_BYTES)
    try:
        return _table(data, tables, graph.stat().st_size)
    except (struct.error, ValueError):
        return NONE


def symbols_in_text(file: Path) -> Symbols:
    """Measure a `words.txt`, with a word and its number on each line; `NONE` if there is no such
    file."""
    try:
        size = file.stat().st_size
        with file.open("rb") as reader:
            samples = []
            for part in range(_SAMPLES):
                reader.seek(size * part // _SAMPLES)
                samples.append(reader.read(_SAMPLE_BYTES // _SAMPLES))
    except FileNotFoundError:
        return NONE
    text = b"".join(samples)
    return Symbols(round(size * text.count(b"\n") / len(text)) if text else 0, size)


def _table(data: bytes, tables: int, size: int) -> Symbols:
    (magic,) = struct.unpack_from("<i", data)
    if magic != _SYMBOLS_MAGIC:
        return NONE
    at = _after_string(data, 4)
    _, count = struct.unpack_from("<qq", data, at)
    at += 16
    if not 0 <= count <= _MOST_SYMBOLS:
        return NONE
    first, seen = at, 0
    while seen < count and at + 4 <= len(data):
        following = _after_string(data, at) + 8
        if following > len(data):
            break
        at, seen = following, seen + 1
    each = (at - first) / seen if seen else 0
    return Symbols(tables * count, min(size, round(tables * each * count)))


def _after_string(data: bytes, at: int) -> int:
    (length,) = struct.unpack_from("<i", data, at)
    if length < 0:
        raise ValueError(length)
    return at + 4 + int(length)
