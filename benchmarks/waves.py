"""WAV files around samples."""

import struct

import utterances


def wav(pcm: bytes) -> bytes:
    """Return 16-bit mono samples at the utterances' rate as a file."""
    rate = utterances.RATE
    head = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", 36 + len(pcm), b"WAVE"),
        *(b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16),
        *(b"data", len(pcm)),
    )
    return head + pcm
