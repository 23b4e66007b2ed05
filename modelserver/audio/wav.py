"""The header of a WAV file as people really send it: read from the first bytes, without a file.

Sources: "Multimedia Programming Interface and Data Specifications 1.0" (RIFF, WAVE), Microsoft's
WAVEFORMATEXTENSIBLE, and EBU Tech 3306 (RF64, whose 64-bit sizes are not needed here).
"""

import struct
from dataclasses import dataclass

from modelserver.audio.errors import not_audio, unsupported

HEADER_LIMIT_BYTES = 1024 * 1024
"""Where the samples must have begun: chunks before them (pictures, notes) may be this long."""

CHANNELS = range(1, 9)
SAMPLE_RATES = range(8_000, 192_001)

_PCM, _FLOAT, _ALAW, _MULAW, _EXTENSIBLE = 0x0001, 0x0003, 0x0006, 0x0007, 0xFFFE

_CODECS = {
    (_PCM, 8): "pcm_u8",
    (_PCM, 16): "pcm_s16le",
    (_PCM, 24): "pcm_s24le",
    (_PCM, 32): "pcm_s32le",
    (_FLOAT, 32): "pcm_f32le",
    (_FLOAT, 64): "pcm_f64le",
    (_ALAW, 8): "pcm_alaw",
    (_MULAW, 8): "pcm_mulaw",
}
"""Format tag and bits of a sample's container, to FFmpeg's name of the decoder."""

_OTHER_FORMATS = (
    (b"ID3", "MP3"),
    (b"\xff\xfb", "MP3"),
    (b"\xff\xf3", "MP3"),
    (b"OggS", "Ogg"),
    (b"fLaC", "FLAC"),
    (b"\x1a\x45\xdf\xa3", "Matroska or WebM"),
    (b"FORM", "AIFF"),
    (b"#!AMR", "AMR"),
    (b"caff", "CAF"),
    (b".snd", "AU"),
    (b"RIFX", "big-endian WAV"),
)


@dataclass(frozen=True, slots=True)
class WavHeader:
    """What the header says."""

    codec: str
    channels: int
    sample_rate: int
    frame_bytes: int
    """One sample of every channel."""
    data_offset: int
    declared_bytes: int | None
    """The size of the samples; None where a streaming writer did not know it."""

    def frames(self, available_bytes: int) -> int:
        """Whole frames in a file that has `available_bytes` after the header."""
        if self.declared_bytes is not None:
            available_bytes = min(available_bytes, self.declared_bytes)
        return available_bytes // self.frame_bytes

    def cut_short(self, available_bytes: int) -> bool:
        """Samples are missing that the header promises, or the last frame is not whole."""
        if self.declared_bytes is None:
            return available_bytes % self.frame_bytes != 0
        return available_bytes < self.declared_bytes

    def seconds(self, data_bytes: int) -> float:
        """How long that many bytes of samples last."""
        return data_bytes / (self.frame_bytes * self.sample_rate)


def parse_wav_header(prefix: bytes, *, complete: bool) -> WavHeader | None:
    """The header, or None if more than `prefix` is needed to see all of it.

    `complete`: `prefix` is the whole file. Raises `AudioError`: `not_audio`,
    `unsupported_audio`.
    """
    if len(prefix) < 12:
        if not complete:
            return None
        raise not_audio("the file is empty" if not prefix else f"it has {len(prefix)} bytes only")
    _check_magic(prefix)
    fmt: _Format | None = None
    at = 12
    while len(prefix) >= at + 8:
        name, size = struct.unpack_from("<4sI", prefix, at)
        body = at + 8
        if name == b"data":
            if fmt is None:
                raise not_audio("its samples come before their description")
            unknown = size in (0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000)
            return WavHeader(
                fmt.codec,
                fmt.channels,
                fmt.sample_rate,
                fmt.frame_bytes,
                body,
                None if unknown else size,
            )
        if name == b"fmt ":
            if len(prefix) < body + min(size, 40):
                break
            fmt = _parse_format(prefix[body : body + size])
        at = body + size + (size & 1)
        if at > HEADER_LIMIT_BYTES:
            raise not_audio("no samples within its first MiB")
    if complete:
        raise not_audio("it ends before its samples begin")
    return None


@dataclass(frozen=True, slots=True)
class _Format:
    codec: str
    channels: int
    sample_rate: int
    frame_bytes: int


def _check_magic(prefix: bytes) -> None:
    if prefix[:4] in (b"RIFF", b"RF64", b"BW64") and prefix[8:12] == b"WAVE":
        return
    if prefix[4:8] == b"ftyp":
        raise unsupported("this is MP4 or M4A audio; WAV is what this server takes")
    for magic, name in _OTHER_FORMATS:
        if prefix.startswith(magic):
            raise unsupported(f"this is {name} audio; WAV is what this server takes")
    raise not_audio("it does not begin with RIFF and WAVE")


def _parse_format(body: bytes) -> _Format:
    if len(body) < 16:
        raise not_audio(f"its format description has {len(body)} bytes; 16 are the least")
    tag, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", body)
    if tag == _EXTENSIBLE:
        if len(body) < 40:
            raise not_audio("its extended format description is cut short")
        # The GUID's first two bytes are the tag that would have stood there.
        (tag,) = struct.unpack_from("<H", body, 24)
    container_bits = -(-bits // 8) * 8
    codec = _CODECS.get((tag, container_bits))
    if codec is None:
        raise unsupported(
            f"samples of format 0x{tag:04x} with {bits} bits; PCM of 8, 16, 24 or 32 bits, float "
            "of 32 or 64, A-law and µ-law are taken"
        )
    if channels not in CHANNELS:
        raise unsupported(f"{channels} channels; 1 to 8 are taken")
    if rate not in SAMPLE_RATES:
        raise unsupported(f"a sample rate of {rate} Hz; 8000 to 192000 are taken")
    return _Format(codec, channels, rate, channels * container_bits // 8)
