"""The story that this project comes from, against the real kernel: the same limit and the same
load, for a server of the old shape and for this one."""

import contextlib
import json
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from cgroup import MB, memory_cgroup
from naive_client import naive_server
from places import SUPPORT
from running import Answer, RunningServer, start_server, until

import models
from models.vosk.prepared import PreparedModel

LIMIT = 1150 * MB
CLIENTS = 4


def load(server: RunningServer, wavs: list[bytes]) -> list[Answer]:
    with ThreadPoolExecutor(CLIENTS) as clients:
        return list(clients.map(server.convert, wavs))


def test_a_server_of_the_old_shape_is_killed_by_the_kernel(
    embedded: models.ModelLocation, wav_clips: list[bytes]
) -> None:
    with memory_cgroup(LIMIT) as group, naive_server(embedded.directory, 2, group.enter) as naive:
        assert group.oom_kills() == 0, "it must have loaded"
        clients = [
            threading.Thread(target=naive.try_convert, args=(wav,), daemon=True)
            for wav in wav_clips * CLIENTS
        ]
        for client in clients:
            client.start()
        # At first it may only stand still, while the kernel takes its program's own pages away.
        until(lambda: group.oom_kills() > 0, 100)


@pytest.mark.parametrize("form", ["plain", "prepared"])
def test_this_server_answers_every_request_under_the_same_limit_and_load(
    tmp_path: Path, prepared_embedded: PreparedModel, wav_clips: list[bytes], form: str
) -> None:
    store = {"MODELSERVER_PREPARED_DIR": str(tmp_path / "none")} if form == "plain" else {}
    with (
        memory_cgroup(LIMIT) as group,
        start_server(
            tmp_path, before_exec=group.enter, MODELSERVER_WORKERS_COUNT="2", **store
        ) as server,
    ):
        server.wait_whole()
        (loaded,) = server.events("model.loaded")
        assert loaded["details"]["graph"] == ("lazy" if form == "plain" else "mapped")
        answers = load(server, wav_clips * CLIENTS)
        for answer in answers:
            assert answer.status in (200, 503)
            if answer.status == 503:
                assert answer.json["error"]["code"] == "memory_pressure"
                assert int(answer.headers["Retry-After"]) >= 1
            else:
                assert answer.json["text"]
        assert sum(answer.status == 200 for answer in answers) > len(answers) / 2
        assert group.oom_kills() == 0
        health = server.health()
        assert health["pid"] == server.pid
        assert "kernel_oom" not in health["exits_by_cause"]
        assert server.convert(wav_clips[0]).status == 200


def test_a_burst_of_500_long_uploads_is_bounded_and_all_answered(
    tmp_path: Path, prepared_embedded: PreparedModel, wav_clips: list[bytes]
) -> None:
    """Send two minutes of silence in each, 4 MB: 2 GB if all were accepted."""
    body_bytes, places = 4 * MB, 6
    with (
        memory_cgroup(700 * MB) as group,
        start_server(
            tmp_path,
            before_exec=group.enter,
            MODELSERVER_WORKERS_COUNT="2",
            MODELSERVER_LIMITS_QUEUE="4",
            MODELSERVER_SPOOL_DIRECTORY=str(tmp_path),
            MODELSERVER_DRAIN_S="0",
        ) as server,
    ):
        server.wait_whole()
        supervisor = psutil.Process(server.pid)
        rss_before = supervisor.memory_info().rss
        burst = subprocess.run(
            [sys.executable, str(SUPPORT / "burst.py"), server.url, "500"],
            input=json.dumps({"bytes": body_bytes, "admin": f"{tmp_path}/admin.sock"}),
            capture_output=True,
            text=True,
            timeout=100,
            check=True,
        )
        outcome = json.loads(burst.stdout)
        assert sum(outcome["codes"].values()) == 500
        assert set(outcome["codes"]) <= {"200", "queue_full", "memory_pressure"}
        assert outcome["codes"]["200"] >= places
        # Each is there as it came, or as samples; as both while one of the two workers makes them.
        assert 0 < outcome["most_on_disk"] <= (places + 2) * body_bytes
        assert supervisor.memory_info().rss - rss_before < 60 * MB
        assert group.oom_kills() == 0
        until(lambda: server.health()["queue"]["admitted"] == 0, 30)
        assert server.health()["spools"]["open"] == 0
        assert server.convert(wav_clips[0]).status == 200


@contextlib.contextmanager
def idle_connections(url: str, count: int) -> Iterator[list[socket.socket]]:
    host, port = url.removeprefix("http://").split(":")
    sockets = []
    try:
        for _ in range(count):
            sockets.append(socket.create_connection((host, int(port))))  # noqa: PERF401 - to be closed
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


def heard(sock: socket.socket) -> bytes:
    """Return what has come, without waiting; nothing if nothing has, or if it was cut off."""
    with contextlib.suppress(OSError):
        return sock.recv(4096, socket.MSG_DONTWAIT | socket.MSG_PEEK)
    return b""


def test_a_crowd_that_says_nothing_keeps_nobody_out(
    tmp_path: Path, small: models.ModelLocation, wav_clips: list[bytes]
) -> None:
    """Open many connections: a new client takes the place of the one that has been idle longest."""

    def few_descriptors() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))

    with start_server(
        tmp_path,
        "--model",
        str(small.directory),
        before_exec=few_descriptors,
        MODELSERVER_LIMITS_QUEUE="20",
    ) as server:
        server.wait_ready()
        for crowd in (150, 800):
            with idle_connections(server.url, crowd):
                for _ in range(5):
                    assert server.convert(wav_clips[2]).status == 200
                    assert server.ask("/healthz").status == 200
                assert psutil.Process(server.pid).num_fds() < 380
        until(lambda: server.convert(wav_clips[2]).status == 200)
        assert not server.events("worker.exited")
