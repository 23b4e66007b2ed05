"""Store of jobs, and which of them a client may see."""

import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from job_client import SECRET
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from modelserver.jobs.record import Delivery, Failure, Job, Repeat, Wanted
from modelserver.jobs.store import Damaged, InUse, JobStore
from modelserver.jobs.webhooks import SecretUnreadable, read_secrets, signed_headers, wait_before
from modelserver.outbound.hosts import AllowedHosts, Refused
from modelserver.speech.joining import RecognisedPiece
from modelserver.speech.messages import Speech, SpeechRequest

pytestmark = pytest.mark.quick

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
    heard = RecognisedPiece(0.0, 1.5, True, [])
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
