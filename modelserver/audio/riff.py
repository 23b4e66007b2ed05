"""The chunks of a WAV file as people really send it: sizes that are not true, padding that is
missing, a second file behind the first, samples in containers of another size.

What FFmpeg reads right is left to it; `pieces` says where it would not. Sources: "Multimedia
Programming Interface and Data Specifications 1.0" (RIFF, WAVE), Microsoft's WAVEFORMATEXTENSIBLE,
EBU Tech 3306 (RF64, BW64).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from modelserver.audio.formats import CHANNELS, SAMPLE_RATES, RawFormat

HEADER_LIMIT_BYTES = 1024 * 1024
"""Offset at which the samples must have begun: chunks before them (pictures, notes) may be this
long."""

FORMS = (b"RIFF", b"RF64", b"BW64")
"""First bytes of a WAV file."""

_MOST_CHUNKS = 4096
"""Most chunks before the samples. Real files have a few."""
_MOST_FILES = 1000
"""WAV files in a row of which each is read. More are not a recording."""
_SMALL_HEADER_BYTES = 4096
LAYOUT_BYTES = 6144
"""Bytes of samples that are examined to find their position in their containers; a multiple of 2, 3
and 4."""
MOST_SILENCE_BYTES = 1024 * 1024
"""Most bytes of zeros, which tell nothing, that are skipped."""

_UNKNOWN_SIZES = (0, 0xFFFFFFFF)
_LEAST_UNKNOWN = 0x7F000000
"""Least size that means "unknown": streaming writers that cannot seek leave one above this, or
zero."""

_PCM, _EXTENSIBLE = 0x0001, 0xFFFE
_NAMES = (
    "LIST list INFO id3 ID3 bext iXML fact PEAK cue smpl inst plst labl note ltxt afsp acid strc "
    "DISP JUNK junk PAD FLLR levl umid chna axml dbmd ADM cart MD5 SAUR minf elm1 regn UMID Fake "
    "LGWV _PMX ResU AUTH ANNO wavl slnt"
)
_AFTER_DATA = frozenset(_NAMES.split())
"""Chunks that are known to follow samples; others must at least fit."""


class Readable(Protocol):
    """A file that can be sought."""

    def read(self, size: int = -1, /) -> bytes:
        """Read at most `size` bytes."""
        ...

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move to an offset, as in `io.IOBase.seek`."""
        ...


@dataclass(frozen=True, slots=True)
class Wav:
    """WAV file: its format chunk, and where its samples are. `declared`: the size of the samples by
    the header, None if it is unknown."""

    fmt: bytes
    data_at: int
    declared: int | None
    unpadded: bool
    """A chunk of odd length is not followed by its padding byte."""

    @property
    def tag(self) -> int:
        """Coding of the samples (RFC 2361)."""
        (tag,) = struct.unpack_from("<H", self.fmt)
        if tag == _EXTENSIBLE and len(self.fmt) >= 26:
            (tag,) = struct.unpack_from("<H", self.fmt, 24)
        return int(tag)

    @property
    def rate(self) -> int:
        """Frames a second."""
        return int(struct.unpack_from("<I", self.fmt, 4)[0])

    @property
    def bytes_a_second(self) -> float:
        """Bytes of samples per second; 0 if unknown."""
        (byte_rate,) = struct.unpack_from("<I", self.fmt, 8)
        tag, bits = struct.unpack_from("<H", self.fmt)[0], struct.unpack_from("<H", self.fmt, 14)[0]
        if tag in (_PCM, 3, _EXTENSIBLE) and bits:
            return self.rate * self.frame_bytes
        return float(byte_rate)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of every channel."""
        return int(struct.unpack_from("<H", self.fmt, 12)[0])


@dataclass(frozen=True, slots=True)
class Piece:
    """Part to decode: bytes `start` to `end`, behind `header` if it replaces the file's own."""

    start: int
    end: int
    header: bytes = b""
    warning: str | None = None


def parse(data: bytes, *, size: int | None = None) -> Wav | None:
    """Parse the WAV file that `data` begins with; return None if it is not a WAV file, or its
    samples do not begin within `data`. `size`: of the whole file, if known."""
    if data[:4] not in FORMS or data[8:12] != b"WAVE":
        return None
    at, fmt, unpadded, long_size = 12, b"", False, None
    for _ in range(_MOST_CHUNKS):
        if at + 8 > len(data):
            break
        name, length = data[at : at + 4], struct.unpack_from("<I", data, at + 4)[0]
        inside = at + 8
        if name == b"data":
            if len(fmt) < 16:
                return None
            declared: int | None = length
            if length == 0xFFFFFFFF and long_size is not None:
                declared = long_size
            elif length in _UNKNOWN_SIZES or length >= _LEAST_UNKNOWN:
                fits = size is not None and inside + length <= size
                declared = length if fits and length else None
            return Wav(fmt, inside, declared, unpadded)
        if name == b"fmt ":
            fmt = data[inside : inside + length]
        elif name == b"ds64" and length >= 16 and inside + 16 <= len(data):
            long_size = struct.unpack_from("<Q", data, inside + 8)[0]
        at = inside + length
        if length & 1:
            padded, bare = data[at + 1 : at + 5], data[at : at + 4]
            if _plausible(bare) and not (_plausible(padded) and data[at : at + 1] == b"\0"):
                unpadded = True
            else:
                at += 1
    return None


_RAW = {
    (_PCM, 8): "u8",
    (_PCM, 16): "s16le",
    (_PCM, 24): "s24le",
    (_PCM, 32): "s32le",
    (3, 32): "f32le",
    (3, 64): "f64le",
    (6, 8): "alaw",
    (7, 8): "mulaw",
}
"""Encodings by format tag and bits per sample (RFC 2361)."""


def raw_of(wav: Wav) -> RawFormat | None:
    """Return the format of the samples; None if they are compressed, or of another layout."""
    _, channels, rate, _, block, bits = struct.unpack_from("<HHIIHH", wav.fmt)
    encoding = _RAW.get((wav.tag, bits))
    if encoding is None or channels not in CHANNELS or rate not in SAMPLE_RATES:
        return None
    raw = RawFormat(encoding, rate, channels)
    return raw if raw.frame_bytes == block else None


class ArrivingHeader:
    """The header of a WAV file that arrives bit by bit. It is parsed again only once a quarter more
    is there, so that the work is proportional to its size."""

    def __init__(self) -> None:
        self._enough = 0

    def look(self, head: bytes | bytearray, *, complete: bool = False) -> Wav | None:
        """Return the file that `head` begins with, or None until its samples have begun.
        `complete`: no more bytes follow."""
        if len(head) < self._enough and not complete:
            return None
        self._enough = len(head) * 5 // 4
        return parse(bytes(head))


def pieces(view: Readable, size: int) -> Iterator[Piece]:
    """Yield the parts in which to read the WAV file: the whole file, or several. Yields nothing for
    another file."""
    start = 0
    for number in range(_MOST_FILES):
        wav = _header_at(view, start, size)
        if wav is None:
            view.seek(0)
            if start == 0 and view.read(4) in FORMS:
                yield Piece(0, size)
            return
        piece, following = _piece(view, wav, start, size)
        if following is not None and number == _MOST_FILES - 1:
            warning = f"more than {_MOST_FILES} files follow each other: the first were recognised"
            piece = replace(piece, warning=warning)
        yield piece
        if following is None:
            return
        start = following


def _header_at(view: Readable, start: int, size: int) -> Wav | None:
    """Return the header of the file that begins at `start`. Most headers are small."""
    for most in (_SMALL_HEADER_BYTES, HEADER_LIMIT_BYTES):
        view.seek(start)
        head = view.read(min(size - start, most))
        wav = parse(head, size=size - start)
        if wav is not None or len(head) < most or head[:4] not in FORMS:
            return wav
    return None


def _piece(view: Readable, wav: Wav, start: int, size: int) -> tuple[Piece, int | None]:
    """Return the piece of the file at `start`, and where another file follows, if one does."""
    data_at = start + wav.data_at
    end, warning, following, true_size = size, None, None, True
    if wav.declared is not None and data_at + wav.declared > size:
        missing, there = wav.declared - (size - data_at), size - data_at
        # A gigabyte of which little is there means an unknown size, not a file cut short.
        if missing >= wav.frame_bytes and not (wav.declared > 1 << 30 and there < missing // 8):
            warning = "the file is cut short: what is there was recognised"
    elif wav.declared is not None and data_at + wav.declared < size:
        behind = data_at + wav.declared
        view.seek(behind)
        after = view.read(13)
        for pad in (wav.declared & 1, 0, 1):
            if after[pad : pad + 4] in FORMS and after[pad + 8 : pad + 12] == b"WAVE":
                end, following = behind, behind + pad
                break
        else:
            if _is_chunk(after, size - behind, wav.declared & 1) or size - behind < 8:
                end = behind
            else:
                true_size = False
                warning = (
                    f"the header says {wav.declared} bytes of samples and {size - data_at} follow: "
                    "all were recognised"
                )
    fmt, early = in_containers(wav, _first_sound(view, data_at, end))
    whole = start == 0 and following is None and fmt == wav.fmt and not wav.unpadded
    if whole and true_size:
        return Piece(0, size, warning=warning), None
    if following is not None:
        warning = warning or "several WAV files follow each other: all were recognised"
    return Piece(data_at - early, end - early, _streaming_header(fmt), warning), following


def _first_sound(view: Readable, at: int, end: int) -> bytes:
    """Return samples from the first one that is not zero."""
    some = b""
    for start in range(at, min(end, at + MOST_SILENCE_BYTES), LAYOUT_BYTES):
        view.seek(start)
        some = view.read(min(LAYOUT_BYTES, end - start))
        if any(some):
            break
    return some


def without_its_header(view: Readable, size: int) -> Piece | None:
    """Return the first WAV file's samples behind a minimal header, for a file whose header FFmpeg
    cannot read; None if no samples are found."""
    if (wav := _header_at(view, 0, size)) is None:
        return None
    end = size if wav.declared is None else min(size, wav.data_at + wav.declared)
    return Piece(wav.data_at, end, _streaming_header(wav.fmt))


def _streaming_header(fmt: bytes) -> bytes:
    """Return a header as a writer that cannot seek would write it: FFmpeg then reads to the end."""
    header = b"RIFF\xff\xff\xff\xffWAVEfmt " + struct.pack("<I", len(fmt)) + fmt
    return header + b"\0" * (len(fmt) & 1) + b"data\xff\xff\xff\xff"


def in_containers(wav: Wav, some: bytes) -> tuple[bytes, int]:
    """Return how to read samples that have fewer bits than the bytes they are in, such as 24 bits
    in 4 bytes, which FFmpeg misreads. `some`: some of the samples. Returns a format chunk for the
    whole containers, and the number of bytes before the samples at which to begin: the standard
    puts the bits at the high end of their containers; ALSA's S24_LE puts them at the low end, which
    is the high end of a container that begins a byte earlier."""
    _, channels, _, _, block, bits = struct.unpack_from("<HHIIHH", wav.fmt)
    if struct.unpack_from("<H", wav.fmt)[0] == _EXTENSIBLE and len(wav.fmt) >= 20:
        (valid,) = struct.unpack_from("<H", wav.fmt, 18)
        bits = valid or bits
    if wav.tag != _PCM or not channels or block % channels:
        return wav.fmt, 0
    container, needed = block // channels, (bits + 7) // 8
    if container not in (2, 3, 4) or not 1 < needed < container:
        return wav.fmt, 0
    samples = [some[at : at + container] for at in range(0, len(some) - container + 1, container)]
    nonzero = [one for one in samples if any(one)]
    low = bool(nonzero) and (
        all(_extends_sign(one, needed) for one in nonzero)
        or not any(any(one[needed:]) for one in nonzero)
    )
    rate = wav.rate
    fmt = struct.pack("<HHIIHH", _PCM, channels, rate, rate * block, block, 8 * container)
    return fmt, container - needed if low else 0


def _extends_sign(sample: bytes, needed: int) -> bool:
    """Return whether the bytes above the sample only repeat its sign: it is at the low end."""
    above = b"\xff" if sample[needed - 1] & 0x80 else b"\0"
    return sample[needed:] == above * (len(sample) - needed)


def _is_chunk(after: bytes, left: int, pad: int) -> bool:
    """Return whether another chunk of the file follows, rather than more samples."""
    for at in {pad, 0}:
        name = after[at : at + 4].decode("latin-1")
        if len(after) < at + 8 or not _plausible(after[at : at + 4]):
            continue
        (length,) = struct.unpack_from("<I", after, at + 4)
        if name.strip() in _AFTER_DATA or at + 8 + length <= left:
            return True
    return False


def _plausible(name: bytes) -> bool:
    """Return whether `name` can be the name of a chunk."""
    return len(name) == 4 and all(0x20 <= letter < 0x7F for letter in name)
