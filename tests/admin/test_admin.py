"""The admin side: health, metrics, actions of the operator, and access to them."""

import contextlib
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from running import RunningServer, ask, start_server, until
from wavs import wav_file

import models
from modelserver.admin.address import AdminAddress, BadAddress, admin_address, bind_unix
from modelserver.admin.client import ask as ask_admin
from modelserver.settings import AdminSettings

REPLACED_S = 2.0


class Admin:
    """A running server's admin side, over its Unix socket."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def ask(self, method: str, path: str) -> tuple[int, bytes]:
        return ask_admin(AdminAddress(path=self.path), method, path, None)

    def health(self) -> dict[str, Any]:
        status, body = self.ask("GET", "/admin/health")
        assert status == 200, body
        health: dict[str, Any] = json.loads(body)
        return health

    def metrics(self) -> dict[str, float]:
        """Return samples by name and labels, in Prometheus's notation."""
        status, body = self.ask("GET", "/metrics")
        assert status == 200
        found = {}
        for family in text_string_to_metric_families(body.decode()):
            # The supervisor's own process has the names that every exporter uses for it.
            assert family.name.startswith(("modelserver_", "process_"))
            assert family.documentation
            for sample in family.samples:
                labels = ",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        return found

    def post(self, path: str) -> tuple[int, dict[str, Any]]:
        status, body = self.ask("POST", path)
        return status, json.loads(body)


@pytest.fixture(scope="module")
def own_server(
    tmp_path_factory: pytest.TempPathFactory, small: models.ModelLocation
) -> Iterator[tuple[RunningServer, Admin]]:
    """A server that this module may hurt."""
    directory = tmp_path_factory.mktemp("admin")
    with start_server(
        directory,
        "--model",
        str(small.directory),
        MODELSERVER_WORKERS_COUNT="2",
        MODELSERVER_DEBUG_HANG_S="1",
    ) as server:
        server.wait_whole()
        yield server, Admin(directory / "admin.sock")


@pytest.fixture
def served(own_server: tuple[RunningServer, Admin]) -> tuple[RunningServer, Admin]:
    own_server[0].wait_whole()
    return own_server


def test_the_health_document_has_what_a_person_asks_first(
    served: tuple[RunningServer, Admin], wav_clips: list[bytes]
) -> None:
    server, admin = served
    for _ in range(2):
        server.convert(wav_clips[2])

    def all_read() -> Any:
        health = admin.health()
        return health if all(worker["rss_bytes"] for worker in health["workers"]) else None

    health = until(all_read)
    assert health["status"] in ("ok", "degraded")
    assert health["pid"] == server.pid
    assert health["model"]["language"]
    pids = {worker["pid"] for worker in health["workers"]}
    assert pids == {process.pid for process in server.workers()}
    for worker in health["workers"]:
        assert worker["state"] in ("idle", "busy")
        assert worker["rss_bytes"] > 10_000_000
        assert 0 <= worker["growth_bytes"] <= worker["budget_bytes"]
    assert sum(worker["jobs_done"] for worker in health["workers"]) >= 2
    assert health["queue"]["limit"] == 66
    memory = health["memory"]
    assert memory["level"] == "normal"
    assert memory["limit_bytes"] - memory["reserve_bytes"] > memory["left_bytes"] > 0
    assert memory["headroom_bytes"] <= memory["left_bytes"]
    assert memory["limit_is"]
    assert memory["budget_is"]
    assert {resource["name"] for resource in health["resources"]} >= {"disk", "descriptors"}
    assert health["spools"]["open"] == 0


def test_metrics_are_what_prometheus_reads(
    served: tuple[RunningServer, Admin], wav_clips: list[bytes]
) -> None:
    server, admin = served
    route = "/api/audio/convert"
    ok = f'modelserver_requests_total{{code="ok",route="{route}",status="200"}}'
    before = admin.metrics().get(ok, 0)
    assert server.convert(wav_clips[2]).status == 200
    assert server.convert(b"no audio").status == 400
    resident = 'modelserver_worker_resident_memory_bytes{model="default",worker="1"}'
    until(lambda: admin.metrics()[resident] > 0, what="the workers have been looked at")
    after = admin.metrics()
    assert after[ok] == before + 1
    refused = f'modelserver_requests_total{{code="not_audio",route="{route}",status="400"}}'
    assert after[refused] >= 1
    assert after["modelserver_audio_seconds_total"] > 1
    name = "modelserver_request_duration_seconds"
    assert after[f'{name}_bucket{{le="+Inf",route="{route}"}}'] >= 2
    assert after[f'{name}_count{{route="{route}"}}'] >= 2
    assert after["modelserver_ready"] == 1
    assert after['modelserver_memory_level{level="normal"}'] == 1
    assert after[resident] > 0
    assert after["process_resident_memory_bytes"] > 10_000_000
    assert after["modelserver_memory_lost_ratio"] < 0.1
    assert after["modelserver_worker_waited_seconds_total"] >= 0
    assert after["modelserver_memory_refaults_total"] >= 0
    assert after["modelserver_worker_major_faults_total"] >= 0


@pytest.mark.parametrize(
    ("number", "cause"),
    [(signal.SIGKILL, "killed"), (signal.SIGSEGV, "crash"), (signal.SIGSTOP, "hang")],
)
def test_a_worker_that_dies_shows_with_its_cause_everywhere(
    served: tuple[RunningServer, Admin], number: signal.Signals, cause: str
) -> None:
    server, admin = served
    counter = f'modelserver_process_exits_total{{cause="{cause}"}}'
    before = admin.metrics().get(counter, 0)
    victim = server.workers()[0].pid
    os.kill(victim, number)
    # A stopped process is known to hang only when debug.hang_s is over.
    allowed = REPLACED_S + (1.5 if cause == "hang" else 0)
    until(lambda: admin.metrics().get(counter, 0) == before + 1, allowed)
    health = admin.health()
    death = next(death for death in health["last_deaths"] if death["pid"] == victim)
    assert death["cause"] == cause
    assert death["sentence"].startswith(f"worker process {victim} ")
    assert death["memory"]
    assert death["rss_bytes"] > 0
    assert health["exits_by_cause"][cause] == before + 1
    assert any(death["sentence"] == reason for reason in health["reasons"])
    server.wait_event("worker.exited", timeout_s=1, pid=victim, cause=cause)


def test_the_death_of_the_fork_server_shows_and_mends(served: tuple[RunningServer, Admin]) -> None:
    server, admin = served
    victim = server.fork_server().pid
    loaded = len(server.events("model.loaded"))
    os.kill(victim, signal.SIGKILL)

    def shown() -> bool:
        return any(death["pid"] == victim for death in admin.health()["last_deaths"])

    until(shown, REPLACED_S)
    server.wait_event("fork_server.exited", timeout_s=1, pid=victim, cause="killed")
    until(lambda: len(server.events("model.loaded")) > loaded, 20)
    until(
        lambda: {w["pid"] for w in admin.health()["workers"]} == {p.pid for p in server.workers()}
    )
    assert admin.health()["fork_server_pid"] == server.fork_server().pid != victim


def test_a_worker_is_recycled_on_request(
    served: tuple[RunningServer, Admin], wav_clips: list[bytes]
) -> None:
    server, admin = served
    pids = {process.pid for process in server.workers()}
    until(lambda: {worker["pid"] for worker in admin.health()["workers"]} == pids)
    before = {worker["id"]: worker["pid"] for worker in admin.health()["workers"]}
    status, answer = admin.post("/admin/workers/1/recycle")
    assert (status, answer["pids"]) == (202, [before[1]])
    server.wait_event("worker.exited", pid=before[1], cause="recycled")
    until(lambda: len(server.workers()) == 2)
    server.wait_whole()
    after = {worker["id"]: worker["pid"] for worker in admin.health()["workers"]}
    assert after[0] == before[0]
    assert after[1] != before[1]
    assert server.convert(wav_clips[2]).status == 200
    assert all(death["pid"] != before[1] for death in admin.health()["last_deaths"])


@pytest.mark.parametrize("slot", ["7", "x", "-1"])
def test_a_worker_that_is_not_there_cannot_be_recycled(
    served: tuple[RunningServer, Admin], slot: str
) -> None:
    status, answer = served[1].post(f"/admin/workers/{slot}/recycle")
    assert status == 404
    assert "there are: 0, 1" in answer["error"]["message"]


def test_the_socket_is_its_owners_alone(served: tuple[RunningServer, Admin]) -> None:
    assert stat.S_IMODE(served[1].path.stat().st_mode) == 0o600


def test_the_public_side_has_nothing_of_it(served: tuple[RunningServer, Admin]) -> None:
    for path in ("/admin/health", "/metrics"):
        assert served[0].ask(path).status == 404


def test_status_and_doctor_say_it_in_words(served: tuple[RunningServer, Admin]) -> None:
    server, admin = served
    where = f"--admin-listen=unix:{admin.path}"
    os.kill(victim := server.workers()[0].pid, signal.SIGKILL)
    until(lambda: any(d["pid"] == victim for d in admin.health()["last_deaths"]))
    run = [sys.executable, "-m", "modelserver"]
    status = subprocess.run([*run, "status", where], capture_output=True, text=True, check=True)
    assert f"pid {server.pid}" in status.stdout
    assert f"worker process {victim} was killed by SIGKILL" in status.stdout
    assert "memory: normal" in status.stdout
    as_json = subprocess.run(
        [*run, "status", where, "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(as_json.stdout)["pid"] == server.pid
    doctor = subprocess.run([*run, "doctor", where], capture_output=True, text=True, check=False)
    for part in ("This machine:", "The model:", "The server:", "out-of-memory killer:"):
        assert part in doctor.stdout
    assert f"! worker process {victim} was killed by SIGKILL" in doctor.stdout
    assert doctor.returncode == 1


def test_without_a_server_they_say_so(tmp_path: Path) -> None:
    where = f"--admin-listen=unix:{tmp_path}/none.sock"
    run = [sys.executable, "-m", "modelserver"]
    status = subprocess.run([*run, "status", where], capture_output=True, text=True, check=False)
    assert status.returncode == 1
    assert "no server answers" in status.stderr
    doctor = subprocess.run([*run, "doctor", where], capture_output=True, text=True, check=False)
    assert "no server answers" in doctor.stdout


def test_draining_takes_no_new_work_and_goes_on_living(
    tmp_path: Path, small: models.ModelLocation, wav_clips: list[bytes]
) -> None:
    with start_server(tmp_path, "--model", str(small.directory)) as server:
        server.wait_ready()
        admin = Admin(tmp_path / "admin.sock")
        assert admin.post("/admin/drain")[0] == 202
        refused = server.convert(wav_clips[2])
        assert refused.status == 503
        assert refused.json["error"]["code"] == "shutting_down"
        assert server.ask("/readyz").status == 503
        assert admin.health()["status"] == "draining"
        assert server.process.poll() is None


# --- over TCP -------------------------------------------------------------------------------------


def test_over_tcp_everybody_needs_the_token(tmp_path: Path, small: models.ModelLocation) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    with start_server(
        tmp_path,
        "--model",
        str(small.directory),
        MODELSERVER_ADMIN_LISTEN="127.0.0.1:0",
        MODELSERVER_ADMIN_TOKEN_FILE=str(token),
    ) as server:
        url = server.wait_event("admin.started")["address"]
        for path in ("/admin/health", "/metrics"):
            assert ask(url + path).status == 401
            assert ask(url + path, Authorization="Bearer wrong").status == 401
            assert ask(url + path, **{"X-Forwarded-For": "127.0.0.1"}).status == 401
            assert ask(url + path, Authorization="Bearer s3cret").status == 200
        assert "s3cret" not in (tmp_path / "server.log").read_text()


@pytest.mark.parametrize(
    ("listen", "said"),
    [("127.0.0.1:0", "it needs a token"), ("nonsense", "allowed: "), ("unix:/proc/x", "cannot")],
)
def test_an_admin_side_that_cannot_be_is_refused_at_the_start(
    tmp_path: Path, listen: str, said: str
) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "modelserver", "serve", "--port=0", f"--admin-listen={listen}"],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "MODELSERVER_PREPARE": "never"},
        check=False,
    )
    assert run.returncode == 1
    assert said in run.stderr


def test_a_second_server_leaves_the_first_ones_socket_alone(
    tmp_path: Path, small: models.ModelLocation
) -> None:
    runtime = {"XDG_RUNTIME_DIR": str(tmp_path), "MODELSERVER_ADMIN_LISTEN": "auto"}
    first, second, third = (tmp_path / name for name in "123")
    for directory in (first, second, third):
        directory.mkdir()
    model = ("--model", str(small.directory))
    with start_server(first, *model, **runtime) as one:
        one.wait_event("admin.started")
        admin = Admin(tmp_path / "modelserver" / "admin.sock")
        with start_server(second, *model, **runtime) as two:
            warned = two.wait_event("admin.start_failed")
            assert "another server listens there" in warned["reason"]
            two.wait_ready()
        assert admin.health()["pid"] == one.pid
        one.process.kill()
        one.process.wait()
        assert admin.path.is_socket()  # left behind
    with start_server(third, *model, **runtime) as three:
        three.wait_event("admin.started")
        assert admin.health()["pid"] == three.pid
        assert three.stop() == 0
        assert not admin.path.exists()


def test_addresses_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert admin_address(AdminSettings(listen="off")) is None
    assert admin_address(AdminSettings(listen="[::1]:8092")) == AdminAddress(host="::1", port=8092)
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    assert admin_address(AdminSettings()) == AdminAddress(path=tmp_path / "admin.sock")
    with pytest.raises(BadAddress):
        admin_address(AdminSettings(listen="host:99999"))


# --- clients that are refused ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def over_tcp(
    tmp_path_factory: pytest.TempPathFactory, small: models.ModelLocation
) -> Iterator[tuple[RunningServer, str]]:
    """A server with few descriptors, and its admin address."""
    with start_server(
        tmp_path_factory.mktemp("tcp"),
        f"--model={small.directory}",
        before_exec=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512)),
        MODELSERVER_ADMIN_LISTEN="127.0.0.1:0",
        admin_token="secret",
    ) as server:
        server.wait_ready()
        yield server, server.wait_event("admin.started")["address"]


def test_who_has_no_token_cannot_take_the_descriptors(
    over_tcp: tuple[RunningServer, str], clips: list[bytes]
) -> None:
    server, admin = over_tcp
    host, port = admin.removeprefix("http://").split(":")
    before = psutil.Process(server.pid).num_fds()
    with contextlib.ExitStack() as held:
        for _ in range(300):
            held.enter_context(socket.create_connection((host, int(port))))
        assert psutil.Process(server.pid).num_fds() < before + 40
        assert server.convert(wav_file(clips[2])).status == 200
        assert ask(f"{admin}/admin/health", Authorization="bearer secret").status == 200
    assert not server.events("guard.failed")


def test_no_bytes_of_a_token_are_an_error_of_ours(over_tcp: tuple[RunningServer, str]) -> None:
    server, admin = over_tcp
    for token in ("\xff\xfe", "", "secret2", "Ü"):
        answer = ask(f"{admin}/admin/health", Authorization=f"Bearer {token}")
        assert answer.status == 401
        assert answer.headers["Server"].startswith("modelserver/")
    assert not server.events("admin.request_failed")


@pytest.mark.parametrize("worker", ["\N{SUPERSCRIPT TWO}", "9" * 5000, "-1", "x"])
def test_a_worker_that_is_no_number_is_not_found(
    served: tuple[RunningServer, Admin], worker: str
) -> None:
    status, document = served[1].post(f"/admin/workers/{quote(worker)}/recycle")
    assert (status, document["error"]["code"]) == (404, "not_found")


# --- servers that the commands trust --------------------------------------------------------------


FALSE_SERVER = r"""
import os, socket, sys
os.setuid(int(sys.argv[2]))
sock = socket.socket(socket.AF_UNIX)
sock.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o777)
sock.listen()
print("there", flush=True)
while True:
    connection, _ = sock.accept()
    connection.recv(65536)
    body = b'{"error": {"message": "\\u001b]0;owned\\u0007fine"}}'
    connection.sendall(b"HTTP/1.0 500 x\r\n\r\n" + body)
    connection.close()
"""


@pytest.fixture
def false_server() -> Iterator[Path]:
    """Give the socket of another user's process, which every user may open."""
    if os.getuid() != 0:
        pytest.skip("another user's process takes root")
    directory = tempfile.TemporaryDirectory()
    path = Path(directory.name) / "false.sock"
    path.parent.chmod(0o777)
    process = subprocess.Popen(
        [sys.executable, "-c", FALSE_SERVER, str(path), "12346"], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        yield path
    finally:
        process.kill()
        process.communicate()
        directory.cleanup()


def test_nothing_that_a_terminal_would_obey_is_shown(false_server: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "modelserver", "status", f"--admin-listen=unix:{false_server}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 1
    assert "fine" in said.stderr
    assert "\x1b" not in said.stderr + said.stdout
    assert "\a" not in said.stderr + said.stdout


def test_another_user_s_process_is_not_believed(false_server: Path) -> None:
    ask = f"""
from pathlib import Path
from modelserver.admin.client import ask
from modelserver.admin.address import AdminAddress
import os
os.setuid(12345)
ask(AdminAddress(path=Path({str(false_server)!r})), "GET", "/admin/health", None)
"""
    asked = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False)
    assert "PermissionError" in asked.stderr
    assert "of another user (12346) answers there" in asked.stderr


def test_a_drain_can_be_taken_back(
    served: tuple[RunningServer, Admin], wav_clips: list[bytes]
) -> None:
    server, admin = served
    assert admin.post("/admin/drain")[0] == 202
    refused = server.convert(wav_clips[2])
    assert (refused.status, refused.json["error"]["code"]) == (503, "shutting_down")
    assert "the operator has paused the server" in refused.json["error"]["message"]
    assert admin.post("/admin/resume") == (200, {"status": "serving"})
    assert server.convert(wav_clips[2]).status == 200


def test_the_log_says_why_a_request_was_slow(
    served: tuple[RunningServer, Admin], wav_clips: list[bytes]
) -> None:
    server, _ = served
    answer = server.convert(wav_clips[2], X_Request_ID="slow-one")
    told = server.wait_event("request.done", request_id="slow-one")
    assert told["model"] == "default"
    assert told["audio_s"] == pytest.approx(answer.json["duration"], abs=0.01)
    assert told["bytes"] == len(wav_clips[2])
    assert 0 <= told["queued_s"] < told["run_s"] < told["duration_ms"] / 1000
    assert server.events("server.ready")


# --- its socket -----------------------------------------------------------------------------------


def bind_when_all_are_there(path: Path, begin: threading.Barrier) -> socket.socket | None:
    begin.wait()
    try:
        return bind_unix(path)
    except OSError:
        return None


def test_of_two_that_begin_at_once_one_has_the_socket(tmp_path: Path) -> None:
    """Over a socket that a dead server has left."""
    for number in range(20):
        path = tmp_path / f"{number}.sock"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        begin = threading.Barrier(2)
        with ThreadPoolExecutor(2) as starters:
            both = list(starters.map(bind_when_all_are_there, [path] * 2, [begin] * 2))
        (held,) = (one for one in both if one is not None)
        with held, socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            held.settimeout(5)
            held.accept()[0].close()


def test_a_server_too_busy_to_answer_keeps_its_socket(tmp_path: Path) -> None:
    path = tmp_path / "busy.sock"
    with socket.socket(socket.AF_UNIX) as busy, contextlib.ExitStack() as waiting:
        busy.bind(str(path))
        busy.listen(0)
        for _ in range(2):  # its backlog is full
            client = waiting.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(str(path))
        with pytest.raises(OSError, match="another server listens there"):
            bind_unix(path)


def test_a_directory_that_was_named_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        bind_unix(tmp_path / "nowhere" / "x.sock")
    assert list(tmp_path.iterdir()) == []
