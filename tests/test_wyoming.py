"""Wyoming, with its makers' own client."""

import asyncio
import contextlib
import json
import os
import signal
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import RunningServer, free_port, start_server, until
from wyoming.asr import Transcribe, Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong
from zeroconf.asyncio import AsyncZeroconf

from models.prepared import PreparedModel

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
        async with asyncio.timeout(20):
            while await network.async_get_service_info(kind, f"{name}.{kind}", timeout=300):
                await asyncio.sleep(0.1)


async def transcribe(port: int, pcm: bytes, *before: Any, rate: int = 16_000) -> list[Event]:
    """As Home Assistant does it. Every event up to the transcript or the error."""
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
    async with asyncio.timeout(30):
        while (event := await client.read_event()) is not None:
            said.append(event)
            if Transcript.is_type(event.type) or Error.is_type(event.type):
                break
    return said


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
        start, *pieces, stop, transcript = await transcribe(port, pcm)
        assert TranscriptStart.is_type(start.type)
        assert TranscriptStop.is_type(stop.type)
        assert all(TranscriptChunk.is_type(piece.type) for piece in pieces)
        assert Transcript.from_event(transcript).text == server.convert(wav).json["text"]
        assert Transcript.from_event(transcript).language == "ko"
        whole = "".join(TranscriptChunk.from_event(piece).text for piece in pieces)
        assert whole.replace(" ", "") == transcript.data["text"].replace(" ", "")


async def test_several_recordings_on_one_connection(
    served: tuple[RunningServer, int], clips: list[bytes]
) -> None:
    async with AsyncTcpClient("127.0.0.1", served[1]) as client:
        texts = []
        for _ in range(2):
            await client.write_event(AudioStart(16_000, 2, 1).event())
            await client.write_event(AudioChunk(16_000, 2, 1, clips[0]).event())
            await client.write_event(AudioStop().event())
            texts.append((await events(client))[-1].data["text"])
        assert texts[0] == texts[1] != ""


async def test_silence_is_an_empty_transcript(served: tuple[RunningServer, int]) -> None:
    assert (await transcribe(served[1], bytes(16_000)))[-1].data["text"] == ""
    assert (await transcribe(served[1], b""))[-1].data["text"] == ""


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


async def test_audio_of_another_form_is_an_error(served: tuple[RunningServer, int]) -> None:
    async with AsyncTcpClient("127.0.0.1", served[1]) as client:
        await client.write_event(AudioStart(16_000, 2, 2).event())
        assert Error.from_event((await events(client))[-1]).code == "unsupported_audio"


BAD = {
    "not json": b"GET / HTTP/1.1\r\n\r\n",
    "a list": b"[1, 2]\n",
    "a huge payload": b'{"type": "audio-chunk", "payload_length": 99999999999}\n',
    "an endless line": b"x" * 200_000,
    "an event without what it needs": b'{"type": "audio-start", "data": {}}\n',
}


@pytest.mark.parametrize("what", BAD)
async def test_what_is_no_event_ends_its_connection(
    served: tuple[RunningServer, int], what: str
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served[1])
    writer.write(BAD[what])
    # A reset, where more is on its way than was read.
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionResetError):
            await said_before_the_end(reader)
    writer.close()
    assert served[0].ask("/readyz").status == 200


async def said_before_the_end(reader: asyncio.StreamReader) -> None:
    """An error, or nothing: what the library itself cannot read it takes for an end."""
    answer = await reader.readline()
    assert not answer or json.loads(answer)["type"] == "error"
    await reader.read()


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
    expected = (await transcribe(port, clips[0]))[-1].data["text"]
    async with AsyncTcpClient("127.0.0.1", port) as client:
        await client.write_event(AudioStart(16_000, 2, 1).event())
        half = len(clips[0]) // 4 * 2
        await client.write_event(AudioChunk(16_000, 2, 1, clips[0][:half]).event())
        for worker in server.workers():
            os.kill(worker.pid, signal.SIGKILL)
        await client.write_event(AudioChunk(16_000, 2, 1, clips[0][half:]).event())
        await client.write_event(AudioStop().event())
        assert (await events(client))[-1].data["text"] == expected
