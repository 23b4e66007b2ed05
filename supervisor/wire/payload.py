"""Values of a model as bytes on the wire: encoded by the worker, decoded by the supervisor.

A few bytes of MessagePack can become many objects: 8 MiB of empty maps are 600 MB. So a payload is
decoded only if it is known to have few objects: by counting the bytes that may begin one, or, for a
large payload, by walking over it.
"""

from typing import Any

import msgspec

from supervisor.wire.messages import LONGEST_VALUE_BYTES, ProtocolError

MOST_OBJECTS = 150_000
"""Objects in one payload, at most. Decoding this many takes about 30 ms and 15 MB."""
_NO_OBJECTS = bytes((0xC0, 0xC2, 0xC3, *range(0x80), *range(0xE0, 0x100)))
"""Bytes that begin values without memory of their own: nil, booleans and small integers."""
_SMALL = 4 * MOST_OBJECTS
"""Bytes: a payload of this size holds at most that many items."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class Unsendable(ValueError):
    """Value that cannot be sent: MessagePack has no such type, or it is too large."""


def pack_value(value: Any, most: int = LONGEST_VALUE_BYTES) -> bytes:
    """Encode a value of a model. Raises `Unsendable`."""
    try:
        body = _encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Unsendable(str(error)) from error
    if len(body) > most:
        raise Unsendable(f"{len(body)} bytes, and {most} are allowed")
    try:
        unpack_value(body)
    except ProtocolError as error:
        raise Unsendable(str(error)) from error
    return body


def unpack_value(body: bytes) -> Any:
    """Decode a value of a model. Raises `ProtocolError` if it is not MessagePack, is nested too
    deeply, or has more than `MOST_OBJECTS` objects."""
    many = len(body) > _SMALL or len(body.translate(None, _NO_OBJECTS)) > MOST_OBJECTS
    if many or b"\xde" in body or b"\xdf" in body:  # the last two begin a map of more than 15
        _walk(body)
    try:
        return _decode(body)
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
        raise ProtocolError(f"not a value: {error}") from error


def unpack_list(body: bytes) -> list[Any]:
    """Decode a list. Raises `ProtocolError` for anything else, too."""
    value = unpack_value(body)
    if not isinstance(value, list):
        raise ProtocolError(f"a {type(value).__name__} in place of a list")
    return value


# By the first byte of an item (https://github.com/msgpack/msgpack/blob/master/spec.md): how many
# bytes follow, and, for those of variable length, how many bytes hold the length.
_FIXED = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_FIXED |= {0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17}
_COUNTED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_EXTENSIONS = {0xC7: 1, 0xC8: 2, 0xC9: 4}


def _walk(body: bytes) -> None:
    """Walk over the items, without making objects of them. Raises `ProtocolError` past the most,
    and for an array as a key of a large map: tuples can be chosen so that all of them collide."""
    at, end, items = 0, len(body), 0
    left, keyed = 1 << 62, False
    """Items to come of the current container, and whether it is a large map."""
    around: list[tuple[int, bool]] = []
    while at < end:
        items += 1
        if items > MOST_OBJECTS:
            raise ProtocolError(f"a value of more than {MOST_OBJECTS} objects")
        while not left:
            left, keyed = around.pop()
        first = body[at]
        at, left, is_key = at + 1, left - 1, keyed and not left & 1
        if 0xA0 <= first <= 0xBF:
            at += first & 0x1F
        elif (size := _FIXED.get(first)) is not None:
            at += size
        elif (width := _COUNTED.get(first) or _EXTENSIONS.get(first)) is not None:
            extra = first in _EXTENSIONS
            at += width + extra + int.from_bytes(body[at : at + width], "big")
        elif 0x80 <= first <= 0x9F or 0xDC <= first <= 0xDF:
            is_map = first < 0x90 or first >= 0xDE
            width = 0 if first <= 0x9F else 2 if first in (0xDC, 0xDE) else 4
            count = first & 15 if not width else int.from_bytes(body[at : at + width], "big")
            if is_key and not is_map:
                raise ProtocolError("an array as a key")
            around.append((left, keyed))
            at, left, keyed = at + width, count * (1 + is_map), is_map and count > 15
