"""The Vosk project's protocol: its clients work unchanged, and get the answers of its server."""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import websockets
from front import gateway_of
from running import RunningServer, free_port, start_server, until
from stopwatch import Stopwatch

import models
from models.processor import processor_flags
from models.vosk.blas import blas_environment
from models.vosk.prepared import PreparedModel
from models.vosk.simd import SAME_AS
from modelserver.speech.transcript import reader_text

PIECE = 6400
"""A fifth of a second at 16 kHz, as its clients send it."""

REFERENCE = """
# What the Vosk project's server does with a connection's messages, on the same model.
import json, sys
from pathlib import Path
from models.vosk.loading import load_vosk, vosk
directory, made, rate, words, alternatives, pieces = json.loads(sys.argv[1])
vosk.SetLogLevel(-1)
model, _ = load_vosk(Path(directory), {name: Path(file) for name, file in made.items()})
answers = []
for clip in sys.stdin.read().split():
    pcm = bytes.fromhex(clip)
    recognizer = vosk.KaldiRecognizer(model, rate)
    recognizer.SetWords(words)
    recognizer.SetMaxAlternatives(alternatives)
    said = []
    for at in range(0, len(pcm), pieces):
        ended = recognizer.AcceptWaveform(pcm[at:at + pieces])
        said.append(recognizer.Result() if ended else recognizer.PartialResult())
    said.append(recognizer.FinalResult())
    answers.append(said)
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, prepared_embedded: PreparedModel
) -> Iterator[RunningServer]:
    assert prepared_embedded
    given = {"MODELSERVER_STREAMS_SHARE": "1"}  # twenty of them, beside other tests
    with start_server(tmp_path_factory.mktemp("vosk"), **given) as running:
        running.wait_whole()
        yield running


@asynccontextmanager
async def connected(
    server: RunningServer, path: str = "/", **options: Any
) -> AsyncIterator[websockets.ClientConnection]:
    url = server.url.replace("http", "ws", 1) + path
    async with websockets.connect(url, **options) as client:
        yield client


async def converse(
    client: websockets.ClientConnection, pcm: bytes, piece: int = PIECE, **config: Any
) -> list[str]:
    """Send audio as the Vosk project's Python client does."""
    if config:
        await client.send(json.dumps({"config": config}))
    said = []
    for at in range(0, len(pcm), piece):
        await client.send(pcm[at : at + piece])
        said.append(str(await client.recv()))
    await client.send('{"eof" : 1}')
    said.append(str(await client.recv()))
    return said


def text_of(said: list[str]) -> str:
    finals = [json.loads(one) for one in said]
    return reader_text(one["text"] for one in finals if one.get("text"))


def reference(
    location: models.ModelLocation,
    prepared: PreparedModel,
    clips: list[bytes],
    rate: int,
    *,
    words: bool,
    alternatives: int,
    piece: int,
) -> Any:
    made = {name: str(file) for name, file in prepared.made.items()}
    asked = json.dumps([str(location.directory), made, rate, words, alternatives, piece])
    done = subprocess.run(
        [sys.executable, "-c", REFERENCE, asked],
        env={**os.environ, **blas_environment(SAME_AS, processor_flags())},
        input=" ".join(clip.hex() for clip in clips),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("rate", "words", "alternatives", "piece"),
    [(16_000, True, 0, PIECE), (16_000, False, 0, 3333 * 2), (16_000, True, 3, 32_000),
     (8_000, True, 0, 3200)],
)  # fmt: skip
async def test_message_by_message_it_says_what_that_server_says(
    server: RunningServer,
    embedded: models.ModelLocation,
    prepared_embedded: PreparedModel,
    clips: list[bytes],
    rate: int,
    words: bool,
    alternatives: int,
    piece: int,
) -> None:
    spoken = [clips[0], clips[1] + bytes(32_000) + clips[2]]
    if rate == 8_000:
        spoken = [b"".join(pcm[at : at + 2] for at in range(0, len(pcm), 4)) for pcm in spoken]
    expected = reference(
        embedded, prepared_embedded, spoken, rate,
        words=words, alternatives=alternatives, piece=piece,
    )  # fmt: skip
    config = {"sample_rate": rate, "words": words, "max_alternatives": alternatives}
    for pcm, theirs in zip(spoken, expected, strict=True):
        async with connected(server) as client:
            ours = await converse(client, pcm, piece, **config)
        assert ours == theirs


async def test_without_a_word_of_config_it_is_8000_samples_a_second_with_words(
    server: RunningServer, clips: list[bytes]
) -> None:
    pcm = b"".join(clips[0][at : at + 2] for at in range(0, len(clips[0]), 4))
    async with connected(server, "/ws") as client:
        plain = await converse(client, pcm, 3200)
    async with connected(server) as client:
        asked = await converse(client, pcm, 3200, sample_rate=8000, words=True)
    assert text_of(plain) == text_of(asked) != ""
    assert json.loads(plain[-1])["result"][0].keys() == {"conf", "end", "start", "word"}


async def test_a_stream_says_what_a_file_says(
    server: RunningServer, clips: list[bytes], wav_clips: list[bytes]
) -> None:
    for pcm, wav in zip(clips, wav_clips, strict=True):
        async with connected(server) as client:
            said = await converse(client, pcm, 8000, sample_rate=16_000)
        assert text_of(said) == server.convert(wav).json["text"]


@pytest.mark.parametrize("eof", ['{"eof" : 1}', '{"eof":1}', ' { "eof" :  true } '])
async def test_the_end_may_be_written_with_any_spacing(
    server: RunningServer, clips: list[bytes], eof: str
) -> None:
    async with connected(server) as client:
        await client.send('{"config" : {"sample_rate" : 16000.0}}')
        await client.send(clips[0])
        await client.recv()
        await client.send(eof)
        assert json.loads(await client.recv())["text"]
        await client.wait_closed()
        assert client.close_code == 1000


async def test_reset_ends_an_utterance_and_the_next_starts_from_nothing(
    server: RunningServer, clips: list[bytes]
) -> None:
    async with connected(server) as client:
        await client.send('{"config": {"sample_rate": 16000}}')
        texts = []
        for _ in range(2):
            await client.send(clips[0])
            await client.recv()
            await client.send('{"reset": 1}')
            texts.append(json.loads(await client.recv())["text"])
        assert texts[0] == texts[1] != ""


async def test_text_for_readers_has_no_spaces_that_a_script_has_not(
    server: RunningServer, clips: list[bytes]
) -> None:
    async with connected(server, "/ws?text=reader") as client:
        said = await converse(client, clips[0], sample_rate=16_000)
    assert json.loads(said[-1])["text"]


BAD = {
    "text that is no message": ("hello", 1003),
    "json that is none of ours": ('{"what": 1}', 1003),
    "a rate of nothing": ('{"config": {"sample_rate": 0}}', 1008),
    "a rate of a billion": ('{"config": {"sample_rate": 1e9}}', 1008),
    "a rate that is no number": ('{"config": {"sample_rate": "fast"}}', 1003),
    "a path for a model": ('{"config": {"model": "/etc"}}', 1008),
    "a grammar that is none": ('{"config": {"phrase_list": [1]}}', 1008),
    "too many alternatives": ('{"config": {"max_alternatives": 1000}}', 1008),
    "a frame that is too large": (bytes(10_000_000), 1009),
}


@pytest.mark.parametrize("what", BAD)
async def test_a_bad_message_is_told_so(server: RunningServer, what: str) -> None:
    message, code = BAD[what]
    async with connected(server) as client:
        with contextlib.suppress(websockets.ConnectionClosed):  # while it is still being sent
            await client.send(message)
        await client.wait_closed()
        assert client.close_code == code
        if code != 1009:
            assert client.close_reason
    assert server.ask("/readyz").status == 200


async def test_odd_bytes_empty_messages_and_a_second_end_do_no_harm(
    server: RunningServer, clips: list[bytes]
) -> None:
    async with connected(server) as client:
        await client.send('{"eof": 1}')
        assert json.loads(await client.recv()) == {"text": ""}
    async with connected(server) as client:
        await client.send('{"config": {"sample_rate": 16000}}')
        for message in (b"", b"\0", clips[0][:3333], '{"reset": 1}', '{"reset": 1}'):
            await client.send(message)
            await client.recv()
        await client.send('{"eof": 1}')
        assert json.loads(await client.recv()) == {"text": ""}


async def test_config_after_audio_changes_nothing_and_harms_nobody(
    server: RunningServer, clips: list[bytes]
) -> None:
    async with connected(server) as client:
        await client.send('{"config": {"sample_rate": 16000}}')
        await client.send(clips[0])
        await client.recv()
        await client.send('{"config": {"sample_rate": 8000}}')
        await client.send('{"eof": 1}')
        assert json.loads(await client.recv())["text"]


async def test_another_model_may_be_named_for_this_connection(
    server: RunningServer, embedded: models.ModelLocation, clips: list[bytes]
) -> None:
    async with connected(server) as client:
        said = await converse(client, clips[0], sample_rate=16_000, model=embedded.name)
    assert text_of(said)


def test_what_is_no_websocket_is_told_so(server: RunningServer) -> None:
    assert server.ask("/").headers["Content-Type"].startswith("text/html")  # a page, to browsers
    answer = server.ask("/ws")
    assert answer.status == 426
    assert answer.json["error"]["code"] == "upgrade_required"


async def test_twenty_streams_survive_the_death_of_a_worker(
    server: RunningServer, clips: list[bytes]
) -> None:
    async def one(pcm: bytes) -> tuple[str, float]:
        longest, said = 0.0, []
        async with connected(server) as client:
            await client.send('{"config": {"sample_rate": 16000}}')
            for at in range(0, len(pcm), PIECE):
                started = time.monotonic()
                await client.send(pcm[at : at + PIECE])
                said.append(str(await client.recv()))
                longest = max(longest, time.monotonic() - started)
                await asyncio.sleep(max(0.0, 0.2 + started - time.monotonic()))
            await client.send('{"eof": 1}')
            said.append(str(await client.recv()))
        return text_of(said), longest

    undisturbed = await asyncio.gather(*map(one, clips))
    alone = {pcm: text for pcm, (text, _) in zip(clips, undisturbed, strict=True)}
    streams = [asyncio.create_task(one(clips[n % len(clips)])) for n in range(20)]
    for _ in range(2):
        await asyncio.sleep(1.2)
        os.kill(server.workers()[0].pid, signal.SIGKILL)
    heard = await asyncio.gather(*streams)
    for number, (text, longest) in enumerate(heard):
        assert text == alone[clips[number % len(clips)]]
        assert longest < 5.0  # beside other tests; benchmarks/streams.py has the figure


def test_many_that_connect_and_go_leave_nothing(server: RunningServer) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    for number in range(300):
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        connection.putrequest("GET", "/ws")
        for name, value in (
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="),
            ("Sec-WebSocket-Version", "13"),
        ):
            connection.putheader(name, value)
        connection.endheaders()
        if number % 2:
            assert connection.getresponse().status in (101, 503)
        connection.close()
    until(lambda: server.health()["streams"]["open"] == 0, 20)
    assert server.health()["queue"]["admitted"] == 0
    assert server.ask("/readyz").status == 200


async def test_a_file_is_answered_beside_a_client_that_sends_as_fast_as_it_can(
    tmp_path: Path, prepared_embedded: PreparedModel, clips: list[bytes], wav_clips: list[bytes]
) -> None:
    """Use one worker: the file takes its share of it, and no longer than a few times its own
    time."""
    assert prepared_embedded
    with start_server(tmp_path, MODELSERVER_WORKERS_COUNT="1") as server:
        server.wait_ready()
        await asyncio.to_thread(server.convert, wav_clips[0])
        watch = Stopwatch()
        await asyncio.to_thread(server.convert, wav_clips[0])
        alone_s = watch.seconds
        async with connected(server) as client:
            await client.send('{"config": {"sample_rate": 16000}}')
            heard = asyncio.Event()

            async def pour() -> None:
                while True:
                    for pcm in clips:
                        for at in range(0, len(pcm), 8000):
                            await client.send(pcm[at : at + 8000])

            async def take() -> None:
                count = 0
                async for _ in client:
                    count += 1
                    if count > 30:
                        heard.set()

            tasks = [asyncio.create_task(pour()), asyncio.create_task(take())]
            await asyncio.wait_for(heard.wait(), 60)
            watch = Stopwatch()
            answer = await asyncio.to_thread(server.convert, wav_clips[0])
            assert answer.status == 200
            assert watch.seconds < max(1.0, 20 * alone_s)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def test_the_end_of_the_server_gives_every_stream_its_last_result(
    tmp_path: Path, prepared_embedded: PreparedModel, clips: list[bytes]
) -> None:
    assert prepared_embedded
    with start_server(tmp_path) as server:
        server.wait_ready()
        async with connected(server) as client:
            await client.send('{"config": {"sample_rate": 16000}}')
            await client.send(clips[0])
            await client.recv()
            server.process.send_signal(signal.SIGTERM)
            assert json.loads(await client.recv())["text"]
            await client.wait_closed()
            assert client.close_code == 1001
            assert "reconnect" in str(client.close_reason)
        assert server.process.wait(20) == 0


def listen(server: RunningServer, *arguments: str, stdin: bytes = b"") -> Any:
    url = server.url.replace("http", "ws", 1) + "/"
    return subprocess.run(
        [sys.executable, "-m", "modelserver", "listen", "--server", url, *arguments],
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
    )


def test_the_terminal_can_listen(
    server: RunningServer, clips: list[bytes], wav_clips: list[bytes], tmp_path: Path
) -> None:
    (tmp_path / "clip.wav").write_bytes(wav_clips[0])
    told = listen(server, "--fast", str(tmp_path / "clip.wav"))
    assert told.returncode == 0, told.stderr
    assert told.stdout.decode().strip()
    assert listen(server, stdin=clips[0]).stdout == told.stdout
    started = time.monotonic()
    assert listen(server, str(tmp_path / "clip.wav")).stdout == told.stdout
    assert time.monotonic() - started > len(clips[0]) / 32_000 - 0.3


@pytest.mark.parametrize("source", ["variable", "flag", "file"])
def test_without_a_url_the_terminal_listens_to_the_server_of_its_settings(
    server: RunningServer, clips: list[bytes], tmp_path: Path, source: str
) -> None:
    (tmp_path / "settings.toml").write_text(f'host = "0.0.0.0"\nport = {server.port}\n')
    flags = {"flag": ["--port", str(server.port)], "file": ["--config", tmp_path / "settings.toml"]}
    variables = {"MODELSERVER_PORT": str(server.port)} if source == "variable" else {}
    told = subprocess.run(
        [sys.executable, "-m", "modelserver", "listen", *flags.get(source, [])],
        input=clips[0],
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, "MODELSERVER_CONFIG": os.devnull, **variables},
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout == listen(server, stdin=clips[0]).stdout != b""


def test_a_url_and_a_port_exclude_each_other(server: RunningServer) -> None:
    told = listen(server, "--port", str(server.port))
    assert told.returncode == 2
    assert b"--server and --port exclude each other: choose one" in told.stderr


_MICROPHONE = """
# In the place of the library: a microphone that hears what is in a file, and then Ctrl-C.
import os, signal, threading
class PortAudioError(Exception): pass
class RawInputStream:
    def __init__(self, *, samplerate, channels, dtype, blocksize, callback):
        assert (samplerate, channels, dtype) == (16000, 1, "int16")
        self.pcm = open(os.environ["HEARS"], "rb").read()
        self.size, self.callback = blocksize * 2, callback
    def __enter__(self):
        threading.Thread(target=self.speak).start()
    def speak(self):
        for at in range(0, len(self.pcm), self.size):
            self.callback(self.pcm[at:at + self.size], None, None, None)
        os.kill(os.getpid(), signal.SIGINT)
    def __exit__(self, *exception): pass
"""


def test_the_terminal_can_listen_to_a_microphone(
    server: RunningServer, clips: list[bytes], tmp_path: Path
) -> None:
    (tmp_path / "sounddevice.py").write_text(_MICROPHONE)
    (tmp_path / "spoken").write_bytes(clips[0])
    url = server.url.replace("http", "ws", 1) + "/"
    terminal, inside = os.openpty()
    told = subprocess.run(
        [sys.executable, "-m", "modelserver", "listen", "--server", url],
        stdin=inside,
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "HEARS": str(tmp_path / "spoken")},
    )
    os.close(terminal)
    os.close(inside)
    assert told.returncode == 0, told.stderr
    assert told.stdout == listen(server, "-", stdin=clips[0]).stdout != b""


def test_what_the_terminal_cannot_listen_to_is_said(server: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(b"no audio at all")
    for arguments, reason in (
        ([str(tmp_path / "noise")], "noise"),
        ([str(tmp_path / "missing.wav")], "missing.wav"),
        (["--model", "nobody"], "404"),
        (
            ["--server", "ws://127.0.0.1:1/", str(tmp_path / "noise")],
            "no server answers at ws://127.0.0.1:1/: Connection refused\n",
        ),
        (
            ["--server", "ws://nosuch.invalid/", str(tmp_path / "noise")],
            "no server answers at ws://nosuch.invalid/: ",
        ),
    ):
        told = listen(server, *arguments)
        assert told.returncode == 1
        assert reason in told.stderr.decode()
        assert b"Traceback" not in told.stderr
        assert b"ssl:" not in told.stderr


async def test_it_works_behind_the_gateway(
    server: RunningServer, clips: list[bytes], tmp_path: Path
) -> None:
    async with connected(server) as client:
        direct = await converse(client, clips[0], sample_rate=16_000)
    with gateway_of(tmp_path, int(server.url.rpartition(":")[2])) as gateway:
        async with websockets.connect(f"ws://127.0.0.1:{gateway.port}/") as client:
            assert await converse(client, clips[0], sample_rate=16_000) == direct


async def test_operators_see_streams(server: RunningServer, clips: list[bytes]) -> None:
    async with connected(server) as client:
        await client.send(clips[0][:PIECE])
        await client.recv()
        assert server.health()["streams"]["open"] == 1
        assert b"modelserver_streams 1.0" in server.ask_admin("GET", "/metrics")[1]
        await client.send('{"eof": 1}')
        await client.recv()
        await client.wait_closed()
    done = server.wait_event("request.done", close=1000, audio_s=0.4)
    assert (done["status"], done["model"]) == (101, "default")
    assert b'modelserver_stream_ends_total{code="1000"}' in server.ask_admin("GET", "/metrics")[1]


async def test_a_port_of_its_own_and_an_idle_client(
    tmp_path: Path, small: models.ModelLocation, clips: list[bytes]
) -> None:
    port = free_port()
    with start_server(
        tmp_path,
        "--model",
        str(small.directory),
        MODELSERVER_PREPARE="never",
        MODELSERVER_VOSK_PORT=str(port),
        MODELSERVER_STREAMS_IDLE_S="0.5",
    ) as server:
        server.wait_ready()
        async with websockets.connect(f"ws://127.0.0.1:{port}") as client:
            await client.send('{"config": {"sample_rate": 16000}}')
            await client.send(clips[0][:PIECE])
            await client.recv()
            assert "text" in json.loads(await client.recv())  # the last result, before it is closed
            await client.wait_closed()
            assert client.close_code == 4408
