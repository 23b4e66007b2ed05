"""A server as its users run it: a process with a log, listening on a loopback port."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from stopwatch import Stopwatch

from modelserver.admin.address import AdminAddress
from modelserver.admin.client import ask as ask_admin

READY_S = 60.0

UNHANDLED = ("Exception in", "Task exception", "Future exception", "Task was destroyed")
"""Beginnings of what the event loop logs of errors that no code has handled: always a bug of
ours."""

PROGRAM = ("-m", "modelserver")
"""Arguments of Python that run the program."""


PATIENCE = float(os.environ.get("TEST_PATIENCE", "1"))
"""Factor by which this processor is slower than a real one, if it is emulated."""


def until(condition: Callable[[], Any], timeout_s: float = 10.0, what: str = "") -> Any:
    """Wait until `condition` gives something true, and return that. `timeout_s`: by a
    `Stopwatch`."""
    timeout_s *= PATIENCE
    watch = Stopwatch()
    while True:
        value = condition()
        if value:
            return value
        if watch.past(timeout_s):
            raise AssertionError(f"not within {timeout_s} s: {what or condition}")
        time.sleep(watch.pause_s)


def gone(process: psutil.Process) -> bool:
    """Return whether the process has ended, whether or not its parent has noticed."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(url: str, body: bytes | None = None, timeout_s: float = 60.0, **headers: str) -> Answer:
    """Send one request; a body makes it a POST. Header names use _ for -. Raises `OSError`."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        given.setdefault("Content-Type", "audio/wav")
    request = urllib.request.Request(url, data=body, headers=given)
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            return Answer(response.status, dict(response.headers), response.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code, dict(error.headers), error.read())


def free_port() -> int:
    """Return a port of the loopback on which nothing listens now."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def _group(process: psutil.Process) -> int:
    """Return the process group; 0 if the process has gone."""
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return 0


class RunningServer:
    """A `modelserver serve` process."""

    def __init__(
        self, process: subprocess.Popen[bytes], log: Path, admin: Path, before: int = 0
    ) -> None:
        """Take over a server that was started. `admin`: the socket of its admin side, unless the
        test moves it; `before`: events that an earlier server has left in the log."""
        self.process = process
        self.admin = admin
        self._log = log
        self._before = before
        self.url = until(self._listening, READY_S, "server.started")

    def _listening(self) -> str | None:
        assert self.process.poll() is None, self._log.read_text()
        own = [e for e in self.events()[self._before :] if e["event"] == "server.started"]
        return own[0]["url"] if own else None

    def events(self, *names: str) -> list[dict[str, Any]]:
        """Events logged so far, of these names or all."""
        lines = self._log.read_text(encoding="utf-8").splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{") and line[-1] == "}"]
        return [e for e in found if not names or e["event"] in names]

    def wait_event(self, name: str, seen: int = 0, timeout_s: float = 10.0, **fields: Any) -> Any:
        """Return the first event of that name with those fields, or details, after the first `seen`
        of the log."""

        def search() -> Any:
            for event in self.events()[seen:]:
                told = event | event.get("details", {})
                if event["event"] == name and fields.items() <= told.items():
                    return event
            return None

        return until(search, timeout_s, f"event {name} {fields}")

    def upgrade(self, *flags: str) -> subprocess.CompletedProcess[str]:
        """Run the command to its end."""
        command = (sys.executable, *PROGRAM, "upgrade", f"--admin-listen=unix:{self.admin}", *flags)
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    def ask(
        self, path: str, body: bytes | None = None, timeout_s: float = 60.0, **headers: str
    ) -> Answer:
        """Send one request; a body makes it a POST. Header names use _ for -."""
        return ask(self.url + path, body, timeout_s, **headers)

    def convert(self, wav: bytes, query: str = "", **headers: str) -> Answer:
        """Transcribe a recording."""
        return self.ask("/api/audio/convert" + query, wav, **headers)

    def wait_ready(self) -> None:
        until(lambda: self.ask("/readyz").status == 200, READY_S, "ready")

    def wait_whole(self, workers: int = 2) -> None:
        """Wait until all workers that there should be are able."""

        def whole() -> bool:
            answer = self.ask("/readyz")
            return answer.status == 200 and answer.json["workers"] == workers

        until(whole, READY_S, "whole")

    def ask_admin(self, method: str, path: str) -> tuple[int, bytes]:
        """Status and body of the admin side's answer."""
        return ask_admin(AdminAddress(path=self.admin), method, path, None)

    def health(self) -> dict[str, Any]:
        """Return the health document."""
        status, body = self.ask_admin("GET", "/admin/health")
        assert status == 200, body
        health: dict[str, Any] = json.loads(body)
        return health

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def fork_server(self) -> psutil.Process:
        """Return the newest fork server."""
        pid = self.events("model.loaded")[-1]["pid"]
        return psutil.Process(pid)

    def workers(self) -> list[psutil.Process]:
        """Return the workers of the newest fork server: the supervisor's children in its group."""
        server = self.fork_server().pid
        found = psutil.Process(self.pid).children()
        return [child for child in found if child.pid != server and _group(child) == server]

    def tree(self) -> list[psutil.Process]:
        """Return every process below the supervisor, and the supervisor."""
        me = psutil.Process(self.pid)
        return [me, *me.children(recursive=True)]

    def stop(self, timeout_s: float = 40.0) -> int:
        """SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)


def busy_worker(server: RunningServer) -> psutil.Process:
    """Return the worker that decodes: the one that uses the processor."""

    def find() -> psutil.Process | None:
        try:
            workers = server.workers()
            before = [sum(w.cpu_times()[:2]) for w in workers]
            time.sleep(0.05)
            used = [sum(w.cpu_times()[:2]) - b for w, b in zip(workers, before, strict=True)]
        except psutil.NoSuchProcess:
            return None  # one that was killed just before
        return workers[used.index(max(used))] if max(used, default=0) > 0.02 else None

    found = until(find, what="a busy worker")
    assert isinstance(found, psutil.Process)
    return found


@contextlib.contextmanager
def start_server(
    directory: Path,
    *flags: str,
    before_exec: Callable[[], None] | None = None,
    program: tuple[str, ...] = PROGRAM,
    inherited: tuple[int, ...] = (),
    python: str = sys.executable,
    admin_token: str | None = None,
    **environment: str,
) -> Iterator[RunningServer]:
    """Start `modelserver serve` on any port; it is gone at the end, whatever happened.

    Models are neither prepared nor warmed up unless the test says so.
    """
    log = directory / "server.log"
    variables = {k: v for k, v in os.environ.items() if not k.startswith("MODELSERVER_")}
    variables |= {"MODELSERVER_PORT": "0", "MODELSERVER_LOG_FORMAT": "json"}
    variables |= {"MODELSERVER_PREPARE": "never", "MODELSERVER_DEBUG_WARMUP": "none"}
    variables |= {"MODELSERVER_CONFIG": os.devnull}
    variables |= {"MODELSERVER_JOBS_DIRECTORY": str(directory / "jobs")}
    variables |= {"MODELSERVER_ADMIN_LISTEN": f"unix:{directory}/admin.sock"} | environment
    if admin_token is not None:
        (directory / "admin-token").write_text(admin_token)
        variables["MODELSERVER_ADMIN_TOKEN_FILE"] = str(directory / "admin-token")
    before = log.read_bytes().count(b"\n{") + 1 if log.is_file() and log.stat().st_size else 0
    with log.open("ab") as output:
        process = subprocess.Popen(
            [python, *program, "serve", *flags],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=variables,
            cwd=directory,
            preexec_fn=before_exec,
            pass_fds=inherited,
        )
    tree: list[psutil.Process] = []
    try:
        server = RunningServer(process, log, directory / "admin.sock", before)
        yield server
        unhandled = [e for e in server.events() if e["event"].startswith(UNHANDLED)]
        assert not unhandled, unhandled
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            tree = psutil.Process(process.pid).children(recursive=True)
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(45)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for left in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
