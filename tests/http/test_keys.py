"""Keys for the public side, and what a client with one of them may take."""

import asyncio
import functools
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import websockets
from running import Answer, RunningServer, ask, start_server, until
from stopwatch import within
from waves import wav

import models
from modelserver.access.gate import AccessGate, NotAllowed
from modelserver.access.keyring import (
    Keyring,
    KeysUnreadable,
    add_key,
    hash_of,
    read_keys,
    remove_key,
)
from modelserver.access.quota import Allowed, Quota
from modelserver.settings import AuthSettings


def test_a_key_is_known_by_its_hash_alone(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    key = add_key(file, "alice")
    other = add_key(file, "bob@example.org")
    assert key not in file.read_text()
    assert len(key) > 40
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    ring = Keyring(file)
    assert (ring.name_of(key), ring.name_of(other)) == ("alice", "bob@example.org")
    for wrong in ("", "ms-", key[:-1], key + "x", key.upper(), "\udcff", "x" * 100_000):
        assert ring.name_of(wrong) is None
    assert remove_key(file, "alice")
    assert not remove_key(file, "alice")
    assert list(read_keys(file)) == ["bob@example.org"]


def test_a_file_is_kept_as_somebody_has_written_it(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n\nalice sha256:{hash_of('a')}  # of the front end\n")
    file.chmod(0o640)
    add_key(file, "bob")
    remove_key(file, "bob")
    assert file.read_text() == f"# ours\n\nalice sha256:{hash_of('a')}  # of the front end\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_a_file_that_root_makes_belongs_to_the_owner_of_its_directory(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12346)
    file = tmp_path / "keys"
    add_key(file, "phone")
    assert (file.stat().st_uid, file.stat().st_gid) == (12345, 12346)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "text", ["alice", "alice sha256:12", "alice md5:" + "0" * 64, "al ice sha256:" + "0" * 64]
)
def test_a_line_that_means_nothing_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys").write_text(f"# first\n{text}\n")
    with pytest.raises(KeysUnreadable, match="line 2"):
        read_keys(tmp_path / "keys")


def test_names_that_are_none_or_taken_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    add_key(file, "alice")
    for name in ("alice", "", "a b", "-x", "x" * 65, "a\nb", "é"):
        with pytest.raises(KeysUnreadable):
            add_key(file, name)
    assert list(read_keys(file)) == ["alice"]


def test_audio_is_counted_by_the_minute() -> None:
    allowed, taken = Allowed(audio_s=60), Quota()
    assert taken.request_refusal(allowed, 0.0) is None
    taken.charge(90)  # what has begun is not broken off
    refusal = taken.request_refusal(allowed, 1.0)
    assert refusal is not None
    assert refusal[1] == pytest.approx(30, abs=2)
    assert taken.stream_refusal(allowed, 20.0) is not None
    assert taken.request_refusal(allowed, 31.0) is None
    taken.charge(0)
    assert taken.request_refusal(allowed, 1e6) is None
    taken.charge(61)  # no more than a minute is saved up
    assert taken.request_refusal(allowed, 1e6) is not None


def test_audio_is_charged_for_as_it_is_recognised(tmp_path: Path) -> None:
    settings = AuthSettings(keys_file=str(tmp_path / "keys"), key_audio_s=60)
    gate = AccessGate(lambda: settings)
    with gate.request("alice") as first, gate.request("alice") as second:
        first.expect(100)
        with pytest.raises(NotAllowed):  # both were let in before either was here
            second.expect(1)
        first.charge_until(10)
        with pytest.raises(NotAllowed), gate.stream("alice"):
            pass
    with gate.request("alice") as left, gate.stream("alice") as stream:  # 50 s are left
        stream.charge(15)
        left.expect(30)
        left.charge_until(36)
        with pytest.raises(NotAllowed), gate.request("alice"):
            pass


def test_requests_and_streams_are_counted_apart() -> None:
    allowed, taken = Allowed(requests=1, streams=2), Quota(requests=1, streams=1)
    assert taken.request_refusal(allowed, 0.0) is not None
    assert taken.stream_refusal(allowed, 0.0) is None
    assert Quota(requests=99, streams=99).request_refusal(Allowed(), 0.0) is None


# --- with the server ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys"


@pytest.fixture(scope="module")
def key(keys_file: Path) -> str:
    return add_key(keys_file, "alice")


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory,
    small_settings: dict[str, str],
    keys_file: Path,
    key: str,
) -> Iterator[RunningServer]:
    assert key
    settings = {
        "MODELSERVER_AUTH_KEYS_FILE": str(keys_file),
        "MODELSERVER_AUTH_KEY_REQUESTS": "2",
        "MODELSERVER_AUTH_KEY_STREAMS": "1",
        "MODELSERVER_LIMITS_BODY": "1MiB",
    }
    directory = tmp_path_factory.mktemp("keyed")
    with start_server(directory, **small_settings, **settings) as running:
        running.wait_ready()
        yield running


def convert(server: RunningServer, body: bytes, key: str | None = None, **more: str) -> Answer:
    headers = more | ({"Authorization": f"Bearer {key}"} if key else {})
    return ask(server.url + "/api/audio/convert", body, **headers)


def test_nobody_comes_in_without_a_key(server: RunningServer, key: str, clips: list[bytes]) -> None:
    body = wav(clips[0])
    for headers in (
        {},
        {"Authorization": key},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic x"},
    ):
        refused = convert(server, body, **headers)
        assert (refused.status, refused.json["error"]["code"]) == (401, "unauthorized")
        assert refused.headers["WWW-Authenticate"] == "Bearer"
    assert convert(server, body, "ms-nobody").status == 401
    assert convert(server, body, key).status == 200
    assert convert(server, body, Authorization=f"bearer  {key}").status == 200
    for path in ("/healthz", "/readyz", "/test", "/asyncapi.json"):
        assert server.ask(path).status == 200
    for path in ("/v1/models", "/ws", "/nothing"):
        assert server.ask(path).status == 401
    done = server.wait_event("request.done", status=200, key="alice")
    assert key not in json.dumps(server.events())
    assert done["path"] == "/api/audio/convert"


def test_its_clients_send_it_as_they_do(
    server: RunningServer, key: str, clips: list[bytes]
) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client:
        made = client.audio.transcriptions.create(file=("a.wav", wav(clips[0])), model="whisper-1")
        assert made.text
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as refused,
    ):
        client.models.list()
    assert refused.value.type == "authentication_error"


async def test_sockets_bring_theirs_in_a_header_or_as_a_subprotocol(
    server: RunningServer, key: str
) -> None:
    url = server.url.replace("http", "ws", 1)
    for path in ("/ws", "/api/audio/stream?encoding=s16le&rate=16000"):
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(url + path)
        assert refused.value.response.status_code == 401
        header = {"Authorization": f"Bearer {key}"}
        async with websockets.connect(url + path, additional_headers=header):
            pass
        await until_no_stream(server)
        browser: Any = ["modelserver", f"bearer.{key}"]
        async with websockets.connect(url + path, subprotocols=browser) as socket:
            assert socket.subprotocol == "modelserver"
        await until_no_stream(server)


async def test_a_page_is_told_in_a_message_what_its_browser_would_hide(
    server: RunningServer,
) -> None:
    url = server.url.replace("http", "ws", 1) + "/api/audio/stream"
    async with websockets.connect(url, origin="http://any.example") as socket:
        said = json.loads(await socket.recv())
        assert (said["type"], said["error"]["code"]) == ("error", "unauthorized")
        with pytest.raises(websockets.ConnectionClosed):
            await socket.recv()
    assert server.health()["streams"]["open"] == 0


async def until_no_stream(server: RunningServer) -> None:
    async with within(10):
        while server.health()["streams"]["open"]:
            await asyncio.sleep(0.05)


async def test_one_stream_more_than_a_key_may_have_is_told_so(
    server: RunningServer, key: str
) -> None:
    url, header = server.url.replace("http", "ws", 1), {"Authorization": f"Bearer {key}"}
    await until_no_stream(server)
    async with websockets.connect(url + "/ws", additional_headers=header):
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(url + "/", additional_headers=header)
        assert refused.value.response.status_code == 429
        assert refused.value.response.headers["Retry-After"]
        async with websockets.connect(url + "/api/audio/stream", additional_headers=header) as ours:
            assert json.loads(await ours.recv())["error"]["code"] == "rate_limited"
    await until_no_stream(server)


def test_one_request_more_than_a_key_may_have_is_told_so(
    server: RunningServer, key: str, keys_file: Path, clips: list[bytes]
) -> None:
    other = add_key(keys_file, "bob")  # known within a second or so, without a reload
    answers: list[Answer] = []
    body = wav((clips[0] * 4)[:900_000])
    threads = [
        threading.Thread(target=lambda: answers.append(convert(server, body, key)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status for answer in answers} == {200, 429}
    refused = next(answer for answer in answers if answer.status == 429)
    assert refused.json["error"]["code"] == "rate_limited"
    assert int(refused.headers["Retry-After"]) >= 1
    assert convert(server, body, key).status == 200
    until(lambda: convert(server, wav(clips[0]), other).status == 200, 5, "the key is known")
    too_large = convert(server, wav(clips[0] * 5), key)
    assert (too_large.status, too_large.json["error"]["code"]) == (413, "body_too_large")


def test_a_file_that_is_damaged_leaves_things_as_they_are(
    server: RunningServer, key: str, keys_file: Path, clips: list[bytes]
) -> None:
    before = keys_file.read_text()
    keys_file.write_text("nonsense\n")
    try:
        assert convert(server, wav(clips[0]), key).status == 200
        threading.Event().wait(1.1)  # it is looked at once a second
        assert convert(server, wav(clips[0]), key).status == 200
        assert "line 1" in server.wait_event("keys.read_failed")["reason"]
    finally:
        keys_file.write_text(before)


def test_a_reload_that_names_unreadable_keys_changes_nothing(
    tmp_path: Path, small_settings: dict[str, str], clips: list[bytes]
) -> None:
    keys, settings = tmp_path / "keys", tmp_path / "settings.toml"
    key = add_key(keys, "alice")
    settings.write_text(f'auth.keys_file = "{keys}"\n')
    given = small_settings | {"MODELSERVER_CONFIG": str(settings)}
    with start_server(tmp_path, **given) as running:
        running.wait_ready()
        for file, text in ((tmp_path / "missing", None), (tmp_path / "damaged", "nonsense")):
            if text is not None:
                file.write_text(text)
            settings.write_text(f'auth.keys_file = "{file}"\n')
            status, body = running.ask_admin("POST", "/admin/reload")
            assert status == 422
            assert b"auth.keys_file" in body
            assert convert(running, wav(clips[0]), key).status == 200
            assert any("auth.keys_file" in reason for reason in running.health()["reasons"])


def test_keys_that_are_made_side_by_side_are_all_there(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    with ProcessPoolExecutor(8) as makers:
        keys = list(makers.map(functools.partial(add_key, file), [f"k{n}" for n in range(40)]))
        ring = Keyring(file)
        assert [ring.name_of(key) for key in keys] == [f"k{n}" for n in range(40)]
        assert all(makers.map(functools.partial(remove_key, file), [f"k{n}" for n in range(39)]))
    assert list(read_keys(file)) == ["k39"]


def modelserver(*arguments: str, file: Path | None) -> subprocess.CompletedProcess[str]:
    environment = {
        k: v
        for k, v in os.environ.items()
        if k == "MODELSERVER_CONFIG" or not k.startswith("MODELSERVER_")
    }
    if file is not None:
        environment["MODELSERVER_AUTH_KEYS_FILE"] = str(file)
    return subprocess.run(
        [sys.executable, "-m", "modelserver", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_makes_lists_and_takes_back_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    made = modelserver("keys", "add", "alice", file=file)
    assert Keyring(file).name_of(made.stdout.strip()) == "alice"
    assert modelserver("keys", "list", file=file).stdout == "alice\n"
    assert "already" in modelserver("keys", "add", "alice", file=file).stderr
    assert modelserver("keys", "remove", "alice", file=file).returncode == 0
    assert modelserver("keys", "remove", "alice", file=file).returncode == 1
    assert "auth.keys_file" in modelserver("keys", "list", file=None).stderr


def test_a_server_whose_keys_cannot_be_read_does_not_start(
    tmp_path: Path, small: models.ModelLocation
) -> None:
    environment = {**os.environ, "MODELSERVER_AUTH_KEYS_FILE": str(tmp_path / "none")}
    done = subprocess.run(
        [sys.executable, "-m", "modelserver", "serve", "--port", "0", "--model", small.directory],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert f"auth.keys_file: {tmp_path / 'none'} cannot be read" in done.stderr + done.stdout


def test_the_terminal_has_a_key_too(server: RunningServer, key: str, clips: list[bytes]) -> None:
    url = server.url.replace("http", "ws", 1) + "/"
    asked = [sys.executable, "-m", "modelserver", "listen", "--server", url, "-"]
    for given, status in ((key, 0), ("wrong", 1)):
        done = subprocess.run(
            [*asked, "--key", given], input=clips[0], capture_output=True, timeout=60, check=False
        )
        assert done.returncode == status, done.stderr


def test_a_server_that_all_may_use_says_so(tmp_path: Path, small: models.ModelLocation) -> None:
    flags = ("--model", str(small.directory), "--host", "0.0.0.0")
    with start_server(tmp_path, *flags) as server:
        assert server.wait_event("server.exposed", timeout_s=20)["host"] == "0.0.0.0"


def test_a_reload_that_takes_the_keys_away_says_so(
    tmp_path: Path, small: models.ModelLocation
) -> None:
    keys, settings = tmp_path / "keys", tmp_path / "settings.toml"
    key = add_key(keys, "one")
    settings.write_text(f'auth.keys_file = "{keys}"\n')
    flags = ("--model", str(small.directory), "--host", "0.0.0.0")
    given = {"MODELSERVER_CONFIG": str(settings)}
    with start_server(tmp_path, *flags, **given) as server:
        server.wait_ready()
        assert server.ask("/v1/models").status == 401
        assert not server.events("server.exposed")
        for text, status in (("", 200), (f'auth.keys_file = "{keys}"\n', 401), ("", 200)):
            seen = len(server.events())
            settings.write_text(text)
            assert server.ask_admin("POST", "/admin/reload")[0] == 202
            server.wait_event("server.reloaded", seen)
            until(lambda s=status: server.ask("/v1/models").status == s)
            if status == 200:
                assert server.wait_event("server.exposed", seen)["host"] == "0.0.0.0"
            else:
                assert server.ask("/v1/models", Authorization=f"Bearer {key}").status == 200
        assert len(server.events("server.exposed")) == 2
