"""The supervisor's values and decisions, each by itself; spools on real memory and real disks."""

import asyncio
import contextlib
import fcntl
import gc
import itertools
import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from stopwatch import within

from supervisor import Allocator, AllocatorMissing, PackedRing, SpoolFull, SpoolLimits, SpoolStore
from supervisor import spool as spooling
from supervisor.deaths.death import Cause, ExitStatus, Intent, name_death
from supervisor.deaths.level import Level
from supervisor.log import RepeatLimit
from supervisor.processes.backoff import Backoff
from supervisor.processes.environment import choose_allocator, find_jemalloc
from supervisor.readings.cpus import cpu_quota, usable_cpus
from supervisor.spool_view import open_view
from supervisor.wire.async_channel import AsyncChannel
from supervisor.wire.channel import Channel, ChannelClosed, channel_pair
from supervisor.wire.messages import Cancel, Done, Ready, Run, from_worker, to_worker
from supervisor.wire.page import Page, create_page

# --- deaths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "intent", "kernel_oom", "cause"),
    [
        (ExitStatus(signal=9), Intent.NONE, False, Cause.KILLED),
        (ExitStatus(signal=9), Intent.NONE, True, Cause.KERNEL_OOM),
        (ExitStatus(signal=9), Intent.HANG, False, Cause.HANG),
        (ExitStatus(signal=9), Intent.HANG, True, Cause.KERNEL_OOM),
        (ExitStatus(signal=9), Intent.SHUTDOWN, False, Cause.SHUTDOWN),
        (ExitStatus(code=0), Intent.RECYCLE, False, Cause.RECYCLED),
        (ExitStatus(signal=11), Intent.RECYCLE, False, Cause.CRASH),
        (ExitStatus(signal=11), Intent.NONE, True, Cause.CRASH),
        (ExitStatus(signal=6), Intent.NONE, False, Cause.CRASH),
        (ExitStatus(signal=15), Intent.NONE, False, Cause.TERMINATED),
        (ExitStatus(signal=15), Intent.SHUTDOWN, False, Cause.SHUTDOWN),
        (ExitStatus(signal=40), Intent.NONE, False, Cause.KILLED),
        (ExitStatus(code=0), Intent.NONE, False, Cause.EXITED),
        (ExitStatus(code=3), Intent.NONE, False, Cause.EXITED),
        (ExitStatus(), Intent.NONE, False, Cause.UNKNOWN),
    ],
)
def test_a_death_gets_its_right_name(
    status: ExitStatus, intent: Intent, kernel_oom: bool, cause: Cause
) -> None:
    assert name_death("worker", 1, status, intent, kernel_oom=kernel_oom).cause is cause


def test_a_death_is_told_in_words() -> None:
    death = name_death("worker", 4711, ExitStatus(signal=signal.SIGSEGV), Intent.NONE)
    assert death.sentence == "worker process 4711 crashed with SIGSEGV"


# --- back-off -------------------------------------------------------------------------------------


def test_the_first_failure_costs_nothing_and_the_next_ever_more() -> None:
    backoff = Backoff(first_s=0.5, longest_s=3.0, forgiven_after_s=60.0)
    assert [backoff.failed(1.0) for _ in range(6)] == [0.0, 0.5, 1.0, 2.0, 3.0, 3.0]


def test_a_long_success_is_a_new_start() -> None:
    backoff = Backoff(first_s=0.5, longest_s=3.0, forgiven_after_s=60.0)
    backoff.failed(0.0)
    assert backoff.failed(0.0) == 0.5
    assert backoff.failed(61.0) == 0.0


# --- environment ----------------------------------------------------------------------------------


def test_what_repeats_is_logged_less_and_less_often_and_what_changes_at_once() -> None:
    now, logged = 0.0, []
    repeats = RepeatLimit(lambda: now)
    for attempt in range(1000):
        now = attempt * 30.0
        if repeats.due(f"{300 + attempt % 7} MB are left until memory is full"):
            logged.append(now)
    assert logged[:9] == [0, 30, 60, 120, 240, 480, 960, 1920, 3840]
    assert {later - before for before, later in itertools.pairwise(logged[8:])} == {3600.0}
    assert repeats.due("the file is damaged")
    repeats.forget()
    assert repeats.due("300 MB are left until memory is full")


def test_auto_takes_jemalloc_where_there_is_one() -> None:
    choice = choose_allocator(Allocator.AUTO, "/lib/libjemalloc.so.2")
    assert choice.name == "jemalloc"
    assert choice.variables["LD_PRELOAD"] == "/lib/libjemalloc.so.2"


@pytest.mark.parametrize(
    ("jemalloc", "variable", "word"),
    [("/lib/libjemalloc.so.2", "MALLOC_CONF", "thp:always"), (None, "GLIBC_TUNABLES", "hugetlb")],
)
def test_huge_pages_are_for_targets_that_want_them(
    jemalloc: str | None, variable: str, word: str
) -> None:
    with_them = choose_allocator(Allocator.AUTO, jemalloc, huge_pages=True)
    without = choose_allocator(Allocator.AUTO, jemalloc, huge_pages=False)
    assert word in with_them.variables[variable]
    assert word not in without.variables.get(variable, "")


def test_auto_takes_glibc_where_there_is_no_jemalloc() -> None:
    choice = choose_allocator(Allocator.AUTO, None)
    assert choice.name == "glibc"
    assert "LD_PRELOAD" not in choice.variables


def test_glibc_can_be_asked_for() -> None:
    assert choose_allocator(Allocator.GLIBC, "/lib/libjemalloc.so.2").name == "glibc"


def test_jemalloc_asked_for_and_missing_says_how_to_get_it() -> None:
    with pytest.raises(AllocatorMissing, match="apt-get install libjemalloc2"):
        choose_allocator(Allocator.JEMALLOC, None)


def test_this_machine_has_jemalloc() -> None:
    found = find_jemalloc()  # `make test` installs it
    assert found is not None
    assert Path(found).is_file()


def test_affinity_bounds_the_cpus() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cpus() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(
    ("files", "cgroups", "quota"),
    [
        ({}, {"": "/"}, None),
        ({"cpu.max": "max 100000"}, {"": "/"}, None),
        ({"cpu.max": "150000 100000"}, {"": "/"}, 1.5),
        ({"a/cpu.max": "50000 100000", "a/b/cpu.max": "max 100000"}, {"": "/a/b"}, 0.5),
        ({"unified/a/cpu.max": "300000 100000"}, {"": "/a"}, 3.0),
        ({"cpu/a/cpu.cfs_quota_us": "20000", "cpu/a/cpu.cfs_period_us": "10000"}, {"cpu": "/a"}, 2),
        ({"cpu/a/cpu.cfs_quota_us": "-1"}, {"cpu": "/a"}, None),
        ({"cpu.max": "200000 100000"}, {"": "/the/hosts/path"}, 2.0),
    ],
)
def test_the_tightest_cgroup_quota_on_the_path_counts(
    tmp_path: Path, files: dict[str, str], cgroups: dict[str, str], quota: float | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_quota(tmp_path, cgroups) == quota


# --- pages ----------------------------------------------------------------------------------------


def test_a_page_is_read_as_it_was_written_and_keeps_its_size() -> None:
    fd = create_page()
    ours, theirs = Page(os.dup(fd)), Page(os.dup(fd))
    before = ours.heartbeat
    assert theirs.turn_to(42) == 0
    assert ours.at_hand == 42
    assert ours.heartbeat != before
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    with pytest.raises(PermissionError):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    os.close(fd)
    ours.close()
    theirs.close()


# --- channels -------------------------------------------------------------------------------------


async def test_messages_and_descriptors_arrive_whole_and_in_order() -> None:
    ours, theirs = channel_pair()
    got: list[tuple[Any, list[int]]] = []
    closed = asyncio.Event()
    channel = AsyncChannel(ours, from_worker, lambda *m: got.append(m), lambda _: closed.set())
    other = Channel(theirs, to_worker)
    read_end, write_end = os.pipe()
    await asyncio.to_thread(other.send, Done(1, b"y" * 200_000))
    other.send(Ready([]), [write_end])
    os.close(write_end)
    other.close()
    await closed.wait()
    assert [type(message) for message, _ in got] == [Done, Ready]
    assert got[0][0].value == b"y" * 200_000
    _, (fd,) = got[1]
    os.write(fd, b"!")
    assert os.read(read_end, 1) == b"!"
    os.close(fd)
    os.close(read_end)
    channel.close()


async def test_what_a_full_channel_cannot_take_waits_for_room() -> None:
    ours, theirs = channel_pair()
    channel = AsyncChannel(ours, from_worker, lambda *_: None, lambda _: None)
    for job in range(1, 5_001):
        channel.send(Cancel(job))
    other = Channel(theirs, to_worker)

    def take_all() -> list[int]:
        jobs = []
        while len(jobs) < 5_000:
            received = other.receive(5.0)
            assert received is not None
            assert isinstance(received[0], Cancel)
            jobs.append(received[0].job)
        return jobs

    assert await asyncio.to_thread(take_all) == list(range(1, 5_001))
    channel.close()
    with pytest.raises(ChannelClosed):
        other.receive(1.0)
    other.close()


async def test_the_last_words_of_the_dead_are_heard() -> None:
    """A peer that dies with something unread makes the kernel report a reset first."""
    ours, theirs = channel_pair()
    got: list[Any] = []
    closed = asyncio.Event()
    other = Channel(theirs, to_worker)
    channel = AsyncChannel(
        ours, from_worker, lambda message, _: got.append(message), lambda _: closed.set()
    )
    channel.send(Run(1, {}, None))
    other.send(Ready([]))
    other.close()
    await closed.wait()
    assert got == [Ready([])]


async def test_garbage_closes_a_channel() -> None:
    ours, theirs = channel_pair()
    closed = asyncio.Event()
    channel = AsyncChannel(ours, from_worker, lambda *_: None, lambda _: closed.set())
    theirs.send(b"\0this is no message")
    await closed.wait()
    channel.close()
    theirs.close()


def test_waiting_for_a_message_can_time_out() -> None:
    ours, theirs = channel_pair()
    channel = Channel(ours, to_worker)
    assert channel.receive(0.01) is None
    assert isinstance(theirs, socket.socket)
    theirs.close()
    channel.close()


# --- spools ---------------------------------------------------------------------------------------


def store(directory: Path, each: int = 1000, total: int = 1500) -> SpoolStore:
    return SpoolStore(SpoolLimits(each, total, directory))


async def content(spool: Any) -> bytes:
    await spool.flush()
    return open_view(spool.fileno(), spool.size).read()


async def test_a_small_spool_stays_in_memory(tmp_path: Path) -> None:
    spools = store(tmp_path)
    async with spools.open() as spool:
        await spool.write(b"a" * 999)
        assert spool.in_memory
        assert await content(spool) == b"a" * 999
        assert (spools.usage().memory_bytes, spools.usage().disk_bytes) == (999, 0)
    assert spools.usage().open == 0


async def test_a_large_spool_moves_to_an_unnamed_file(tmp_path: Path) -> None:
    spools = store(tmp_path)
    async with spools.open() as spool:
        for letter in b"abc":
            await spool.write(bytes([letter]) * 600)
        assert not spool.in_memory
        assert await content(spool) == b"a" * 600 + b"b" * 600 + b"c" * 600
        assert os.fstat(spool.fileno()).st_nlink == 0
        assert spools.usage().disk_bytes == 1800
    assert list(tmp_path.iterdir()) == []


async def test_many_small_spools_go_to_disk_when_memory_is_used_up(tmp_path: Path) -> None:
    spools = store(tmp_path)
    async with spools.open() as first, spools.open() as second:
        await first.write(b"a" * 900)
        await second.write(b"b" * 900)
        assert (first.in_memory, second.in_memory) == (True, False)
        assert await content(second) == b"b" * 900


async def test_an_empty_spool_can_be_read(tmp_path: Path) -> None:
    async with store(tmp_path).open() as spool:
        assert await content(spool) == b""


async def test_a_full_disk_is_told_and_recovers(small_disk: Path) -> None:
    spools = store(small_disk)
    async with spools.open() as spool:
        with pytest.raises(SpoolFull, match="no space left"):
            await spool.write(bytes(2_000_000))
    async with spools.open() as spool:
        await spool.write(bytes(500_000))
        await spool.flush()


async def test_a_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    async with store(tmp_path / "missing").open() as spool:
        with pytest.raises(SpoolFull, match="cannot be held"):
            await spool.write(bytes(5_000))


async def test_closing_while_a_write_is_under_way_frees_the_descriptor(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        spool = store(tmp_path).open()
        writing = asyncio.create_task(spool.write(bytes(20_000_000)))
        await asyncio.sleep(0)
        writing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await writing
        spool.close()
    async with within(5):
        while len(os.listdir("/proc/self/fd")) > before:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("what", ["moved", "written"])
async def test_a_writer_that_is_cancelled_keeps_its_descriptors_until_its_thread_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Otherwise their numbers would be those of other files, to which the thread would then
    write."""
    name, fds = {"moved": ("_copy", 2), "written": ("_write_all", 1)}[what]
    write = getattr(spooling, name)
    begun, go, seen = threading.Event(), threading.Event(), list[bool]()

    def slowly(*arguments: Any) -> None:
        files = [os.fstat(fd).st_ino for fd in arguments[:fds]]
        begun.set()
        go.wait(10)
        seen.append(files == [os.fstat(fd).st_ino for fd in arguments[:fds]])
        write(*arguments)

    spools = store(tmp_path, each=1000 if what == "moved" else 0)
    spool = spools.open()
    await spool.write(b"a" * 900)
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(spooling, name, slowly)
    task = asyncio.create_task(spool.to_disk() if what == "moved" else spool.flush())
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    spool.close()
    others = [os.open("/dev/null", os.O_RDONLY) for _ in range(8)]
    go.set()
    while not seen:
        await asyncio.sleep(0.01)
    for fd in others:
        os.close(fd)
    assert seen == [True]
    async with within(10):
        while len(os.listdir("/proc/self/fd")) >= before:  # the spool's own is gone too
            await asyncio.sleep(0.01)


async def test_what_a_cancelled_writer_fails_of_is_nobodys_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begun, go = threading.Event(), threading.Event()

    def fails(*_: Any) -> None:
        begun.set()
        go.wait(10)
        raise SpoolFull("a test")

    spool = store(tmp_path).open()
    await spool.write(b"a" * 900)
    monkeypatch.setattr(spooling, "_copy", fails)
    task = asyncio.create_task(spool.to_disk())
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    writing = spool._writing
    assert writing is not None
    spool.close()
    go.set()
    while not writing.done():
        await asyncio.sleep(0.01)
    del writing, spool, task
    gc.collect()
    assert not caplog.records


# --- records --------------------------------------------------------------------------------------


class Kept(msgspec.Struct, array_like=True, frozen=True):
    """Record to be remembered."""

    number: int
    level: Level


def test_a_packed_ring_gives_what_was_put_in() -> None:
    ring = PackedRing.of(Kept, 3)
    assert len(ring) == 0
    assert list(ring) == []
    for number in range(5):
        ring.append(Kept(number, Level.CRITICAL))
    kept = [Kept(number, Level.CRITICAL) for number in (2, 3, 4)]
    assert (list(ring), list(reversed(ring)), len(ring)) == (kept, kept[::-1], 3)
    assert (ring[-1], ring[0]) == (kept[-1], kept[0])
    newest = ring.newest(2)
    ring.append(Kept(5, Level.NORMAL))
    assert list(newest) == kept[1:]
    assert list(ring.newest(9)) == [*kept[1:], Kept(5, Level.NORMAL)]
