"""Web pages of other sites, and names that are pointed at this machine: a visitor's browser may not
use a server for them that they have no right to."""

import base64
import json
import os
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from running import Answer, RunningServer, free_port, start_server

from modelserver.access.keyring import add_key
from modelserver.admin.address import AdminAddress
from modelserver.admin.client import ask as ask_admin

SOCKETS = ("/api/audio/stream", "/ws", "/")
GOOD = "https://good.example"


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, small_settings: dict[str, str]
) -> Iterator[RunningServer]:
    given = {
        **small_settings,
        "MODELSERVER_CORS_ORIGINS": GOOD,
        "MODELSERVER_SERVER_NAMES": "speech.example,*.speech.example",
        "MODELSERVER_WORKERS_COUNT": "1",
    }
    with start_server(tmp_path_factory.mktemp("browsers"), **given) as running:
        running.wait_whole(1)
        yield running


def handshake(server: RunningServer, path: str, **headers: str) -> int:
    """Return the status of a WebSocket's handshake."""
    given = {
        "Host": f"127.0.0.1:{server.port}",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
    } | {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
        return int(sock.recv(4096).split()[1])


@pytest.mark.parametrize("path", SOCKETS)
def test_a_websocket_is_opened_by_pages_that_may_and_by_programs(
    server: RunningServer, path: str
) -> None:
    assert handshake(server, path) == 101
    for origin in (GOOD, f"http://127.0.0.1:{server.port}", "http://127.0.0.1"):
        assert handshake(server, path, Origin=origin) == 101
    for origin in ("https://evil.example", "http://localhost:3000", "null", "file://"):
        assert handshake(server, path, Origin=origin) == 403
    # Behind a gateway that changes Host, a page of the same site is known by its browser.
    page = {"Origin": "https://speech.elsewhere", "Sec_Fetch_Site": "same-origin"}
    assert handshake(server, path, **page) == 101
    assert handshake(server, path, **{**page, "Sec_Fetch_Site": "cross-site"}) == 403


def test_a_form_of_another_page_is_refused(server: RunningServer, wav_clips: list[bytes]) -> None:
    for path in ("/v1/jobs", "/api/audio/convert", "/v1/audio/transcriptions"):
        for origin, status in (("https://evil.example", 403), ("null", 403), (GOOD, 0)):
            answer = requests.post(
                server.url + path,
                files={"file": ("a.wav", wav_clips[0])},
                headers={"Origin": origin},
                timeout=30,
            )
            assert (answer.status_code == 403) == (status == 403), answer.text
            if status == 403:
                assert answer.json()["error"]["code"] == "origin_refused"
    read = server.ask("/v1/models", Origin="https://evil.example")
    assert read.status == 200  # which the browser keeps from the page
    assert "Access-Control-Allow-Origin" not in read.headers


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8091", 200),
        ("127.0.0.1", 200),
        ("[::1]:8091", 200),
        ("192.168.7.7:80", 200),
        ("gpu-box", 200),
        ("gpu-box.local", 200),
        ("speech.default.svc.cluster.local", 200),
        ("speech.example", 200),
        ("a.SPEECH.example:443", 200),
        ("evil.example:8091", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example", 403),
        ("notspeech.example", 403),
    ],
)
def test_a_name_that_was_pointed_at_this_machine_is_refused(
    server: RunningServer, host: str, status: int
) -> None:
    for path in ("/v1/models", "/v1/jobs", "/"):
        assert server.ask(path, Host=host).status == status
    origin = f"http://{host}"
    assert handshake(server, "/ws", Host=host, Origin=origin) == (101 if status == 200 else 403)
    assert server.ask("/healthz", Host=host).status == 200
    status_admin = _admin(server, "GET", "/admin/log", Host=host)
    assert status_admin == (200 if status == 200 else 403)
    rebound = {"Host": host, "Origin": origin, "Sec-Fetch-Site": "same-origin"}
    if status == 403:
        assert _admin(server, "POST", "/admin/drain", **rebound) == 403


def _admin(server: RunningServer, method: str, path: str, **headers: str) -> int:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(server.admin))
        sock.sendall(f"{method} {path} HTTP/1.1\r\n{lines}Connection: close\r\n\r\n".encode())
        return int(sock.recv(4096).split()[1])


def test_with_keys_any_name_will_do(tmp_path: Path, small_settings: dict[str, str]) -> None:
    key = add_key(tmp_path / "keys", "alice")
    given = {**small_settings, "MODELSERVER_AUTH_KEYS_FILE": str(tmp_path / "keys")}
    with start_server(tmp_path, **given) as running:
        evil = {"Host": "evil.example"}
        assert running.ask("/v1/models", **evil).status == 401
        assert running.ask("/v1/models", Authorization=f"Bearer {key}", **evil).status == 200


STAINLESS = (
    "authorization,x-stainless-arch,x-stainless-helper-method,x-stainless-lang,x-stainless-os,"
    "x-stainless-package-version,x-stainless-retry-count,x-stainless-runtime,"
    "x-stainless-runtime-version,x-stainless-timeout"
)


def test_the_headers_of_openai_s_client_in_a_browser_are_allowed(server: RunningServer) -> None:
    asked = {
        "Origin": GOOD,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": STAINLESS,
        "Access-Control-Request-Private-Network": "true",
    }
    answer = _options(server, asked)
    assert answer.status == 204
    allowed = {
        one.strip().lower() for one in answer.headers["Access-Control-Allow-Headers"].split(",")
    }
    assert set(STAINLESS.split(",")) <= allowed
    assert answer.headers["Access-Control-Allow-Origin"] == GOOD
    assert answer.headers["Access-Control-Allow-Private-Network"] == "true"
    other = _options(server, {**asked, "Origin": "https://evil.example"})
    assert not {name for name in other.headers if name.startswith("Access-Control-Allow")}


def _options(server: RunningServer, headers: dict[str, str]) -> Answer:
    url = server.url + "/v1/audio/transcriptions"
    request = urllib.request.Request(url, method="OPTIONS", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return Answer(response.status, dict(response.headers), response.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code, dict(error.headers), error.read())


def test_half_logins_do_not_lock_the_operator_out(
    tmp_path: Path, small_settings: dict[str, str]
) -> None:
    port = free_port()
    given = {
        **small_settings,
        "MODELSERVER_ADMIN_LISTEN": f"127.0.0.1:{port}",
        "admin_token": "the-token",
    }
    with start_server(tmp_path, **given):
        held = []
        half = (
            b"POST /admin/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        try:
            for _ in range(40):
                held.append(socket.create_connection(("127.0.0.1", port), timeout=20))
                held[-1].sendall(half)
            address = AdminAddress(host="127.0.0.1", port=port)
            for _ in range(3):
                status, body = ask_admin(address, "GET", "/admin/health", "the-token")
                assert status == 200
                assert json.loads(body)["status"]
            # The youngest of them are waited for, but not indefinitely.
            assert held[-1].recv(4096).startswith(b"HTTP/1.1 408 ")
        finally:
            for one in held:
                one.close()
