"""Wyoming, with its makers' own client."""

import array
import asyncio
import contextlib
import json
import os
import signal
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from running import RunningServer, free_port, start_server, until
from stopwatch import within
from wyoming.asr import Transcribe, Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong
from zeroconf.asyncio import AsyncZeroconf

from models.vosk.prepared import PreparedModel

CHUNK = 2048


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, prepared_embedded: PreparedModel
) -> Iterator[tuple[RunningServer, int]]:
    assert prepared_embedded
    port = free_port()
    with start_server(
        tmp_path_factory.mktemp("wyoming"), MODELSERVER_WYOMING_URI=f"tcp://127.0.0.1:{port}"
    ) as running:
        running.wait_whole()
        yield running, port


async def test_home_assistant_finds_it(tmp_path: Path, small_settings: dict[str, str]) -> None:
    port, name = free_port(), f"test-{os.getpid()}"
    given = {
        "MODELSERVER_WYOMING_URI": f"tcp://127.0.0.1:{port}",
        "MODELSERVER_WYOMING_ANNOUNCE": name,
        "MODELSERVER_PREPARE": "never",
    }
    kind = "_wyoming._tcp.local."
    async with AsyncZeroconf(interfaces=["127.0.0.1"]) as network:
        with start_server(tmp_path, **small_settings, **given) as server:
            server.wait_event("wyoming.announced", timeout_s=20)
            found = await network.async_get_service_info(kind, f"{name}.{kind}", timeout=10_000)
            assert found is not None
            assert (found.port, found.parsed_addresses()) == (port, ["127.0.0.1"])
        # It says goodbye.
        async with within(20):
            while await network.async_get_service_info(kind, f"{name}.{kind}", timeout=300):
                await asyncio.sleep(0.1)


async def transcribe(port: int, pcm: bytes, *before: Any, rate: int = 16_000) -> list[Event]:
    """Transcribe as Home Assistant does; return every event up to the transcript or the error."""
    async with AsyncTcpClient("127.0.0.1", port) as client:
        for each in before or (Transcribe(language="ko"),):
            await client.write_event(each.event())
        await client.write_event(AudioStart(rate, 2, 1).event())
        for at in range(0, len(pcm), CHUNK):
            await client.write_event(AudioChunk(rate, 2, 1, pcm[at : at + CHUNK]).event())
        await client.write_event(AudioStop().event())
        return await events(client)


async def events(client: AsyncTcpClient) -> list[Event]:
    said = []
    async with within(30):
        while (event := await client.read_event()) is not None:
            said.append(event)
            if TranscriptStop.is_type(event.type) or Error.is_type(event.type):
                break
    return said


def whole_text(said: list[Event]) -> str:
    """Return the text of the one transcript among the events."""
    (transcript,) = (event for event in said if Transcript.is_type(event.type))
    return Transcript.from_event(transcript).text


async def home_assistant(port: int, language: str, stream: AsyncIterator[bytes]) -> str | None:
    """Run the loop of Home Assistant's speech-to-text entity (components/wyoming/stt.py); return
    the text, or None if it reports an error."""
    try:
        async with AsyncTcpClient("127.0.0.1", port) as client:
            await client.write_event(Transcribe(language=language).event())
            await client.write_event(AudioStart(rate=16_000, width=2, channels=1).event())
            async for audio in stream:
                chunk = AudioChunk(rate=16_000, width=2, channels=1, audio=audio)
                await client.write_event(chunk.event())
            await client.write_event(AudioStop().event())
            while True:
                event = await client.read_event()
                if event is None:
                    return None
                if Transcript.is_type(event.type):
                    return Transcript.from_event(event).text
    except OSError:
        return None


async def spoken(pcm: bytes) -> AsyncIterator[bytes]:
    """Yield pieces, as a satellite sends them."""
    for at in range(0, len(pcm), CHUNK):
        yield pcm[at : at + CHUNK]
        await asyncio.sleep(0)


async def test_it_says_what_there_is(served: tuple[RunningServer, int]) -> None:
    async with AsyncTcpClient("127.0.0.1", served[1]) as client:
        await client.write_event(Describe().event())
        event = await client.read_event()
        assert event is not None
        (program,) = Info.from_event(event).asr
        (model,) = program.models
        assert (model.name, model.languages, model.installed) == ("default", ["ko"], True)
        assert program.supports_transcript_streaming
        await client.write_event(Ping("still there?").event())
        event = await client.read_event()
        assert event is not None
        assert Pong.is_type(event.type)


async def test_a_recording_is_transcribed_as_over_http(
    served: tuple[RunningServer, int], clips: list[bytes], wav_clips: list[bytes]
) -> None:
    server, port = served
    for pcm, wav in zip(clips, wav_clips, strict=True):
        start, *pieces, transcript, stop = await transcribe(port, pcm)
        assert TranscriptStart.is_type(start.type)
        assert TranscriptStop.is_type(stop.type)
        assert all(TranscriptChunk.is_type(piece.type) for piece in pieces)
        assert Transcript.from_event(transcript).text == server.convert(wav).json["text"]
        assert Transcript.from_event(transcript).language == "ko"
        whole = "".join(TranscriptChunk.from_event(piece).text for piece in pieces)
        assert whole == transcript.data["text"]


async def test_several_recordings_on_one_connection(
    served: tuple[RunningServer, int], clips: list[bytes]
) -> None:
    async with AsyncTcpClient("127.0.0.1", served[1]) as client:
        texts = []
        for _ in range(2):
            await client.write_event(AudioStart(16_000, 2, 1).event())
            await client.write_event(AudioChunk(16_000, 2, 1, clips[0]).event())
            await client.write_event(AudioStop().event())
            texts.append(whole_text(await events(client)))
        assert texts[0] == texts[1] != ""


async def test_silence_is_an_empty_transcript(served: tuple[RunningServer, int]) -> None:
    assert whole_text(await transcribe(served[1], bytes(16_000))) == ""
    assert whole_text(await transcribe(served[1], b"")) == ""


@pytest.mark.parametrize(
    ("before", "code"),
    [
        (Transcribe(name="nobody"), "model_not_found"),
        (Transcribe(language="fr"), "model_not_found"),
    ],
)
async def test_what_cannot_be_is_an_error(
    served: tuple[RunningServer, int], before: Transcribe, code: str
) -> None:
    said = await transcribe(served[1], b"", before)
    assert Error.from_event(said[-1]).code == code


@pytest.mark.parametrize("form", [(16_000, 7, 1), (16_000, 2, 0), (16_000, 2, 99), (1, 2, 1)])
async def test_audio_of_another_form_is_an_error(
    served: tuple[RunningServer, int], form: tuple[int, int, int]
) -> None:
    async with AsyncTcpClient("127.0.0.1", served[1]) as client:
        await client.write_event(AudioStart(*form).event())
        assert Error.from_event((await events(client))[-1]).code == "unsupported_audio"


async def test_home_assistant_gets_the_text(
    served: tuple[RunningServer, int], clips: list[bytes], wav_clips: list[bytes]
) -> None:
    server, port = served
    text = server.convert(wav_clips[0]).json["text"]
    assert await home_assistant(port, "ko", spoken(clips[0])) == text != ""


async def test_home_assistant_gets_an_end_after_each_refusal(
    served: tuple[RunningServer, int], clips: list[bytes]
) -> None:
    server, port = served
    async with within(10):  # streams.idle_s, which it would wait for, is longer
        assert await home_assistant(port, "fr", spoken(clips[0])) is None
        assert await home_assistant(port, "fr", spoken(b"")) is None
        assert server.ask_admin("POST", "/admin/drain")[0] == 202
        try:
            assert await home_assistant(port, "ko", spoken(clips[0])) is None
        finally:
            assert server.ask_admin("POST", "/admin/resume")[0] == 200
    assert await home_assistant(port, "ko", spoken(clips[0]))


@pytest.mark.parametrize(
    ("code", "refused"),
    [
        ("model_not_found", (Transcribe(language="fr"), AudioStart(16_000, 2, 1))),
        ("unsupported_audio", (AudioStart(16_000, 7, 1),)),
        ("unsupported_audio", (AudioChunk(16_000, 2, 77, b"1234"),)),
    ],
)
async def test_a_refused_client_gets_the_error_and_the_end_after_its_recording(
    served: tuple[RunningServer, int], clips: list[bytes], code: str, refused: tuple[Any, ...]
) -> None:
    async with AsyncTcpClient("127.0.0.1", served[1]) as client, within(10):
        for event in refused:
            await client.write_event(event.event())
        for at in range(0, len(clips[0]), CHUNK):
            await client.write_event(AudioChunk(16_000, 2, 1, clips[0][at : at + CHUNK]).event())
        await client.write_event(AudioStop().event())
        (said,) = await events(client)
        assert Error.from_event(said).code == code
        assert await client.read_event() is None


def stereo(pcm: bytes) -> bytes:
    """Return the samples on two channels."""
    samples = array.array("h", pcm)
    return array.array("h", (sample for sample in samples for _ in range(2))).tobytes()


def wide(pcm: bytes) -> bytes:
    """Return the samples with 4 bytes each."""
    return array.array("i", (sample << 16 for sample in array.array("h", pcm))).tobytes()


def halved(pcm: bytes) -> bytes:
    """Return every second sample, for half the rate."""
    return array.array("h", array.array("h", pcm)[::2]).tobytes()


async def test_chunks_say_of_themselves_what_they_are(
    served: tuple[RunningServer, int], clips: list[bytes]
) -> None:
    port, pcm = served[1], clips[2]
    expected = whole_text(await transcribe(port, pcm))
    slower = whole_text(await transcribe(port, halved(pcm), rate=8000))
    assert expected
    assert slower
    for start in (AudioStart(48_000, 2, 1), None):  # an audio-start that is wrong, and none
        for chunk, text in (
            (AudioChunk(16_000, 2, 2, stereo(pcm)), expected),
            (AudioChunk(16_000, 4, 1, wide(pcm)), expected),
            (AudioChunk(8000, 2, 1, halved(pcm)), slower),
        ):
            async with AsyncTcpClient("127.0.0.1", port) as client:
                if start is not None:
                    await client.write_event(start.event())
                size = CHUNK * chunk.width * chunk.channels
                for at in range(0, len(chunk.audio), size):
                    piece = chunk.audio[at : at + size]
                    said = AudioChunk(chunk.rate, chunk.width, chunk.channels, piece)
                    await client.write_event(said.event())
                await client.write_event(AudioStop().event())
                assert whole_text(await events(client)) == text


async def test_one_recording_may_have_chunks_of_two_forms(
    served: tuple[RunningServer, int], clips: list[bytes]
) -> None:
    port = served[1]
    parts = [whole_text(await transcribe(port, clip)) for clip in (clips[0], clips[2])]
    async with AsyncTcpClient("127.0.0.1", port) as client:
        await client.write_event(AudioChunk(16_000, 2, 1, clips[0]).event())
        await client.write_event(AudioChunk(16_000, 2, 2, stereo(clips[2])).event())
        await client.write_event(AudioStop().event())
        assert whole_text(await events(client)) == " ".join(parts)


async def test_an_audio_stop_alone_is_an_empty_recording(
    served: tuple[RunningServer, int], clips: list[bytes]
) -> None:
    async with AsyncTcpClient("127.0.0.1", served[1]) as client:
        await client.write_event(AudioStop().event())
        assert whole_text(await events(client)) == ""
        await client.write_event(AudioChunk(16_000, 2, 1, clips[0]).event())
        await client.write_event(AudioStop().event())
        assert whole_text(await events(client))


async def test_questions_amid_audio_are_answered(
    served: tuple[RunningServer, int], clips: list[bytes]
) -> None:
    port, half = served[1], len(clips[0]) // 4 * 2
    expected = whole_text(await transcribe(port, clips[0]))
    async with AsyncTcpClient("127.0.0.1", port) as client:
        await client.write_event(AudioStart(16_000, 2, 1).event())
        await client.write_event(Transcribe(language="ko").event())
        await client.write_event(AudioChunk(16_000, 2, 1, clips[0][:half]).event())
        await client.write_event(Ping("amid").event())
        await client.write_event(Describe().event())
        answers = []
        async with within(30):
            while len(answers) < 2:
                event = await client.read_event()
                assert event is not None
                if Pong.is_type(event.type) or Info.is_type(event.type):
                    answers.append(event)
        assert Pong.from_event(answers[0]).text == "amid"
        await client.write_event(AudioChunk(16_000, 2, 1, clips[0][half:]).event())
        await client.write_event(AudioStop().event())
        said = await events(client)
        assert whole_text(said) == expected


BAD = {
    "not json": b"GET / HTTP/1.1\r\n\r\n",
    "a list": b"[1, 2]\n",
    "a huge payload": b'{"type": "audio-chunk", "payload_length": 99999999999}\n',
    "an endless line": b"x" * 200_000,
    "an event without what it needs": b'{"type": "audio-start", "data": {}}\n',
    "an event without data": b'{"type": "audio-start"}\n',
    "data that is a list": b'{"type": "audio-start", "data": [1]}\n',
    "a rate that is no number": (
        b'{"type": "audio-start", "data": {"rate": "x", "width": 2, "channels": 1}}\n'
    ),
    "data that is a number": b'{"type": "transcribe", "data": 5}\n',
    "a type that is a number": b'{"type": 5}\n',
    "a model that is a number": b'{"type": "transcribe", "data": {"name": [], "language": 3}}\n',
    "deep nesting": b"[" * 30_000 + b"\n",
    "deep nesting in data": b'{"type": "x", "data": {"x": ' + b"[" * 30_000 + b"\n",
    "a chunk without its form": (
        b'{"type": "audio-start", "data": {"rate": 16000, "width": 2, "channels": 1}}\n'
        b'{"type": "audio-chunk"}\n'
    ),
    "a negative length": b'{"type": "describe", "data_length": -1}\n',
    "a length that is a text": b'{"type": "describe", "data_length": "9"}\n',
    "additional data that is none": b'{"type": "describe", "data_length": 3}\n???',
}


@pytest.mark.parametrize("what", BAD)
async def test_what_is_no_event_ends_its_connection_with_an_error(
    served: tuple[RunningServer, int], what: str
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served[1])
    writer.write(BAD[what])
    async with within(15):
        try:
            answer = await reader.readline()
            assert json.loads(answer)["type"] == "error"
            await reader.read()
        except ConnectionResetError:  # more was on its way than was read
            assert what == "an endless line"
    writer.close()
    assert served[0].ask("/readyz").status == 200
    assert not [one for one in served[0].events() if one["event"] == "wyoming.client_failed"]


async def test_a_client_that_vanishes_leaves_nothing(
    served: tuple[RunningServer, int], clips: list[bytes]
) -> None:
    server, port = served
    for _ in range(20):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        linger = struct.pack("ii", 1, 0)  # a reset, not a farewell
        writer.get_extra_info("socket").setsockopt(1, 13, linger)
        event = AudioStart(16_000, 2, 1).event()
        writer.write(json.dumps({"type": event.type, "data": event.data}).encode() + b"\n")
        chunk = {"type": "audio-chunk", "data": event.data, "payload_length": CHUNK}
        writer.write(json.dumps(chunk).encode() + b"\n" + clips[0][:CHUNK])
        await writer.drain()
        await asyncio.sleep(0.01)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    until(lambda: server.health()["streams"]["open"] == 0)


async def test_a_killed_worker_is_not_noticed(
    served: tuple[RunningServer, int], clips: list[bytes]
) -> None:
    server, port = served
    expected = whole_text(await transcribe(port, clips[0]))
    async with AsyncTcpClient("127.0.0.1", port) as client:
        await client.write_event(AudioStart(16_000, 2, 1).event())
        half = len(clips[0]) // 4 * 2
        await client.write_event(AudioChunk(16_000, 2, 1, clips[0][:half]).event())
        for worker in server.workers():
            os.kill(worker.pid, signal.SIGKILL)
        await client.write_event(AudioChunk(16_000, 2, 1, clips[0][half:]).event())
        await client.write_event(AudioStop().event())
        assert whole_text(await events(client)) == expected
