"""nginx in front, as `deploy/nginx/modelserver.conf` has it: a real nginx, real speech."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from front import SITE, Gateway, gateway_of
from running import RunningServer, free_port, start_server, until
from stopwatch import Stopwatch

import models


@pytest.fixture(scope="module")
def behind(
    tmp_path_factory: pytest.TempPathFactory, small: models.ModelLocation
) -> Iterator[tuple[RunningServer, Gateway]]:
    directory = tmp_path_factory.mktemp("gateway")
    directory.chmod(0o755)
    with start_server(
        directory,
        "--model",
        str(small.directory),
        MODELSERVER_WORKERS_COUNT="2",
        MODELSERVER_LIMITS_BODY="2MiB",
        MODELSERVER_LIMITS_UPLOAD_IDLE_S="1",
        MODELSERVER_LIMITS_QUEUE="0",
    ) as server:
        server.wait_whole()
        with gateway_of(directory, int(server.url.rpartition(":")[2])) as gateway:
            yield server, gateway


def test_speech_goes_through_with_its_request_id(
    behind: tuple[RunningServer, Gateway], wav_clips: list[bytes]
) -> None:
    server, gateway = behind
    direct = server.convert(wav_clips[2]).json["text"]
    status, headers, document = gateway.ask(
        "POST", "/api/audio/convert", wav_clips[2], X_Request_ID="from-outside-1"
    )
    assert status == 200
    assert document["text"] == direct
    assert headers["X-Request-ID"] == document["request_id"] == "from-outside-1"
    status, headers, document = gateway.ask(
        "POST", "/api/audio/convert", wav_clips[2], X_Request_ID="not {sane}"
    )
    assert document["request_id"] == headers["X-Request-ID"] != "not {sane}"
    assert len(document["request_id"]) == 32


def test_too_large_a_body_is_refused_by_the_server_and_far_too_large_by_the_gateway(
    behind: tuple[RunningServer, Gateway],
) -> None:
    for size in (2_500_000, 4_000_000):
        status, headers, document = behind[1].ask("POST", "/api/audio/convert", bytes(size))
        assert status == 413
        assert document["error"]["code"] == "body_too_large"
        assert headers["X-Request-ID"] == document["error"]["request_id"]


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"G@T / HTTP/1.1\r\n\r\n", 400),
        (b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: odd\r\n\r\n", 501),
    ],
)
def test_what_the_gateway_refuses_by_itself_has_the_same_shape(
    behind: tuple[RunningServer, Gateway], request_text: bytes, status: int
) -> None:
    with socket.create_connection(("127.0.0.1", behind[1].port)) as sock:
        sock.settimeout(10)
        sock.sendall(request_text)
        response = http.client.HTTPResponse(sock)
        response.begin()
        body = response.read()
    assert response.status == status
    document = json.loads(body)
    assert response.headers["X-Request-ID"] == document["error"]["request_id"]


def test_a_simple_health_check_without_a_host_is_answered(
    behind: tuple[RunningServer, Gateway],
) -> None:
    with socket.create_connection(("127.0.0.1", behind[1].port)) as sock:
        sock.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 200 ")


def test_an_upload_arrives_while_it_is_sent_and_one_that_stalls_is_refused(
    behind: tuple[RunningServer, Gateway], wav_clips: list[bytes]
) -> None:
    server, gateway = behind
    wav = wav_clips[2]

    def send(sock: socket.socket, part: bytes) -> None:
        sock.sendall(part)

    head = (
        f"POST /api/audio/convert HTTP/1.1\r\nHost: x\r\nContent-Type: audio/wav\r\n"
        f"Content-Length: {len(wav)}\r\nConnection: close\r\n\r\n"
    ).encode()
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as sock:
        send(sock, head)
        step = len(wav) // 8 + 1
        for at in range(0, len(wav), step):  # slower than the server's patience, never idle so long
            send(sock, wav[at : at + step])
            time.sleep(0.3)
        assert b" 200 " in sock.recv(65536).splitlines()[0]
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as sock:
        send(sock, head + wav[:1000])
        answer = sock.recv(65536)
        assert b" 408 " in answer.splitlines()[0]
        assert b"upload_timeout" in answer
    assert server.convert(wav).status == 200


def test_a_503_and_its_retry_after_come_through_untouched(
    behind: tuple[RunningServer, Gateway], wav_clips: list[bytes]
) -> None:
    _, gateway = behind
    sockets = []
    head = b"POST /api/audio/convert HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
    try:
        for _ in range(2):  # all the places that there are
            sock = socket.create_connection(("127.0.0.1", gateway.port))
            sock.sendall(head + wav_clips[0][:5000])
            sockets.append(sock)

        def refused() -> Any:
            answer = gateway.ask("POST", "/api/audio/convert", wav_clips[0])
            return answer if answer[0] == 503 else None

        _, headers, document = until(refused, 5)
        assert document["error"]["code"] == "queue_full"
        assert int(headers["Retry-After"]) >= 1
    finally:
        for sock in sockets:
            sock.close()


@pytest.mark.parametrize(
    "path", ["/metrics", "/admin/health", "/admin/workers/0/recycle", "/admin", "//admin/health"]
)
def test_the_admin_side_does_not_exist_from_outside(
    behind: tuple[RunningServer, Gateway], path: str
) -> None:
    for method in ("GET", "POST"):
        status, _, document = behind[1].ask(method, path)
        assert status == 404
        assert document["error"]["code"] == "not_found"


def test_while_the_server_is_down_callers_hear_it_at_once(
    tmp_path: Path, wav_clips: list[bytes]
) -> None:
    tmp_path.chmod(0o755)
    with gateway_of(tmp_path, free_port()) as gateway:
        for method, path, body in (
            ("GET", "/readyz", None),
            ("POST", "/api/audio/convert", wav_clips[0]),
        ):
            watch = Stopwatch()
            status, headers, document = gateway.ask(method, path, body)
            assert watch.seconds < 1.0
            assert status == 502
            assert document["error"]["code"] == "not_ready"
            assert headers["Retry-After"] == "2"
            assert headers["X-Request-ID"] == document["error"]["request_id"]


def test_sizes_and_times_agree_with_the_servers_own() -> None:
    from modelserver.settings import Settings

    conf, limits = SITE.read_text(), Settings().limits
    assert f"client_max_body_size {limits.body // 2**20 * 4 // 3 + 2}m;" in conf
    times = int(Settings().jobs.audio_s / limits.audio_s)
    assert f"client_max_body_size {times * limits.body // 2**20 * 4 // 3 + 2}m;" in conf
    assert f"client_body_timeout {limits.upload_idle_s + 5:.0f}s;" in conf
    assert f"proxy_read_timeout {limits.request_s + 10:.0f}s;" in conf
    assert f"127.0.0.1:{Settings().port}" in conf
