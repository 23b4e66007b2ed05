"""WAV as people really send it, to PCM as a recogniser takes it."""

import io
import itertools
import math
import random
import struct

import pytest
import wavs

from modelserver.audio.decode import WavReader
from modelserver.audio.errors import AudioError
from modelserver.audio.gate import WavGate
from modelserver.audio.wav import parse_wav_header

RATE = 16_000
FULL = 32767


def read(file: bytes) -> tuple[bytes, WavReader]:
    reader = WavReader(io.BytesIO(file), len(file), RATE)
    return b"".join(reader.pcm(8000)), reader


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 192_000])
@pytest.mark.parametrize("channels", [1, 2, 8])
@pytest.mark.parametrize(
    ("tag", "bits"), [(1, 8), (1, 16), (1, 24), (1, 32), (3, 32), (3, 64), (6, 8), (7, 8)]
)
def test_every_kind_of_samples_becomes_the_same_tone(
    tag: int, bits: int, channels: int, rate: int
) -> None:
    file = wavs.wav_file(wavs.sine(tag, bits, channels, rate), tag, bits, channels, rate)
    pcm, reader = read(file)
    assert reader.duration_s == pytest.approx(0.5, abs=0.001)
    assert len(pcm) / 2 == pytest.approx(RATE / 2, abs=40)
    assert wavs.rms(pcm) == pytest.approx(0.5 * FULL / math.sqrt(2), rel=0.02)
    crossings = sum(a < 0 <= b for a, b in itertools.pairwise(wavs.samples_of(pcm)))
    assert crossings == pytest.approx(220, abs=2)


@pytest.mark.parametrize("channels", [3, 4, 5, 6, 7])
def test_every_number_of_channels_up_to_eight_is_taken(channels: int) -> None:
    pcm, _ = read(wavs.wav_file(wavs.sine(1, 16, channels, RATE), channels=channels))
    assert wavs.rms(pcm) == pytest.approx(0.5 * FULL / math.sqrt(2), rel=0.02)


@pytest.mark.parametrize("speaking", range(8))
def test_a_voice_on_any_of_eight_channels_is_heard(speaking: int) -> None:
    tone = wavs.sine(1, 16, 1, RATE)
    before, after = b"\0\0" * speaking, b"\0\0" * (7 - speaking)
    frames = b"".join(before + tone[at : at + 2] + after for at in range(0, len(tone), 2))
    pcm, _ = read(wavs.wav_file(frames, channels=8))
    assert wavs.rms(pcm) == pytest.approx(0.5 * FULL / math.sqrt(2) / 8, rel=0.02)


def test_the_models_own_format_passes_untouched() -> None:
    samples = random.Random(1).randbytes(33_334)
    pcm, _ = read(wavs.wav_file(samples))
    assert pcm == samples


def test_chunks_have_the_asked_size_but_for_the_last() -> None:
    file = wavs.wav_file(wavs.sine(1, 16, 2, 44_100), channels=2, rate=44_100)
    chunks = list(WavReader(io.BytesIO(file), len(file), RATE).pcm(3000))
    assert {len(c) for c in chunks[:-1]} == {3000}
    assert 0 < len(chunks[-1]) <= 3000


def test_extensible_headers_and_chunks_before_the_data_are_read() -> None:
    before = wavs.chunk(b"LIST", b"odd") + wavs.chunk(b"bext", bytes(602))
    samples = wavs.sine(1, 24, 2, RATE)
    pcm, _ = read(wavs.wav_file(samples, 1, 24, 2, extensible=True, before=before))
    assert wavs.rms(pcm) == pytest.approx(0.5 * FULL / math.sqrt(2), rel=0.02)


def test_chunks_after_the_data_are_not_heard() -> None:
    samples = wavs.sine(1, 16, 1, RATE)
    pcm, reader = read(wavs.wav_file(samples, after=wavs.chunk(b"LIST", b"\x7f" * 5000)))
    assert pcm == samples
    assert not reader.cut_short


@pytest.mark.parametrize("declared", [0, 0xFFFFFFFF, 0x7FFFFFFF])
def test_a_streaming_writers_size_means_up_to_the_end(declared: int) -> None:
    samples = wavs.sine(1, 16, 1, RATE)
    pcm, reader = read(wavs.wav_file(samples, declared=declared))
    assert pcm == samples
    assert not reader.cut_short


@pytest.mark.parametrize("missing", [1, 2, 1001])
def test_a_file_cut_short_gives_its_whole_frames_and_says_so(missing: int) -> None:
    samples = wavs.sine(1, 16, 2, RATE)
    pcm, reader = read(wavs.wav_file(samples, channels=2)[:-missing])
    assert reader.cut_short
    assert reader.frames == (len(samples) - missing) // 4
    assert len(pcm) // 2 == pytest.approx(reader.frames, abs=40)


def test_a_file_without_samples_is_read_as_such() -> None:
    pcm, reader = read(wavs.wav_file(b""))
    assert pcm == b""
    assert reader.duration_s == 0
    assert not reader.cut_short


def test_floats_that_are_no_numbers_harm_nobody() -> None:
    odd = [math.nan, math.inf, -math.inf, 1e30, -5.0]
    samples = b"".join(struct.pack("<f", odd[i % 5]) for i in range(20_000))
    pcm, _ = read(wavs.wav_file(samples, 3, 32, 2, 44_100))
    assert len(pcm) > 0


@pytest.mark.parametrize(
    ("file", "code", "says"),
    [
        (b"", "not_audio", "empty"),
        (b"RIFF", "not_audio", "4 bytes"),
        (b"RIFF\0\0\0\0WAVE", "not_audio", "ends before"),
        (b"hello, this is no audio at all", "not_audio", "RIFF"),
        (b"ID3\x04" + bytes(100), "unsupported_audio", "MP3"),
        (b"OggS" + bytes(100), "unsupported_audio", "Ogg"),
        (b"\0\0\0\x20ftypM4A " + bytes(100), "unsupported_audio", "M4A"),
        (wavs.wav_file(bytes(64), tag=0x11, bits=4), "unsupported_audio", "0x0011"),
        (wavs.wav_file(bytes(64), tag=0x55, bits=16), "unsupported_audio", "0x0055"),
        (wavs.wav_file(bytes(64), channels=9), "unsupported_audio", "9 channels"),
        (wavs.wav_file(bytes(64), channels=0), "unsupported_audio", "0 channels"),
        (wavs.wav_file(bytes(64), rate=7_999), "unsupported_audio", "7999 Hz"),
        (wavs.wav_file(bytes(64), rate=192_001), "unsupported_audio", "192001 Hz"),
        (wavs.wav_file(bytes(64), rate=0), "unsupported_audio", "0 Hz"),
        (wavs.wav_file(bytes(64), bits=0), "unsupported_audio", "0 bits"),
        (b"RIFF\0\0\0\0WAVEfmt \x04\0\0\0abcddata\0\0\0\0", "not_audio", "4 bytes; 16"),
        (b"RIFF\0\0\0\0WAVEdata\x04\0\0\0abcd", "not_audio", "before their description"),
        (wavs.wav_file(b"")[:30], "not_audio", "ends before"),
        (
            wavs.wav_file(bytes(4), before=b"JUNK\xff\xff\xff\x7f" + bytes(100)),
            "not_audio",
            "first MiB",
        ),
    ],
)
def test_what_is_not_taken_is_refused_with_its_code(file: bytes, code: str, says: str) -> None:
    with pytest.raises(AudioError, match=says) as caught:
        read(file)
    assert caught.value.code == code


def test_no_bytes_whatever_break_the_reader() -> None:
    generator = random.Random(7)
    good = wavs.wav_file(wavs.sine(1, 16, 2, RATE, 0.05), channels=2, extensible=True)
    refused = 0
    for _ in range(2000):
        broken = bytearray(good[: generator.randrange(len(good))])
        for _ in range(generator.randrange(1, 6)):
            if broken:
                broken[generator.randrange(min(len(broken), 80))] = generator.randrange(256)
        try:
            read(bytes(broken))
        except AudioError:
            refused += 1
    assert 0 < refused < 2000


@pytest.mark.parametrize("size", [1, 7, 1000, 10**6])
def test_the_header_is_found_however_it_arrives(size: int) -> None:
    file = wavs.wav_file(bytes(8000), before=wavs.chunk(b"LIST", bytes(3001)))
    seen = None
    for end in range(size, len(file) + size, size):
        seen = parse_wav_header(file[:end], complete=end >= len(file))
        if seen is not None:
            break
    assert seen is not None
    assert seen.data_offset == len(file) - 8000


def test_the_gate_refuses_too_long_audio_by_its_header() -> None:
    file = wavs.wav_file(b"", declared=RATE * 2 * 61)
    with pytest.raises(AudioError, match="61") as caught:
        WavGate(60).feed(file)
    assert caught.value.code == "audio_too_long"


def test_the_gate_refuses_too_long_audio_while_it_arrives_where_the_header_lies() -> None:
    gate = WavGate(1)
    gate.feed(wavs.wav_file(bytes(16_000), declared=0))
    gate.feed(bytes(16_000))
    with pytest.raises(AudioError) as caught:
        gate.feed(bytes(10))
    assert caught.value.code == "audio_too_long"


def test_the_gate_refuses_a_body_that_ends_in_its_header() -> None:
    gate = WavGate(60)
    gate.feed(b"RIFF")
    with pytest.raises(AudioError):
        gate.finish()
