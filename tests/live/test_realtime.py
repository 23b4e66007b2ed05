"""OpenAI's Realtime API for transcription, as OpenAI's own clients use it."""

import asyncio
import base64
import contextlib
import json
import os
import random
import signal
import subprocess
import time
from array import array
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import websockets
from encoded import raw_samples
from onnx_models import make_model, silence, tones
from openai import AsyncOpenAI, AuthenticationError, BadRequestError, OpenAI
from openai.resources.realtime.realtime import AsyncRealtimeConnection
from running import RunningServer, start_server, until
from wavs import wav_file

from modelserver.access.client_secrets import ClientSecret, ClientSecrets
from modelserver.access.keyring import add_key, remove_key

TRANSCRIPTION = "conversation.item.input_audio_transcription"
BUFFER = "input_audio_buffer"
COMMITTED = [f"{BUFFER}.committed", "conversation.item.added", "conversation.item.done"]
FORMATS = {
    "audio/pcm": ("s16le", 24_000, 2),
    "audio/pcmu": ("mulaw", 8000, 1),
    "audio/pcma": ("alaw", 8000, 1),
}
"""Encoding, rate and bytes a sample."""
_NOISE = random.Random(1)
PAUSE = array("h", (_NOISE.randint(-20, 20) for _ in range(2 * 16_000))).tobytes()
"""Noise of a room without speech."""


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, small_settings: dict[str, str]
) -> Iterator[RunningServer]:
    given = {**small_settings, "MODELSERVER_LANGUAGE": "ko", "MODELSERVER_STREAMS_SHARE": "1"}
    with start_server(tmp_path_factory.mktemp("realtime"), **given) as running:
        running.wait_whole()
        yield running


class Session:
    """A connection of OpenAI's Python client. Each event must be as its types and the AsyncAPI
    document have it."""

    def __init__(self, connection: AsyncRealtimeConnection, described: dict[str, Any]) -> None:
        self.connection = connection
        self.events: list[Any] = []
        self.closed: websockets.ConnectionClosed | None = None
        self._described = described
        self.closing = asyncio.Event()
        self._changed = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            while True:
                text = await self.connection.recv_bytes()
                event = self.connection.parse_event(text)
                type(event).model_validate_json(text)
                key = f"realtime.{event.type}"
                schema = self._described["components"]["messages"][key]["payload"]
                root = {**schema, "components": self._described["components"]}
                jsonschema.validate(json.loads(text), root)
                self.events.append(event)
                self._changed.set()
        except websockets.ConnectionClosed as closed:
            self.closed = closed
        finally:
            self.closing.set()
            self._changed.set()

    async def append(self, data: bytes, piece: int = 9600) -> None:
        for at in range(0, len(data), piece):
            audio = base64.b64encode(data[at : at + piece]).decode()
            await self.connection.input_audio_buffer.append(audio=audio)

    async def update(self, **given: Any) -> Any:
        """Change the audio's options; returns them as they are in effect."""
        await self.connection.session.update(
            session={"type": "transcription", "audio": {"input": given}}  # type: ignore[typeddict-item]
        )
        return (await self.next("session.updated")).session.audio.input

    async def next(self, kind: str, count: int | None = None) -> Any:
        """Wait for the event of that type that follows on those seen so far, or for so many."""
        wanted = len(self.of(kind)) + 1 if count is None else count
        async with asyncio.timeout(60):
            while len(found := self.of(kind)) < wanted:
                assert not self._reading.done(), self.events
                self._changed.clear()
                await self._changed.wait()
        return found[wanted - 1]

    async def end(self) -> websockets.ConnectionClosed:
        async with asyncio.timeout(60):
            await self._reading
        assert self.closed is not None
        return self.closed

    def of(self, kind: str) -> list[Any]:
        return [event for event in self.events if event.type == kind]

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.events]

    def deltas(self, item_id: str) -> str:
        return "".join(e.delta for e in self.of(f"{TRANSCRIPTION}.delta") if e.item_id == item_id)


@asynccontextmanager
async def connected(
    server: RunningServer,
    described: dict[str, Any],
    *,
    api_key: str = "none",
    headers: dict[str, str] | None = None,
    **query: str,
) -> AsyncIterator[Session]:
    client = AsyncOpenAI(base_url=f"{server.url}/v1", api_key=api_key, max_retries=0)
    given = {"intent": "transcription", **query}
    async with client.realtime.connect(extra_query=given, extra_headers=headers or {}) as made:
        session = Session(made, described)
        yield session
        await made.close()
    await session._reading


def openai_client(server: RunningServer, api_key: str) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key=api_key, max_retries=0)


def kill_workers(server: RunningServer) -> None:
    for worker in server.health()["workers"]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker["pid"], signal.SIGKILL)


def spoken(clips: list[bytes], kind: str = "audio/pcm") -> bytes:
    """Two sentences, with a pause after each."""
    encoding, rate, _ = FORMATS[kind]
    return raw_samples(clips[0] + PAUSE + clips[1] + PAUSE, encoding, rate)


def text_of(server: RunningServer, data: bytes, kind: str = "audio/pcm", asked: str = "") -> str:
    """Return the text of a file with that audio. `asked`: more of the query."""
    encoding, rate, _ = FORMATS[kind]
    text: str = server.convert(data, f"?encoding={encoding}&rate={rate}{asked}").json["text"]
    assert text
    return text


@pytest.mark.parametrize("kind", FORMATS)
async def test_the_python_client_receives_what_was_said(
    server: RunningServer, described: dict[str, Any], clips: list[bytes], kind: str
) -> None:
    data = spoken(clips, kind)
    async with connected(server, described) as session:
        effective = await session.update(
            format={"type": kind, "rate": 24_000} if kind == "audio/pcm" else {"type": kind},
            transcription={"model": "gpt-4o-transcribe", "language": "ko", "prompt": "names"},
            noise_reduction={"type": "near_field"},
            turn_detection={
                "type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300,
                "silence_duration_ms": 1000,
            },
        )  # fmt: skip
        await session.append(data)
        await session.next(f"{TRANSCRIPTION}.completed", 2)
    assert session.types[:2] == ["session.created", "session.updated"]
    assert effective.format.type == kind
    assert effective.transcription.language == "ko"
    assert effective.noise_reduction is None
    assert effective.turn_detection.type == "server_vad"
    completed = session.of(f"{TRANSCRIPTION}.completed")
    in_file = text_of(server, data, kind, "&endpoint_ms=1000")
    assert " ".join(one.transcript for one in completed) == in_file
    assert not session.of("error")
    before = None
    for one in completed:
        of_item = [
            event
            for event in session.events
            if getattr(event, "item_id", None) == one.item_id
            or getattr(getattr(event, "item", None), "id", None) == one.item_id
        ]
        assert [event.type for event in of_item] == [
            f"{BUFFER}.speech_started", f"{BUFFER}.speech_stopped", *COMMITTED,
            f"{TRANSCRIPTION}.delta", f"{TRANSCRIPTION}.completed",
        ]  # fmt: skip
        started, stopped, committed, added, *_ = of_item
        assert committed.previous_item_id == added.previous_item_id == before
        assert session.deltas(one.item_id) == one.transcript
        assert one.usage.type == "duration"
        length_s = (stopped.audio_end_ms - started.audio_start_ms) / 1000
        assert one.usage.seconds == pytest.approx(length_s, abs=0.01)
        before = one.item_id
    _, rate, width = FORMATS[kind]
    starts = [one.audio_start_ms / 1000 for one in session.of(f"{BUFFER}.speech_started")]
    ends = [one.audio_end_ms / 1000 for one in session.of(f"{BUFFER}.speech_stopped")]
    first_s = len(clips[0]) / 32_000
    assert starts[0] < ends[0] <= first_s + 1
    assert starts[1] >= ends[0]
    assert first_s + 2 < ends[1] <= len(data) / rate / width


async def test_without_turn_detection_a_commit_ends_an_item(
    server: RunningServer, described: dict[str, Any], clips: list[bytes]
) -> None:
    data = spoken(clips)
    alone = raw_samples(clips[2], "s16le", 24_000)
    async with connected(server, described) as session:
        effective = await session.update(turn_detection=None)
        await session.append(data)
        # The text of the first sentence comes while the item continues.
        early = await session.next(f"{TRANSCRIPTION}.delta", 1)
        assert not session.of(f"{BUFFER}.committed")
        await session.connection.input_audio_buffer.commit()
        # The last word is in it, although nothing follows.
        await session.append(alone)
        await session.connection.input_audio_buffer.commit()
        await session.next(f"{TRANSCRIPTION}.completed", 2)
    assert effective.turn_detection is None
    first, second = session.of(f"{TRANSCRIPTION}.completed")
    assert early.item_id == first.item_id
    assert first.transcript == session.deltas(first.item_id) == text_of(server, data)
    assert second.transcript == text_of(server, alone)
    assert first.usage.seconds == pytest.approx(len(data) / 48_000, abs=0.001)
    assert second.usage.seconds == pytest.approx(len(alone) / 48_000, abs=0.001)
    committed = session.of(f"{BUFFER}.committed")
    assert [one.item_id for one in committed] == [first.item_id, second.item_id]
    assert committed[1].previous_item_id == first.item_id
    assert not session.of(f"{BUFFER}.speech_started")


async def test_audio_that_is_cleared_is_in_no_transcript(
    server: RunningServer, described: dict[str, Any], clips: list[bytes]
) -> None:
    unwanted, wanted = (raw_samples(clip, "s16le", 24_000) for clip in clips[:2])
    async with connected(server, described) as session:
        await session.connection.input_audio_buffer.clear()
        await session.next(f"{BUFFER}.cleared")
        await session.update(turn_detection=None)
        await session.append(unwanted)
        await session.connection.input_audio_buffer.clear()
        await session.next(f"{BUFFER}.cleared", 2)
        await session.append(wanted)
        await session.connection.input_audio_buffer.commit()
        completed = await session.next(f"{TRANSCRIPTION}.completed")
    assert completed.transcript == text_of(server, wanted)
    assert len(session.of(f"{BUFFER}.committed")) == 1
    assert completed.usage.seconds == pytest.approx(len(wanted) / 48_000, abs=0.001)


async def test_a_commit_with_turn_detection_ends_the_item_at_once(
    server: RunningServer, described: dict[str, Any], clips: list[bytes]
) -> None:
    data = raw_samples(clips[0], "s16le", 24_000)
    async with connected(server, described) as session:
        await session.append(data)
        started = await session.next(f"{BUFFER}.speech_started")
        await session.connection.input_audio_buffer.commit()
        completed = await session.next(f"{TRANSCRIPTION}.completed")
    assert completed.item_id == started.item_id
    assert completed.transcript == text_of(server, data)
    assert not session.of(f"{BUFFER}.speech_stopped")


async def test_the_format_may_change_between_items(
    server: RunningServer, described: dict[str, Any], clips: list[bytes]
) -> None:
    async with connected(server, described) as session:
        await session.update(turn_detection=None)
        expected = []
        for kind, (encoding, rate, _) in FORMATS.items():
            data = raw_samples(clips[0], encoding, rate)
            await session.update(format={"type": kind})
            await session.append(data)
            await session.connection.input_audio_buffer.commit()
            expected.append(text_of(server, data, kind))
        await session.next(f"{TRANSCRIPTION}.completed", 3)
    assert [one.transcript for one in session.of(f"{TRANSCRIPTION}.completed")] == expected
    assert not session.of("error")


async def test_samples_may_have_the_rate_of_the_model(
    server: RunningServer, clips: list[bytes]
) -> None:
    """Use a rate that this API's own server refuses, and its clients' types do not have."""
    url = server.url.replace("http", "ws", 1) + "/v1/realtime"
    audio = {"format": {"type": "audio/pcm", "rate": 16_000}, "turn_detection": None}
    async with websockets.connect(url) as client, asyncio.timeout(60):
        for event in (
            update(audio),
            {"type": f"{BUFFER}.append", "audio": base64.b64encode(clips[0]).decode()},
            {"type": f"{BUFFER}.commit"},
        ):
            await client.send(json.dumps(event))
        while (said := json.loads(await client.recv()))["type"] != f"{TRANSCRIPTION}.completed":
            pass
    assert said["transcript"] == server.convert(wav_file(clips[0])).json["text"]


async def test_a_worker_that_is_killed_costs_no_text(
    server: RunningServer, described: dict[str, Any], clips: list[bytes]
) -> None:
    data = spoken(clips)
    before = server.health()["streams"]["replays"]
    async with connected(server, described) as session:
        for part in range(2):
            await session.append(data[len(data) * part // 2 : len(data) * (part + 1) // 2])
            await session.next(f"{BUFFER}.speech_started", 1)
            kill_workers(server)
        await session.next(f"{TRANSCRIPTION}.completed", 2)
    texts = [one.transcript for one in session.of(f"{TRANSCRIPTION}.completed")]
    assert " ".join(texts) == text_of(server, data)
    assert not session.of("error")
    assert server.health()["streams"]["replays"] > before
    until(lambda: {w["state"] for w in server.health()["workers"]} == {"idle"}, 60)


async def test_a_worker_that_is_killed_costs_no_text_of_what_is_committed(
    server: RunningServer, described: dict[str, Any], clips: list[bytes]
) -> None:
    spoken = [raw_samples(clip, "mulaw", 8000) for clip in clips]

    async def items(*, disturbed: bool) -> list[str]:
        async with connected(server, described) as session:
            await session.update(turn_detection=None, format={"type": "audio/pcmu"})
            for number, data in enumerate(spoken, 1):
                await session.append(data)
                await session.update()
                if disturbed:
                    kill_workers(server)
                await session.connection.input_audio_buffer.commit()
                await session.next(f"{TRANSCRIPTION}.completed", number)
        assert not session.of("error")
        return [one.transcript for one in session.of(f"{TRANSCRIPTION}.completed")]

    before = server.health()["streams"]["replays"]
    undisturbed = await items(disturbed=False)
    assert all(undisturbed)
    assert await items(disturbed=True) == undisturbed
    assert server.health()["streams"]["replays"] > before
    until(lambda: {w["state"] for w in server.health()["workers"]} == {"idle"}, 60)


async def test_an_item_that_ends_two_workers_has_failed(
    tmp_path: Path, small_settings: dict[str, str], clips: list[bytes]
) -> None:
    with start_server(tmp_path, **small_settings, MODELSERVER_STREAMS_SHARE="1") as running:
        running.wait_whole()
        described = running.ask("/asyncapi.json").json
        async with connected(running, described) as session:
            await session.update(turn_detection=None)
            await session.append(raw_samples(b"".join(clips), "s16le", 24_000))
            await session.connection.input_audio_buffer.commit()
            committed = await session.next(f"{BUFFER}.committed")
            while not session.closing.is_set():
                kill_workers(running)
                await asyncio.sleep(0.05)
            closed = await session.end()
        failed, error = session.events[-2:]
        assert failed.type == f"{TRANSCRIPTION}.failed"
        assert failed.item_id == committed.item_id
        assert failed.error.type == error.error.type == "server_error"
        assert failed.error.code == error.error.code
        assert not session.of(f"{TRANSCRIPTION}.completed")
        assert closed.rcvd is not None
        assert closed.rcvd.code in (1011, 1013)


# --- several models -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A streaming model of tones, and an offline one that writes capitals and is loaded when it is
    asked for."""
    home = tmp_path_factory.mktemp("two-models")
    make_model("online_transducer", home / "online")
    make_model("sense_voice", home / "offline")
    (home / "settings.toml").write_text(
        'workers.count = 1\nstreams.share = 1\ndebug.warmup = "none"\n'
        'engines.onnx.voice_activity = "loudness"\n'
        f'[models.live]\nmodel = "{home}/online"\n'
        f'[models.offline]\nmodel = "{home}/offline"\nload = "first_use"\n'
    )
    with start_server(home, "--config", str(home / "settings.toml")) as running:
        running.wait_ready()
        yield running


async def test_the_model_may_change_within_a_session(
    two_models: RunningServer, described: dict[str, Any]
) -> None:
    async with connected(two_models, described, model="gpt-realtime") as session:
        await session.update(turn_detection=None)
        for number, (model, text) in enumerate((("live", "abc"), ("offline", "feed")), 1):
            effective = await session.update(transcription={"model": model})
            assert effective.transcription.model == model
            assert effective.turn_detection is None
            await session.append(tones(text, 24_000) + silence(0.5, 24_000))
            if model == "live":
                await session.connection.input_audio_buffer.commit()
                await session.next(f"{TRANSCRIPTION}.completed", number)
        # Audio that is not committed is not lost to another model.
        await session.update(transcription={"model": "live"})
        await session.append(tones("bad", 24_000) + silence(0.5, 24_000))
        await session.connection.input_audio_buffer.commit()
        await session.next(f"{TRANSCRIPTION}.completed", 2)
    completed = session.of(f"{TRANSCRIPTION}.completed")
    assert [one.transcript for one in completed] == ["abc", "FEED bad"]
    assert not session.of("error")


async def test_an_offline_model_ends_items_at_pauses(
    two_models: RunningServer, described: dict[str, Any]
) -> None:
    async with connected(two_models, described, model="offline") as session:
        for text in ("abc", "feed"):
            await session.append(tones(text, 24_000) + silence(2.0, 24_000))
        await session.next(f"{TRANSCRIPTION}.completed", 2)
    completed = session.of(f"{TRANSCRIPTION}.completed")
    assert [one.transcript for one in completed] == ["ABC", "FEED"]
    assert len(session.of(f"{BUFFER}.speech_stopped")) == 2


# --- Node -----------------------------------------------------------------------------------------


def with_node(
    server: RunningServer, packages: Path, file: Path, kind: str, key: str = "none"
) -> Any:
    """Return what OpenAI's Node package received; `kind`: of its two classes, "ws" or
    "websocket"."""
    command = [
        "node", "--no-warnings", "--experimental-websocket", str(packages / "realtime.mjs"),
        server.url, key, str(file), kind,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", ["ws", "websocket"])
def test_the_node_client_receives_what_was_said(
    server: RunningServer, node_packages: Path, clips: list[bytes], tmp_path: Path, kind: str
) -> None:
    data = raw_samples(clips[0], "s16le", 24_000)
    (tmp_path / "clip").write_bytes(data)
    said = with_node(server, node_packages, tmp_path / "clip", kind)
    assert said["transcript"] == said["text"] == text_of(server, data)
    (error,) = said["errors"]
    assert error["event_id"] == "mine"
    assert error["param"] == "type"
    assert "session.update" in error["message"]
    expected = ["session.created", "error", "session.updated", *COMMITTED]
    assert [one for one in said["types"] if not one.startswith(TRANSCRIPTION)] == expected


# --- rejected events ------------------------------------------------------------------------------


def update(given: Any) -> dict[str, Any]:
    session = {"type": "transcription", "audio": {"input": given}}
    return {"type": "session.update", "session": session}


@pytest.mark.parametrize(
    ("event", "code", "param"),
    [
        ({"type": "response.create"}, "bad_request", "type"),
        ({"type": "conversation.item.create", "item": {}}, "bad_request", "type"),
        ({"type": "transcription_session.update"}, "bad_request", "type"),
        ({"type": "hello"}, "bad_request", "type"),
        ({"type": "input_audio_buffer.append", "audio": "@@@"}, "bad_request", "audio"),
        ({"type": "input_audio_buffer.append"}, "bad_request", None),
        ({"type": "input_audio_buffer.commit"}, "input_audio_buffer_commit_empty", None),
        ({"type": "session.update", "session": {"type": "realtime"}}, "bad_parameter",
         "session.type"),
        (update({"format": {"type": "mp3"}}),
         "bad_request", "session.audio.input.format.type"),
        (update({"format": {"type": "audio/pcm", "rate": 4}}), "bad_parameter",
         "session.audio.input.format.rate"),
        (update({"transcription": {"model": "nobody"}}), "model_not_found",
         "session.audio.input.transcription.model"),
        (update({"transcription": {"language": "de"}}), "model_not_found",
         "session.audio.input.transcription.model"),
        (update({"transcription": {"language": "no language"}}), "bad_parameter",
         "session.audio.input.transcription.language"),
        (update([]), "bad_request", "session.audio.input"),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else None,
)  # fmt: skip
async def test_what_is_wrong_is_an_error_and_the_session_goes_on(
    server: RunningServer,
    described: dict[str, Any],
    event: dict[str, Any],
    code: str,
    param: str | None,
) -> None:
    async with connected(server, described) as session:
        before = await session.next("session.created", 1)
        await session.connection.send({**event, "event_id": "mine"})  # type: ignore[arg-type]
        error = (await session.next("error")).error
        assert (error.code, error.param, error.event_id) == (code, param, "mine")
        assert error.type == "invalid_request_error"
        after = await session.update()
        assert after.format == before.session.audio.input.format


async def test_two_hundred_hostile_messages_cost_nothing_of_what_was_said(
    server: RunningServer, described: dict[str, Any], clips: list[bytes]
) -> None:
    data = raw_samples(clips[0], "s16le", 24_000)
    deep = "[" * 20_000
    hostile: list[str | bytes] = [
        "", "null", "{", deep, f'{{"type": {deep}', '{"type": 5}', b"", b"\xff" * 1000,
        '{"type": "input_audio_buffer.append", "audio": 5}',
        '{"type": "input_audio_buffer.append", "audio": "A"}',
        f'{{"type": "session.update", "session": {deep}',
        json.dumps(update({"format": {"type": 1e999}})),
        json.dumps({"type": "x" * 100_000, "event_id": "y" * 100_000}),
        json.dumps(update({"format": {"type": "x" * 100_000}})),
        json.dumps(update({"transcription": {"model": "qwen" * 200_000}})),
        json.dumps(update({"transcription": {"language": "de-" * 300_000}})),
        json.dumps({"type": "input_audio_buffer.commit", "event_id": ["z"]}),
        '{"type": "\\ud800"}',
        json.dumps({"type": "input_audio_buffer.append", "audio": "!" * 900_000}),
        '{"type": "response.create", "response": {"a": 1}}',
    ]  # fmt: skip
    async with connected(server, described) as session:
        await session.update(turn_detection=None)
        for at in range(0, 200, len(hostile)):
            end = at + len(hostile)
            await session.append(data[len(data) * at // 200 : len(data) * end // 200])
            for message in hostile:
                await session.connection.send_raw(message)
        await session.connection.input_audio_buffer.commit()
        completed = await session.next(f"{TRANSCRIPTION}.completed")
        assert len(session.of("error")) == 200
    assert completed.transcript == text_of(server, data)
    assert all(len(one.error.message) < 1000 for one in session.of("error"))
    assert not server.events("request.failed")


async def test_a_flood_of_ends_makes_no_items(
    server: RunningServer, described: dict[str, Any], clips: list[bytes]
) -> None:
    data = raw_samples(clips[0][:32_000], "s16le", 24_000)
    async with connected(server, described) as session:
        await session.append(data)
        for _ in range(300):
            await session.connection.input_audio_buffer.commit()
            await session.connection.input_audio_buffer.clear()
        await session.next(f"{BUFFER}.cleared", 300)
        await session.next(f"{TRANSCRIPTION}.completed", 1)
    assert len(session.of(f"{BUFFER}.committed")) == 1
    assert len(session.of("error")) == 299


async def test_a_session_that_cannot_be_is_refused_in_an_event(
    server: RunningServer, described: dict[str, Any]
) -> None:
    for query, code in (
        ({"intent": "translation"}, "bad_parameter"),
        ({"call_id": "x"}, "bad_parameter"),
        ({"model": "nobody"}, "model_not_found"),
    ):
        async with connected(server, described, **query) as session:
            closed = await session.end()
        assert session.types == ["error"]
        assert session.events[0].error.code == code
        assert closed.rcvd is not None
        assert closed.rcvd.code == 1008


async def test_a_page_of_another_site_opens_no_session(
    server: RunningServer, described: dict[str, Any]
) -> None:
    evil = {"Origin": "https://evil.example"}
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with connected(server, described, headers=evil):
            pass
    assert refused.value.response.status_code == 403
    document = json.loads(refused.value.response.body or b"")
    assert document["error"]["code"] == "origin_refused"
    assert document["error"]["type"] == "permission_error"


async def test_the_path_is_for_websockets(server: RunningServer) -> None:
    answer = server.ask("/v1/realtime?intent=transcription")
    assert answer.status == 426
    assert answer.json["error"]["code"] == "upgrade_required"


# --- the end --------------------------------------------------------------------------------------


async def test_a_server_that_ends_gives_every_session_its_last_text(
    tmp_path: Path, small_settings: dict[str, str], clips: list[bytes]
) -> None:
    data = raw_samples(clips[0], "s16le", 24_000)
    with start_server(tmp_path, **small_settings, MODELSERVER_STREAMS_SHARE="1") as running:
        running.wait_whole()
        described = running.ask("/asyncapi.json").json
        expected = text_of(running, data)
        async with connected(running, described) as turns, connected(running, described) as commits:
            await commits.update(turn_detection=None)
            for session in (turns, commits):
                await session.append(data)
                await session.update()  # whose answer says that all of it has come
            os.kill(running.pid, signal.SIGTERM)
            for session in (turns, commits):
                closed = await session.end()
                assert closed.rcvd is not None
                assert closed.rcvd.code == 1001
        for session in (turns, commits):
            (completed,) = session.of(f"{TRANSCRIPTION}.completed")
            assert completed.transcript == expected
            assert session.events[-1].error.code == "shutting_down"


async def test_a_session_that_is_silent_or_too_old_is_told_so(
    tmp_path: Path, small_settings: dict[str, str]
) -> None:
    given = {
        **small_settings,
        "MODELSERVER_STREAMS_IDLE_S": "1",
        "MODELSERVER_STREAMS_LONGEST_S": "2",
    }
    with start_server(tmp_path, **given) as running:
        running.wait_ready()
        described = running.ask("/asyncapi.json").json
        async with connected(running, described) as session:
            closed = await session.end()
        assert session.events[-1].error.code == "session_expired"
        assert closed.rcvd is not None
        assert closed.rcvd.code == 4408

        async with connected(running, described) as session:
            # Changing the session makes it no younger.
            with contextlib.suppress(websockets.ConnectionClosed):
                for kind in ("audio/pcmu", "audio/pcma") * 50:
                    await session.append(bytes(1600))
                    await session.update(format={"type": kind})
                    await asyncio.sleep(0.1)
            closed = await session.end()
        assert closed.rcvd is not None
        assert closed.rcvd.code == 4410


# --- keys -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys"


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory, small_settings: dict[str, str], keys: Path
) -> Iterator[RunningServer]:
    add_key(keys, "owner")
    given = {
        **small_settings,
        "MODELSERVER_AUTH_KEYS_FILE": str(keys),
        "MODELSERVER_AUTH_KEY_STREAMS": "2",
    }
    with start_server(tmp_path_factory.mktemp("guarded"), **given) as running:
        running.wait_ready()
        yield running


def new_key(server: RunningServer, keys: Path, name: str) -> str:
    key = add_key(keys, name)
    until(lambda: server.ask("/v1/models", Authorization=f"Bearer {key}").status == 200)
    return key


async def test_a_key_is_needed_and_its_streams_are_counted(
    guarded: RunningServer, described: dict[str, Any], keys: Path
) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with connected(guarded, described, api_key="wrong"):
            pass
    assert refused.value.response.status_code == 401
    key = new_key(guarded, keys, "alice")
    async with (
        connected(guarded, described, api_key=key) as first,
        connected(guarded, described, api_key=key) as second,
    ):
        await first.next("session.created", 1)
        await second.next("session.created", 1)
        async with connected(guarded, described, api_key=key) as third:
            await third.end()
        assert [one.error.code for one in third.events] == ["rate_limited"]
        remove_key(keys, "alice")
        with contextlib.suppress(websockets.ConnectionClosed):
            for _ in range(50):
                await first.append(bytes(4800))
                await asyncio.sleep(0.1)
        closed = await first.end()
    assert first.events[-1].error.code == "unauthorized"
    assert closed.rcvd is not None
    assert closed.rcvd.code == 1008


async def test_a_page_is_told_in_an_event_that_its_key_is_wrong(guarded: RunningServer) -> None:
    url = guarded.url.replace("http", "ws", 1) + "/v1/realtime?intent=transcription"
    offered = [websockets.Subprotocol("realtime"), "openai-insecure-api-key.wrong"]
    async with websockets.connect(url, subprotocols=offered, origin=guarded.url) as client:  # type: ignore[arg-type]
        assert client.subprotocol == "realtime"
        said = json.loads(await client.recv())
        assert said["error"]["code"] == "unauthorized"
        assert said["error"]["type"] == "authentication_error"


def test_the_browser_s_client_opens_a_session_with_a_client_secret(
    guarded: RunningServer, node_packages: Path, clips: list[bytes], keys: Path, tmp_path: Path
) -> None:
    key = new_key(guarded, keys, "page")
    (tmp_path / "clip").write_bytes(raw_samples(clips[0], "s16le", 24_000))
    client = openai_client(guarded, key)
    made = client.realtime.client_secrets.create()
    said = with_node(guarded, node_packages, tmp_path / "clip", "websocket", made.value)
    assert said["transcript"]
    assert guarded.wait_event("request.done", path="/v1/realtime", key="page")


async def test_a_client_secret_holds_the_session_and_opens_nothing_else(
    guarded: RunningServer, described: dict[str, Any], keys: Path
) -> None:
    key = new_key(guarded, keys, "backend")
    client = openai_client(guarded, key)
    made = client.realtime.client_secrets.create(
        expires_after={"anchor": "created_at", "seconds": 60},
        session={
            "type": "transcription",
            "audio": {"input": {"format": {"type": "audio/pcma"}, "turn_detection": None}},
        },
    )
    assert made.value.startswith("ek_")
    assert 50 < made.expires_at - time.time() <= 60
    assert made.session.type == "transcription"
    async with connected(guarded, described, api_key=made.value) as session:
        created = await session.next("session.created", 1)
        assert created.session.audio.input.format.type == "audio/pcma"
        assert created.session.audio.input.turn_detection is None
    for path in ("/v1/models", "/v1/realtime/client_secrets"):
        body = b"{}" if path.endswith("secrets") else None
        assert guarded.ask(path, body, Authorization=f"Bearer {made.value}").status == 401
    forged = made.value[:10] + ("A" if made.value[10] != "A" else "B") + made.value[11:]
    remove_key(keys, "backend")
    until(lambda: guarded.ask("/v1/models", Authorization=f"Bearer {key}").status == 401)
    for secret in (forged, made.value, "ek_", "ek_!", f"ek_{'A' * 4000}"):
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with connected(guarded, described, api_key=secret):
                pass
        assert refused.value.response.status_code == 401


def test_client_secrets_are_refused_as_openai_s_client_expects(
    guarded: RunningServer, keys: Path
) -> None:
    with pytest.raises(AuthenticationError):
        openai_client(guarded, "wrong").realtime.client_secrets.create()
    client = openai_client(guarded, new_key(guarded, keys, "mistaken"))
    with pytest.raises(BadRequestError) as refused:
        client.realtime.client_secrets.create(
            expires_after={"anchor": "created_at", "seconds": 100_000}
        )
    assert refused.value.code == "bad_request"
    with pytest.raises(BadRequestError):
        client.realtime.client_secrets.create(session={"type": "realtime"})


@pytest.mark.quick
def test_a_client_secret_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ClientSecrets()
    made = secrets.new(ClientSecret("alice", int(time.time()) + 60, "{}"), "stamp")
    known = secrets.read(made, lambda _: "stamp")
    assert known is not None
    assert known.name == "alice"
    assert secrets.read(made, lambda _: "another") is None
    assert ClientSecrets().read(made, lambda _: "stamp") is None
    later = time.time() + 61
    monkeypatch.setattr(time, "time", lambda: later)
    assert secrets.read(made, lambda _: "stamp") is None
