"""Servers that people would take instead of this one, each a real one that is started here.

All have the embedded model. "The old shape": one blocking process, a new recogniser for each
request. "Prefork": the same in as many processes as there are workers, each of which has loaded the
model itself. "Threads": the protocol of the Vosk project's server over WebSockets, with a thread
pool and a new recogniser for each connection, re-stated from its documentation; or that server
itself, where $CONTESTANT_VOSK_SERVER names a checkout of it.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil
import utterances
from bare import anonymous
from parts import free_port, naive_server, until
from server import WORKERS, server
from waves import wav

import models
from modelserver.settings import Settings

PIECE_BYTES = utterances.RATE // 5 * 2
"""What the Vosk project's own clients send at once: a fifth of a second."""

VOSK_SERVER_VARIABLE = "CONTESTANT_VOSK_SERVER"

Ask = Callable[[aiohttp.ClientSession, bytes], Awaitable[str]]
"""Has one file's samples transcribed; its text. Raises what the client sees."""


@dataclass(frozen=True)
class Contestant:
    """One that runs."""

    name: str
    ask: Ask
    pid: int
    """Of its first process."""
    url: str = ""

    def processes(self) -> list[psutil.Process]:
        """All of it."""
        first = psutil.Process(self.pid)
        return [first, *first.children(recursive=True)]

    def memory_mb(self) -> float:
        """What the kernel cannot drop: anonymous memory, shared pages by their share."""
        return sum(anonymous(process.pid) for process in self.processes()) / 1e6


def over_http(url: str) -> Ask:
    """One WAV file a request."""

    async def ask(session: aiohttp.ClientSession, pcm: bytes) -> str:
        async with session.post(url, data=wav(pcm)) as answer:
            body = await answer.read()
            answer.raise_for_status()
            return str(json.loads(body)["text"])

    return ask


def over_vosk(url: str) -> Ask:
    """As the Vosk project's own client does it: a piece, its answer, the next."""

    async def ask(session: aiohttp.ClientSession, pcm: bytes) -> str:
        said = []
        async with session.ws_connect(url) as socket:
            await socket.send_str(json.dumps({"config": {"sample_rate": utterances.RATE}}))
            for at in range(0, len(pcm), PIECE_BYTES):
                await socket.send_bytes(pcm[at : at + PIECE_BYTES])
                said.append(json.loads(await socket.receive_str()).get("text", ""))
            await socket.send_str('{"eof" : 1}')
            said.append(json.loads(await socket.receive_str())["text"])
        return " ".join(filter(None, said))

    return ask


@contextlib.contextmanager
def this_server(workers: int = WORKERS) -> Iterator[Contestant]:
    """The model prepared, our kernels."""
    with server("prepared", workers) as running:
        ask = over_http(f"{running.url}/api/audio/convert")
        yield Contestant("this server", ask, running.process.pid)


@contextlib.contextmanager
def old_shape() -> Iterator[Contestant]:
    """One process."""
    with prefork(1, "the old shape") as found:
        yield found


@contextlib.contextmanager
def prefork(workers: int = WORKERS, name: str = "prefork") -> Iterator[Contestant]:
    """So many."""
    with naive_server(_model(), workers, lambda: None) as running:
        ask = over_http(f"http://127.0.0.1:{running.port}/")
        yield Contestant(name, ask, psutil.Process(running.pids[0]).ppid())


THREADS = """
import asyncio, concurrent.futures, json, os, sys
from aiohttp import web
from models.vosk_loading import vosk
vosk.SetLogLevel(-1)
model = vosk.Model(sys.argv[2])
pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
def chunk(recognizer, message):
    if isinstance(message, str):
        return recognizer.FinalResult()
    return recognizer.Result() if recognizer.AcceptWaveform(message) else recognizer.PartialResult()
async def recognize(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    recognizer, rate = None, 8000
    async for message in socket:
        if isinstance(message.data, str) and "config" in message.data:
            rate = float(json.loads(message.data)["config"]["sample_rate"])
            continue
        if recognizer is None:
            recognizer = vosk.KaldiRecognizer(model, rate)
            recognizer.SetWords(True)
        loop = asyncio.get_running_loop()
        await socket.send_str(await loop.run_in_executor(pool, chunk, recognizer, message.data))
        if isinstance(message.data, str):
            break
    return socket
app = web.Application()
app.router.add_get("/", recognize)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
"""


@contextlib.contextmanager
def threads() -> Iterator[Contestant]:
    """The method of the Vosk project's server, or itself."""
    port = free_port()
    theirs = os.environ.get(VOSK_SERVER_VARIABLE)
    if theirs:
        program = [f"{theirs}/websocket/asr_server.py", str(_model())]
        variables = {"VOSK_SERVER_INTERFACE": "127.0.0.1", "VOSK_SERVER_PORT": str(port)}
    else:
        program, variables = ["-c", THREADS, str(port), str(_model())], {}
    process = subprocess.Popen(
        [sys.executable, *program], env=os.environ | variables, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: _listens(process, port), 60, "it listens")
        url = f"ws://127.0.0.1:{port}/"
        name = "the Vosk project's server" if theirs else "threads"
        yield Contestant(name, over_vosk(url), process.pid, url)
    finally:
        process.kill()
        process.wait()


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    assert process.poll() is None, "it has ended"
    connections = psutil.Process(process.pid).net_connections("tcp")
    return any(one.status == "LISTEN" and one.laddr.port == port for one in connections)


def _model() -> Path:
    return models.find_model("auto", Settings().models_dir).directory
