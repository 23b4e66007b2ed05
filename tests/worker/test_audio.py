"""Audio as people really send it, to PCM as a recogniser takes it."""

import contextlib
import io
import itertools
import math
import os
import random
import struct
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest
import wavs
from encoded import LOSSLESS, LOSSY, encoded
from places import ROOT
from wavs import wav_file

from modelserver.audio.channels import channel_choice
from modelserver.audio.errors import AudioError
from modelserver.audio.formats import RawFormat, raw_format
from modelserver.audio.probe import Gate
from modelserver.audio.riff import pieces
from modelserver.worker.following import following_pieces
from modelserver.worker.live_audio import LiveAudio
from modelserver.worker.reader import AudioReader

RATE = 16_000
FULL = 32767
TONE = wavs.sine(1, 16, 1, RATE)
LONG = TONE * 4


def read(
    file: bytes, channels: str = "mix", raw: RawFormat | None = None
) -> tuple[bytes, AudioReader]:
    choice = channel_choice(channels)
    reader = AudioReader(io.BytesIO(file), len(file), RATE, channels=choice, raw=raw)
    return b"".join(chunk for _, chunk in reader.pcm(8000)), reader


def each(file: bytes, channels: str = "split") -> dict[int, bytes]:
    """Return the samples of each channel."""
    reader = AudioReader(io.BytesIO(file), len(file), RATE, channels=channel_choice(channels))
    heard = dict.fromkeys(reader.numbers, b"")
    for place, chunk in reader.pcm(8000):
        heard[reader.numbers[place]] += chunk
    return heard


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
    assert wavs.rms(pcm) == pytest.approx(0.5 * FULL / math.sqrt(2), rel=0.02)


def test_the_models_own_format_passes_untouched() -> None:
    samples = random.Random(1).randbytes(33_334)
    pcm, _ = read(wavs.wav_file(samples))
    assert pcm == samples


def test_chunks_have_the_asked_size_but_for_the_last() -> None:
    file = wavs.wav_file(wavs.sine(1, 16, 2, 44_100), channels=2, rate=44_100)
    chunks = [c for _, c in AudioReader(io.BytesIO(file), len(file), RATE).pcm(3000)]
    assert {len(c) for c in chunks[:-1]} == {3000}
    assert 0 < len(chunks[-1]) <= 3000


def test_extensible_headers_and_chunks_before_the_data_are_read() -> None:
    before = wavs.chunk(b"LIST", b"odd") + wavs.chunk(b"bext", bytes(602))
    samples = wavs.sine(1, 24, 2, RATE)
    pcm, _ = read(wavs.wav_file(samples, 1, 24, 2, extensible=True, before=before))
    assert wavs.rms(pcm) == pytest.approx(0.5 * FULL / math.sqrt(2), rel=0.02)


# --- sizes that are not true ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "after",
    [wavs.chunk(b"LIST", b"\x7f" * 5000), wavs.chunk(b"id3 ", b"ID3" * 7), b"\0", b"\0" * 7],
)
def test_what_follows_the_samples_is_not_heard(after: bytes) -> None:
    pcm, reader = read(wavs.wav_file(TONE, after=after))
    assert pcm == TONE
    assert not reader.warnings


@pytest.mark.parametrize(
    "declared",
    [0, 0xFFFFFFFF, 0x7FFFFFFF, 2_000_000_000, 0x80000000, 0x7FFFFF00, 0xFFFFFFDB, 0xFFFFFFFE],
)
def test_a_size_that_cannot_be_true_means_up_to_the_end(declared: int) -> None:
    file = wavs.wav_file(TONE, declared=declared)
    pcm, reader = read(file)
    assert pcm == TONE
    assert not reader.warnings
    gate = Gate(3600, length=len(file))
    gate.feed(file)
    assert gate.finish() == (0.5, True)


@pytest.mark.parametrize("declared", [len(TONE) // 2, 2, 1001])
def test_a_size_smaller_than_what_follows_is_told_and_all_is_heard(declared: int) -> None:
    pcm, reader = read(wavs.wav_file(TONE, declared=declared))
    assert pcm == TONE
    assert reader.warnings == [
        f"the header says {declared} bytes of samples and {len(TONE)} follow: all were recognised"
    ]


def test_files_one_after_the_other_are_all_heard() -> None:
    other = wavs.sine(1, 24, 2, 44_100)
    file = wavs.wav_file(TONE) + wavs.wav_file(other, 1, 24, 2, 44_100) + wavs.wav_file(TONE)
    pcm, reader = read(file)
    assert reader.duration_s == pytest.approx(1.5, abs=0.001)
    assert len(pcm) / 2 / RATE == pytest.approx(1.5, abs=0.01)
    assert reader.warnings == ["several WAV files follow each other: all were recognised"]


@pytest.mark.parametrize("kind", sorted({*LOSSLESS, *LOSSY} - {"wavpack", "tta"}))
def test_two_files_of_any_kind_one_after_the_other_are_both_heard(kind: str) -> None:
    file = encoded(LONG, kind)
    _, once = read(file)
    _, twice = read(file + file)
    assert twice.duration_s == pytest.approx(2 * once.duration_s, rel=0.05)


def test_what_follows_the_end_that_a_file_says_it_has_is_told() -> None:
    for kind in ("aiff", "m4a", "caf", "w64", "wma"):
        _, reader = read(encoded(LONG, kind) + random.Random(1).randbytes(20_000))
        assert any("20000 bytes follow" in warning for warning in reader.warnings), kind
        _, reader = read(encoded(LONG, kind) + b"TAG" + bytes(125))
        assert not any("bytes follow" in warning for warning in reader.warnings), kind


def test_a_chunk_of_odd_length_without_its_padding_is_read() -> None:
    bare = b"LIST" + struct.pack("<I", 5) + b"INFOx"
    for before in (bare, bare + bare, bare + wavs.chunk(b"bext", bytes(33))):
        pcm, reader = read(wavs.wav_file(TONE, before=before))
        assert pcm == TONE
        assert not reader.warnings


def test_a_size_of_64_bits_counts() -> None:
    """Check that bytes behind the samples of an RF64 file are not recognised."""
    ds64 = struct.pack("<QQQI", 0, len(TONE), len(TONE) // 2, 0)
    fmt = struct.pack("<HHIIHH", 1, 1, RATE, RATE * 2, 2, 16)
    body = wavs.chunk(b"ds64", ds64) + wavs.chunk(b"fmt ", fmt)
    body += b"data\xff\xff\xff\xff" + TONE + wavs.chunk(b"LIST", b"\x7f" * 5000)
    for form in (b"RF64", b"BW64"):
        pcm, reader = read(form + b"\xff\xff\xff\xffWAVE" + body)
        assert pcm == TONE
        assert not reader.warnings


@pytest.mark.parametrize("missing", [1, 2, 1001])
def test_a_file_cut_short_gives_its_whole_frames_and_says_so(missing: int) -> None:
    samples = wavs.sine(1, 16, 2, RATE)
    pcm, reader = read(wavs.wav_file(samples, channels=2)[:-missing])
    frames = (len(samples) - missing) // 4
    assert len(pcm) // 2 == pytest.approx(frames, abs=40)
    if missing > 3:
        assert reader.warnings == ["the file is cut short: what is there was recognised"]


def test_a_file_without_samples_is_read_as_such() -> None:
    pcm, reader = read(wavs.wav_file(b""))
    assert pcm == b""
    assert reader.duration_s == 0
    assert reader.warnings == ["there are no samples in the file"]


# --- bits and bytes -------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["low", "low, with zeros above", "high"])
@pytest.mark.parametrize("said", ["24", "24, extensible", "24 of 32, extensible"])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("quiet_s", [0, 1])
def test_24_bits_in_4_bytes_are_heard(where: str, said: str, channels: int, quiet_s: int) -> None:
    """ALSA's S24_LE, what others make of it, and the standard's way; as a file and live."""
    tone = bytes(2 * RATE * quiet_s) + TONE
    values = wavs.samples_of(tone)
    shift = 16 if where == "high" else 8
    mask = 0xFFFFFF if "zeros" in where else 0xFFFFFFFF
    wide = b"".join(struct.pack("<I", (one << shift) & mask) * channels for one in values)
    bits = 32 if "of 32" in said else 24
    tag = 0xFFFE if "extensible" in said else 1
    fmt = struct.pack("<HHIIHH", tag, channels, RATE, RATE * 4 * channels, 4 * channels, bits)
    if tag == 0xFFFE:
        rest = bytes.fromhex("000000001000800000aa00389b71")
        fmt += struct.pack("<HHIH", 22, 24, (1 << channels) - 1, 1) + rest
    body = wavs.chunk(b"fmt ", fmt) + b"data" + struct.pack("<I", len(wide)) + wide
    file = b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body
    pcm, _ = read(file)
    assert pcm == tone
    live, heard = LiveAudio(RATE), b""
    for at in range(0, len(file), 3000):
        live.feed(file[at : at + 3000])
        heard += b"".join(live.blocks())
    live.end()
    assert heard + b"".join(live.blocks()) == tone
    live.close()


def test_floats_that_are_no_numbers_harm_nobody() -> None:
    odd = [math.nan, math.inf, -math.inf, 1e30, -5.0]
    samples = b"".join(struct.pack("<f", odd[i % 5]) for i in range(20_000))
    pcm, _ = read(wavs.wav_file(samples, 3, 32, 2, 44_100))
    assert len(pcm) > 0


@pytest.mark.parametrize("kind", sorted(LOSSLESS))
def test_what_loses_nothing_is_the_same_to_the_bit(kind: str) -> None:
    pcm, reader = read(encoded(TONE, kind))
    assert pcm == TONE
    assert not reader.warnings


@pytest.mark.parametrize("kind", sorted(LOSSY))
def test_every_codec_is_heard(kind: str) -> None:
    pcm, reader = read(encoded(wavs.sine(1, 16, 1, RATE, 2.0), kind))
    assert reader.duration_s == pytest.approx(2.0, abs=0.15)
    middle = pcm[RATE : 3 * RATE]
    near = 0.35 if kind in ("amr", "vorbis") else 0.1  # these encoders are rough
    assert wavs.rms(middle) == pytest.approx(0.5 * FULL / math.sqrt(2), rel=near)
    crossings = sum(a < 0 <= b for a, b in itertools.pairwise(wavs.samples_of(middle)))
    assert crossings == pytest.approx(440, abs=4)


NOT_WITHOUT_THEIR_END = ("alac in m4a", "m4a", "pcm in mov")
"""Formats whose index, or all information, comes last."""


@pytest.mark.parametrize("kind", sorted(LOSSLESS | LOSSY))
def test_half_a_file_is_half_heard_or_refused(kind: str) -> None:
    whole = encoded(wavs.sine(1, 16, 1, RATE, 4.0), kind)
    if kind in NOT_WITHOUT_THEIR_END:
        with pytest.raises(AudioError, match=r"damaged, or cut short|be decoded"):
            read(whole[: len(whole) // 2])
    else:
        _, reader = read(whole[: len(whole) // 2])
        assert (0.0 if kind == "wavpack" else 0.5) <= reader.duration_s < 3.0


# --- samples without a header ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "samples"),
    [
        ("s16le", TONE),
        ("LINEAR16", TONE),
        ("s16be", b"".join(TONE[i + 1 : i + 2] + TONE[i : i + 1] for i in range(0, len(TONE), 2))),
        ("f32le", wavs.sine(3, 32, 1, RATE)),
        ("s24le", wavs.sine(1, 24, 1, RATE)),
        ("s32le", wavs.sine(1, 32, 1, RATE)),
        ("u8", wavs.sine(1, 8, 1, RATE)),
        ("alaw", wavs.sine(6, 8, 1, RATE)),
        ("ulaw", wavs.sine(7, 8, 1, RATE)),
    ],
)
def test_samples_are_heard_as_they_are_said_to_be(encoding: str, samples: bytes) -> None:
    pcm, reader = read(samples, raw=raw_format(encoding, RATE, 1))
    assert reader.duration_s == 0.5
    assert wavs.rms(pcm) == pytest.approx(0.5 * FULL / math.sqrt(2), rel=0.02)


def test_which_byte_of_l16_comes_first_is_heard() -> None:
    swapped = array("h", TONE)
    swapped.byteswap()
    for samples in (TONE, swapped.tobytes(), bytes(4000) + TONE):
        pcm, _ = read(samples, raw=raw_format("l16", RATE, 1))
        assert wavs.rms(pcm[-len(TONE) :]) == pytest.approx(0.5 * FULL / math.sqrt(2), rel=0.02)


def test_a_file_is_a_file_whatever_it_is_said_to_be() -> None:
    assert read(wav_file(TONE), raw=raw_format("f32le", 8000, 2))[0] == TONE


# --- channels -------------------------------------------------------------------------------------


def stereo(left: bytes, right: bytes) -> bytes:
    frames = b"".join(left[at : at + 2] + right[at : at + 2] for at in range(0, len(left), 2))
    return wavs.wav_file(frames, channels=2)


def negated(pcm: bytes) -> bytes:
    return array("h", [-value for value in array("h", pcm)]).tobytes()


def test_channels_that_cancel_each_other_are_heard() -> None:
    pcm, reader = read(stereo(LONG, negated(LONG)))
    assert wavs.rms(pcm) == pytest.approx(0.5 * FULL / math.sqrt(2), rel=0.02)
    assert reader.warnings == ["the channels cancel each other out: the louder one was recognised"]


@pytest.mark.parametrize("pair", [(LONG, bytes(len(LONG))), (bytes(len(LONG)), LONG)])
def test_beside_a_silent_channel_the_other_is_heard_in_full(pair: tuple[bytes, bytes]) -> None:
    pcm, reader = read(stereo(*pair))
    assert pcm == LONG
    assert reader.warnings == ["a channel is silent: the louder one was recognised"]


def test_two_who_speak_in_turn_on_two_channels_are_both_heard() -> None:
    quiet = bytes(len(LONG))
    pcm, _ = read(stereo(LONG + quiet, quiet + LONG))
    half = len(pcm) // 2
    for part in (pcm[:half], pcm[half:]):
        assert wavs.rms(part) > 0.2 * FULL / math.sqrt(2)


def test_channels_are_heard_one_by_one_where_that_is_asked_for() -> None:
    file = stereo(LONG, negated(LONG))
    assert each(file) == {0: LONG, 1: negated(LONG)}
    assert each(file, "1") == {1: negated(LONG)}
    assert each(file, "1,0") == {1: negated(LONG), 0: LONG}
    with pytest.raises(AudioError, match="there is no channel 2: the audio has 2"):
        each(file, "0,2")
    for wrong in ("left", "-1", "0;1", "1.5", "0,,1", "9" * 10):
        with pytest.raises(AudioError, match="it may be mix, split, or numbers"):
            channel_choice(wrong)


# --- not audio -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "code", "says"),
    [
        (b"", "not_audio", "is empty"),
        (b"RIFF", "not_audio", "text|cannot be read"),
        (b"RIFF\0\0\0\0WAVE", "not_audio", "cannot be read"),
        (b"hello, this is no audio at all", "not_audio", "this is text"),
        (b"recording.wav", "not_audio", "the name of a file instead of its bytes"),
        (b"@recording.wav", "not_audio", "--data-binary"),
        (b"https://example.org/a.wav", "not_audio", "this is an address"),
        (
            b"UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQ==",
            "not_audio",
            "base64 of audio",
        ),
        (b"<!DOCTYPE html><html>", "not_audio", "an HTML or XML page"),
        (b"\xef\xbb\xbf  <html>", "not_audio", "an HTML or XML page"),
        (b'{"error": "not found"}', "not_audio", "this is JSON"),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\n", "not_audio", "this is a form"),
        (b"#EXTM3U\nhttp://127.0.0.1/a.ts", "not_audio", "a playlist"),
        (b"ffconcat version 1.0\nfile '/etc/passwd'", "not_audio", "a playlist"),
        (b"v=0\r\no=- 0 0 IN IP4 127.0.0.1", "not_audio", "a playlist"),
        (b"PK\x03\x04" + bytes(100), "not_audio", "a ZIP archive"),
        (b"%PDF-1.7", "not_audio", "a PDF"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not_audio", "a PNG"),
        (b"Salted__" + bytes(100), "not_audio", "encrypted"),
        (b"\x02#!SILK_V3" + bytes(100), "unsupported_audio", "SILK"),
        (b"MThd" + bytes(100), "unsupported_audio", "MIDI"),
        (random.Random(3).randbytes(5000), "not_audio", "not an audio file of a known kind"),
        (bytes(5000), "not_audio", "not an audio file of a known kind"),
        (b"ID3\x04" + bytes(100), "not_audio", "the MP3 file cannot be read"),
        (b"OggS" + bytes(100), "not_audio", "the Ogg file cannot be read"),
        (b"\0\0\0\x20ftypM4A " + bytes(100), "not_audio", "the MP4 or M4A file cannot be read"),
        (wavs.wav_file(bytes(64), tag=0x4321), "not_audio|unsupported_audio", ""),
        (wavs.wav_file(bytes(64), channels=0), "not_audio|unsupported_audio", ""),
        (wavs.wav_file(bytes(64), rate=0), "not_audio", ""),
        (wavs.wav_file(b"")[:30], "not_audio", ""),
    ],
)
def test_what_is_no_audio_is_refused_and_named(file: bytes, code: str, says: str) -> None:
    def refused() -> Iterator[AudioError]:
        gate = Gate(3600)
        try:
            gate.feed(file)
            gate.finish()
            read(file)
        except AudioError as error:
            yield error

    (error,) = refused()
    assert error.code in code.split("|")
    assert any(words in error.message for words in says.split("|"))


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


def test_no_header_that_is_cut_breaks_the_gate() -> None:
    for kind in ("wav", "rf64", "w64", "caf", "m4a"):
        file = encoded(TONE, kind)
        for length in range(200):
            with contextlib.suppress(AudioError):
                gate = Gate(3600)
                gate.feed(file[:length])
                gate.finish()


@pytest.mark.parametrize("kind", sorted(LOSSLESS | LOSSY))
def test_no_damage_breaks_a_decoder(kind: str) -> None:
    generator = random.Random(kind)
    good = encoded(TONE, kind)
    for _ in range(40):
        broken = bytearray(good[: generator.randrange(len(good) // 2, len(good) + 1)])
        for _ in range(generator.choice((1, 3, 30))):
            broken[generator.randrange(len(broken))] = generator.randrange(256)
        with contextlib.suppress(AudioError):
            read(bytes(broken))


# --- nothing else is opened -----------------------------------------------------------------------

DECODE = """
import io, sys
from modelserver.worker.reader import AudioReader
from modelserver.audio.errors import AudioError
data = sys.stdin.buffer.read()
import os
os.write(2, b"BEGIN\\n")
try:
    for _ in AudioReader(io.BytesIO(data), len(data), 16000).pcm(8000):
        pass
except AudioError as error:
    print(error.message)
os.write(2, b"END\\n")
"""


def mov_with_reference(target: str) -> bytes:
    """Return a QuickTime file that refers to another file for its samples."""
    data = bytearray(encoded(TONE, "pcm in mov"))
    alias = struct.pack(">I4sI", 12 + len(target) + 1, b"url ", 0) + target.encode() + b"\0"
    at = data.find(b"dref")
    assert at > 0
    old = struct.unpack_from(">I", data, at - 4)[0]
    body = b"dref" + struct.pack(">II", 0, 1) + alias
    changed = struct.pack(">I", len(body) + 4) + body
    grown = len(changed) - old
    data[at - 4 : at - 4 + old] = changed
    for box in (b"dinf", b"minf", b"mdia", b"trak", b"moov"):
        place = data.find(box) - 4
        struct.pack_into(">I", data, place, struct.unpack_from(">I", data, place)[0] + grown)
    return bytes(data)


REFERENCES = {
    "hls": b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\nfile://SECRET\n#EXT-X-ENDLIST\n",
    "hls over http": b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
    "concat": b"ffconcat version 1.0\nfile SECRET\n",
    "dash": b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period>'
    b"<AdaptationSet><Representation><BaseURL>file://SECRET</BaseURL></Representation>"
    b"</AdaptationSet></Period></MPD>",
    "sdp": b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    b"m=audio 5004 RTP/AVP 0\r\n",
    "smil": b"<SMIL><body><audio src='file://SECRET'/></body></SMIL>",
    "images": b"SECRET%03d.jpg",
    "rtsp": b"rtsp://127.0.0.1:9/a",
    "mov": b"",
}


@pytest.mark.parametrize("kind", sorted(REFERENCES))
def test_a_file_that_names_others_gets_none_of_them(tmp_path: Path, kind: str) -> None:
    secret = tmp_path / "secret.wav"
    secret.write_bytes(wav_file(TONE))
    data = REFERENCES[kind].replace(b"SECRET", str(secret).encode())
    if kind == "mov":
        data = mov_with_reference(f"file://{secret}")
    done = subprocess.run(
        ["strace", "-f", "-e", "trace=%file,%network,write", sys.executable, "-c", DECODE],
        input=data,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    log = done.stderr.decode(errors="replace")
    assert done.returncode == 0, log[-2000:]
    began, _, rest = log.partition('write(2, "BEGIN')
    assert began
    during = rest.partition('write(2, "END')[0]
    assert "secret" not in during
    for call in ("socket(", "connect(", "execve("):
        assert call not in during
    opened = [line for line in during.splitlines() if "open" in line and "ENOENT" not in line]
    assert not [line for line in opened if not line.endswith("= -1") and str(tmp_path) in line]


# --- the gate -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 1000, 10**6])
def test_the_header_is_found_however_it_arrives(size: int) -> None:
    file = wavs.wav_file(TONE, before=wavs.chunk(b"LIST", bytes(3001)))
    gate = Gate(60)
    for at in range(0, len(file), size):
        gate.feed(file[at : at + size])
    assert gate.finish() == (0.5, True)


class Counted(io.BytesIO):
    """A file that counts what is read of it."""

    bytes_read = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.bytes_read += len(data)
        return data


@pytest.mark.parametrize("kind", ["WAV", "MP4", "AIFF"])
def test_tiny_files_in_a_row_are_looked_at_in_proportion(kind: str) -> None:
    one = {"WAV": wavs.wav_file(b"\1\0"), "MP4": b"\0\0\0\x08ftyp", "AIFF": b"FORM\0\0\0\4AIFF"}[
        kind
    ]
    view = Counted(one * (8_000_000 // len(one)))
    size = len(view.getvalue())
    found = list(pieces(view, size)) or following_pieces(view, size)
    assert 1 < len(found) <= 1000
    assert view.bytes_read < size
    assert "several" in str(found[0].warning)


def test_a_header_of_empty_chunks_is_looked_at_in_proportion() -> None:
    header = b"RIFF\xff\xff\xff\x7fWAVE" + b"LIST\0\0\0\0" * 131_000
    gate = Gate(3600)
    began = time.process_time()
    for at in range(0, len(header), 100):
        gate.feed(header[at : at + 100])
    assert time.process_time() - began < 2.0  # it was half an hour


def test_the_gate_refuses_too_long_audio_by_its_header() -> None:
    file = wavs.wav_file(bytes(600), declared=RATE * 2 * 61)
    with pytest.raises(AudioError, match="61") as caught:
        Gate(60, length=len(file) + RATE * 2 * 61).feed(file)
    assert caught.value.code == "audio_too_long"


def test_the_gate_refuses_too_long_audio_while_it_arrives_where_the_header_lies() -> None:
    gate = Gate(1)
    gate.feed(wavs.wav_file(bytes(16_000), declared=0))
    gate.feed(bytes(16_000))
    with pytest.raises(AudioError) as caught:
        gate.feed(bytes(10))
    assert caught.value.code == "audio_too_long"


def test_the_worker_refuses_what_is_too_long_whatever_its_header_says() -> None:
    file = encoded(wavs.sine(1, 16, 1, RATE, 3.0), "mp3")
    reader = AudioReader(io.BytesIO(file), len(file), RATE, longest_s=2.0)
    with pytest.raises(AudioError, match=r"limits\.audio_s"):
        list(reader.pcm(8000))


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "m4a"])
def test_a_long_file_needs_no_more_memory_than_a_short_one(tmp_path: Path, kind: str) -> None:
    """Ten minutes against one, each read in a process of its own."""
    minute = wavs.sine(1, 16, 1, RATE, 1.0) * 60
    peaks = []
    for minutes in (1, 10):
        file = tmp_path / "file"
        file.write_bytes(encoded(minute * minutes, kind))
        done = subprocess.run(
            [sys.executable, "-c", _READ, str(file)], capture_output=True, text=True, check=True
        )
        seconds, kilobytes = done.stdout.split()
        assert abs(float(seconds) - 60 * minutes) < 1
        peaks.append(int(kilobytes) * 1024)
    assert peaks[1] - peaks[0] < 10_000_000


_READ = """
import sys
from modelserver.worker.reader import AudioReader
with open(sys.argv[1], "rb") as file:
    size = file.seek(0, 2)
    reader = AudioReader(file, size, 16000)
    samples = sum(len(chunk) for _, chunk in reader.pcm(8000)) // 2
print(samples / 16000, open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
"""
