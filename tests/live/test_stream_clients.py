"""Clients of the stream protocols as they are: loosely typed, hostile, too fast, gone, or without
the beginning of what they send."""

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import websockets
from by_hand import websocket_handshake
from encoded import encoded
from places import SUPPORT
from running import RunningServer, start_server, until
from stopwatch import within
from wavs import wav_file

from modelserver.access.keyring import add_key, remove_key

RAW = "/api/audio/stream?encoding=s16le&rate=16000"
DEEP = "[" * 10_000


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, small_settings: dict[str, str]
) -> Iterator[RunningServer]:
    given = {
        **small_settings,
        "MODELSERVER_STREAMS_SHARE": "1",
        "MODELSERVER_DEBUG_STREAM_PING_S": "0.3",
        "MODELSERVER_WORKERS_COUNT": "1",
    }
    with start_server(tmp_path_factory.mktemp("clients"), **given) as running:
        running.wait_whole(1)
        yield running


@asynccontextmanager
async def connected(
    server: RunningServer, path: str, **options: Any
) -> AsyncIterator[websockets.ClientConnection]:
    url = server.url.replace("http", "ws", 1) + path
    async with websockets.connect(url, max_size=None, **options) as client:
        yield client


async def rest(client: websockets.ClientConnection) -> list[Any]:
    """Return all messages until it is closed."""
    said = []
    with contextlib.suppress(websockets.ConnectionClosed):
        async with within(60):
            while True:
                said.append(json.loads(await client.recv()))
    return said


def of_type(said: list[Any], kind: str) -> list[Any]:
    return [one for one in said if one["type"] == kind]


# --- Vosk's protocol ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        {"sample_rate": "16000"},
        {"sample_rate": 16000.0, "max_alternatives": 3.0, "words": 1},
        {"sample_rate": "16000.0", "max_alternatives": "0", "words": "true"},
        {"sample_rate": 16000, "words": None, "partial_words": "yes", "max_alternatives": True},
        {"sample_rate": 16000, "words": [], "partial_words": {}, "max_alternatives": " 2 "},
    ],
)
async def test_settings_of_any_type_are_taken_as_vosk_s_server_takes_them(
    server: RunningServer, clips: list[bytes], config: dict[str, Any]
) -> None:
    async with connected(server, "/ws") as client:
        await client.send(json.dumps({"config": config}))
        await client.send(clips[0])
        await client.recv()
        await client.send('{"eof" : 1}')
        last = json.loads(await client.recv())
    alternatives = int(config.get("max_alternatives", 0))
    assert ("alternatives" in last) == bool(alternatives)
    if not alternatives:
        assert ("result" in last) == bool(config.get("words", True) or config.get("words") is None)


@pytest.mark.parametrize("text", ["ping", '{"what": 1}', f'{{"config": {{"x": {DEEP}', DEEP])
async def test_what_is_no_message_loses_nothing_that_was_said(
    server: RunningServer, clips: list[bytes], text: str
) -> None:
    async with connected(server, "/ws") as client:
        await client.send('{"config": {"sample_rate": 16000}}')
        await client.send(clips[0])
        await client.recv()
        await client.send(text)
        said = await rest(client)
        assert said[-1]["text"]
        assert client.close_code == 1003
    assert not server.events("request.failed")


# --- our own --------------------------------------------------------------------------------------


async def test_text_that_is_not_known_is_a_warning(
    server: RunningServer, clips: list[bytes]
) -> None:
    async with connected(server, RAW) as client:
        await client.send(clips[0])
        for text in ("ping", "", "{}", '{"type": 5}', '{"type": "Metadata"}', DEEP) * 3:
            await client.send(text)
        await client.send(f'{{"type": {DEEP}')
        await client.send('{"type": "CloseStream", "more": [1, 2]}')
        said = await rest(client)
        assert client.close_code == 1000
    assert 1 <= len(of_type(said, "warning")) <= 10
    assert "keepalive" in of_type(said, "warning")[0]["message"]
    assert of_type(said, "final")
    assert said[-1]["type"] == "end"
    assert not server.events("request.failed")


async def test_who_sends_faster_than_can_be_heard_is_not_cut_off(
    server: RunningServer, clips: list[bytes]
) -> None:
    """Send so fast that its pongs wait behind its audio."""
    long = b"".join(clips) * 12
    async with connected(server, RAW, ping_interval=None) as client:

        async def send() -> None:
            for at in range(0, len(long), 64_000):
                await client.send(long[at : at + 64_000])
            await client.send('{"type": "close"}')

        sending = asyncio.create_task(send())
        said = await rest(client)
        await sending
        assert client.close_code == 1000
    assert said[-1]["duration"] == pytest.approx(len(long) / 32_000, abs=0.1)


async def test_who_answers_no_ping_is_gone(server: RunningServer) -> None:
    seen = len(server.events())
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(websocket_handshake(RAW))
        server.wait_event("request.abandoned", seen, path="/api/audio/stream")
        sock.settimeout(10)
        with contextlib.suppress(ConnectionError):
            while sock.recv(65_536):
                pass


@pytest.mark.parametrize("kind", ["webm", "opus", "fragmented mp4", "flac", "aac"])
async def test_a_stream_without_its_beginning_is_told_so_within_seconds(
    server: RunningServer, clips: list[bytes], kind: str
) -> None:
    data = encoded(clips[1], kind)
    later = data[len(data) // 3 :]
    async with connected(server, "/api/audio/stream") as client:
        with contextlib.suppress(websockets.ConnectionClosed):
            for at in range(0, min(len(later), 40_000), 1000):
                await client.send(later[at : at + 1000])
            if kind == "aac":  # which has no beginning
                await client.send('{"type": "close"}')
        said = await rest(client)
    if kind == "aac":
        assert said[-1]["type"] == "end"
        return
    assert said[-1]["type"] == "error"
    assert said[-1]["error"]["code"] == "not_audio"
    assert "beginning" in said[-1]["error"]["message"]
    assert client.close_code == 1003


@pytest.mark.parametrize(
    "kind",
    ["wav", "webm", "opus", "fragmented mp4", "mp4 of Safari's recorder", "flac", "wav of a-law"],
)
async def test_a_recorder_that_is_started_again_is_heard_again(
    server: RunningServer, clips: list[bytes], kind: str
) -> None:
    data = encoded(clips[0], kind)
    async with connected(server, "/api/audio/stream") as client:
        for _ in range(2):
            for at in range(0, len(data), 3000):
                await client.send(data[at : at + 3000])
        await client.send('{"type": "close"}')
        said = await rest(client)
    assert said[-1]["type"] == "end", said[-1]
    assert said[-1]["duration"] == pytest.approx(2 * len(clips[0]) / 32_000, abs=0.3)


# --- the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [RAW, "/ws"])
async def test_who_closes_as_one_should_has_not_abandoned_it(
    server: RunningServer, clips: list[bytes], path: str
) -> None:
    for code in (1000, 1001):
        seen = len(server.events())
        async with connected(server, path) as client:
            await client.send(clips[0][:32_000])
            await client.recv()
            await client.close(code=code)
        done = server.wait_event("request.done", seen, close=code)
        assert done["status"] == 101
        assert not [e for e in server.events()[seen:] if e["event"] == "request.abandoned"]


async def test_codes_that_a_client_invents_are_counted_together(server: RunningServer) -> None:
    for code in range(3000, 3020):
        async with connected(server, RAW) as client:
            await client.recv()
            await client.close(code=code)
    until(lambda: server.health()["streams"]["open"] == 0)
    metrics = server.ask_admin("GET", "/metrics")[1].decode()
    ends = dict(re.findall(r'modelserver_stream_ends_total\{code="(\w+)"\} ([0-9.]+)', metrics))
    assert float(ends["other"]) == 20
    assert not set(ends) & {str(code) for code in range(3000, 3020)}


# --- keys -----------------------------------------------------------------------------------------


async def test_a_key_that_is_revoked_ends_its_streams(
    tmp_path: Path, small_settings: dict[str, str], clips: list[bytes]
) -> None:
    keys = tmp_path / "keys"
    key = add_key(keys, "alice")
    given = {**small_settings, "MODELSERVER_AUTH_KEYS_FILE": str(keys)}
    headers = {"Authorization": f"Bearer {key}"}
    with start_server(tmp_path, **given) as running:
        running.wait_ready()
        for path in (RAW, "/ws"):
            if not keys.read_text():
                key = add_key(keys, "alice")
                headers = {"Authorization": f"Bearer {key}"}
            async with within(10):
                while running.ask("/v1/models", **headers).status != 200:
                    await asyncio.sleep(0.1)
            async with connected(running, path, additional_headers=headers) as client:
                await client.send(clips[0][:32_000])
                await client.recv()
                remove_key(keys, "alice")
                reading = asyncio.create_task(rest(client))
                with contextlib.suppress(websockets.ConnectionClosed):
                    async with within(20):
                        while True:
                            await client.send(clips[0][:3200])
                            await asyncio.sleep(0.05)
                await reading
                assert client.close_code == 1008
                assert "revoked" in client.close_reason


async def test_what_was_heard_is_paid_for_by_who_leaves_before_the_last_word(
    tmp_path: Path, small_settings: dict[str, str], clips: list[bytes]
) -> None:
    keys = tmp_path / "keys"
    given = {
        **small_settings,
        "MODELSERVER_AUTH_KEYS_FILE": str(keys),
        "MODELSERVER_AUTH_KEY_AUDIO_S": "10",
        "MODELSERVER_DEBUG_LONG_FROM_S": "600",
        "MODELSERVER_WORKERS_COUNT": "1",
    }
    spoken = b"".join(clips) * 12
    add_key(keys, "other")
    with start_server(tmp_path, **given) as running:
        running.wait_ready()
        for name in ("events", "container", "two-at-once"):
            headers = {"Authorization": f"Bearer {add_key(keys, name)}"}
            await _until_known(running, headers)
            if name == "events":
                _leave_after(running, wav_file(spoken), headers, 15.0)
            elif name == "container":
                await _stream_and_leave(running, encoded(spoken, "webm"), headers, 15.0)
            else:
                held = _begin(running, wav_file(spoken), headers)
                until(lambda: running.health()["queue"]["admitted"] == 1)
                until(lambda h=headers: _refused(running, h), 10, "it is charged beforehand")
                held.close()
                until(lambda: running.health()["queue"]["admitted"] == 0)
                continue
            assert _refused(running, headers), name


async def test_each_channel_that_is_recognised_by_itself_is_charged(
    tmp_path: Path, small_settings: dict[str, str], clips: list[bytes]
) -> None:
    keys = tmp_path / "keys"
    given = {
        **small_settings,
        "MODELSERVER_AUTH_KEYS_FILE": str(keys),
        "MODELSERVER_AUTH_KEY_AUDIO_S": "20",
        "MODELSERVER_DEBUG_LONG_FROM_S": "12.5",
    }
    add_key(keys, "other")
    with start_server(tmp_path, **given) as running:
        running.wait_ready()
        # One by one worker, one in pieces; each is less than the key's share, and twice it is more.
        for seconds in (12, 13):
            stereo = wav_file((b"".join(clips) * 4)[: seconds * 64_000], channels=2)
            for query in ("?channels=mix", "?channels=split"):
                name = f"{query[10:]}-{seconds}"
                headers = {"Authorization": f"Bearer {add_key(keys, name)}"}
                await _until_known(running, headers)
                assert running.convert(stereo, query, **headers).status == 200
                assert _refused(running, headers) == (query == "?channels=split"), name


async def _until_known(server: RunningServer, headers: dict[str, str]) -> None:
    async with within(10):
        while server.ask("/v1/models", **headers).status != 200:
            await asyncio.sleep(0.1)


def _refused(server: RunningServer, headers: dict[str, str]) -> bool:
    answer = server.convert(wav_file(bytes(3200)), **headers)
    return (answer.status, answer.json.get("error", {}).get("code")) == (429, "rate_limited")


def _begin(server: RunningServer, body: bytes, headers: dict[str, str]) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    sock.sendall(
        f"POST /api/audio/convert HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n{lines}"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    return sock


def _leave_after(
    server: RunningServer, body: bytes, headers: dict[str, str], seconds: float
) -> None:
    with _begin(server, body, headers) as sock:
        got = b""
        while max([0.0, *map(float, re.findall(rb'"done":([0-9.]+)', got))]) < seconds:
            got += sock.recv(65_536)
            assert b"event: done" not in got
    until(lambda: server.health()["queue"]["admitted"] == 0)


async def _stream_and_leave(
    server: RunningServer, data: bytes, headers: dict[str, str], seconds: float
) -> None:
    async with connected(server, "/api/audio/stream", additional_headers=headers) as client:

        async def send() -> None:
            with contextlib.suppress(websockets.ConnectionClosed):
                for at in range(0, len(data), 8000):
                    await client.send(data[at : at + 8000])

        sending = asyncio.create_task(send())
        while json.loads(await client.recv()).get("end", 0.0) < seconds:
            pass
        sending.cancel()
        client.transport.abort()
    until(lambda: server.health()["streams"]["open"] == 0)


# --- errors of ours -------------------------------------------------------------------------------


async def test_an_answer_that_has_begun_is_not_followed_by_another(
    tmp_path: Path, small_settings: dict[str, str], clips: list[bytes]
) -> None:
    breaking = (str(SUPPORT / "breaking_server.py"),)
    with start_server(tmp_path, program=breaking, **small_settings) as running:
        running.wait_ready()
        for path in (RAW, "/ws"):
            async with connected(running, path) as client:
                await client.send(clips[0][:3200])
                await client.send("break")
                with contextlib.suppress(websockets.ConnectionClosed):
                    async with within(20):
                        while True:
                            json.loads(await client.recv())
                assert client.close_code == 1011
                assert "internal" in client.close_reason
        with _begin(running, wav_file(clips[0]), {}) as sock:
            got = b""
            with contextlib.suppress(ConnectionError):
                while block := sock.recv(65_536):
                    got += block
        assert got.count(b"HTTP/1.1") == 1
        assert not got.endswith(b"0\r\n\r\n")  # it does not look whole
        until(lambda: len(running.events("request.failed")) == 3)
