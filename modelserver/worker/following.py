"""Files that follow each other in one: where the next begins, by what each says of its own end.

WAV is in `riff`; FLAC, Ogg, MP3, AAC, Matroska and the others that are streams FFmpeg reads on by
itself. Sources: ISO/IEC 14496-12 (MP4), AIFF-C (Apple, 1991), Core Audio Format 1.0, Sony's Wave64,
ASF 01.20.05.
"""

import itertools
import struct
from collections.abc import Callable

from modelserver.audio.riff import Piece, Readable

_MOST_PARTS = 100_000
"""Boxes or chunks that are walked over in all; an hour in fragments of a second has 7,200."""
_MOST_FILES = 1000
_HEAD_BYTES = 24
"""Bytes that are read of each part."""
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_OBJECTS = (
    _ASF_HEADER,
    bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c"),  # data
    bytes.fromhex("90080033b1e5cf1189f400a0c90349cb"),  # simple index
    bytes.fromhex("d329e2d6da35d111903400a0c90349be"),  # index
    bytes.fromhex("f803b1fead12644c840f2a1d2f7ad48c"),  # media object index
    bytes.fromhex("d03fb73c4a0c0348953dedf7b6228f0c"),  # timecode index
)
_WAVE64 = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_SEVERAL = "several files follow each other: all were recognised"
_LEFT = "{} bytes follow where the file says that it ends: they were not recognised"
_NOTABLE = 4096
"""Bytes: less is a tag."""

Step = Callable[[bytes], int | None]
"""Function from the first bytes of a part (a box, a chunk, an object) to its length; 0 if the part
extends to the end of the file, None if it is not a part."""


def following_pieces(view: Readable, size: int) -> list[Piece]:
    """Return the files in it, if there are several, or if something else follows; an empty list if
    it is one."""

    def at(offset: int) -> bytes:
        if offset >= size:
            return b""
        view.seek(offset)
        return view.read(min(_HEAD_BYTES, size - offset))

    head = at(0)
    kind = next((k for k in _KINDS if head.startswith(k[0], k[1])), None)
    if kind is None:
        return []
    magic, where, step = kind

    parts = iter(range(_MOST_PARTS))

    def end_of(start: int) -> int:
        """Return where the file that begins at `start` ends, by its parts, or where another one
        begins."""
        offset = start
        for _ in parts:
            head = at(offset)
            another = offset != start and head.startswith(magic, where)
            length = None if another else step(head)
            if length is None:
                return offset
            if not length:
                return size
            offset += length
        return size

    starts = [0]
    while len(starts) < _MOST_FILES:
        end = end_of(starts[-1])
        # A byte of padding may stand between.
        places = (place for place in (end, end + 1) if at(place).startswith(magic, where))
        following = next(places, None)
        if following is None or following <= starts[-1]:
            break
        starts.append(following)
    if len(starts) > 1:
        pairs = itertools.pairwise([*starts, size])
        return [Piece(*pair, warning=_SEVERAL) for pair in pairs]
    left = size - end
    if end > 0 and left > _NOTABLE:
        return [Piece(0, size, warning=_LEFT.format(left))]
    return []


def _aiff(head: bytes) -> int | None:
    if head[:4] != b"FORM" or len(head) < 8:
        return None
    return 8 + int.from_bytes(head[4:8], "big")


def _wave64(head: bytes) -> int | None:
    if head[:16] != _WAVE64 or len(head) < _HEAD_BYTES:
        return None
    return (int.from_bytes(head[16:24], "little") + 7) // 8 * 8


def _mp4(head: bytes) -> int | None:
    if len(head) < 8 or not _is_name(head[4:8]):
        return None
    (length,) = struct.unpack_from(">I", head)
    if length == 1 and len(head) >= 16:
        (length,) = struct.unpack_from(">Q", head, 8)
    return int(length) if length >= 8 else 0


def _caf(head: bytes) -> int | None:
    if head[:4] == b"caff":
        return 8
    if len(head) < 12 or not _is_name(head[:4]):
        return None
    (length,) = struct.unpack_from(">q", head, 4)
    return 12 + int(length) if length >= 0 else 0


def _asf(head: bytes) -> int | None:
    if head[:16] not in _ASF_OBJECTS or len(head) < _HEAD_BYTES:
        return None
    (length,) = struct.unpack_from("<Q", head, 16)
    return int(length) if length >= _HEAD_BYTES else 0


def _is_name(name: bytes) -> bool:
    """Return whether `name` can be that of a box or a chunk: four characters (QuickTime uses
    some of Mac OS Roman)."""
    return all(0x20 <= letter < 0x7F or letter == 0xA9 for letter in name)


_KINDS: tuple[tuple[bytes, int, Step], ...] = (
    (b"FORM", 0, _aiff),
    (_WAVE64, 0, _wave64),
    (b"ftyp", 4, _mp4),
    (b"caff", 0, _caf),
    (_ASF_HEADER, 0, _asf),
)
