"""The parts of jobs without a server: the line, back-off, hosts of webhooks, URLs, the database."""

import asyncio
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from stopwatch import within
from test_job_store import SPEECH, job
from yarl import URL

from modelserver.jobs.backoff import Backoff
from modelserver.jobs.idempotency import InProgress, NotTheSame, Repeats
from modelserver.jobs.queue import Line
from modelserver.jobs.record import Delivery, Repeat
from modelserver.jobs.schema import filesystem_of, host_of
from modelserver.jobs.service import JobService
from modelserver.jobs.store import JobStore, UnknownCursor, why_unusable
from modelserver.jobs.webhooks import Hosts, retry_after
from modelserver.outbound.client import as_given
from modelserver.outbound.hosts import AllowedHosts
from modelserver.serving.service import SpeechService
from modelserver.settings import JobSettings, Settings
from modelserver.speech.messages import Speech, SpeechWord
from supervisor import SpoolFull

pytestmark = pytest.mark.quick

# --- the line -------------------------------------------------------------------------------------


def test_owners_have_their_turns_fairly() -> None:
    line: Line[str] = Line()
    for number in range(3):
        line.add(f"a{number}", "a", 100)
    line.add("b0", "b", 10)
    assert list(line) == ["a0", "b0", "a1", "a2"]
    line.take("a0")
    line.put_back("a0", "a")
    assert next(iter(line)) == "a0"
    line.discard("a1")
    line.discard("a1")
    assert list(line) == ["a0", "b0", "a2"]
    with pytest.raises(KeyError):
        line.take("a1")


def test_a_place_is_that_of_the_order() -> None:
    line: Line[int] = Line()
    chance = random.Random(1)
    for number in range(500):
        line.add(number, str(number % 7), chance.uniform(1, 50))
        if chance.random() < 0.3:
            line.take(next(iter(line)))
    waiting = list(line)
    assert [line.position(item) for item in waiting] == list(range(1, len(waiting) + 1))
    assert len(line) == len(waiting)
    assert line.position(-1) is None


# --- opening --------------------------------------------------------------------------------------


async def test_a_database_that_cannot_be_read_once_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, failures = JobStore.unfinished, [sqlite3.OperationalError("disk I/O error")]

    def unfinished(store: JobStore) -> Any:
        if failures:
            raise failures.pop()
        return read(store)

    monkeypatch.setattr(JobStore, "unfinished", unfinished)
    given = msgspec.structs.replace(Settings(), jobs=JobSettings(directory=tmp_path / "jobs"))
    service = SpeechService(given)
    async with JobService(service, lambda *_: b"") as jobs, within(10):
        while jobs.problem != "disk I/O error":
            await asyncio.sleep(0.01)
        assert service.stale() == ["jobs are rejected: disk I/O error"]
        while jobs.problem is not None:
            await asyncio.sleep(0.01)
        assert service.stale() == []
        assert await jobs.listed(None, None, None, 10) == ([], None)


# --- back-off and hosts ---------------------------------------------------------------------------


def test_waits_grow_and_end() -> None:
    backoff = Backoff(60)
    waits, now = [], 100.0
    for _ in range(8):
        waits.append(backoff.failed(now))
        now = backoff.until
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60]
    assert backoff.failed(now, 600) == 600
    assert backoff.lasted_s(now) == now - 100
    backoff.succeeded()
    assert (backoff.lasted_s(now), backoff.failed(now)) == (0.0, 2)
    assert Backoff(failures=10_000).failed(0.0) == 60


def test_a_host_gets_few_at_once_and_none_while_it_fails() -> None:
    hosts = Hosts()
    for _ in range(4):
        hosts.begins("a")
    assert hosts.closed(0.0) == ["a"]
    hosts.ended("a", 0.0, taken=True, retry_after_s=None)
    assert hosts.closed(0.0) == []
    for _ in range(3):  # a batch that fails together is one failure
        hosts.ended("a", 10.0, taken=False, retry_after_s=None)
    assert hosts.closed(11.0) == ["a"]
    assert hosts.next_s(11.0) == 1.0
    assert hosts.closed(12.1) == []
    hosts.begins("a")
    assert hosts.closed(12.1) == ["a"], "one at a time finds out whether it is back"
    hosts.ended("a", 13.0, taken=True, retry_after_s=None)
    hosts.begins("a")
    assert hosts.closed(13.0) == []


def test_hosts_that_fail_leave_slots_to_others() -> None:
    hosts = Hosts()
    for number in range(100):
        hosts.begins(f"dead-{number}")
        hosts.ended(f"dead-{number}", 0.0, taken=False, retry_after_s=None)
    now, sending = 10.0, 0
    for number in range(100):
        if f"dead-{number}" not in hosts.closed(now):
            hosts.begins(f"dead-{number}")
            sending += 1
    assert 0 < sending <= 16
    assert hosts.free() >= 16
    assert "new" not in hosts.closed(now)
    hosts.forget(1e6)
    assert hosts.next_s(1e6) == 3600


def test_a_host_that_asks_for_peace_has_it() -> None:
    hosts = Hosts()
    hosts.begins("a")
    hosts.ended("a", 0.0, taken=False, retry_after_s=120.0)
    assert hosts.closed(119.0) == ["a"]
    assert hosts.closed(121.0) == []
    assert retry_after("30") == 30
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after("9" * 30) == 3600
    for nonsense in (None, "", "soon", "-5", "٣"):
        assert retry_after(nonsense) is None


# --- URLs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wire"),
    [
        ("http://h/a?Signature=a%2Fb%7E%27", "/a?Signature=a%2Fb%7E%27"),
        ("http://h/a%2fb/../c//d?x=%41+%20", "/a%2fb/../c//d?x=%41+%20"),
        ("http://h?x=1", "/?x=1"),
        ("http://h", "/"),
        ("http://h/?", "/?"),
        ("http://h/a?b#c?d", "/a?b"),
        ("http://h/a b\r\nX: y", "/a%20b%0D%0AX:%20y"),
        ("http://h/한?k=é", "/%ED%95%9C?k=%C3%A9"),
        ("http://h/a?b=[1]&c={2}|'", "/a?b=[1]&c={2}|'"),
    ],
)
def test_a_url_is_asked_for_byte_for_byte(text: str, wire: str) -> None:
    checked = AllowedHosts(("h",), "x").check(text)
    url = as_given(checked, text)
    assert url.host == "h"
    # A question mark without a query is the one thing that aiohttp leaves out.
    assert url.raw_path_qs == wire.removesuffix("?")


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("HTTP://Example.ORG:8080/x", "example.org", 8080),
        ("http://[::1]:8080/x", "::1", 8080),
        ("http://bücher.example/x", "bücher.example", 80),
        ("https://h/x", "h", 443),
    ],
)
def test_the_host_is_the_one_that_was_checked(text: str, host: str, port: int) -> None:
    url = as_given(URL(text), text)
    assert (url.host, url.port, url.raw_path) == (host, port, "/x")


def test_hosts_are_told_apart_by_their_ports() -> None:
    assert host_of("http://A.example:81/x?y") == "a.example:81"
    assert host_of(None) == host_of("http://[") == ""


# --- the database ---------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path / "jobs")


def test_a_row_that_cannot_be_read_is_a_job_that_failed(store: JobStore, tmp_path: Path) -> None:
    for number in range(6):
        store.audio(f"x-{number}").write_bytes(b"audio")
        store.add(job(number, delivery=Delivery("http://u") if number == 1 else None), None)
    store.ends("x-5", 2.0, SPEECH, None)
    for number, change in (
        (1, """wanted = '{"speech":{"alternatives":"many"}}'"""),
        (2, "wanted = x'00ff'"),
        (3, "state = 'paused'"),
        (4, "created = 'yesterday'"),
        (5, "speech = '{}'"),
    ):
        store._db.execute(f"UPDATE jobs SET {change} WHERE id = 'x-{number}'")
    store.close()
    for _ in range(2):
        store = JobStore(tmp_path / "jobs")
        assert [one.id for one in store.unfinished()] == ["x-0"]
        found = {one.id: one for one in store.listed(None, None, None, 9)}
        for number in range(1, 5):
            one = found[f"x-{number}"]
            assert one.state == "failed"
            assert one.error is not None
            assert "cannot be read" in one.error.message
        damaged = store.get("x-5", speech=True)
        assert damaged is not None
        assert damaged.state == "failed"
        assert store.due(1e12, 5) == (["x-1"], None)
        assert [file.name for file in (tmp_path / "jobs").glob("*.audio")] == ["x-0.audio"]
        store.close()


def test_what_fails_while_it_is_opened_leaves_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    JobStore(tmp_path).close()

    def full(_: object) -> None:
        raise SpoolFull("no space left to keep jobs")

    with monkeypatch.context() as patched:
        patched.setattr(JobStore, "_tidy", full)
        with pytest.raises(SpoolFull):
            JobStore(tmp_path)
    JobStore(tmp_path).close()


def test_the_database_becomes_smaller_again(store: JobStore, tmp_path: Path) -> None:
    words = [SpeechWord("word", 1.0, 2.0, 0.5)] * 9000
    for number in range(30):
        store.add(job(number), None)
        store.ends(f"x-{number}", 2.0, Speech("t" * 40_000, 1.0, "m", "ko", words), None)
    file = tmp_path / "jobs" / "jobs.db"
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    before = file.stat().st_size
    assert before > store.held_bytes() > 10_000_000
    store.remove([f"x-{number}" for number in range(30)])
    while store.shrink():
        pass
    assert store.held_bytes() == 0
    assert file.stat().st_size < before / 20
    store.close()


def test_what_is_held_is_counted_as_it_changes(store: JobStore, tmp_path: Path) -> None:
    for number in range(4):
        store.add(job(number, owner="ab"[number % 2], size=1000), None)
    store.ends("x-0", 1.0, Speech("t" * 500, 1.0, "m", "ko"), None)
    store.ends("x-1", 2.0, None, None)
    store.remove(["x-3", "x-9"])
    store.remove(["x-3"])
    held, finished = store.held_bytes(), store.finished_bytes()
    assert held == finished + 1000
    assert finished > 500
    assert store.largest_owner() == "a"
    assert store.oldest_over(5, "a") == [("x-0", 1.0)]
    assert store.oldest_over(5) == [("x-0", 1.0), ("x-1", 2.0)]
    store.close()
    store = JobStore(tmp_path / "jobs")
    assert (store.held_bytes(), store.finished_bytes()) == (held, finished)
    store.close()


def test_a_list_goes_on_after_what_is_gone(store: JobStore) -> None:
    ids = [f"here-{1_700_000_000_000 + number:011x}{number:010x}" for number in range(7)]
    for number, one in enumerate(ids):
        created = 1_700_000_000 + number / 1000
        store.add(job(number, id=one, created=created), None)
    cursor = store.cursor(ids[4])
    assert [one.id for one in store.listed(None, None, ids[4], 9)] == ids[3::-1]
    store.remove([ids[4], ids[2]])
    left = [ids[3], ids[1], ids[0]]
    assert [one.id for one in store.listed(None, None, cursor, 9)] == left
    assert [one.id for one in store.listed(None, None, ids[4], 9)] == left
    for unknown in ("", "nonsense", "here-12", "~5"):
        with pytest.raises(UnknownCursor):
            store.listed(None, None, unknown, 9)
    store.close()


async def test_a_job_that_was_deleted_is_not_what_is_asked_for_again(store: JobStore) -> None:
    async def do(call: Callable[[JobStore], Any]) -> Any:
        return call(store)

    repeats, repeat = Repeats(do), Repeat("k", "f")
    assert await repeats.same("", repeat) is None
    store.add(job(1), repeat)
    assert await repeats.known("", "k")
    assert await repeats.same("", repeat) == job(1)
    with pytest.raises(NotTheSame):
        await repeats.same("", Repeat("k", "g"))
    with repeats.once("", "k"), pytest.raises(InProgress), repeats.once("", "k"):
        pass
    store.remove(["x-1"])
    assert await repeats.same("", repeat) is None
    assert not await repeats.known("", "k")
    store.close()


def test_lists_and_the_oldest_come_from_an_index(store: JobStore) -> None:
    store.add(job(1), None)
    asked: list[str] = []
    store._db.set_trace_callback(asked.append)
    for owner in (None, "", "a"):
        for state in (None, "waiting", "done"):
            store.listed(owner, state, None, 20)  # type: ignore[arg-type]
            store.listed(owner, state, "x-1", 20)  # type: ignore[arg-type]
        store.oldest_over(20, owner)
    store.due(1.0, 5)
    store._db.set_trace_callback(None)
    assert len(asked) > 20
    for statement in asked:
        plan = store._db.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
        words = " ".join(str(row[3]) for row in plan)
        assert "TEMP B-TREE" not in words, (statement, words)
        # A list of all from the newest is a walk that its limit ends.
        assert "SCAN" not in words or "WHERE" not in statement or "USING INDEX" in words
    store.close()


def test_a_directory_is_looked_at_before_it_is_taken(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs")
    assert why_unusable(tmp_path / "jobs") is None, "its user will release it"
    store.close()
    assert why_unusable(tmp_path / "jobs") is None
    assert why_unusable(tmp_path / "new") is None
    (tmp_path / "file").touch()
    assert "File exists" in str(why_unusable(tmp_path / "file"))
    with sqlite3.connect(tmp_path / "jobs" / "jobs.db") as db:
        db.execute("PRAGMA user_version = 99")
    assert "99" in str(why_unusable(tmp_path / "jobs"))


def test_a_file_system_is_known_by_its_mount() -> None:
    assert filesystem_of(Path("/proc/self")) == "proc"
    assert filesystem_of(Path("/sys")) == "sysfs"
