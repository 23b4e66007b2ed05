"""Servers that people would take instead of this one, each a real one that is started here.

All have the embedded model. "Single process": one blocking process, a new recogniser for each
request. "Prefork": the same in as many processes as there are workers, each of which has loaded the
model itself. "Thread pool": the protocol of vosk-server over WebSockets, with a thread
pool and a new recogniser for each connection, re-stated from its documentation; or that server
itself, where $CONTESTANT_VOSK_SERVER names a checkout of it. MOSEC and LitServe: model servers from
PyPI, with as many workers, each of which has loaded the model itself, and a new recogniser for each
request.
"""

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil
import utterances
from bare import anonymous
from parts import PROGRAM, free_port, naive_server, until
from server import WORKERS, server
from waves import wav

import models
from modelserver.settings import Settings

PIECE_BYTES = utterances.RATE // 5 * 2
"""Bytes that the Vosk project's own clients send at once: a fifth of a second."""

THIS = "modelserver"

_TREE = """
import os, sys
sys.path.insert(0, os.environ["TREE"])
from modelserver.__main__ import main
main()
"""
RUN_TREE = ("-c", _TREE)
"""Arguments with which Python runs the server of the checkout that $TREE names."""

VOSK_SERVER_VARIABLE = "CONTESTANT_VOSK_SERVER"

Ask = Callable[[aiohttp.ClientSession, bytes], Awaitable[str]]
"""Function that has one file's samples transcribed, and returns the text. Raises the client's
error."""

Enter = Callable[[], None] | None
"""Function called in the server's first process before it begins, such as one that enters a
cgroup."""


def _loaded(processes: list[psutil.Process]) -> int:
    """Return how many of the processes have a model, by their size."""
    return sum(_rss(process) > 100e6 for process in processes)


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


@dataclass(frozen=True)
class Contestant:
    """Contestant that runs."""

    name: str
    ask: Ask
    pid: int
    """Pid of its first process."""
    url: str = ""
    able_: Callable[[], int] | None = field(default=None, repr=False)

    def processes(self) -> list[psutil.Process]:
        """Return all its processes."""
        try:
            first = psutil.Process(self.pid)
            everyone = [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
        return [one for one in everyone if _alive(one)]

    def memory_mb(self) -> float:
        """Return the unreclaimable memory: anonymous memory, shared pages by their share."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(OSError):  # one that has just ended
                total += anonymous(process.pid)
        return total / 1e6

    def workers(self) -> list[psutil.Process]:
        """Return the processes that decode: its leaves, if it has children at all."""
        everyone = self.processes()
        above = {_parent(one) for one in everyone} | _leaders(everyone)
        return [one for one in everyone if one.pid not in above and _rss(one) > 20e6]

    def able(self) -> int:
        """Return how many can decode now."""
        return self.able_() if self.able_ is not None else _loaded(self.workers())


def _alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _leaders(processes: Sequence[psutil.Process]) -> set[int]:
    """Return leaders of the groups of others: processes from which a worker was forked, if that is
    not its parent."""
    leaders = set()
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            if (leader := os.getpgid(process.pid)) != process.pid:
                leaders.add(leader)
    return leaders


def _parent(process: psutil.Process) -> int:
    try:
        return process.ppid()
    except psutil.NoSuchProcess:
        return 0


Start = Callable[..., AbstractContextManager[Contestant]]
"""Takes `workers` and `enter`."""


# --- how they are asked ---------------------------------------------------------------------------


def over_http(url: str) -> Ask:
    """Send one WAV file in each request."""

    async def ask(session: aiohttp.ClientSession, pcm: bytes) -> str:
        async with session.post(url, data=wav(pcm)) as answer:
            body = await answer.read()
            answer.raise_for_status()
            return str(json.loads(body)["text"])

    return ask


def over_json(url: str) -> Ask:
    """Send one WAV file in each request, in Base64: what LitServe takes without a form."""

    async def ask(session: aiohttp.ClientSession, pcm: bytes) -> str:
        document = {"audio": base64.b64encode(wav(pcm)).decode()}
        async with session.post(url, json=document) as answer:
            answer.raise_for_status()
            return str((await answer.json())["text"])

    return ask


def over_vosk(url: str) -> Ask:
    """Stream as the Vosk project's own client does: a piece, its answer, the next."""

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


# --- this server ----------------------------------------------------------------------------------


@contextlib.contextmanager
def this_server(
    workers: int = WORKERS,
    enter: Enter = None,
    name: str = THIS,
    tree: Path | None = None,
    **settings: str,
) -> Iterator[Contestant]:
    """The model prepared, our SIMD library. `tree`: a checkout of another commit, which is run."""
    program = PROGRAM
    if tree is not None:
        program = RUN_TREE
        settings |= {"TREE": str(tree), "PYTHONPATH": str(tree)}
    with server("prepared", workers, enter, program, **settings) as running:
        ask = over_http(f"{running.url}/api/audio/convert")

        def able() -> int:
            return sum(w["state"] in ("idle", "busy") for w in running.health()["workers"])

        url = running.url.replace("http", "ws", 1) + "/"
        yield Contestant(name, ask, running.process.pid, url, able)


# --- others ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def old_shape(workers: int = 1, enter: Enter = None) -> Iterator[Contestant]:
    """Start one process."""
    assert workers == 1
    with prefork(1, enter, "single process") as found:
        yield found


@contextlib.contextmanager
def prefork(
    workers: int = WORKERS, enter: Enter = None, name: str = "prefork"
) -> Iterator[Contestant]:
    """Start `workers` forked processes."""
    with naive_server(_model(), workers, enter or (lambda: None)) as running:
        ask = over_http(f"http://127.0.0.1:{running.port}/")
        yield Contestant(name, ask, psutil.Process(running.pids[0]).ppid())


_THREADS = """
import asyncio, concurrent.futures, json, os, sys
import vosk
from aiohttp import web
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

_RECOGNISE = """
import io, os, sys, wave
import vosk
port, workers = int(os.environ["PORT"]), int(os.environ["WORKERS"])
model_path = os.environ["MODEL"]
vosk.SetLogLevel(-1)
def recognised(model, body):
    with wave.open(io.BytesIO(body)) as audio:
        pcm = audio.readframes(audio.getnframes())
    recognizer = vosk.KaldiRecognizer(model, 16000)
    recognizer.AcceptWaveform(pcm)
    return recognizer.FinalResult()
"""

_MOSEC = (
    _RECOGNISE
    + """
sys.argv[1:] = ["--address", "127.0.0.1", "--port", str(port), "--timeout", "120000",
                "--log-level", "error"]
import mosec
class Recogniser(mosec.Worker):
    def __init__(self):
        super().__init__()
        self.model = vosk.Model(model_path)
    def deserialize(self, data):
        return data
    def serialize(self, data):
        return data.encode()
    def forward(self, data):
        return recognised(self.model, data)
if __name__ == "__main__":
    server = mosec.Server()
    server.append_worker(Recogniser, num=workers)
    server.run()
"""
)

_LITSERVE = (
    _RECOGNISE
    + """
import base64, json
import litserve
class Recogniser(litserve.LitAPI):
    def setup(self, device):
        self.model = vosk.Model(model_path)
    def decode_request(self, request):
        return base64.b64decode(request["audio"])
    def predict(self, body):
        return recognised(self.model, body)
    def encode_response(self, output):
        return json.loads(output)
if __name__ == "__main__":
    server = litserve.LitServer(Recogniser(), accelerator="cpu",
                                workers_per_device=workers, timeout=120, restart_workers=True)
    server.run(host="127.0.0.1", port=port, log_level="error", generate_client_file=False)
"""
)


def threads_name() -> str:
    """Return the name of the contestant `threads` here."""
    return "vosk-server" if VOSK_SERVER_VARIABLE in os.environ else "thread pool"


@contextlib.contextmanager
def threads(workers: int = WORKERS, enter: Enter = None) -> Iterator[Contestant]:
    """The method of the Vosk project's server, or itself; it takes as many threads as there are
    processors."""
    theirs = os.environ.get(VOSK_SERVER_VARIABLE)
    port = free_port()
    if theirs:
        program = [f"{theirs}/websocket/asr_server.py", str(_model())]
        variables = {"VOSK_SERVER_INTERFACE": "127.0.0.1", "VOSK_SERVER_PORT": str(port)}
    else:
        program, variables = ["-c", _THREADS, str(port), str(_model())], {}
    with started([sys.executable, *program], port, enter, **variables) as pid:
        url = f"ws://127.0.0.1:{port}/"
        yield Contestant(threads_name(), over_vosk(url), pid, url)


@contextlib.contextmanager
def mosec(workers: int = WORKERS, enter: Enter = None) -> Iterator[Contestant]:
    """A controller in Rust, workers in Python."""
    with _model_server("MOSEC", _MOSEC, "/inference", over_http, workers, enter) as found:
        yield found


@contextlib.contextmanager
def litserve(workers: int = WORKERS, enter: Enter = None) -> Iterator[Contestant]:
    """FastAPI in front, workers behind queues."""
    with _model_server("LitServe", _LITSERVE, "/predict", over_json, workers, enter) as found:
        yield found


@contextlib.contextmanager
def _model_server(
    name: str, program: str, path: str, over: Callable[[str], Ask], workers: int, enter: Enter
) -> Iterator[Contestant]:
    """Start a server whose workers are processes; it is ready once they have loaded."""
    port = free_port()
    # A file of its own: workers that are spawned import it again.
    file = utterances.CACHE / f"benchmark-{name.lower()}.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(program)
    variables = {"PORT": str(port), "MODEL": str(_model()), "WORKERS": str(workers)}
    with started([sys.executable, str(file)], port, enter, **variables) as pid:
        found = Contestant(name, over(f"http://127.0.0.1:{port}{path}"), pid)
        until(lambda: found.able() >= workers, 60, f"{name} has loaded")
        yield found


@contextlib.contextmanager
def started(command: list[str], port: int, enter: Enter, **variables: str) -> Iterator[int]:
    """A program that listens on `port` once it is ready; its pid. It is gone at the end."""
    process = subprocess.Popen(
        command,
        env=os.environ | variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=utterances.CACHE,  # sherpa-onnx's server writes a directory of logs
        preexec_fn=enter,
        start_new_session=True,
    )
    try:
        until(lambda: _listens(process, port), 60, "it listens")
        yield process.pid
    finally:
        # Those, too, whose parent the kernel has killed.
        for pid in psutil.pids():
            with contextlib.suppress(ProcessLookupError):
                if os.getsid(pid) == process.pid:
                    os.kill(pid, signal.SIGKILL)
        process.wait()


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    assert process.poll() is None, "it has ended"
    everyone = [psutil.Process(process.pid)]
    everyone += everyone[0].children(recursive=True)
    for one in everyone:
        with contextlib.suppress(psutil.NoSuchProcess):
            if any(
                found.status == "LISTEN" and found.laddr.port == port
                for found in one.net_connections("tcp")
            ):
                return True
    return False


def _model() -> Path:
    return models.find_model("auto", Settings().models_dir).directory
