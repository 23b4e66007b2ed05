"""How many words a model knows, and how much of a file their table takes: from its beginning only.

Source: OpenFst 1.7.9, `fst.cc` and `symbol-table.cc`.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

from models.vosk.graph_file import read_graph_header

_SYMBOLS_MAGIC = 2125658996
_HAS_TABLES = 1 | 2
"""Flags of a graph: a table of its input symbols, and one of its output symbols."""
_SAMPLE_BYTES = 1 << 17
_SAMPLES = 16
_MOST = 100_000_000


@dataclass(frozen=True, slots=True)
class Symbols:
    """`count`: of all tables; a file may hold one for its input and one for its output. `disk`:
    bytes that they take in it, estimated from the first words."""

    count: int
    disk: int


NONE = Symbols(0, 0)


def symbols_in_graph(graph: Path) -> Symbols:
    """Of the tables inside an OpenFst file; none where it has none. Raises `OSError`."""
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
    """Of a `words.txt`: a word and its number a line. None where there is no such file."""
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
    if not 0 <= count <= _MOST:
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
