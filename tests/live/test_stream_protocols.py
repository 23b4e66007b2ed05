"""Streaming protocols over models of the second engine, and over the death of a worker."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import openai
import pytest
import websockets
from onnx_models import make_model, silence, tones
from running import RunningServer, free_port, start_server
from test_captions import RAW
from test_wyoming import CHUNK, events
from wavs import wav_file
from wyoming.asr import Transcribe, Transcript, TranscriptChunk
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient

PIECE = 3200
"""A tenth of a second."""
TEXTS = ("abc ab", "dead", "cabbage", "fed")
SPOKEN = silence(0.5) + b"".join(tones(text) + silence(1.2) for text in TEXTS)


@dataclass
class Served:
    """A server with one model and one worker."""

    server: RunningServer
    wyoming_port: int
    capitals: bool

    @property
    def texts(self) -> list[str]:
        return [text.upper() if self.capitals else text for text in TEXTS]


@dataclass
class Said:
    """Results that a client received."""

    finals: list[str] = field(default_factory=list)
    partials: list[str] = field(default_factory=list)


Halfway = Callable[[], Awaitable[None]]
"""Function that is awaited in mid stream, after the first utterance has been answered."""


@pytest.fixture(scope="module", params=["online_transducer", "sense_voice"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """Streaming and offline."""
    directory, port = tmp_path_factory.mktemp(request.param), free_port()
    with start_server(
        directory,
        f"--model={make_model(request.param, directory / 'tones')}",
        "--workers=1",
        MODELSERVER_ENGINES_ONNX_VOICE_ACTIVITY="loudness",
        MODELSERVER_STREAMS_SHARE="1",
        MODELSERVER_WYOMING_URI=f"tcp://127.0.0.1:{port}",
    ) as server:
        server.wait_whole(1)
        yield Served(server, port, request.param == "sense_voice")


def pieces(size: int) -> list[bytes]:
    return [SPOKEN[at : at + size] for at in range(0, len(SPOKEN), size)]


async def own(served: Served, halfway: Halfway) -> Said:
    said = Said()
    url = served.server.url.replace("http", "ws", 1) + f"/api/audio/stream?{RAW}"
    async with websockets.connect(url) as client:

        async def read(until: str) -> None:
            while True:
                one = json.loads(await client.recv())
                if one["type"] in ("partial", "final"):
                    (said.partials if one["type"] == "partial" else said.finals).append(one["text"])
                if one["type"] in (until, "error"):
                    assert one["type"] == until, one
                    return

        sent = pieces(PIECE)
        for piece in sent[: len(sent) // 2]:
            await client.send(piece)
        await read("final")
        await halfway()
        for piece in sent[len(sent) // 2 :]:
            await client.send(piece)
        await client.send('{"type": "close"}')
        await read("end")
    return said


async def vosk(served: Served, halfway: Halfway) -> Said:
    said = Said()
    async with websockets.connect(served.server.url.replace("http", "ws", 1)) as client:
        await client.send('{"config": {"sample_rate": 16000}}')
        done = False
        for piece in (*pieces(PIECE), '{"eof": 1}'):
            await client.send(piece)
            one = json.loads(await client.recv())
            said.partials += [one["partial"]] if one.get("partial") else []
            said.finals += [one["text"]] if one.get("text") else []
            if said.finals and not done:
                done = True
                await halfway()
    return said


async def wyoming(served: Served, halfway: Halfway) -> Said:
    async with AsyncTcpClient("127.0.0.1", served.wyoming_port) as client:
        await client.write_event(Transcribe().event())
        await client.write_event(AudioStart(16_000, 2, 1).event())
        sent, answered = pieces(CHUNK), []
        for number, piece in enumerate(sent):
            await client.write_event(AudioChunk(16_000, 2, 1, piece).event())
            if number == len(sent) // 2:
                while not answered or not TranscriptChunk.is_type(answered[-1].type):
                    event = await client.read_event()
                    assert event is not None
                    answered.append(event)
                await halfway()
        await client.write_event(AudioStop().event())
        answered += await events(client)
    chunks = [
        TranscriptChunk.from_event(e).text for e in answered if TranscriptChunk.is_type(e.type)
    ]
    (whole,) = (Transcript.from_event(e).text for e in answered if Transcript.is_type(e.type))
    assert "".join(chunks).split() == whole.split()
    return Said([chunk.strip() for chunk in chunks if chunk.strip()])


async def openai_events(served: Served, halfway: Halfway) -> Said:
    """Return the events of a file, whose text comes piece by piece."""
    said = Said()
    async with openai.AsyncOpenAI(base_url=f"{served.server.url}/v1", api_key="none") as client:
        stream = await client.audio.transcriptions.create(
            file=("speech.wav", wav_file(SPOKEN)), model="whisper-1", stream=True
        )
        async for event in stream:
            if event.type == "transcript.text.delta":
                said.finals.append(event.delta.strip())
                if len(said.finals) == 1:
                    await halfway()
            else:
                assert event.text.split() == " ".join(said.finals).split()
    return said


async def nothing() -> None:
    return None


@pytest.fixture
async def killing(served: Served) -> AsyncIterator[Halfway]:
    """Ends the worker; a new one is there at the end."""
    before = len(served.server.events())

    async def kill() -> None:
        (worker,) = served.server.workers()
        worker.send_signal(signal.SIGKILL)

    yield kill
    await asyncio.to_thread(served.server.wait_whole, 1)
    exited = [e for e in served.server.events()[before:] if e["event"] == "worker.exited"]
    assert [e["cause"] for e in exited] == ["killed"]


@pytest.mark.parametrize("protocol", [own, vosk, wyoming, openai_events])
async def test_texts_are_the_same_over_every_protocol_and_over_a_death(
    served: Served, protocol: Callable[[Served, Halfway], Awaitable[Said]], killing: Halfway
) -> None:
    undisturbed = await protocol(served, nothing)
    assert undisturbed.finals == served.texts
    if protocol in (own, vosk):
        assert undisturbed.partials
        assert all(any(text.startswith(p) for text in served.texts) for p in undisturbed.partials)
    replays = served.server.health()["streams"]["replays"]
    again = await protocol(served, killing)
    assert again.finals == undisturbed.finals
    if protocol is not openai_events:
        assert served.server.health()["streams"]["replays"] > replays
