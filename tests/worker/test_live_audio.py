"""Audio in pieces comes to the same as audio in one."""

import io

import pytest
from encoded import LOSSLESS, LOSSY, encoded

from modelserver.audio.channels import channel_choice
from modelserver.audio.errors import AudioError
from modelserver.audio.formats import RawFormat
from modelserver.worker.live_audio import LiveAudio
from modelserver.worker.reader import AudioReader

pytestmark = pytest.mark.quick

NOT_LIVE = ("alac in m4a", "m4a", "pcm in mov")
"""Formats whose index comes last."""
TRIMMED = ("mp3", "mp3 in avi")
"""Formats that tell the silence added at the end where only a reader that can seek finds it."""


def whole(data: bytes, raw: RawFormat | None = None) -> bytes:
    reader = AudioReader(io.BytesIO(data), len(data), 16_000, raw=raw)
    return b"".join(chunk for _, chunk in reader.pcm(8000))


def in_pieces(audio: LiveAudio, data: bytes, size: int) -> bytes:
    heard = b""
    for at in range(0, len(data), size):
        audio.feed(data[at : at + size])
        heard += b"".join(audio.blocks())
    audio.end()
    heard += b"".join(audio.blocks())
    audio.close()
    return heard


@pytest.mark.parametrize("size", [97, 4096, 1_000_000])
@pytest.mark.parametrize("kind", [kind for kind in (*LOSSLESS, *LOSSY) if kind not in NOT_LIVE])
def test_pieces_of_any_size_come_to_the_whole(clips: list[bytes], kind: str, size: int) -> None:
    data = encoded(clips[0][:96_000], kind)
    heard = in_pieces(LiveAudio(16_000), data, size)
    expected = whole(data)
    if kind in TRIMMED:
        assert heard.startswith(expected)
        assert len(heard) - len(expected) < 16_000 // 5
    else:
        assert heard == expected


@pytest.mark.parametrize("kind", NOT_LIVE)
def test_what_cannot_be_heard_before_its_end_is_refused(clips: list[bytes], kind: str) -> None:
    data = encoded(clips[0][:96_000], kind)
    with pytest.raises(AudioError) as refused:
        in_pieces(LiveAudio(16_000), data, 4096)
    assert refused.value.code == "not_audio"


@pytest.mark.parametrize(
    "raw",
    [
        RawFormat("s16le", 16_000, 1),
        RawFormat("s16le", 48_000, 2),
        RawFormat("f32le", 44_100, 1),
        RawFormat("mulaw", 8_000, 1),
        RawFormat("s24be", 16_000, 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [1, 333, 100_000])
def test_samples_in_pieces_come_to_the_whole(clips: list[bytes], raw: RawFormat, size: int) -> None:
    data = clips[0][: 6_000 if size == 1 else 96_000] * 2
    assert in_pieces(LiveAudio(16_000, raw=raw), data, size) == whole(data, raw)


@pytest.mark.parametrize(
    "raw", [RawFormat("s16le", 16_000, 1), RawFormat("s16le", 48_000, 1)], ids=str
)
def test_what_has_not_come_out_yet_is_known(clips: list[bytes], raw: RawFormat) -> None:
    data = clips[0][:96_001]
    first, heard = LiveAudio(16_000, raw=raw), b""
    first.feed(data[:50_001])
    heard += b"".join(first.blocks())
    rest = first.rest()
    assert data[:50_001].endswith(rest)
    first.close()
    second = LiveAudio(16_000, raw=raw)
    second.feed(rest)
    heard += b"".join(second.blocks())
    heard += in_pieces(second, data[50_001:], 8000)
    assert len(heard) == pytest.approx(len(whole(data, raw)), abs=64)


def test_a_wav_file_past_its_header_is_samples(clips: list[bytes]) -> None:
    for kind, encoding in (
        ("wav", "s16le"),
        ("wav of mu-law", "mulaw"),
        ("wav of floats", "f32le"),
    ):
        audio = LiveAudio(16_000)
        assert audio.raw is None
        audio.feed(encoded(clips[0], kind)[:20_000])
        assert audio.raw == RawFormat(encoding, 16_000, 1)
        audio.close()


def test_a_wav_file_has_the_length_that_it_says(clips: list[bytes]) -> None:
    data = encoded(clips[0][:32_000], "wav")
    assert in_pieces(LiveAudio(16_000), data + b"LIST" + bytes(999), 1000) == clips[0][:32_000]
    at = data.index(b"data") + 4
    endless = data[:at] + b"\xff" * 4 + data[at + 4 :]
    assert in_pieces(LiveAudio(16_000), endless + clips[0], 1000) == clips[0][:32_000] + clips[0]


@pytest.mark.parametrize(
    ("data", "code"), [(b"", "not_audio"), (b"RIFF", "not_audio"), (b"hello " * 500, "not_audio")]
)
def test_what_is_no_audio_is_refused(data: bytes, code: str) -> None:
    with pytest.raises(AudioError) as refused:
        in_pieces(LiveAudio(16_000), data, 100)
    assert refused.value.code == code


def test_a_stream_has_one_channel() -> None:
    audio = LiveAudio(16_000, raw=RawFormat("s16le", 8000, 2), channels=channel_choice("split"))
    with pytest.raises(AudioError, match="one channel"):
        in_pieces(audio, bytes(64_000), 8000)
    audio = LiveAudio(16_000, raw=RawFormat("s16le", 16_000, 2), channels=channel_choice("1"))
    stereo = b"".join(bytes((1, 0, n % 200, 0)) for n in range(8000))
    assert set(in_pieces(audio, stereo, 999)[1::2]) == {0}


def test_one_that_is_given_up_leaves_no_thread(clips: list[bytes]) -> None:
    import threading

    before = threading.active_count()
    for _ in range(20):
        audio = LiveAudio(16_000)
        audio.feed(encoded(clips[0][:32_000], "opus")[:2000])
        list(audio.blocks())
        audio.close()
    for thread in threading.enumerate():
        if thread.name == "decoder":
            thread.join(2)
    assert threading.active_count() == before


@pytest.mark.parametrize("kind", ["wav", "rf64", "wav of 24 bits", "fragmented mp4", "aiff", "caf"])
def test_another_recording_may_follow(clips: list[bytes], kind: str) -> None:
    """Send another recording, as when a recorder is started again; also if the beginning of the
    first was decoded on another worker."""
    data = encoded(clips[0][:96_000], kind)
    expected = whole(data)

    def messages(audio: LiveAudio, *recordings: bytes) -> bytes:
        heard = b""
        for recording in recordings:
            for at in range(0, len(recording), 5000):
                audio.feed(recording[at : at + 5000])
                heard += b"".join(audio.blocks())
        audio.end()
        heard += b"".join(audio.blocks())
        audio.close()
        return heard

    assert messages(LiveAudio(16_000), data, data, data) == expected * 3
    if kind == "wav":
        raw = RawFormat("s16le", 16_000, 1)
        later = messages(LiveAudio(16_000, raw=raw, restarts=True), expected[-20_000:], data)
        assert later == expected[-20_000:] + expected
        samples = messages(LiveAudio(16_000, raw=raw), data)
        assert samples == data  # which were said to be samples


@pytest.mark.parametrize(
    "raw",
    [RawFormat("s16le", 24_000), RawFormat("mulaw", 8000), RawFormat("alaw", 8000)],
    ids=lambda raw: raw.encoding,
)
@pytest.mark.parametrize("size", [1, 4803, 30_000])
def test_all_samples_come_out_when_they_are_flushed(raw: RawFormat, size: int) -> None:
    ramp = bytes(at % 251 for at in range(size * 3))
    audio = LiveAudio(16_000, raw=raw)
    heard = b""
    for number in range(3):
        audio.feed(ramp[size * number : size * (number + 1)])
        audio.flush()
        heard += b"".join(audio.blocks())
        frames = size * (number + 1) // raw.frame_bytes
        assert abs(len(heard) // 2 - frames * 16_000 / raw.rate) <= 3 * (number + 1)
        assert audio.rest() == ramp[frames * raw.frame_bytes : size * (number + 1)]
    audio.end()
    b"".join(audio.blocks())
    audio.close()
    assert audio.warnings == []
