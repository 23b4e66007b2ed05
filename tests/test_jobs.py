"""Jobs: taken when their audio is on the disk, done once whatever happens, told of until it is
heard."""

import concurrent.futures
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cgroup import cannot
from elsewhere import Elsewhere, Reply, elsewhere
from encoded import encoded
from running import Answer, RunningServer, ask, start_server, until
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from waves import wav

import models
from models.prepared import PreparedModel
from modelserver.access.hosts import AllowedHosts, Refused
from modelserver.access.keyring import add_key
from modelserver.jobs.record import Delivery, Failure, Job, Repeat, Wanted
from modelserver.jobs.store import Damaged, InUse, JobStore
from modelserver.jobs.webhooks import SecretUnreadable, read_secrets, signed_headers, wait_before
from modelserver.speech.joining import HeardPiece
from modelserver.speech.messages import Speech, SpeechRequest

SECRET = "whsec_" + "c2l4dGVlbiBieXRlcyBvciBtb3JlIQ=="
RATE = 16_000

# --- which hosts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "url"),
    [
        (("example.org",), "https://example.org/a.wav?x=1"),
        (("example.org",), "HTTP://EXAMPLE.org.:8080/"),
        (("*.example.org",), "https://a.b.example.org/"),
        (("*",), "https://anything.example/"),
        (("*",), "https://93.184.216.34/"),
        (("93.184.216.34",), "https://93.184.216.34/"),
        (("10.0.0.0/8",), "http://10.1.2.3/"),
        (("127.0.0.1", "*"), "http://127.0.0.1:1/"),
        (("::1",), "http://[::1]/"),
        (("bücher.example",), "https://xn--bcher-kva.example/"),
    ],
)
def test_hosts_that_are_named_may_be_asked(entries: tuple[str, ...], url: str) -> None:
    assert AllowedHosts(entries, "x").check(url).host


@pytest.mark.parametrize(
    ("entries", "url"),
    [
        ((), "https://example.org/"),
        (("example.org",), "https://example.org.evil.example/"),
        (("example.org",), "https://notexample.org/"),
        (("example.org",), "https://a.example.org/"),
        (("*.example.org",), "https://example.org/"),
        (("*.example.org",), "https://badexample.org/"),
        (("example.org",), "https://user@example.org/"),
        (("example.org",), "https://example.org@evil.example/"),
        (("*",), "ftp://example.org/"),
        (("*",), "file:///etc/passwd"),
        (("*",), "https:///x"),
        (("*",), "example.org/x"),
        (("*",), ""),
        (("*",), "https://" + "x" * 5000),
        (("example.org",), "https://93.184.216.34/"),
        (("*",), "http://127.0.0.1/"),
        (("*",), "http://10.1.2.3/"),
        (("*",), "http://169.254.169.254/latest/meta-data"),
        (("*",), "http://0.0.0.0/"),
        (("*",), "http://100.64.0.1/"),
        (("*",), "http://224.0.0.1/"),
        (("*",), "http://[::1]/"),
        (("*",), "http://[fe80::1%25eth0]/"),
        (("*",), "http://[fd00::1]/"),
        (("*",), "http://[::ffff:127.0.0.1]/"),
        (("*",), "http://[64:ff9b::7f00:1]/"),
        (("*",), "http://[2002:7f00:1::]/"),
        (("*",), "http://2130706433/"),
        (("*",), "http://127.1/"),
        (("*",), "http://017700000001/"),
    ],
)
def test_others_may_not(entries: tuple[str, ...], url: str) -> None:
    with pytest.raises(Refused):
        AllowedHosts(entries, "x").check(url)


@pytest.mark.parametrize("entry", ["", "a b", "http://x", "x:80", "10.0.0.0/99", "a@b"])
def test_what_is_no_host_is_no_setting(entry: str) -> None:
    with pytest.raises(ValueError, match="host"):
        AllowedHosts([entry], "x")


# --- the store ------------------------------------------------------------------------------------


def job(number: int, **given: Any) -> Job:
    fields = {
        "id": f"x-{number}",
        "owner": "",
        "state": "waiting",
        "created": 1.0,
        "wanted": Wanted(SpeechRequest(), warnings=["w"]),
        "size": 10,
        "seconds": 1.0,
    }
    return Job(**{**fields, **given})


SPEECH = Speech("said", 2.5, "model", "ko")


def test_what_was_told_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "new" / "jobs")
    for number in range(4):
        store.audio(f"x-{number}").write_bytes(b"audio")
        store.add(job(number, delivery=Delivery("http://u") if number == 3 else None), None)
    store.begins("x-1", 5.0)
    heard = HeardPiece(0.0, 1.5, True, [])
    assert store.begin_pieces("x-1", "cut so") == {}
    store.keep_piece("x-1", 0, heard)
    assert store.ends("x-2", 7.0, SPEECH, None)
    assert not store.ends("x-2", 8.0, None, Failure("a", "b"))
    assert store.ends("x-3", 9.0, None, Failure("not_audio", "no"))
    store.close()
    (tmp_path / "new" / "jobs" / "x-99.audio").write_bytes(b"of a job that was never told")
    store = JobStore(tmp_path / "new" / "jobs")
    assert [one.id for one in store.unfinished()] == ["x-0", "x-1"]
    assert {one.state for one in store.unfinished()} == {"waiting"}
    assert store.begin_pieces("x-1", "cut so") == {0: heard}
    assert store.begin_pieces("x-1", "cut otherwise") == {}
    assert store.begin_pieces("x-1", "cut so") == {}
    done = store.get("x-2", speech=True)
    assert done is not None
    assert (done.state, done.ended, done.speech, done.seconds) == ("done", 7.0, SPEECH, 2.5)
    assert store.due(10.0, 5) == (["x-3"], None)
    left = sorted(file.name for file in (tmp_path / "new" / "jobs").glob("*.audio"))
    assert left == ["x-0.audio", "x-1.audio"]
    assert [one.id for one in store.listed(None, "failed", None, 9)] == ["x-3"]
    assert [one.id for one in store.listed("", None, "x-2", 1)] == ["x-1"]
    store.remove(["x-0", "x-9"])
    assert store.counts() == {"waiting": 1, "running": 0, "done": 1, "failed": 1}
    store.close()


def test_a_request_is_known_by_its_key_and_its_owner(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    store.add(job(1, owner="a"), Repeat("k", "f"))
    store.add(job(2, owner="b"), Repeat("k", "g"))
    assert (store.repeated("a", "k"), store.repeated("b", "k")) == (("x-1", "f"), ("x-2", "g"))
    assert store.repeated("a", "other") is None
    with pytest.raises(sqlite3.IntegrityError):
        store.add(job(3, owner="a"), Repeat("k", "f"))
    store.close()


def test_one_server_at_a_time_has_it(tmp_path: Path) -> None:
    first = JobStore(tmp_path)
    with pytest.raises(InUse):
        JobStore(tmp_path)
    first.close()
    JobStore(tmp_path).close()


def test_what_is_damaged_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").write_bytes(b"no database at all" * 1000)
    for _ in range(2):
        with pytest.raises(Damaged):
            JobStore(tmp_path)
    (tmp_path / "jobs.db").unlink()
    JobStore(tmp_path).close()
    with sqlite3.connect(tmp_path / "jobs.db") as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(Damaged, match="99"):
        JobStore(tmp_path)


def test_what_an_earlier_version_kept_is_kept(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    store.add(job(1, traceparent="here"), None)
    assert store.get("x-1") == job(1, traceparent="here")
    store.close()
    with sqlite3.connect(tmp_path / "jobs.db") as db:
        db.execute("ALTER TABLE jobs DROP COLUMN traceparent")
        db.execute("PRAGMA user_version = 1")
    db.close()
    for _ in range(2):
        store = JobStore(tmp_path)
        assert store.get("x-1") == job(1)
        store.close()


def test_messages_come_again_later_and_later(tmp_path: Path) -> None:
    waits = [wait_before(attempt) for attempt in range(1, 12)]
    assert waits == sorted(waits)
    assert waits[0] == 2
    assert waits[-1] == 3600 == wait_before(10_000)
    store = JobStore(tmp_path)
    store.add(job(1, delivery=Delivery("http://u")), None)
    assert store.due(100.0, 5) == ([], None)  # it is not over
    store.ends("x-1", 50.0, SPEECH, None)
    assert store.due(100.0, 5) == (["x-1"], None)
    delivery = store.attempt("x-1", 160.0)
    assert delivery is not None
    assert (delivery.attempts, store.due(100.0, 5)) == (1, ([], 160.0))
    assert store.oldest_over(5) == []  # its message is still to come
    store.delivered("x-1", given_up=False)
    assert (store.attempt("x-1", 1.0), store.due(1e9, 5)) == (None, ([], None))
    assert store.oldest_over(5) == [("x-1", 50.0)]
    store.close()


def test_secrets_are_as_others_write_them(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n\n  a plain text of some length \n")
    coded, plain = read_secrets(file)
    assert (coded, plain) == (b"sixteen bytes or more!", b"a plain text of some length")
    now = time.time()
    headers = signed_headers([plain, coded], "id", now, b"{}")
    assert Webhook(SECRET).verify(b"{}", headers) == {}
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(b'{"a":1}', headers)
    for wrong in ("", "short", "whsec_*", "whsec_c2hvcnQ="):
        file.write_text(wrong)
        with pytest.raises(SecretUnreadable):
            read_secrets(file)
    with pytest.raises(SecretUnreadable):
        read_secrets(tmp_path / "none")


# --- with the server ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def there() -> Iterator[Elsewhere]:
    with elsewhere() as other:
        yield other


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("secret") / "secret"
    file.write_text(SECRET)
    return file


@pytest.fixture(scope="module")
def settings(small: models.ModelLocation, secret: Path) -> dict[str, str]:
    return {
        "MODELSERVER_MODEL": str(small.directory),
        "MODELSERVER_WARMUP": "none",
        "MODELSERVER_WORKERS_COUNT": "2",
        "MODELSERVER_JOBS_NAME": "here",
        "MODELSERVER_JOBS_URL_HOSTS": "127.0.0.1,*.invalid,localhost",
        "MODELSERVER_JOBS_WEBHOOK_HOSTS": "127.0.0.1",
        "MODELSERVER_JOBS_WEBHOOK_SECRET_FILE": str(secret),
        "MODELSERVER_LIMITS_UPLOAD_IDLE_S": "3",
    }


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, settings: dict[str, str]
) -> Iterator[RunningServer]:
    with start_server(tmp_path_factory.mktemp("jobs"), **settings) as running:
        running.wait_whole()
        yield running


@pytest.fixture(scope="module")
def short(clips: list[bytes]) -> bytes:
    return wav(clips[0][: 3 * RATE * 2])


def take(server: RunningServer, body: bytes, query: str = "", **headers: str) -> dict[str, Any]:
    answer = server.ask("/v1/jobs" + query, body, **headers)
    assert answer.status == 202, answer.body
    document: dict[str, Any] = answer.json
    assert answer.headers["Location"] == f"/v1/jobs/{document['id']}"
    return document


def over(server: RunningServer, job_id: str, timeout_s: float = 30.0) -> dict[str, Any]:
    def look() -> Any:
        document = server.ask(f"/v1/jobs/{job_id}").json
        return document if document.get("state") in ("done", "failed") else None

    document: dict[str, Any] = until(look, timeout_s, f"the end of {job_id}")
    return document


def code_of(answer: Answer) -> str:
    return str(answer.json["error"]["code"])


def delete(server: RunningServer, job_id: str) -> int:
    import requests

    return requests.delete(f"{server.url}/v1/jobs/{job_id}", timeout=10).status_code


def test_it_says_what_a_request_would_have_said(server: RunningServer, short: bytes) -> None:
    for query in ("", "?words=true", "?segments=true", "?alternatives=2", "?channels=split"):
        at_once = server.convert(short, query).json
        done = over(server, take(server, short, query)["id"])
        assert done["state"] == "done"
        result = done["result"]
        assert result.pop("request_id") == done["request_id"]
        at_once.pop("request_id")
        assert result == at_once
        assert (done["progress"], done["duration"]) == (1.0, at_once["duration"])
        assert done["created"] <= done["started"] <= done["ended"] < done["expires"]


def test_its_result_can_be_had_in_any_form(server: RunningServer, short: bytes) -> None:
    job_id = take(server, short)["id"]
    over(server, job_id)
    for form in ("text", "srt", "vtt"):
        answer = server.ask(f"/v1/jobs/{job_id}?format={form}")
        direct = server.convert(short, f"?format={form}")
        assert (answer.body, answer.headers["Content-Type"]) == (
            direct.body,
            direct.headers["Content-Type"],
        )
    result = server.ask(f"/v1/jobs/{job_id}?words=true&segments=1").json["result"]
    assert result["words"] == server.convert(short, "?words=true").json["words"]
    assert result["segments"]
    asked_so = over(server, take(server, short, "?format=vtt")["id"])
    assert asked_so["result"].startswith("WEBVTT")
    again = server.ask(f"/v1/jobs/{asked_so['id']}?format=json").json
    assert again["result"]["text"] == result["text"]


def test_it_is_taken_however_it_comes(server: RunningServer, short: bytes) -> None:
    import requests

    expected = server.convert(short).json["text"]
    url = f"{server.url}/v1/jobs"
    form = requests.post(url, files={"file": ("a.wav", short)}, data={"words": "true"}, timeout=10)
    assert form.status_code == 202
    assert over(server, form.json()["id"])["result"]["words"]
    chunked = requests.post(url, data=iter([short[:1000], short[1000:]]), timeout=10)
    assert chunked.status_code == 202
    assert over(server, chunked.json()["id"])["result"]["text"] == expected
    raw = server.ask("/v1/jobs?encoding=s16le&rate=16000", short[44:])
    assert over(server, raw.json["id"])["result"]["text"] == expected


@pytest.mark.parametrize(
    ("query", "body", "status", "code"),
    [
        ("", b"<html>no</html>", 400, "not_audio"),
        ("", b"", 400, "not_audio"),
        ("?words=perhaps", b"RIFF", 400, "bad_parameter"),
        ("?nonsense=1", b"RIFF", 400, "bad_parameter"),
        ("?model=another", b"RIFF", 404, "model_not_found"),
        ("?webhook=https://elsewhere.example/", b"RIFF", 400, "url_refused"),
        ("?webhook=nonsense", b"RIFF", 400, "url_refused"),
        ("?url=https://elsewhere.example/a.wav", b"", 400, "url_refused"),
    ],
)
def test_what_can_be_refused_is_refused_at_once(
    server: RunningServer, query: str, body: bytes, status: int, code: str
) -> None:
    before = server.ask("/v1/jobs?limit=1").json["jobs"]
    answer = server.ask("/v1/jobs" + query, body)
    assert (answer.status, code_of(answer)) == (status, code)
    assert server.ask("/v1/jobs?limit=1").json["jobs"] == before


def test_what_a_worker_cannot_read_fails_and_says_why(
    server: RunningServer, short: bytes, clips: list[bytes]
) -> None:
    damaged = encoded(clips[0], "m4a")
    direct = server.convert(damaged[: len(damaged) // 3])
    done = over(server, take(server, damaged[: len(damaged) // 3])["id"])
    if direct.status == 200:
        assert done["state"] == "done"
    else:
        assert done["error"]["code"] == code_of(direct)
        answer = server.ask(f"/v1/jobs/{done['id']}?format=srt")
        assert (answer.status, code_of(answer)) == (409, "job_failed")
    empty = over(server, take(server, b"OggS" + bytes(2000))["id"])
    assert empty["state"] == "failed"
    assert empty["error"]["code"] in ("not_audio", "unsupported_audio")
    assert "result" not in empty


def test_a_request_that_comes_again_is_the_same_job(server: RunningServer, short: bytes) -> None:
    first = server.ask("/v1/jobs?words=true", short, Idempotency_Key="a key")
    again = server.ask("/v1/jobs?words=true", short, Idempotency_Key="a key")
    assert (first.status, again.status) == (202, 202)
    assert first.json["id"] == again.json["id"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    other = server.ask("/v1/jobs", short, Idempotency_Key="a key")
    assert (other.status, code_of(other)) == (422, "repeat_differs")
    body = server.ask("/v1/jobs?words=true", short[:-2000], Idempotency_Key="a key")
    assert body.status == 422
    assert (
        server.ask("/v1/jobs?words=true", short, Idempotency_Key="b").json["id"] != again.json["id"]
    )
    assert server.ask("/v1/jobs", short, Idempotency_Key="x" * 300).status == 400


def test_a_request_that_comes_twice_at_once_waits_for_itself(
    server: RunningServer, short: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        head = (
            "POST /v1/jobs HTTP/1.1\r\nHost: x\r\nIdempotency-Key: slow\r\n"
            f"Content-Length: {len(short)}\r\n\r\n"
        )
        slow.sendall(head.encode() + short[:1000])
        answer = until(
            lambda: (a := server.ask("/v1/jobs", short, Idempotency_Key="slow")).status == 409 and a
        )
        assert code_of(answer) == "repeat_in_progress"
        assert int(answer.headers["Retry-After"]) >= 1
        slow.sendall(short[1000:])
        assert b" 202 " in slow.recv(65536).split(b"\r\n")[0]
    assert server.ask("/v1/jobs", short, Idempotency_Key="slow").status == 202


def test_they_are_listed_the_newest_first(server: RunningServer, short: bytes) -> None:
    ids = [take(server, short)["id"] for _ in range(5)]
    for job_id in ids:
        over(server, job_id)
    seen: list[str] = []
    page = server.ask("/v1/jobs?limit=2").json
    while True:
        seen += [one["id"] for one in page["jobs"]]
        assert not any("result" in one for one in page["jobs"])
        if "next" not in page or len(seen) >= 5:
            break
        page = server.ask(f"/v1/jobs?limit=2&before={page['next']}").json
    assert seen[:5] == ids[::-1]
    failed = server.ask("/v1/jobs?state=failed").json["jobs"]
    assert all(one["state"] == "failed" for one in failed)
    for wrong in ("limit=0", "limit=1000", "limit=x", "state=lost", "page=2"):
        assert server.ask(f"/v1/jobs?{wrong}").status == 400


def test_an_id_says_where_its_job_is(server: RunningServer, short: bytes) -> None:
    job_id = take(server, short)["id"]
    assert job_id.startswith("here-")
    assert code_of(server.ask("/v1/jobs/there-0123")) == "job_elsewhere"
    assert code_of(server.ask("/v1/jobs/here-0123")) == "job_not_found"
    assert code_of(server.ask("/v1/jobs/nonsense")) == "job_not_found"
    assert delete(server, "here-0123") == 404


def test_it_is_told_how_far_it_is(server: RunningServer, short: bytes, clips: list[bytes]) -> None:
    long = take(server, wav(b"".join(clips) * 4))
    while server.ask(f"/v1/jobs/{long['id']}").json["state"] == "waiting":
        time.sleep(0.01)
    answer = server.ask(f"/v1/jobs/{long['id']}", Accept="text/event-stream")
    events = [event.split("\n") for event in answer.body.decode().strip().split("\n\n")]
    told = [
        (lines[0][7:], json.loads(lines[1][6:])) for lines in events if lines[0] != ":" and lines[0]
    ]
    kind, document = told[-1]
    assert (kind, document["state"]) == ("done", "done")
    finals = [said["text"] for kind, said in told if kind == "final"]
    assert finals
    assert document["result"]["text"].endswith(" ".join(finals))
    ready = server.ask(f"/v1/jobs/{long['id']}", Accept="text/event-stream")
    assert ready.body.count(b"event: ") == 1


def test_what_is_deleted_is_gone(server: RunningServer, clips: list[bytes], short: bytes) -> None:
    long = [take(server, wav(b"".join(clips) * 20))["id"] for _ in range(6)]
    states = {server.ask(f"/v1/jobs/{one}").json["state"] for one in long}
    assert states == {"running", "waiting"}
    waiting = [server.ask(f"/v1/jobs/{one}").json for one in long]
    places = [one["position"] for one in waiting if one["state"] == "waiting"]
    assert places == sorted(places)
    assert places[0] == 1
    unfinished = server.ask(f"/v1/jobs/{long[-1]}?format=srt")
    assert (unfinished.status, code_of(unfinished)) == (409, "job_unfinished")
    for one in long:
        assert delete(server, one) == 204
        assert server.ask(f"/v1/jobs/{one}").status == 404
    done = over(server, take(server, short)["id"])
    assert delete(server, done["id"]) == 204
    assert server.ask(f"/v1/jobs/{done['id']}").status == 404

    def idle() -> bool:
        health = server.health()
        return health["queue"]["admitted"] == 0 and health["spools"]["open"] == 0

    until(idle)


# --- from elsewhere, and to elsewhere -------------------------------------------------------------


def test_audio_is_fetched_before_it_is_taken(
    server: RunningServer, there: Elsewhere, short: bytes
) -> None:
    there.reply = lambda asked: (
        Reply(302, headers={"Location": "/b.wav?x=1"})
        if asked.path == "/a.wav"
        else Reply(200, short)
    )
    expected = server.convert(short).json["text"]
    url = f"{there.url}/a.wav"
    ways = [
        server.ask(f"/v1/jobs?url={url}", b""),
        server.ask("/v1/jobs", json.dumps({"url": url}).encode(), Content_Type="application/json"),
        server.ask(
            "/v1/jobs",
            f'--x\r\nContent-Disposition: form-data; name="url"\r\n\r\n{url}\r\n--x--'.encode(),
            Content_Type="multipart/form-data; boundary=x",
        ),
    ]
    for answer in ways:
        assert answer.status == 202, answer.body
        assert over(server, answer.json["id"])["result"]["text"] == expected
    both = server.ask(f"/v1/jobs?url={url}", short)
    assert (both.status, code_of(both)) == (400, "bad_parameter")


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (Reply(404), "url_failed"),
        (Reply(200, b"<html>"), "not_audio"),
        (Reply(200, b""), "not_audio"),
        (Reply(200, after_s=5), "url_failed"),
        (Reply(302, headers={"Location": "http://169.254.169.254/"}), "url_refused"),
        (Reply(302, headers={"Location": "file:///etc/passwd"}), "url_refused"),
        (Reply(302, headers={"Location": "http://127.0.0.2/"}), "url_refused"),
        (Reply(302, headers={"Location": "/again"}), "url_failed"),
    ],
)
def test_what_is_not_there_is_no_job(
    server: RunningServer, there: Elsewhere, reply: Reply, code: str
) -> None:
    there.reply = lambda _: reply
    answer = server.ask(f"/v1/jobs?url={there.url}/x.wav", b"")
    assert code_of(answer) == code
    assert answer.status == (502 if code == "url_failed" else 400)


def test_a_name_that_leads_inside_is_refused(server: RunningServer, there: Elsewhere) -> None:
    there.asked.clear()
    allowed = server.ask(f"/v1/jobs?url=http://localhost:{there.port}/x", b"")
    # Its address is named, so it may be asked; had it been another, it might not.
    assert code_of(allowed) in ("not_audio", "url_failed")
    nowhere = server.ask("/v1/jobs?url=http://no.such.invalid/x", b"")
    assert code_of(nowhere) == "url_failed"


def test_a_resolved_address_is_looked_at(tmp_path: Path, settings: dict[str, str]) -> None:
    given = settings | {"MODELSERVER_JOBS_URL_HOSTS": "localhost"}
    with start_server(tmp_path, **given) as running:
        running.wait_ready()
        answer = running.ask("/v1/jobs?url=http://localhost:1/x", b"")
    assert code_of(answer) == "url_refused"
    assert "jobs.url_hosts" in answer.json["error"]["message"]


def test_its_end_is_told_and_signed(server: RunningServer, there: Elsewhere, short: bytes) -> None:
    there.asked.clear()
    there.reply = lambda _: Reply(204)
    above = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    job_id = take(server, short, f"?webhook={there.url}/hook?a=b", traceparent=above)["id"]
    until(lambda: there.asked, what="the message")
    (asked,) = there.asked
    assert (asked.method, asked.path) == ("POST", "/hook?a=b")
    message = Webhook(SECRET).verify(asked.body, {k.lower(): v for k, v in asked.headers.items()})
    assert message["type"] == "job.done"
    assert message["attempt"] == 1
    traceparent = asked.headers["traceparent"]
    assert traceparent[:36] == above[:36]
    assert traceparent != above
    data = message["data"]
    assert data["id"] == job_id == asked.headers["webhook-id"]
    assert data["result"]["text"] == server.convert(short).json["text"]
    until(lambda: server.ask(f"/v1/jobs/{job_id}").json["webhook"]["state"] == "delivered")
    failed = take(server, b"OggS" + bytes(2000), f"?webhook={there.url}/")["id"]
    until(lambda: len(there.asked) > 1)
    told = json.loads(there.asked[1].body)
    assert (told["type"], told["data"]["id"]) == ("job.failed", failed)
    assert told["data"]["error"]["code"]


def test_it_is_told_again_until_it_is_heard(
    server: RunningServer, there: Elsewhere, short: bytes
) -> None:
    there.asked.clear()
    there.reply = lambda _: Reply(500 if len(there.asked) == 1 else 200)
    job_id = take(server, short, f"?webhook={there.url}/")["id"]
    until(lambda: len(there.asked) == 2, what="the second attempt")
    attempts = [json.loads(asked.body)["attempt"] for asked in there.asked]
    assert attempts == [1, 2]
    assert there.asked[1].at - there.asked[0].at > 1.5
    until(lambda: server.ask(f"/v1/jobs/{job_id}").json["webhook"]["state"] == "delivered")
    there.asked.clear()
    there.reply = lambda _: Reply(410)
    job_id = take(server, short, f"?webhook={there.url}/")["id"]
    until(lambda: "given_up" in str(server.ask(f"/v1/jobs/{job_id}").json["webhook"]))
    assert len(there.asked) == 1


def test_a_webhook_needs_a_secret(tmp_path: Path, settings: dict[str, str]) -> None:
    given = settings | {"MODELSERVER_JOBS_WEBHOOK_SECRET_FILE": ""}
    with (
        pytest.raises(AssertionError, match="webhook_secret_file"),
        start_server(tmp_path, **given),
    ):
        pass


# --- deaths ---------------------------------------------------------------------------------------


def kill(server: RunningServer) -> None:
    """As the kernel does."""
    os.kill(server.pid, signal.SIGKILL)
    server.process.wait()


def test_it_goes_on_after_its_last_finished_piece(
    tmp_path: Path, prepared_embedded: PreparedModel, clips: list[bytes]
) -> None:
    pauses = bytes(RATE)
    pcm = b"".join(clip + pauses for clip in clips * 3)
    given = {
        "MODELSERVER_LONG_PIECE_S": "10",
        "MODELSERVER_WARMUP": "none",
        "MODELSERVER_WORKERS_COUNT": "1",
    }
    with start_server(tmp_path, **given) as running:
        running.wait_ready()
        undisturbed = running.convert(wav(pcm), "?words=true&segments=true").json
        job_id = take(running, wav(pcm), "?words=true&segments=true")["id"]
        until(lambda: 0.2 < running.ask(f"/v1/jobs/{job_id}").json["progress"] < 0.9)
        before = running.ask(f"/v1/jobs/{job_id}").json["progress"]
        kill(running)
    with sqlite3.connect(tmp_path / "jobs" / "jobs.db") as db:
        ((kept,),) = db.execute("SELECT count(*) FROM pieces")
        numbers = [number for (number,) in db.execute("SELECT number FROM pieces")]
        # What is known is not heard again: it would be known again otherwise.
        row = db.execute("SELECT heard FROM pieces WHERE number = ?", (numbers[0],)).fetchone()
        marked = json.loads(row[0])
        assert marked["segments"]
        marked["segments"][0]["words"][0]["word"] = "MARKED"
        text = " ".join(w["word"] for w in marked["segments"][0]["words"])
        marked["segments"][0]["text"] = text
        db.execute("UPDATE pieces SET heard = ? WHERE number = ?", (json.dumps(marked), numbers[0]))
    db.close()
    assert kept >= 1
    assert before > 0
    with start_server(tmp_path, **given) as running:
        done = over(running, job_id, 60)
    assert done["state"] == "done"
    words = [w["word"] for w in done["result"]["words"]]
    expected = [w["word"] for w in undisturbed["words"]]
    assert words.count("MARKED") == 1
    expected[words.index("MARKED")] = "MARKED"
    assert words == expected
    assert [w["start"] for w in done["result"]["words"]] == [
        w["start"] for w in undisturbed["words"]
    ]


def test_killed_again_and_again_every_one_is_done_once(
    tmp_path: Path, settings: dict[str, str], there: Elsewhere, short: bytes, clips: list[bytes]
) -> None:
    there.asked.clear()
    there.reply = lambda _: Reply(204)
    bodies = [short, wav(clips[1] * 2)]
    ids: dict[int, str] = {}
    kills = 0
    while len(ids) < 40 or kills < 3:
        with start_server(tmp_path, **settings) as running:
            running.wait_ready()
            for number in range(len(ids), min(40, len(ids) + 12)):
                answer = running.ask(
                    f"/v1/jobs?webhook={there.url}/",
                    bodies[number % 2],
                    Idempotency_Key=str(number),
                )
                if answer.status == 202:
                    ids[number] = answer.json["id"]
            kill(running)
            kills += 1
    with start_server(tmp_path, **settings) as running:
        running.wait_ready()
        for job_id in ids.values():
            assert over(running, job_id, 60)["state"] == "done"
        until(lambda: {json.loads(a.body)["data"]["id"] for a in there.asked} == set(ids.values()))
    told = [json.loads(asked.body) for asked in there.asked]
    for job_id in ids.values():
        attempts = [one["attempt"] for one in told if one["data"]["id"] == job_id]
        assert attempts == sorted(set(attempts))  # whatever came twice says so
    assert len(set(ids.values())) == 40


def all_stopped(pid: int) -> bool:
    """None of its threads is in the middle of anything."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return all((task / "stat").read_text().rpartition(")")[2].split()[0] == "T" for task in tasks)


def test_a_snapshot_of_the_files_holds_all_that_was_taken(
    tmp_path: Path, settings: dict[str, str], short: bytes
) -> None:
    """What a loss of power leaves, as far as the kernel had written it."""
    taken: list[str] = []
    copies: list[tuple[Path, set[str]]] = []
    with start_server(tmp_path, **settings) as running:
        running.wait_ready()
        stop = threading.Event()

        def send() -> None:
            while not stop.is_set():
                taken.append(take(running, short)["id"])

        sending = threading.Thread(target=send)
        sending.start()
        for number in range(4):
            time.sleep(0.3)
            os.kill(running.pid, signal.SIGSTOP)
            until(lambda: all_stopped(running.pid))
            known = set(taken)
            copy = tmp_path / f"copy-{number}"
            shutil.copytree(tmp_path / "jobs", copy)
            os.kill(running.pid, signal.SIGCONT)
            copies.append((copy, known))
        stop.set()
        sending.join()
    for copy, known in copies:
        store = JobStore(copy)
        found = {job_id: store.get(job_id) for job_id in known}
        for job_id, kept in found.items():
            assert kept is not None
            assert kept.over or store.audio(job_id).read_bytes() == short
        store.close()
    assert all(known for _, known in copies[1:])


def test_what_is_told_is_on_the_disk(
    tmp_path: Path, settings: dict[str, str], short: bytes
) -> None:
    """Synced, and only then answered: the audio, its name in the directory, and the row."""
    trace = tmp_path / "trace"
    with start_server(tmp_path, **settings) as running:
        running.wait_ready()
        take(running, short)
        calls = "fsync,fdatasync,linkat,sendto,writev,write,sendmsg"
        command = ["strace", "-f", "-y", "-s", "20", "-e", calls, "-o", trace]
        with subprocess.Popen([*command, "-p", str(running.pid)], stderr=subprocess.PIPE) as tracer:
            assert tracer.stderr is not None
            tracer.stderr.readline()
            take(running, short)
            tracer.send_signal(signal.SIGINT)
            tracer.wait(10)
    said = trace.read_text()
    answered = said.index("HTTP/1.1 202")
    linked = said.index("linkat(")
    synced = [at for at in range(len(said)) if said.startswith(("fsync(", "fdatasync("), at)]
    assert any(at < linked for at in synced), "the audio"
    directory = str(tmp_path / "jobs")
    after = [said[at : at + 300].split("\n")[0] for at in synced if linked < at < answered]
    assert any(f"<{directory}>" in line for line in after), "its name"
    assert any("jobs.db-wal" in line for line in after), "the row"


def test_the_next_server_waits_for_the_one_before(
    tmp_path: Path, settings: dict[str, str], short: bytes
) -> None:
    shared = settings | {"MODELSERVER_JOBS_DIRECTORY": str(tmp_path / "shared")}
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    with start_server(one, **shared) as first:
        first.wait_ready()
        job_id = take(first, short)["id"]
        with start_server(other, **shared) as second:
            second.wait_ready()
            answer = until(
                lambda: (
                    (a := second.ask("/v1/jobs", short)).status == 503 and "another" in str(a) and a
                )
            )
            assert code_of(answer) == "not_ready"
            assert second.convert(short).status == 200
            assert "another server" in second.health()["jobs"]["problem"]
            assert first.stop() == 0
            until(lambda: second.ask("/v1/jobs").status == 200)
            assert over(second, job_id)["state"] == "done"


def test_a_disk_that_is_full_is_said_before_anything_is_taken(
    tmp_path: Path, settings: dict[str, str], short: bytes, clips: list[bytes]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=72m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False).returncode != 0:
        cannot("a tmpfs cannot be mounted")
    try:
        given = settings | {"MODELSERVER_JOBS_DIRECTORY": str(disk / "jobs")}
        with start_server(tmp_path, **given) as running:
            running.wait_ready()
            assert over(running, take(running, short)["id"])["state"] == "done"
            large = wav(b"".join(clips) * 12)
            assert len(large) > 10_000_000
            known = running.ask("/v1/jobs", large)
            assert (known.status, code_of(known)) == (503, "spool_full")
            import requests

            pieces = (large[at : at + 65536] for at in range(0, len(large), 65536))
            unknown = requests.post(f"{running.url}/v1/jobs", data=pieces, timeout=20)
            assert (unknown.status_code, unknown.json()["error"]["code"]) == (503, "spool_full")
            assert int(unknown.headers["Retry-After"]) > 0
            assert len(running.ask("/v1/jobs").json["jobs"]) == 1
            (disk / "filler").write_bytes(bytes(60_000_000))
            full = running.ask("/v1/jobs", short)
            assert (full.status, code_of(full)) == (503, "spool_full")
            assert running.convert(short).status == 200
            (disk / "filler").unlink()
            assert over(running, take(running, short)["id"])["state"] == "done"
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_directory_that_cannot_be_used_costs_jobs_alone(
    tmp_path: Path, settings: dict[str, str], short: bytes
) -> None:
    (tmp_path / "file").write_text("")
    given = settings | {"MODELSERVER_JOBS_DIRECTORY": str(tmp_path / "file" / "jobs")}
    with start_server(tmp_path, **given) as running:
        running.wait_ready()
        answer = running.ask("/v1/jobs", short)
        assert (answer.status, code_of(answer)) == (503, "not_ready")
        assert running.convert(short).status == 200
        running.wait_event("jobs.unusable")


def test_what_is_old_or_too_much_is_forgotten(
    tmp_path: Path, settings: dict[str, str], short: bytes
) -> None:
    given = settings | {"MODELSERVER_JOBS_KEEP_S": "3", "MODELSERVER_JOBS_DISK": "400KB"}
    with start_server(tmp_path, **given) as running:
        running.wait_ready()
        first = take(running, short)["id"]
        over(running, first)
        until(lambda: running.ask(f"/v1/jobs/{first}").status == 404, 60, "it is forgotten")
        large = running.ask("/v1/jobs", wav(bytes(500_000)))
        assert (large.status, code_of(large)) == (503, "spool_full")
        running.wait_event("jobs.forgotten")


def test_only_so_many_are_unfinished(
    tmp_path: Path, settings: dict[str, str], clips: list[bytes]
) -> None:
    long = wav(b"".join(clips) * 20)
    with start_server(tmp_path, **settings, MODELSERVER_JOBS_QUEUE="2") as running:
        running.wait_ready()
        ids = [take(running, long)["id"] for _ in range(2)]
        answer = running.ask("/v1/jobs", long)
        assert (answer.status, code_of(answer)) == (503, "queue_full")
        assert answer.headers["Retry-After"]
        assert [delete(running, one) for one in ids] == [204, 204]
        take(running, long)
    with start_server(tmp_path, **settings, MODELSERVER_JOBS_QUEUE="0") as running:
        assert code_of(running.ask("/v1/jobs", long)) == "not_ready"


# --- keys -----------------------------------------------------------------------------------------


def test_jobs_are_their_owners(
    tmp_path: Path, settings: dict[str, str], short: bytes, clips: list[bytes]
) -> None:
    keys = tmp_path / "keys"
    alice, bob = ({"Authorization": f"Bearer {add_key(keys, name)}"} for name in ("alice", "bob"))
    given = {"MODELSERVER_AUTH_KEYS_FILE": str(keys), "MODELSERVER_AUTH_KEY_JOBS": "2"}
    long = wav(b"".join(clips) * 20)
    with start_server(tmp_path, **settings, **given) as running:
        until(lambda: running.ask("/readyz").status == 200)
        assert running.ask("/v1/jobs", short).status == 401
        hers = [running.ask("/v1/jobs", long, **alice).json["id"] for _ in range(2)]
        too_many = running.ask("/v1/jobs", long, **alice)
        assert (too_many.status, code_of(too_many)) == (429, "rate_limited")
        assert too_many.headers["Retry-After"]
        # Who brings little does not wait for who has brought much.
        his = running.ask("/v1/jobs", short, **bob).json["id"]
        until(lambda: running.ask(f"/v1/jobs/{his}", **bob).json["state"] == "done")
        assert "done" not in {running.ask(f"/v1/jobs/{one}", **alice).json["state"] for one in hers}
        assert running.ask(f"/v1/jobs/{his}", **alice).status == 404
        listed = running.ask("/v1/jobs", **bob).json["jobs"]
        assert [one["id"] for one in listed] == [his]
        same = [
            running.ask("/v1/jobs", short, Idempotency_Key="k", **who).json.get("id")
            for who in (bob, bob)
        ]
        assert same[0] == same[1]
        assert running.ask("/v1/jobs", short, Idempotency_Key="k", **alice).status == 429


def test_many_at_once_are_all_taken(server: RunningServer, short: bytes) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        taken = list(threads.map(lambda _: take(server, short)["id"], range(40)))
    assert len(set(taken)) == 40
    for job_id in taken:
        assert over(server, job_id)["state"] == "done"
    assert ask(server.url + "/readyz").status == 200
