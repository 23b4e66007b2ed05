"""Start and end of a server: signals, missing requirements, and nothing left behind."""

import fcntl
import functools
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import termios
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from by_hand import check_error, read_all
from running import busy_worker, gone, start_server, until
from stopwatch import Stopwatch
from wavs import wav_file

import models

# --- starting and stopping ------------------------------------------------------------------------


def test_sigterm_finishes_what_is_in_flight_and_exits_with_0(
    tmp_path: Path, clips: list[bytes]
) -> None:
    with start_server(tmp_path) as server:
        server.wait_whole()
        with ThreadPoolExecutor() as threads:
            connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
            connection.request("GET", "/healthz")
            connection.getresponse().read()
            answer = threads.submit(server.convert, wav_file(b"".join(clips)))
            busy_worker(server)
            server.process.send_signal(signal.SIGTERM)
            server.wait_event("server.drain_started")
            # A connection that was open gets an answer; a new one is not taken.
            connection.request("POST", "/api/audio/convert", wav_file(b""))
            refused = connection.getresponse()
            assert refused.status == 503
            assert json.loads(refused.read())["error"]["code"] == "shutting_down"
            connection.close()
            host, port = server.url.removeprefix("http://").split(":")
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((host, int(port)))
            assert "어제" in answer.result().json["text"]
        tree = server.tree()[1:]
        assert server.process.wait(60) == 0
    assert not any(p.is_running() for p in tree)


def test_a_second_sigterm_stops_now(tmp_path: Path, clips: list[bytes]) -> None:
    with start_server(tmp_path) as server:
        server.wait_whole()
        with ThreadPoolExecutor() as threads:
            answer = threads.submit(server.convert, wav_file(b"".join(clips) * 50))
            busy_worker(server)
            server.process.send_signal(signal.SIGTERM)
            server.wait_event("server.drain_started")
            stopped = Stopwatch()
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(60) == 0
            assert stopped.seconds < 5
            check_error(answer.result(), 503, "shutting_down")


def test_a_missing_model_is_waited_for_with_the_reason_in_readyz(
    tmp_path: Path, embedded_path: Path
) -> None:
    model = tmp_path / "model"
    with start_server(tmp_path, "--model", str(model)) as server:
        server.wait_event("model.start_failed")
        answer = server.ask("/readyz")
        check_error(answer, 503, "not_ready")
        assert f"{model} is not a model: " in answer.json["error"]["message"]
        refused = server.convert(wav_file(b""))
        check_error(refused, 503, "not_ready")
        assert int(refused.headers["Retry-After"]) >= 1
        assert server.ask("/healthz").status == 200
        model.symlink_to(embedded_path)
        server.wait_ready()
        assert server.stop() == 0


def test_a_damaged_model_is_told_and_the_server_lives(tmp_path: Path, embedded_path: Path) -> None:
    model = tmp_path / "model"
    for source in embedded_path.rglob("*"):
        if source.is_file():
            target = model / source.relative_to(embedded_path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source)
    damaged = model / "graph" / "Gr.fst"
    content = damaged.read_bytes()
    damaged.unlink()
    damaged.write_bytes(content[: len(content) // 3])
    with start_server(tmp_path, "--model", str(model)) as server:
        server.wait_event("model.start_failed", timeout_s=30)
        answer = server.ask("/readyz")
        check_error(answer, 503, "not_ready")
        assert "cannot be loaded" in answer.json["error"]["message"]
        assert server.ask("/healthz").status == 200


def test_without_a_model_nothing_of_it_is_mapped(tmp_path: Path) -> None:
    with start_server(tmp_path, "--model", "nosuch") as server:
        server.wait_event("model.start_failed", timeout_s=30)
        memory = until(lambda: server.health()["memory"], what="a reading")
        assert memory["mapped_bytes"] == 0
        assert memory["used_bytes"] > 0


def test_a_port_that_is_taken_is_told_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(AssertionError, match=f"cannot listen on 127.0.0.1 port {port}") as told,
            start_server(tmp_path, "--port", str(port)),
        ):
            pass
    assert "Traceback" not in str(told.value).partition("Error:")[2]
    assert "stop the server that has it, or set another --port" in str(told.value)


def test_the_supervisor_killed_leaves_no_process(tmp_path: Path, clips: list[bytes]) -> None:
    with start_server(tmp_path) as server:
        server.wait_whole()
        with ThreadPoolExecutor() as threads:
            abandoned = threads.submit(server.convert, wav_file(b"".join(clips) * 5))
            busy_worker(server)
            tree = server.tree()
            assert len(tree) == 2 + os.cpu_count()  # type: ignore[operator]
            server.process.kill()
            server.process.wait()
            until(lambda: all(gone(process) for process in tree[1:]), 1.0)
            with pytest.raises((ConnectionError, http.client.HTTPException)):
                abandoned.result()


# --- signals and endings --------------------------------------------------------------------------


def test_sighup_while_it_starts_ends_nothing(tmp_path: Path, small: models.ModelLocation) -> None:
    with start_server(tmp_path, f"--model={small.directory}") as server:
        for _ in range(5):  # from the moment at which it says that it listens
            server.process.send_signal(signal.SIGHUP)
        server.wait_ready()
        assert server.process.poll() is None


def test_a_spool_directory_that_cannot_be_used_is_told_at_the_start(tmp_path: Path) -> None:
    for directory in (f"{tmp_path}/none", "/proc"):
        done = subprocess.run(
            [sys.executable, "-m", "modelserver", "serve", "--port=0", "--admin-listen=off"],
            env={**os.environ, "MODELSERVER_SPOOL_DIRECTORY": directory},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 1
        assert f"spool.directory: {directory} cannot be written to" in done.stderr


def test_an_upload_that_is_not_done_at_the_end_of_the_drain_is_told(
    tmp_path: Path, small: models.ModelLocation
) -> None:
    with start_server(tmp_path, f"--model={small.directory}", MODELSERVER_DRAIN_S="0.5") as server:
        server.wait_ready()
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            sock.sendall(
                b"POST /api/audio/convert HTTP/1.1\r\nHost: x\r\nContent-Type: audio/wav\r\n"
                b"Content-Length: 100000\r\n\r\nRIFF"
            )
            until(lambda: server.health()["spools"]["open"] == 1)
            server.process.send_signal(signal.SIGTERM)
            answer = read_all(sock)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"shutting_down" in answer
        assert server.process.wait(10) == 0


def test_a_terminal_that_is_closed_ends_the_server_in_it(
    tmp_path: Path, small: models.ModelLocation
) -> None:
    controller, terminal = os.openpty()
    variables = {**os.environ, "MODELSERVER_PORT": "0", "MODELSERVER_ADMIN_LISTEN": "off"}
    variables |= {"MODELSERVER_DEBUG_WARMUP": "none", "MODELSERVER_PREPARE": "never"}

    def own_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [sys.executable, "-m", "modelserver", "serve", f"--model={small.directory}"],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=variables,
        preexec_fn=own_terminal,
    )
    os.close(terminal)
    seen = b""
    while b"worker.started" not in seen:
        seen += os.read(controller, 65536)
    os.close(controller)  # which sends SIGHUP to its processes
    assert process.wait(20) == 0


def hears_sigterm(pid: int) -> bool:
    """Return whether it has a handler: without one, nothing reaches the first process of a
    namespace."""
    mask = Path(f"/proc/{pid}/status").read_text().partition("SigCgt:\t")[2].split()[0]
    return bool(int(mask, 16) & 1 << (signal.SIGTERM - 1))


@pytest.mark.parametrize("as_pid_1", [False, True])
def test_sigterm_at_any_moment_of_the_start_ends_it(
    tmp_path: Path, small: models.ModelLocation, as_pid_1: bool
) -> None:
    """Check that it ends in two seconds, with 0 or 143; also as a container's first process, whose
    interpreter has to be there before it can handle a signal."""
    program = [sys.executable, "-m", "modelserver", "serve", f"--model={small.directory}"]
    if as_pid_1:
        if os.getuid() != 0:
            pytest.skip("a pid namespace takes root")
        program = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *program]
    variables = {**os.environ, "MODELSERVER_PORT": "0", "MODELSERVER_ADMIN_LISTEN": "off"}
    variables |= {"MODELSERVER_PREPARE": "never"}
    for after_s in (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.5):
        process = subprocess.Popen(
            program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=variables
        )
        time.sleep(after_s)
        server = psutil.Process(process.pid)
        if as_pid_1:
            server = until(lambda s=server: next(iter(s.children()), None))
            until(functools.partial(hears_sigterm, server.pid))
        server.send_signal(signal.SIGTERM)
        until(lambda p=process: p.poll() is not None, 2, f"its end {after_s} s after its start")
        assert process.returncode in (0, 143, -signal.SIGTERM), after_s
