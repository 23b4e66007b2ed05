"""WAV files of every kind that people send, made byte by byte."""

import math
import struct

PCM, FLOAT, ALAW, MULAW = 1, 3, 6, 7


def wav_file(
    samples: bytes,
    tag: int = PCM,
    bits: int = 16,
    channels: int = 1,
    rate: int = 16_000,
    *,
    extensible: bool = False,
    declared: int | None = None,
    before: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """Return a file around the samples; `declared` is the size that the data chunk claims."""
    frame = channels * bits // 8
    kind = 0xFFFE if extensible else tag
    fmt = struct.pack("<HHIIHH", kind, channels, rate, rate * frame, frame, bits)
    if extensible:
        guid_rest = bytes.fromhex("000000001000800000aa00389b71")
        fmt += struct.pack("<HHIH", 22, bits, 0, tag) + guid_rest
    size = len(samples) if declared is None else declared
    body = chunk(b"fmt ", fmt) + before + b"data" + struct.pack("<I", size) + samples + after
    return b"RIFF" + struct.pack("<I", (4 + len(body)) & 0xFFFFFFFF) + b"WAVE" + body


def chunk(name: bytes, body: bytes) -> bytes:
    """Return a RIFF chunk, padded to an even length."""
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def sine(
    tag: int, bits: int, channels: int, rate: int, seconds: float = 0.5, level: float = 0.5
) -> bytes:
    """Return a 440 Hz tone, the same on all channels."""
    frames = round(rate * seconds)
    values = (level * math.sin(2 * math.pi * 440 * i / rate) for i in range(frames))
    return b"".join(encode(value, tag, bits) * channels for value in values)


def encode(value: float, tag: int, bits: int) -> bytes:
    """Encode one sample; `value` from -1 to 1."""
    match tag, bits:
        case (1, 8):
            return bytes([round(value * 127 + 128)])
        case (1, 16):
            return struct.pack("<h", round(value * 32767))
        case (1, 24):
            return struct.pack("<i", round(value * 8388607))[:3]
        case (1, 32):
            return struct.pack("<i", round(value * 2147483647))
        case (3, 32):
            return struct.pack("<f", value)
        case (3, 64):
            return struct.pack("<d", value)
        case (7, 8):
            return bytes([mulaw(round(value * 32767))])
        case (6, 8):
            return bytes([alaw(round(value * 32767))])
    raise AssertionError((tag, bits))


def mulaw(sample: int) -> int:
    """ITU-T G.711 µ-law of a 16-bit sample."""
    sign = 0x80 if sample < 0 else 0
    magnitude = min(abs(sample), 32635) + 132
    exponent = magnitude.bit_length() - 8
    return ~(sign | exponent << 4 | magnitude >> (exponent + 3) & 0x0F) & 0xFF


def alaw(sample: int) -> int:
    """ITU-T G.711 A-law of a 16-bit sample."""
    sign = 0 if sample < 0 else 0x80
    magnitude = min(abs(sample), 32767) >> 3
    if magnitude < 32:
        code = magnitude >> 1
    else:
        exponent = magnitude.bit_length() - 5
        code = exponent << 4 | magnitude >> exponent & 0x0F
    return (sign | code) ^ 0x55


def samples_of(pcm: bytes) -> list[int]:
    """Return 16-bit little-endian samples as numbers."""
    return list(struct.unpack(f"<{len(pcm) // 2}h", pcm))


def rms(pcm: bytes) -> float:
    """Root mean square of 16-bit samples."""
    values = samples_of(pcm)
    return math.sqrt(sum(v * v for v in values) / len(values))
