"""Restarts and upgrades: no client of any kind is refused, and everything handed over is served."""

import contextlib
import errno
import functools
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from by_hand import read_all, websocket_handshake
from mixed_clients import Account, mixed_clients
from running import RunningServer, ask, free_port, gone, start_server, until
from waves import wav

from models.vosk.prepared import PreparedModel
from modelserver.handover.sockets import Inherited, Sockets

pytestmark = pytest.mark.timeout(180)

COMMON = {
    "MODELSERVER_WORKERS_COUNT": "2",
    "MODELSERVER_STREAMS_SHARE": "1",  # two of them, beside other tests
}


def successor_of(server: RunningServer) -> psutil.Process:
    """Start a successor and return it."""
    os.kill(server.pid, signal.SIGUSR2)
    return psutil.Process(server.wait_event("upgrade.started")["pid"])


def each_kind(account: Account, kinds: int) -> bool:
    """Return whether each kind has had an answer; fail if one has failed."""
    assert not account.failed, account.failed
    return len(account.done) == kinds


def end(pid: int) -> None:
    """End a successor, which is not a child of the test."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        process.send_signal(signal.SIGTERM)
        process.wait(40)


@contextlib.contextmanager
def followed(port: int, job: str) -> Iterator[http.client.HTTPResponse]:
    """Give the events of a job, line by line."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as client:
        client.request("GET", f"/v1/jobs/{job}", headers={"Accept": "text/event-stream"})
        with client.getresponse() as events:
            assert events.status == 200
            yield events


def heard(events: http.client.HTTPResponse, said: bytes) -> None:
    """Read on until it is said."""
    for line in events:
        if said in line:
            return
    raise AssertionError(f"the end, and no {said!r}")


def pid_of(server: RunningServer) -> int:
    return int(server.health()["pid"])


@contextlib.contextmanager
def upgradable(directory: Path, *flags: str, **settings: str) -> Iterator[RunningServer]:
    """A server whose successors end with the test, too."""
    settings = COMMON | settings
    settings.setdefault("MODELSERVER_PORT", str(free_port()))
    with start_server(directory, *flags, **settings) as server:
        server.wait_ready()
        try:
            yield server
        finally:
            if server.process.poll() is not None:
                with contextlib.suppress(OSError, AssertionError):
                    end(pid_of(server))


# --- upgrades -------------------------------------------------------------------------------------


def test_upgrades_under_clients_of_every_kind_fail_nobody(
    tmp_path: Path, small_settings: dict[str, str], wav_clips: list[bytes]
) -> None:
    with upgradable(tmp_path, **small_settings) as server:
        pids = [server.pid]
        with mixed_clients(server.url, min(wav_clips, key=len), kept=3, streams=2) as account:
            until(functools.partial(each_kind, account, 4), 60, "an answer of each kind")
            for _ in range(2):
                done = server.upgrade()
                assert done.returncode == 0, done.stderr + done.stdout
                pids.append(pid_of(server))
                before = sum(account.done.values())
                until(lambda seen=before: sum(account.done.values()) > seen + 10, 60)
        assert len(set(pids)) == 3
        assert [e["reason"] for e in server.events("job.finished") if e.get("error")] == []
        handed = [e["connections"] for e in server.events("server.connections_transferred")]
        assert sum(handed) >= 3, "idle connections went along"
        assert server.process.wait(10) == 0


def test_a_connection_that_was_busy_meanwhile_may_ask_for_a_job_next(
    tmp_path: Path, small_settings: dict[str, str], wav_clips: list[bytes]
) -> None:
    """Send the next request before the connection can be handed over, as proxies do."""
    with upgradable(tmp_path, **small_settings) as server:
        body = min(wav_clips, key=len)
        job = server.ask("/v1/jobs", body).json["id"]
        until(lambda: server.ask(f"/v1/jobs/{job}").json["state"] == "done", 30)
        head = f"POST /api/audio/convert HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        with (
            socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection,
            ThreadPoolExecutor(1) as elsewhere,
        ):
            connection.sendall(head.encode() + body[:1000])
            upgraded = elsewhere.submit(server.upgrade)
            server.wait_event("server.drain_started", timeout_s=60)
            time.sleep(1)  # all that could be handed over has been
            next_request = f"GET /v1/jobs/{job} HTTP/1.1\r\nHost: x\r\n\r\n"
            connection.sendall(body[1000:] + next_request.encode())
            transcript, answer = read_all(connection).split(b"HTTP/1.1 ")[1:]
            assert transcript.startswith(b"200 ")
            assert answer.startswith(b"200 ")
            assert job.encode() in answer
            assert b"\r\nConnection: close\r\n" in answer  # the next one is another process's
            assert upgraded.result().returncode == 0
        assert pid_of(server) != server.pid


def test_jobs_do_not_wait_for_a_stream_without_goodbye_nor_for_half_a_request(
    tmp_path: Path, small_settings: dict[str, str], wav_clips: list[bytes]
) -> None:
    with upgradable(tmp_path, **small_settings) as server:
        job = server.ask("/v1/jobs", min(wav_clips, key=len)).json["id"]
        there = ("127.0.0.1", server.port)
        with (
            socket.create_connection(there, timeout=60) as silent,
            socket.create_connection(there) as half,
        ):
            half.sendall(b"GET /v1/jobs HT")
            silent.sendall(websocket_handshake("/api/audio/stream"))
            assert b" 101 " in silent.recv(1000)
            done = server.upgrade()
            assert done.returncode == 0, done.stderr + done.stdout
            told = b""
            while b"\x88" not in told:  # its end, which is not answered
                told += (more := silent.recv(1000))
                assert more, told
            assert server.ask(f"/v1/jobs/{job}", timeout_s=6).status == 200
            assert server.process.poll() is None, "the old one waits for an answer"
        assert server.process.wait(20) == 0


def test_who_follows_a_job_is_told_to_ask_again_and_holds_up_nobody(
    tmp_path: Path, prepared_embedded: PreparedModel, wav_clips: list[bytes], clips: list[bytes]
) -> None:
    assert prepared_embedded
    with upgradable(tmp_path, MODELSERVER_DEBUG_LONG_PIECE_S="10") as server:
        long = server.ask("/v1/jobs", wav(b"".join(clips) * 60)).json["id"]
        with followed(server.port, long) as events:
            heard(events, b"event: final")
            done = server.upgrade()
            assert done.returncode == 0, done.stderr + done.stdout
            heard(events, b'"code":"shutting_down"')
        assert server.process.wait(6) == 0, "the old one waits for who follows"
        with followed(server.port, long) as events:
            heard(events, b"event: final")
            assert server.ask(f"/v1/jobs/{long}").json["state"] == "running"
            os.kill(pid_of(server), signal.SIGTERM)
            heard(events, b'"code":"shutting_down"')


def test_what_takes_a_new_start_is_changed_by_an_upgrade(
    tmp_path: Path, prepared_embedded: PreparedModel, wav_clips: list[bytes]
) -> None:
    assert prepared_embedded
    settings = tmp_path / "settings.toml"
    first, second = free_port(), free_port()
    settings.write_text(f"port = {first}\nworkers.count = 2\n")
    environment = {"MODELSERVER_CONFIG": str(settings)}
    given = {
        k: v
        for k, v in os.environ.items()
        if k == "MODELSERVER_CONFIG" or not k.startswith("MODELSERVER_")
    }
    given |= environment | {
        "MODELSERVER_LOG_FORMAT": "json",
        "MODELSERVER_PREPARE": "never",
        "MODELSERVER_DEBUG_WARMUP": "none",
        "MODELSERVER_JOBS_DIRECTORY": str(tmp_path / "jobs"),
        "MODELSERVER_ADMIN_LISTEN": f"unix:{tmp_path}/admin.sock",
    }
    with (tmp_path / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "modelserver", "serve"], env=given, stdout=log, stderr=log
        )
    server = RunningServer(process, tmp_path / "log", tmp_path / "admin.sock")
    try:
        server.wait_ready()
        settings.write_text(f"port = {second}\nworkers.count = 1\nmemory.limit = '3GB'\n")
        done = server.upgrade()
        assert done.returncode == 0, done.stderr
        server.url = f"http://127.0.0.1:{second}"
        assert server.convert(wav_clips[0]).status == 200
        health = server.health()
        assert len(health["workers"]) == 1
        assert health["memory"]["limit_bytes"] == 3_000_000_000
        until(lambda: process.poll() is not None)
        until(lambda: server.ask("/v1/jobs").status == 200)
        assert not server.events("jobs.disabled"), "the jobs were only handed over"
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", first)) == errno.ECONNREFUSED
    finally:
        end(pid_of(server))
        process.wait(10)


def taken_port(held: contextlib.ExitStack) -> int:
    """Return a port on which something listens until the test ends."""
    return int(held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1])


def broken(directory: Path, name: str, text: str = "") -> Path:
    file = directory / name
    file.write_text(text)
    return file


CANNOT_SERVE = {
    "an unknown setting": ("nonsense = 1", "nonsense"),
    "no such model": ('model = "no-such-model"', "no-such-model"),
    "a model that cannot be loaded": ('model = "{damaged}"', "damaged"),
    "no directory for uploads": ('spool.directory = "/proc/none"', "spool.directory"),
    "the public port is taken": ("port = {taken}", "cannot listen on"),
    "the Vosk port is taken": ("vosk.port = {taken}", "vosk.port"),
    "the Wyoming port is taken": ('wyoming.uri = "tcp://127.0.0.1:{taken}"', "wyoming.uri"),
    "the Wyoming path is a file": ('wyoming.uri = "unix://{file}"', "wyoming.uri"),
    "the Wyoming address is none": ('wyoming.uri = "udp://x"', "wyoming.uri"),
    "the agent's port is taken": ('admin.agent = "127.0.0.1:{taken}"', "admin.agent"),
    "the admin port is taken": (
        'admin.listen = "127.0.0.1:{taken}"\nadmin.token_file = "{keys}"',
        "the admin side cannot listen",
    ),
    "the admin token cannot be read": (
        'admin.listen = "127.0.0.1:{free}"\nadmin.token_file = "{missing}"',
        "the admin side cannot listen",
    ),
    "the admin token is empty": (
        'admin.listen = "127.0.0.1:{free}"\nadmin.token_file = "{file}"',
        "a token is required",
    ),
    "the admin path has no directory": ('admin.listen = "unix:{missing}/x"', "cannot listen"),
    "the keys cannot be read": ('auth.keys_file = "{missing}"', "auth.keys_file"),
    "a line of the keys means nothing": ('auth.keys_file = "{keys}"', "auth.keys_file"),
    "no secret for webhooks": (
        'jobs.webhook_hosts = ["*"]\njobs.webhook_secret_file = "{missing}"',
        "jobs.webhook_secret_file",
    ),
    "the directory of jobs is a file": ('jobs.directory = "{file}"', "jobs.directory"),
    "the database of jobs is damaged": ('jobs.directory = "{damaged_jobs}"', "jobs.directory"),
    "text steps that are not installed": ('text.steps = ["no:step"]', "no:step"),
}


@pytest.fixture(scope="module")
def from_file(
    tmp_path_factory: pytest.TempPathFactory, prepared_embedded: PreparedModel
) -> Iterator[tuple[RunningServer, Path]]:
    """A server whose settings are all in a file, and that file."""
    assert prepared_embedded
    directory = tmp_path_factory.mktemp("from-file")
    settings = directory / "settings.toml"
    settings.write_text(common_settings(directory, free_port()))
    given = {k: v for k, v in os.environ.items() if not k.startswith("MODELSERVER_")}
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "modelserver", "serve", "--config", str(settings)],
            env=given,
            stdout=log,
            stderr=log,
        )
    server = RunningServer(process, directory / "log", directory / "admin.sock")
    try:
        server.wait_ready()
        yield server, settings
    finally:
        process.terminate()
        process.wait(40)


def common_settings(directory: Path, listens_on: int, **others: str) -> str:
    values = {
        "port": str(listens_on),
        "prepare": '"never"',
        "debug.warmup": '"none"',
        "workers.count": "1",
        "log.format": '"json"',
        "jobs.directory": f'"{directory}/jobs"',
        "admin.listen": f'"unix:{directory}/admin.sock"',
    } | others
    return "".join(f"{name} = {value}\n" for name, value in values.items())


@pytest.mark.parametrize("reason", CANNOT_SERVE)
def test_an_upgrade_whose_successor_cannot_serve_leaves_all_as_it_was(
    from_file: tuple[RunningServer, Path], tmp_path: Path, wav_clips: list[bytes], reason: str
) -> None:
    server, settings = from_file
    line, said = CANNOT_SERVE[reason]
    (tmp_path / "damaged" / "am").mkdir(parents=True)
    (tmp_path / "damaged" / "graph").mkdir()
    broken(tmp_path / "damaged" / "am", "final.mdl", "x" * 100)
    broken(tmp_path / "damaged" / "graph", "HCLG.fst", "x" * 100)
    (tmp_path / "jobs").mkdir()
    broken(tmp_path / "jobs", "jobs.db", "this is not a database" * 100)
    before = settings.read_text()
    with contextlib.ExitStack() as held:
        lines = line.format(
            taken=taken_port(held),
            free=free_port(),
            missing=tmp_path / "missing",
            file=broken(tmp_path, "file"),
            keys=broken(tmp_path, "keys", "nonsense\n"),
            damaged=tmp_path / "damaged",
            damaged_jobs=tmp_path / "jobs",
        )
        given = dict(one.split(" = ", 1) for one in lines.splitlines())
        settings.write_text(common_settings(settings.parent, server.port, **given))
        seen = len(server.events())
        try:
            os.kill(server.pid, signal.SIGUSR2)
            told = server.wait_event("upgrade.failed", seen, timeout_s=60)
        finally:
            settings.write_text(before)
    assert said in told["reason"]
    assert server.process.poll() is None
    assert pid_of(server) == server.pid
    assert server.convert(wav_clips[0]).status == 200
    assert server.ask("/v1/jobs").status == 200
    below = psutil.Process(server.pid).children(recursive=True)
    until(lambda: not [p for p in below if p.is_running() and "serve" in p.cmdline()], 10)


def test_the_command_says_why_a_successor_cannot_serve(
    from_file: tuple[RunningServer, Path],
) -> None:
    server, settings = from_file
    before = settings.read_text()
    with contextlib.ExitStack() as held:
        uri = f'"tcp://127.0.0.1:{taken_port(held)}"'
        wanted = {"wyoming.uri": uri}
        settings.write_text(common_settings(settings.parent, server.port, **wanted))
        try:
            done = server.upgrade()
        finally:
            settings.write_text(before)
    assert done.returncode == 1
    assert "wyoming.uri" in done.stderr
    assert pid_of(server) == server.pid


def test_an_upgrade_moves_the_admin_side_and_wyoming_along(
    tmp_path: Path, small_settings: dict[str, str], wav_clips: list[bytes]
) -> None:
    """Over Unix sockets, whose paths are the successor's afterwards."""
    with upgradable(
        tmp_path, **small_settings, MODELSERVER_WYOMING_URI=f"unix://{tmp_path}/wyoming"
    ) as server:
        done = server.upgrade()
        assert done.returncode == 0, done.stderr
        until(lambda: server.process.poll() == 0, 30)
        assert pid_of(server) != server.pid
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(f"{tmp_path}/wyoming")
            client.sendall(b'{"type": "describe"}\n')
            assert b'"info"' in client.recv(1000)
        assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]
        assert server.convert(wav_clips[0]).status == 200


def test_where_both_do_not_fit_the_old_one_goes_first_and_clients_wait(
    tmp_path: Path, prepared_embedded: PreparedModel, wav_clips: list[bytes]
) -> None:
    assert prepared_embedded
    with upgradable(tmp_path, MODELSERVER_MEMORY_LIMIT="400MB") as server:
        with mixed_clients(server.url, min(wav_clips, key=len), kept=2, jobs=0) as account:
            until(functools.partial(each_kind, account, 3), 60)
            done = server.upgrade()
            assert done.returncode == 0, done.stderr
            assert "waits for the old process to exit" in done.stdout
            seen = sum(account.done.values())
            until(lambda: sum(account.done.values()) > seen + 5, 60)
        assert server.events("upgrade.postponed")
        assert all(
            e["cause"] in ("shutdown", "recycled")
            for e in server.events("worker.exited", "fork_server.exited")
        )


def test_a_signal_does_it_too(
    tmp_path: Path, small_settings: dict[str, str], wav_clips: list[bytes]
) -> None:
    with upgradable(tmp_path, **small_settings) as server:
        os.kill(server.pid, signal.SIGUSR2)
        until(lambda: server.process.poll() == 0, 60, "the end of the one before")
        assert pid_of(server) != server.pid
        assert server.convert(wav_clips[0]).status == 200


def test_a_successor_that_dies_leaves_the_one_before_serving(
    tmp_path: Path, small_settings: dict[str, str], wav_clips: list[bytes]
) -> None:
    with upgradable(tmp_path, **small_settings) as server:
        successor_of(server).kill()
        assert "exited before it served" in server.wait_event("upgrade.failed")["reason"]
        assert server.convert(wav_clips[0]).status == 200
        assert server.upgrade().returncode == 0, "and another may be tried"


def test_a_server_that_is_told_to_stop_takes_its_successor_along(
    tmp_path: Path, small_settings: dict[str, str]
) -> None:
    with upgradable(tmp_path, **small_settings) as server:
        successor = successor_of(server)
        assert server.stop() == 0
        until(lambda: gone(successor), 30, "the end of the successor")


# --- restarts below a service manager -------------------------------------------------------------


class ServiceManager:
    """Service manager that retains sockets as systemd does, and gives them to the next process."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.settimeout(0.05)
        self.stored: list[tuple[str, int]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                body, descriptors, _, _ = socket.recv_fds(self._socket, 65536, 8)
                said = dict(line.split("=", 1) for line in body.decode().splitlines())
                if "BARRIER" in said:
                    for descriptor in descriptors:
                        os.close(descriptor)
                elif "FDSTOREREMOVE" in said:
                    for name, descriptor in self.stored:
                        if name == said["FDNAME"]:
                            os.close(descriptor)
                    self.stored = [s for s in self.stored if s[0] != said["FDNAME"]]
                elif "FDSTORE" in said:
                    self.stored += [(said["FDNAME"], descriptor) for descriptor in descriptors]

    @contextlib.contextmanager
    def start(self, directory: Path, **settings: str) -> Iterator[RunningServer]:
        """Service, with the sockets that are stored for it."""
        passed = [os.dup(descriptor) for _, descriptor in self.stored]
        for descriptor in passed:
            os.set_inheritable(descriptor, True)
        with start_server(
            directory,
            program=_AS_SYSTEMD,
            inherited=tuple(passed),
            NOTIFY_SOCKET=str(self.path),
            TEST_PASSED=",".join(map(str, passed)),
            TEST_NAMES=":".join(name for name, _ in self.stored),
            **settings,
        ) as server:
            for descriptor in passed:
                os.close(descriptor)
            yield server

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._socket.close()
        for _, descriptor in self.stored:
            os.close(descriptor)


_AS_SYSTEMD = (
    "-c",
    """
import os, sys
passed = [int(fd) for fd in os.environ.pop("TEST_PASSED").split(",") if fd]
moved = [os.dup2(fd, 500 + at) for at, fd in enumerate(passed)]
for fd in passed: os.close(fd)
for at, fd in enumerate(moved): os.dup2(fd, 3 + at, inheritable=True); os.close(fd)
if passed: os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(passed)),
    "LISTEN_FDNAMES": os.environ.pop("TEST_NAMES")}
os.execv(sys.executable, [sys.executable, "-m", "modelserver", *sys.argv[1:]])
""",
)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    manager = ServiceManager(tmp_path)
    yield manager
    manager.close()


def test_restarts_by_a_service_manager_fail_nobody(
    tmp_path: Path, manager: ServiceManager, small_settings: dict[str, str], wav_clips: list[bytes]
) -> None:
    port = str(free_port())
    given = COMMON | small_settings | {"MODELSERVER_PORT": port}
    url = f"http://127.0.0.1:{port}"
    with contextlib.ExitStack() as first:
        server = first.enter_context(manager.start(tmp_path, **given))
        server.wait_ready()
        with mixed_clients(url, min(wav_clips, key=len), kept=3, streams=2) as account:
            until(functools.partial(each_kind, account, 4), 60, "an answer of each kind")
            for _ in range(2):
                until(lambda: "stored-http" in [name for name, _ in manager.stored])
                server.process.send_signal(signal.SIGTERM)
                assert server.process.wait(60) == 0
                first.close()
                server = first.enter_context(manager.start(tmp_path, **given))
                seen = sum(account.done.values())
                until(lambda seen=seen: sum(account.done.values()) > seen + 10, 60)
        assert server.events("server.connections_transferred")


@pytest.mark.parametrize("name", ["http", "modelserver.socket"])
def test_a_unit_may_listen_on_several_addresses(
    tmp_path: Path, small_settings: dict[str, str], name: str
) -> None:
    """IPv4 and IPv6, or two addresses of this machine, as two lines of ListenStream."""
    with contextlib.ExitStack() as held:
        first = held.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = first.getsockname()[1]
        second = held.enter_context(socket.create_server(("127.0.0.2", port)))
        passed = (first.fileno(), second.fileno())
        given = small_settings | {
            "TEST_PASSED": ",".join(map(str, passed)),
            "TEST_NAMES": f"{name}:{name}",
            "MODELSERVER_PORT": str(port),
        }
        with start_server(tmp_path, program=_AS_SYSTEMD, inherited=passed, **given) as server:
            server.wait_ready()
            for host in ("127.0.0.1", "127.0.0.2"):
                assert ask(f"http://{host}:{port}/healthz").status == 200
            assert not server.events("socket.ignored")


def test_a_connection_that_waits_is_served_by_the_next_process(
    tmp_path: Path, manager: ServiceManager, small_settings: dict[str, str]
) -> None:
    given = small_settings | {"MODELSERVER_PORT": str(free_port())}
    with manager.start(tmp_path, **given) as server:
        server.wait_ready()
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        client.request("GET", "/test")
        assert client.getresponse().read()
        mine = client.sock
        # Half a head has been received already: that connection is not handed over, but ends here.
        with socket.create_connection(("127.0.0.1", server.port)) as halfway:
            halfway.sendall(b"GET /test HTTP/1.1\r\nHo")
            time.sleep(0.1)  # nothing tells when it has arrived
            assert server.stop(10) == 0
            assert halfway.recv(10) == b""
        assert sorted(name for name, _ in manager.stored) == ["connection-http", "stored-http"]
    client.sock.sendall(b"GET /test HTTP/1.1\r\nHost: x\r\n\r\n")
    with manager.start(tmp_path, **given) as server:
        assert b"200 OK" in client.sock.recv(65536)
        assert client.sock is mine
        # It is known to one process only: with that it ends.
        until(lambda: [name for name, _ in manager.stored] == ["stored-http"])
        client.sock.sendall(b"GET /test HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        with client.sock.makefile("rb") as answer:
            assert b"200 OK" in answer.read()
    client.close()


def test_the_port_is_the_settings_after_a_restart(
    tmp_path: Path, manager: ServiceManager, small_settings: dict[str, str]
) -> None:
    first, second = free_port(), free_port()
    with manager.start(tmp_path, MODELSERVER_PORT=str(first), **small_settings) as server:
        assert server.port == first
        refused = server.upgrade()
        assert (refused.returncode, "systemctl restart" in refused.stderr) == (1, True)
        assert server.stop() == 0
    with manager.start(tmp_path, MODELSERVER_PORT=str(second), **small_settings) as server:
        assert server.port == second
        server.wait_ready()
        until(lambda: [name for name, _ in manager.stored] == ["stored-http"])
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", first)) == errno.ECONNREFUSED


def test_a_socket_unit_says_where_to_listen(
    tmp_path: Path, manager: ServiceManager, small_settings: dict[str, str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        manager.stored = [("modelserver.socket", os.dup(opened.fileno()))]
        # It is there before the server is, and waits.
        client = http.client.HTTPConnection(*opened.getsockname(), timeout=60)
        client.request("GET", "/readyz")
        with manager.start(tmp_path, **small_settings) as server:
            assert client.getresponse().status == 200
            assert server.port == opened.getsockname()[1]
        client.close()


# --- which socket is whose ------------------------------------------------------------------------


@contextlib.contextmanager
def sockets(**named: tuple[str, int]) -> Iterator[tuple[Sockets, dict[str, socket.socket]]]:
    """Give sockets as inherited under these names."""
    inherited, made = Inherited(), {}
    for name, address in named.items():
        made[name] = socket.create_server(address)
        inherited.take(name.replace("_", "-"), made[name])
    found = Sockets(inherited)
    yield found, made
    found.close()
    for sock in made.values():
        sock.close()


def port_of(found: Sockets, name: str, port: int, host: str = "127.0.0.1") -> int:
    """Return the port on which it listens for that."""
    with found.listen(name, host, port) as sock:
        return int(sock.getsockname()[1])


def test_sockets_are_found_by_name_then_by_port_then_for_http() -> None:
    where = ("127.0.0.1", 0)
    with sockets(vosk=where, some=where, other=where) as (found, made):
        ports = {name: sock.getsockname()[1] for name, sock in made.items()}
        assert port_of(found, "vosk", 1) == ports["vosk"]
        assert port_of(found, "agent", ports["other"]) == ports["other"]
        assert port_of(found, "http", 1) == ports["some"]
        assert found.waited_for == {"vosk", "agent", "http"}
        assert found.outlive


def test_what_was_stored_is_used_only_where_the_settings_still_want_it() -> None:
    with sockets(stored_http=("127.0.0.1", 0)) as (found, made):
        free = free_port()
        assert port_of(found, "http", free) == free
        assert made["stored_http"].fileno() == -1
        assert not found.waited_for
    with sockets(stored_http=("127.0.0.1", free)) as (found, _):
        assert port_of(found, "http", free, "localhost") == free
        assert found.waited_for == {"http"}
        assert not found.outlive, "until somebody keeps it again"


def test_variables_of_another_process_are_not_ours() -> None:
    environment = {"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x"}
    found = Inherited.from_systemd(environment)
    assert not found.unnamed
    assert environment == {}
