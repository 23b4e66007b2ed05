"""Limits of jobs: slots, disk, other servers, and each other."""

import contextlib
import http.server
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from elsewhere import Elsewhere, Reply
from job_client import code_of, delete, over, take
from running import RunningServer, start_server, until
from waves import wav

import models
from modelserver.access.keyring import add_key

PART = 1000


@contextlib.contextmanager
def arriving(
    server: RunningServer, body: bytes, *, declared: bool, **headers: str
) -> Iterator[socket.socket]:
    """An upload of a job that has brought all but its last bytes."""
    length = f"Content-Length: {len(body)}" if declared else "Transfer-Encoding: chunked"
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\n{more}{length}\r\n\r\n".encode()
    sent = body[:-PART] if declared else b"%x\r\n%s\r\n" % (len(body), body)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(head + sent)
        yield client


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, job_settings: dict[str, str]
) -> Iterator[RunningServer]:
    """A server without limits of a test's own, for tests that look at their own jobs only."""
    with start_server(tmp_path_factory.mktemp("limits"), **job_settings) as running:
        running.wait_whole()
        yield running


@pytest.fixture
def good_and_lost(
    tmp_path: Path, small: models.ModelLocation, job_settings: dict[str, str]
) -> dict[str, str]:
    """Settings with two models: one that is there, and one that is not."""
    config = tmp_path / "settings.toml"
    config.write_text(
        f'[models.good]\nmodel = ["{small.directory}"]\nlanguage = "ko"\n'
        '[models.lost]\nmodel = ["/no/such/model"]\nlanguage = "xx"\n'
    )
    given = job_settings | {"MODELSERVER_CONFIG": str(config)}
    given.pop("MODELSERVER_MODEL", None)
    return given


def test_jobs_of_a_model_that_is_not_there_hold_up_no_others(
    tmp_path: Path, good_and_lost: dict[str, str], short: bytes
) -> None:
    with start_server(tmp_path, **good_and_lost) as running:
        running.wait_ready()
        lost = [take(running, short, "?model=lost")["id"] for _ in range(12)]
        running.wait_event("job.postponed", job=lost[0])
        good = take(running, short, "?model=good")["id"]
        assert over(running, good)["state"] == "done"
        assert running.ask(f"/v1/jobs/{lost[0]}").json["state"] == "waiting"
        attempts = len(running.events("job.postponed"))
        assert attempts < 12, "one finds out for all"
        assert delete(running, lost[0]) == 204
        places = [running.ask(f"/v1/jobs/{one}").json.get("position") for one in lost[1:]]
        assert [place for place in places if place is not None] == list(range(1, 12))[
            : sum(place is not None for place in places)
        ]


@pytest.mark.parametrize("declared", [True, False])
def test_audio_that_is_arriving_counts_against_the_disk(
    tmp_path: Path, job_settings: dict[str, str], short: bytes, *, declared: bool
) -> None:
    large = wav(bytes(2_400_000))
    given = job_settings | {
        "MODELSERVER_JOBS_DISK": "3MB",
        "MODELSERVER_LIMITS_UPLOAD_IDLE_S": "60",
    }
    with start_server(tmp_path, **given) as running:
        running.wait_ready()
        first = take(running, short)["id"]
        over(running, first)
        with arriving(running, large, declared=declared) as client:
            until(lambda: arrived(running, tmp_path) > 1_500_000, 10, "the first upload")
            refused = running.ask("/v1/jobs", large)
            assert (refused.status, code_of(refused)) == (503, "spool_full")
            assert int(refused.headers["Retry-After"]) >= 1
            chunks = requests.post(f"{running.url}/v1/jobs", data=iter([large]), timeout=30)
            assert chunks.status_code == 503
            client.sendall(large[-PART:] if declared else b"0\r\n\r\n")
            answer = client.recv(65536)
            assert b" 202 " in answer.split(b"\r\n")[0], answer
        assert running.ask(f"/v1/jobs/{first}").json["state"] == "done", "nobody pays for it"
        assert not running.events("jobs.deleted")
        until(lambda: running.ask("/v1/jobs", large).status == 202, 30, "there is room again")


def arrived(server: RunningServer, directory: Path) -> int:
    """Return the bytes of audio that are on the disk and belong to no job yet."""
    sizes = [0]
    for link in Path(f"/proc/{server.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(link.readlink()).startswith(f"{directory}/jobs/#"):
                sizes.append(link.stat().st_size)
    return sum(sizes)


def test_jobs_that_are_arriving_count_as_unfinished(
    tmp_path: Path, job_settings: dict[str, str], short: bytes
) -> None:
    given = job_settings | {"MODELSERVER_JOBS_QUEUE": "1", "MODELSERVER_LIMITS_UPLOAD_IDLE_S": "60"}
    with start_server(tmp_path, **given) as running:
        running.wait_ready()
        with arriving(running, wav(bytes(700_000)), declared=True):
            until(lambda: arrived(running, tmp_path), 10, "the first upload")
            refused = running.ask("/v1/jobs", short)
            assert (refused.status, code_of(refused)) == (503, "queue_full")


@pytest.fixture
def keyed(
    tmp_path: Path, job_settings: dict[str, str], there: Elsewhere
) -> Iterator[tuple[RunningServer, dict[str, str]]]:
    assert there
    keys = tmp_path / "keys"
    key = add_key(keys, "ann")
    given = job_settings | {
        "MODELSERVER_AUTH_KEYS_FILE": str(keys),
        "MODELSERVER_AUTH_KEY_JOBS": "1",
        "MODELSERVER_JOBS_QUEUE": "1",
    }
    with start_server(tmp_path, **given) as running:
        running.wait_ready()
        yield running, {"Authorization": f"Bearer {key}"}


def test_what_is_asked_for_again_is_held_to_no_limit(
    keyed: tuple[RunningServer, dict[str, str]], clips: list[bytes]
) -> None:
    server, key = keyed
    long = wav(b"".join(clips) * 30)
    headers = key | {"Idempotency_Key": "one"}
    first = server.ask("/v1/jobs", long, **headers)
    again = server.ask("/v1/jobs", long, **headers)
    assert (first.status, again.status) == (202, 202)
    assert again.json["id"] == first.json["id"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert server.ask("/v1/jobs", long[:-2000], **headers).status == 422
    assert server.ask("/v1/jobs", long, **key).status in (429, 503)


def test_a_url_is_fetched_once_however_often_it_is_asked_for(
    server: RunningServer, there: Elsewhere, short: bytes
) -> None:
    there.asked.clear()
    there.reply = lambda _: Reply(200, short)
    path = f"/v1/jobs?url={there.url}/a.wav"
    first = server.ask(path, b"", Idempotency_Key="a")
    there.reply = lambda _: Reply(404)
    again = server.ask(path, b"", Idempotency_Key="a")
    assert (first.status, again.status, len(there.asked)) == (202, 202, 1)
    assert again.json["id"] == first.json["id"]
    other = server.ask(f"{path}b", b"", Idempotency_Key="a")
    assert (other.status, code_of(other)) == (422, "repeat_differs")
    assert delete(server, first.json["id"]) == 204
    there.reply = lambda _: Reply(200, short)
    renewed = server.ask(path, b"", Idempotency_Key="a")
    assert renewed.status == 202
    assert renewed.json["id"] != first.json["id"]


def test_signed_urls_are_asked_for_as_they_are(
    server: RunningServer, there: Elsewhere, short: bytes
) -> None:
    signed = "/b%2Fc/x.wav?Signature=a%2Fb%7E%27+c%2B&k=%41"
    there.asked.clear()
    there.reply = lambda asked: (
        Reply(302, headers={"Location": signed}) if asked.path == "/first" else Reply(200, short)
    )
    for url in (f"{there.url}{signed}", f"{there.url}/first"):
        body = json.dumps({"url": url, "webhook": f"{there.url}{signed}"}).encode()
        answer = server.ask("/v1/jobs", body, Content_Type="application/json")
        assert answer.status == 202, answer.body
    until(lambda: sum(asked.method == "POST" for asked in there.asked) == 2, 30)
    paths = [asked.path for asked in there.asked if asked.path != "/first"]
    assert paths == [signed] * 4


def test_a_url_that_brings_drops_is_given_up(
    tmp_path: Path, job_settings: dict[str, str], short: bytes
) -> None:
    ended = threading.Event()

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(short)))
            self.end_headers()
            with contextlib.suppress(OSError):
                for byte in short:
                    self.wfile.write(bytes((byte,)))
                    if ended.wait(0.2):
                        return

        def log_message(self, *_: object) -> None:
            pass

    given = job_settings | {"MODELSERVER_LIMITS_UPLOAD_IDLE_S": "1"}
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    try:
        with start_server(tmp_path, **given) as running:
            running.wait_ready()
            url = f"http://127.0.0.1:{web.server_port}/a.wav"
            answer = running.ask(f"/v1/jobs?url={url}", b"", timeout_s=50)
        assert (answer.status, code_of(answer)) == (502, "url_failed")
        assert "limits.upload_min_bytes_s" in answer.json["error"]["message"]
    finally:
        ended.set()
        web.shutdown()
        web.server_close()


def test_webhooks_that_are_not_answered_hold_up_no_others(
    server: RunningServer, there: Elsewhere, short: bytes
) -> None:
    there.asked.clear()
    there.reply = lambda _: Reply(204)
    with socket.create_server(("127.0.0.1", 0), backlog=100) as hole:
        silent = f"?webhook=http://127.0.0.1:{hole.getsockname()[1]}/"
        dead = [take(server, short, silent)["id"] for _ in range(20)]
        for one in dead:
            over(server, one)
        told = take(server, short, f"?webhook={there.url}/")["id"]
        over(server, told)
        until(lambda: there.asked, 12, "the message")  # a silent host has 15 s


def test_pages_go_on_where_they_were_when_jobs_are_deleted(
    tmp_path: Path, job_settings: dict[str, str], short: bytes
) -> None:
    with start_server(tmp_path, **job_settings) as running:
        running.wait_ready()
        ids = [take(running, short)["id"] for _ in range(7)]
        for one in ids:
            over(running, one)
        seen: list[str] = []
        query = "?limit=3"
        while True:
            page = running.ask(f"/v1/jobs{query}").json
            seen += [one["id"] for one in page["jobs"]]
            for one in page["jobs"]:
                assert delete(running, one["id"]) == 204
            if "next" not in page:
                break
            query = f"?limit=3&before={page['next']}"
        assert seen == ids[::-1]
        lost = running.ask("/v1/jobs?before=nonsense")
        assert (lost.status, code_of(lost)) == (400, "bad_parameter")


def test_a_job_may_be_longer_than_a_request(
    tmp_path: Path, job_settings: dict[str, str], short: bytes, clips: list[bytes]
) -> None:
    given = job_settings | {
        "MODELSERVER_LIMITS_AUDIO_S": "2",
        "MODELSERVER_LIMITS_BODY": "80KB",
        "MODELSERVER_JOBS_AUDIO_S": "20",
    }
    with start_server(tmp_path, **given) as running:
        running.wait_ready()
        assert running.convert(short).status == 413
        job = over(running, take(running, short)["id"])
        assert job["state"] == "done"
        assert job["duration"] == pytest.approx(3, abs=0.1)
        longer = running.ask("/v1/jobs", wav(b"".join(clips)[: 22 * 32_000].ljust(22 * 32_000)))
        assert longer.status == 413


SOON = (
    "-P",
    "-c",
    (
        "import modelserver.jobs.work as work, sys\n"
        "from modelserver.__main__ import main\n"
        "assert work._TRIED_S == 24 * 3600\n"
        "work._TRIED_S = 3.0\n"
        "sys.argv[0] = 'modelserver'\n"
        "main()"
    ),
)
"""A server whose jobs wait for three seconds instead of a day."""


def test_a_job_that_can_only_wait_fails_after_a_day_and_says_why(
    tmp_path: Path, good_and_lost: dict[str, str], short: bytes
) -> None:
    with start_server(tmp_path, program=SOON, **good_and_lost) as running:
        running.wait_ready()
        lost = [take(running, short, "?model=lost")["id"] for _ in range(2)]
        running.wait_event("job.postponed", job=lost[0])
        for job_id in lost:
            ended = over(running, job_id)
            assert ended["state"] == "failed"
            assert ended["error"]["code"] == "not_ready"
            assert re.search(r"/no/such/model.* \(for [0-9]+ h\)$", ended["error"]["message"])
        assert over(running, take(running, short, "?model=good")["id"])["state"] == "done"
