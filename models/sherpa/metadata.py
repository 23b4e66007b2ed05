"""Metadata of an ONNX file: its `metadata_props`, read without the package onnx.

An ONNX file is one protobuf message, `ModelProto` (onnx.proto3 of the ONNX project): numbered
fields, each with its length before it. The network itself is one field of it, which is skipped, so
little of a large file is read. Files are untrusted: every size and count is bounded.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_GRAPH, _METADATA = 7, 14
"""Fields of `ModelProto`; of a `StringStringEntryProto`, 1 is the key and 2 the value."""
_KNOWN = frozenset((1, 2, 3, 4, 5, 6, _GRAPH, 8, _METADATA, 20, 25, 26))
_FIELDS_MOST, _ENTRIES_MOST, _BYTES_MOST = 10_000, 2_000, 8_000_000
_VARINT_BYTES_MOST = 10
_LFS = b"version https://git-lfs"

_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5


class NotOnnx(Exception):
    """File that is not an ONNX file, or is damaged; the text says what was found, without the
    file's name."""


def read_metadata(file: Path) -> dict[str, str]:
    """Return the metadata of an ONNX file.

    Raises `NotOnnx` for a file without a network, and `OSError`.
    """
    with file.open("rb") as reader:
        size = os.fstat(reader.fileno()).st_size
        if reader.read(len(_LFS)) == _LFS:
            raise NotOnnx("a pointer to a file in Git LFS, not the file: run `git lfs pull`")
        reader.seek(0)
        entries: dict[str, str] = {}
        network, read = False, 0
        for number, wire, length in fields_of(reader, size):
            if number not in _KNOWN:
                raise NotOnnx(f"not an ONNX file: field {number} is not one of a model's")
            network = network or (number == _GRAPH and wire == _BYTES and length > 0)
            if number != _METADATA or wire != _BYTES:
                continue
            read += length
            if len(entries) >= _ENTRIES_MOST or read > _BYTES_MOST:
                raise NotOnnx(f"its metadata is larger than {_BYTES_MOST // 1_000_000} MB")
            key, value = _entry(reader, reader.tell() + length)
            entries[key] = value
        if not network:
            raise NotOnnx("not an ONNX file: it contains no network")
        return entries


def fields_of(
    reader: BinaryIO, end: int, most: int = _FIELDS_MOST
) -> Iterator[tuple[int, int, int]]:
    """Yield each field of a message up to `end`: its number, wire type, and length if it has one.
    Unread parts of it are skipped. Raises `NotOnnx`, also for more than `most` fields."""
    for _ in range(most):
        if reader.tell() >= end:
            return
        key = _varint(reader)
        number, wire = key >> 3, key & 7
        length = 0
        if wire == _VARINT:
            _varint(reader)
        elif wire == _BYTES:
            length = _varint(reader)
        elif wire in (_FIXED_64, _FIXED_32):
            length = 8 if wire == _FIXED_64 else 4
        else:
            raise NotOnnx("not an ONNX file, or a damaged one")
        after = reader.tell() + length
        if after > end or number == 0:
            raise NotOnnx("the file is incomplete, or not an ONNX file")
        yield number, wire, length
        reader.seek(after)
    raise NotOnnx(f"not an ONNX file: more than {most} fields")


def _entry(reader: BinaryIO, end: int) -> tuple[str, str]:
    parts = {1: b"", 2: b""}
    for number, wire, length in fields_of(reader, end):
        if number in parts and wire == _BYTES:
            parts[number] = reader.read(length)
    key, value = (part.decode("utf-8", "replace") for part in parts.values())
    return key, value


def _varint(reader: BinaryIO) -> int:
    value = 0
    for position in range(_VARINT_BYTES_MOST):
        byte = reader.read(1)
        if not byte:
            raise NotOnnx("the file is incomplete, or not an ONNX file")
        value |= (byte[0] & 0x7F) << (7 * position)
        if byte[0] < 0x80:
            return value
    raise NotOnnx("not an ONNX file, or a damaged one")
