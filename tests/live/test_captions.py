"""Our own live stream: any audio in, captions out, as the AsyncAPI document says."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jsonschema
import pytest
import websockets
from by_hand import websocket_handshake
from encoded import encoded
from running import RunningServer, start_server, until
from stopwatch import within
from wavs import wav_file

from models.vosk.prepared import PreparedModel

RAW = "encoding=s16le&rate=16000"
PIECE = 6400
EVENTS = {"Accept": "text/event-stream"}


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, prepared_embedded: PreparedModel
) -> Iterator[RunningServer]:
    assert prepared_embedded
    given = {"MODELSERVER_STREAMS_SHARE": "1"}
    with start_server(tmp_path_factory.mktemp("captions"), **given) as running:
        running.wait_whole()
        yield running


class Client:
    """Client that sends audio, and collects messages; each must be as it is described."""

    def __init__(self, socket: websockets.ClientConnection, described: dict[str, Any]) -> None:
        self.socket = socket
        self.said: list[dict[str, Any]] = []
        self.undescribed: list[str] = []
        self._described = described
        self._changed = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            async for text in self.socket:
                message = json.loads(text)
                schema = self._described["components"]["messages"][message["type"]]["payload"]
                root = {**schema, "components": self._described["components"]}
                if error := jsonschema.exceptions.best_match(
                    jsonschema.Draft202012Validator(root).iter_errors(message)
                ):
                    self.undescribed.append(f"{message}: {error.message}")
                self.said.append(message)
                self._changed.set()

    async def send(self, data: bytes, piece: int = PIECE) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            for at in range(0, len(data), piece):
                await self.socket.send(data[at : at + piece])

    async def tell(self, kind: str) -> None:
        await self.socket.send(json.dumps({"type": kind}))

    async def until(self, kind: str) -> dict[str, Any]:
        async with within(60):
            while not (found := [one for one in self.said if one["type"] == kind]):
                self._changed.clear()
                await self._changed.wait()
        return found[-1]

    async def end(self) -> list[dict[str, Any]]:
        """Return all messages, once it is closed."""
        async with within(60):
            await self._reading
        assert not self.undescribed
        return self.said

    @property
    def finals(self) -> list[dict[str, Any]]:
        return [one for one in self.said if one["type"] == "final"]

    @property
    def heard_s(self) -> float:
        """Return the position in the audio, by the messages."""
        return max((one.get("end", 0.0) for one in self.said), default=0.0)

    @property
    def text(self) -> str:
        return " ".join(one["text"] for one in self.finals if one["text"])


@asynccontextmanager
async def connected(
    server: RunningServer, described: dict[str, Any], query: str = ""
) -> AsyncIterator[Client]:
    url = server.url.replace("http", "ws", 1) + f"/api/audio/stream?{query}"
    async with websockets.connect(url, max_size=None) as socket:
        yield Client(socket, described)


async def hear(
    server: RunningServer,
    described: dict[str, Any],
    data: bytes,
    piece: int = PIECE,
    query: str = "",
) -> Client:
    async with connected(server, described, query) as client:
        await client.send(data, piece)
        with contextlib.suppress(websockets.ConnectionClosed):
            await client.tell("close")
        await client.end()
    return client


@pytest.mark.parametrize(
    ("kind", "piece"),
    [("opus", 1), ("wav", 777), ("wav", 320_000), ("webm", 4000), ("flac", 50_000), ("mp3", 800)],
)
async def test_what_comes_in_pieces_is_what_a_file_is(
    server: RunningServer, described: dict[str, Any], clips: list[bytes], kind: str, piece: int
) -> None:
    # A byte a message is a thousand messages a second of audio: a few seconds of it.
    data = encoded(clips[0] if piece > 1 else clips[0][: 4 * 32_000], kind)
    file = server.convert(data, "?words=true&segments=true").json
    client = await hear(server, described, data, piece, "words=true")
    assert client.text == file["text"] != ""
    words = [word for final in client.finals for word in final["words"]]
    assert [word["word"] for word in words] == [word["word"] for word in file["words"]]
    for ours, theirs in zip(words, file["words"], strict=True):
        assert ours["start"] == pytest.approx(theirs["start"], abs=0.05)
    assert [(f["start"], f["end"], f["text"]) for f in client.finals] == [
        (s["start"], s["end"], s["text"]) for s in file["segments"]
    ]
    last = client.said[-1]
    assert last["duration"] == pytest.approx(file["duration"], abs=0.1)
    assert (last["type"], last["segments"]) == ("end", len(client.finals))
    assert client.socket.close_code == 1000


async def test_samples_are_answered_while_they_are_spoken(
    server: RunningServer, described: dict[str, Any], clips: list[bytes], wav_clips: list[bytes]
) -> None:
    client = await hear(server, described, clips[1], PIECE, RAW)
    assert client.text == server.convert(wav_clips[1]).json["text"]
    first = client.said[0]
    assert (first["type"], first["language"]) == ("begin", "ko")
    partials = [one for one in client.said if one["type"] == "partial"]
    assert len(partials) > 3
    assert all(one["start"] <= one["end"] for one in partials)
    quiet = await hear(server, described, clips[1], PIECE, RAW + "&partials=false")
    assert [one["type"] for one in quiet.said][1:-1] == ["final"] * len(client.finals)
    assert quiet.text == client.text


async def test_other_samples_are_resampled(
    server: RunningServer, described: dict[str, Any], clips: list[bytes]
) -> None:
    wav = encoded(clips[0], "wav", 44_100)
    samples = wav[wav.index(b"data") + 8 :]
    query = "encoding=s16le&rate=44100&channel_count=1"
    client = await hear(server, described, samples, 1001, query)
    assert client.text == server.convert(wav).json["text"]


async def test_a_client_may_end_a_segment(
    server: RunningServer, described: dict[str, Any], clips: list[bytes], wav_clips: list[bytes]
) -> None:
    async with connected(server, described, RAW) as client:
        await client.tell("Finalize")
        assert (await client.until("final"))["text"] == ""
        await client.send(clips[0])
        await client.tell("finalize")
        await client.send(clips[1])
        await client.tell("KeepAlive")
        await client.tell("CloseStream")
        await client.end()
    ended = [final for final in client.finals if final.get("finalized")]
    assert len(ended) == 2
    at = client.finals.index(ended[1])
    first = " ".join(final["text"] for final in client.finals[1 : at + 1])
    assert first == server.convert(wav_clips[0]).json["text"]
    assert [final["segment"] for final in client.finals] == list(range(len(client.finals)))
    assert client.finals[-1]["start"] > len(clips[0]) / 32_000 - 1


async def test_readings_are_given_where_they_are_asked_for(
    server: RunningServer, described: dict[str, Any], clips: list[bytes], wav_clips: list[bytes]
) -> None:
    client = await hear(server, described, clips[0], PIECE, RAW + "&alternatives=3")
    readings = client.finals[0]["alternatives"]
    assert 1 < len(readings) <= 3
    assert readings[0]["text"] == client.finals[0]["text"]
    file = server.convert(wav_clips[0], "?alternatives=3").json
    assert file["segments"][0]["alternatives"][0] == readings[0]
    assert server.convert(wav_clips[0], "?alternatives=99").status == 400


async def test_phrases_alone_are_heard_where_they_are_asked_for(
    server: RunningServer, described: dict[str, Any], clips: list[bytes], wav_clips: list[bytes]
) -> None:
    query = RAW + "&phrases=어제&phrases=친구 시장&phrases=xyzzy"
    client = await hear(server, described, clips[0], PIECE, query)
    assert client.text
    assert set(client.text.split()) <= {"어제", "친구", "시장"}
    assert "xyzzy" in client.said[-1]["warnings"][0]
    file = server.convert(wav_clips[0], "?phrases=" + quote('["어제", "친구 시장"]')).json
    assert file["text"] == client.text
    url = server.url.replace("http", "ws", 1) + "/"
    async with websockets.connect(url) as vosk:
        listed = {"sample_rate": 16_000, "phrase_list": ["어제", "친구 시장"]}
        await vosk.send(json.dumps({"config": listed}, ensure_ascii=False))
        await vosk.send(clips[0])
        await vosk.recv()
        await vosk.send('{"eof": 1}')
        assert set(json.loads(await vosk.recv())["text"].split()) <= {"어제", "친구", "시장"}
    refused = await hear(server, described, clips[0], PIECE, RAW + "&phrases=xyzzy")
    assert refused.said[-1]["error"]["code"] == "grammar_unknown"
    (beside,) = (w for w in server.health()["workers"] if w["model"] == "default.phrases")
    assert beside["id"] == 2
    # The others are recognised as before.
    assert server.convert(wav_clips[0]).json["text"] != file["text"]


BAD = {
    "no parameter of ours": ("wat=1", b"", "bad_parameter", 1008),
    "no model": ("model=nobody", b"", "model_not_found", 1008),
    "several channels": ("channels=split", b"", "bad_parameter", 1008),
    "samples without a rate": ("encoding=s16le", b"", "bad_parameter", 1008),
    "no audio": ("", b"hello " * 400, "not_audio", 1003),
    "nothing": ("", b"", "not_audio", 1003),
}


@pytest.mark.parametrize("what", BAD)
async def test_what_cannot_be_is_said_before_the_close(
    server: RunningServer, described: dict[str, Any], what: str
) -> None:
    query, data, code, close = BAD[what]
    client = await hear(server, described, data, 500, query)
    last = client.said[-1]
    assert (last["type"], last["error"]["code"]) == ("error", code)
    assert last["error"]["request_id"]
    assert client.socket.close_code == close


async def test_text_that_is_not_known_is_told_so(
    server: RunningServer, described: dict[str, Any]
) -> None:
    for text in ("hello", "{}", '{"type": "dance"}', "[]", "null", '{"type": 5}'):
        async with connected(server, described, RAW) as client:
            await client.socket.send(text)
            told = await client.until("warning")
            assert "keepalive" in told["message"]
            await client.tell("close")  # nothing is lost by it
            said = await client.end()
        assert (said[-1]["type"], said[-1]["reason"]) == ("end", "closed")
        assert client.socket.close_code == 1000
    assert server.ask("/api/audio/stream").status == 426


@pytest.mark.parametrize("kind", ["samples", "wav", "webm"])
async def test_a_killed_worker_changes_nothing(
    server: RunningServer, described: dict[str, Any], clips: list[bytes], kind: str
) -> None:
    spoken = clips[0] + bytes(48_000) + clips[1]
    data = spoken if kind == "samples" else encoded(spoken, kind)
    query = (RAW + "&words=true") if kind == "samples" else "words=true"
    undisturbed = await hear(server, described, data, PIECE, query)
    before = server.health()["streams"]["replays"]

    async def disturbed() -> Client:
        async with connected(server, described, query) as client:
            for part in range(4):
                share = data[len(data) * part // 4 : len(data) * (part + 1) // 4]
                await client.send(share)
                until_s = (part + 0.5) / 4 * len(spoken) / 32_000
                async with within(30):
                    while part < 3 and client.heard_s < until_s:
                        await asyncio.sleep(0.01)
                for worker in server.health()["workers"]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(worker["pid"], signal.SIGKILL)
            await client.tell("close")
            await client.end()
        return client

    client = await disturbed()
    assert client.finals == undisturbed.finals
    assert client.said[-1] == undisturbed.said[-1]
    assert server.health()["streams"]["replays"] > before
    until(
        lambda: (
            [w["state"] for w in server.health()["workers"] if w["model"] == "default"]
            == ["idle", "idle"]
        )
    )


async def test_times_go_on_where_more_has_gone_than_is_kept(
    tmp_path: Path, described: dict[str, Any], small_settings: dict[str, str], clips: list[bytes]
) -> None:
    """Speak without a pause, so that there is no checkpoint, and the first input is not
    retained."""
    given = {
        **small_settings,
        "MODELSERVER_DEBUG_STREAM_REPLAY_S": "1",
        "MODELSERVER_WORKERS_COUNT": "1",
    }
    spoken = clips[1][: 32_000 * 5]
    with start_server(tmp_path, **given) as running:
        running.wait_whole(1)
        async with connected(running, described, RAW) as client:
            await client.send(spoken)
            async with within(30):
                while client.heard_s < 4:
                    await asyncio.sleep(0.01)
            assert not client.finals
            (worker,) = running.health()["workers"]
            os.kill(worker["pid"], signal.SIGKILL)
            await client.send(spoken[: 32_000 * 2])
            await client.tell("close")
            await client.end()
        assert running.health()["streams"]["replays"] == 1
    assert client.finals[0]["start"] > 3
    assert 6.9 < client.said[-1]["duration"] < 7.1


async def test_progress_is_shown_while_a_file_is_decoded(
    server: RunningServer, clips: list[bytes]
) -> None:
    # Without a pause: on a fast machine an utterance of a few seconds ends before it is reported.
    long = wav_file((clips[0][2 * 8_000 : 2 * 28_000] * 44)[: 2 * 16_000 * 55])
    plain = server.convert(long).json
    answer = server.convert(long, "?words=true", **EVENTS)
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    events = [
        (event.split("\n")[0][7:], json.loads(event.split("\n")[1][6:]))
        for event in answer.body.decode().strip().split("\n\n")
    ]
    kinds = [kind for kind, _ in events]
    assert kinds[-1] == "done"
    assert {"partial", "final", "progress"} <= set(kinds)
    done = events[-1][1]
    assert done["text"] == plain["text"]
    finals = [document for kind, document in events if kind == "final"]
    assert " ".join(final["text"] for final in finals) == plain["text"]
    assert [word for final in finals for word in final["words"]] == done["words"]
    refused = server.convert(b"hello", **EVENTS)
    assert (refused.status, refused.json["error"]["code"]) == (400, "not_audio")


def test_what_goes_wrong_late_is_an_event(server: RunningServer, clips: list[bytes]) -> None:
    broken = encoded(clips[0], "flac")[:2000] + b"\0" * 50_000
    answer = server.convert(broken, **EVENTS)
    assert answer.status in (200, 400)
    if answer.status == 200:
        assert (
            answer.body.decode()
            .strip()
            .split("\n\n")[-1]
            .startswith(("event: error", "event: done"))
        )


async def test_idle_clients_and_the_end_of_the_server_get_their_last_result(
    tmp_path: Path, described: dict[str, Any], small_settings: dict[str, str], clips: list[bytes]
) -> None:
    given = {"MODELSERVER_PREPARE": "never", "MODELSERVER_STREAMS_IDLE_S": "1"}
    with start_server(tmp_path, **small_settings, **given) as server:
        server.wait_ready()
        async with connected(server, described, RAW) as client:
            for _ in range(4):  # a client that announces it may be silent
                await asyncio.sleep(0.5)
                await client.tell("keepalive")
            await client.send(clips[0][:PIECE])
            started = time.monotonic()
            said = await client.end()
            assert time.monotonic() - started > 0.9
        assert (said[-1]["type"], said[-1]["reason"]) == ("end", "nothing came for 1 s")
        assert client.socket.close_code == 4408
        async with connected(server, described, RAW) as client:
            await client.send(clips[0][:PIECE])
            await client.until("begin")
            server.process.send_signal(signal.SIGTERM)
            said = await client.end()
            assert said[-1]["type"] == "end"
            assert client.socket.close_code == 1001
        assert server.process.wait(20) == 0


async def test_bad_clients_make_no_good_one_late(
    server: RunningServer, described: dict[str, Any], clips: list[bytes]
) -> None:
    vosk = server.url.replace("http", "ws", 1) + "/"

    async def good() -> float:
        """Return the seconds within which 95 of 100 results come."""
        late = []
        async with websockets.connect(vosk) as client:
            await client.send('{"config": {"sample_rate": 16000}}')
            for at in range(0, len(clips[0]), PIECE):
                started = time.monotonic()
                await client.send(clips[0][at : at + PIECE])
                await client.recv()
                late.append(time.monotonic() - started)
                await asyncio.sleep(max(0.0, 0.2 + started - time.monotonic()))
        return sorted(late)[int(len(late) * 0.95)]

    async def bad(message: bytes | str, *more: bytes | str) -> None:
        while True:
            with contextlib.suppress(websockets.WebSocketException, OSError, TimeoutError):
                async with websockets.connect(vosk, close_timeout=1) as client:
                    for each in (message, *more):
                        await client.send(each)
                    async with asyncio.timeout(1):
                        await client.wait_closed()
            await asyncio.sleep(0.05)

    async def deaf() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(websocket_handshake("/"))
        frame = b"\x82\xfe\x0f\xa0\0\0\0\0" + bytes(4000)
        try:
            for _ in range(2000):
                writer.write(frame)
                await writer.drain()  # stops it once the server reads no more
        finally:
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def fleeting() -> None:
        while True:
            for _ in range(20):
                with socket.create_connection(("127.0.0.1", server.port)) as connection:
                    connection.send(b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n")
            await asyncio.sleep(0.05)

    alone = await good()
    others = [
        asyncio.create_task(one)
        for one in (
            bad("audio as text"),
            bad(b"\0", b"\0\0\0"),
            bad(bytes(10_000_000)),
            bad('{"config": {"sample_rate": 1e9}}'),
            bad('{"config": {"sample_rate": 16000}}', clips[1], '{"reset": 1}', '{"eof": 1}'),
            deaf(),
            fleeting(),
        )
    ]
    beside = await good()
    for one in others:
        one.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    # On a machine that is busy with other things, a client alone waits, too.
    assert beside < 0.5 + 4 * alone


def test_the_document_names_every_parameter_and_message(described: dict[str, Any]) -> None:
    stream = described["channels"]["stream"]
    assert set(stream["messages"]) == {
        "begin", "partial", "final", "warning", "end", "error",
        "revised", "keepalive", "finalize", "close", "audio",
    }  # fmt: skip
    parameters = stream["bindings"]["ws"]["query"]["properties"]
    assert {"encoding", "rate", "phrases", "alternatives", "partials"} <= set(parameters)
    for name, message in described["components"]["messages"].items():
        assert message["summary"], name
        jsonschema.Draft202012Validator.check_schema(message["payload"])


def test_nothing_is_left_over(server: RunningServer) -> None:
    until(lambda: server.health()["streams"]["open"] == 0, 20)
    assert server.health()["streams"]["replay_bytes"] == 0
    assert server.health()["queue"]["admitted"] == 0
