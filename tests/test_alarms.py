"""What wakes the guard: the kernel's own alarms, and how seldom it looks where they are."""

import base64
import contextlib
import mmap
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cgroup import MB, VERSION_2, MemoryCgroup, hand_over, memory_cgroup
from remote_pool import RemotePool, remote_pool
from running import PATIENCE, until

from supervisor.readings import delegation
from supervisor.readings.alarms import STEP_BYTES, KernelAlarms, pressure
from supervisor.readings.cgroups import ROOT, UNIFIED


@contextlib.contextmanager
def alarms(
    cgroups: dict[str, str] | None = None, environment: dict[str, str] | None = None
) -> Iterator[KernelAlarms]:
    kernel = KernelAlarms(cgroups=cgroups, environment=environment or {})
    kernel.heard()
    try:
        yield kernel
    finally:
        kernel.close()


def rings(kernel: KernelAlarms, seconds: float = 5.0) -> bool:
    heard, _, _ = select.select([kernel], [], [], seconds)
    if heard:
        kernel.heard()
    return bool(heard)


@contextlib.contextmanager
def somebody_in(group: MemoryCgroup, do: Callable[[], object]) -> Iterator[None]:
    """A process in the cgroup that does it, and keeps what comes of it until the block's end."""
    pid = os.fork()
    if pid == 0:
        group.enter()
        kept = do()
        time.sleep(60)
        del kept
        os._exit(0)
    try:
        yield
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def take(count: int) -> mmap.mmap:
    memory = mmap.mmap(-1, count)
    for at in range(0, count, mmap.PAGESIZE):
        memory[at] = 1
    return memory


def inside(group: MemoryCgroup) -> dict[str, str]:
    if VERSION_2:
        return {UNIFIED: "/" + str(group.directory.relative_to(ROOT))}
    return {"memory": "/" + str(group.directory.relative_to(ROOT / "memory"))}


def ours_below(limited: MemoryCgroup) -> MemoryCgroup:
    """As a server makes it that was handed a cgroup: there version 2 has thresholds."""
    hand_over(limited.directory)
    (limited.directory / "cgroup.subtree_control").write_text("+memory")
    group = MemoryCgroup(limited.directory / delegation.NAME)
    group.directory.mkdir()
    return group


def test_a_threshold_rings_once_when_it_is_crossed_and_is_set_anew() -> None:
    with memory_cgroup(400 * MB) as limited, contextlib.ExitStack() as stack:
        group = ours_below(limited) if VERSION_2 else limited
        kernel = stack.enter_context(alarms(inside(group)))
        assert kernel.own == group.directory
        assert kernel.group_of(limited.directory) == group.directory
        assert kernel.reach(group.directory) is None
        kernel.keep_armed([group.directory])
        reach = kernel.reach(group.directory)
        assert reach is not None
        assert STEP_BYTES / 2 < reach <= STEP_BYTES
        assert not rings(kernel, 0.1)
        with somebody_in(group, lambda: take(3 * STEP_BYTES)):
            assert rings(kernel)
            assert kernel.reach(group.directory) is None
            until(lambda: group.usage() > 3 * STEP_BYTES)
            kernel.keep_armed([group.directory])
            assert kernel.reach(group.directory)
            before = len(kernel.names)
            kernel.keep_armed([])
            assert len(kernel.names) == before - 1
            assert kernel.reach(group.directory) is None


@pytest.mark.skipif(not VERSION_2, reason="version 1 holds nobody up")
def test_who_crosses_a_threshold_is_held_up_no_longer_than_until_it_was_heard() -> None:
    with memory_cgroup(400 * MB) as limited:
        group = ours_below(limited)
        with alarms(inside(group)) as kernel:
            kernel.keep_armed([group.directory])
            with somebody_in(group, lambda: take(200 * MB)):
                assert rings(kernel)
                assert (group.directory / "memory.high").read_text() == "max\n"
                until(lambda: group.usage() > 200 * MB, 20)
            kernel.keep_armed([group.directory])
        assert (group.directory / "memory.high").read_text() == "max\n"


def test_growth_that_pushes_file_cache_out_rings_though_nothing_more_is_charged(
    tmp_path: Path,
) -> None:
    def fill_and_grow() -> mmap.mmap:
        written(tmp_path / "cache", 150 * MB)
        return take(30 * MB)

    with (
        memory_cgroup(100 * MB) as group,
        alarms(inside(group)) as kernel,
        somebody_in(group, fill_and_grow),
    ):
        until(lambda: group.usage() > 95 * MB, 60)
        assert rings(kernel)


def written(path: Path, size: int) -> None:
    """To the disk: the kernel can drop it at once."""
    with path.open("wb") as file:
        file.write(b"x" * size)
        file.flush()
        os.fsync(file.fileno())


def test_stalls_ring(tmp_path: Path) -> None:
    """A process that needs more than its cgroup has waits for its own pages again and again."""
    pages = tmp_path / "pages"

    written(pages, 64 * MB)
    with pages.open("rb") as file:  # whoever reads it first from now on is charged for it
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def thrash() -> None:
        with pages.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            while True:
                for at in range(0, len(mapped), mmap.PAGESIZE):
                    mapped[at]

    with memory_cgroup(16 * MB) as group:
        alarm = pressure(Path("/proc/pressure/memory"), [b"some 1000 2000000\0"])
        try:
            poll = select.poll()
            poll.register(alarm.fd, alarm.events)
            with somebody_in(group, thrash):
                assert poll.poll(20_000 * PATIENCE)
        finally:
            alarm.close()


@pytest.mark.parametrize("kind", ["fifo", "socket"])
def test_what_the_service_manager_has_us_watch_rings(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    environment = {
        "MEMORY_PRESSURE_WATCH": str(path),
        "MEMORY_PRESSURE_WRITE": base64.b64encode(b"hello").decode(),
    }
    with contextlib.ExitStack() as stack:
        if kind == "fifo":
            os.mkfifo(path)
            kernel = stack.enter_context(alarms(environment=environment, cgroups={}))
            assert rings(kernel, 0.1) is False  # its own words were read back when it was heard
            fd = os.open(path, os.O_WRONLY)
            stack.callback(os.close, fd)
            os.write(fd, b"!")
        else:
            listening = stack.enter_context(socket.socket(socket.AF_UNIX))
            listening.bind(str(path))
            listening.listen()
            kernel = stack.enter_context(alarms(environment=environment, cgroups={}))
            manager, _ = listening.accept()
            stack.enter_context(manager)
            assert manager.recv(100) == b"hello"
            manager.send(b"!")
        assert str(path) in kernel.names
        assert rings(kernel)
        assert not rings(kernel, 0.1)
        if kind == "socket":
            manager.close()
            assert rings(kernel)
            assert str(path) not in kernel.names  # nobody will tell any more


@pytest.mark.parametrize(
    "environment",
    [
        {"MEMORY_PRESSURE_WATCH": "/dev/null"},
        {"MEMORY_PRESSURE_WATCH": "relative"},
        {"MEMORY_PRESSURE_WATCH": "/nowhere/at/all"},
        {"MEMORY_PRESSURE_WATCH": "/proc/pressure/memory", "MEMORY_PRESSURE_WRITE": "not base64!"},
        {"MEMORY_PRESSURE_WATCH": "/proc/pressure/memory", "MEMORY_PRESSURE_WRITE": "bm9uc2Vuc2U="},
        {"MEMORY_PRESSURE_WATCH": "/"},
    ],
)
def test_what_cannot_be_watched_is_not(environment: dict[str, str]) -> None:
    with alarms(environment={}, cgroups={}) as kernel:
        without = kernel.names
    with alarms(environment=environment, cgroups={}) as kernel:
        assert kernel.names == without


def wakes_in(pool: RemotePool, seconds: float) -> int:
    def switches() -> int:
        status = Path(f"/proc/{pool.process.pid}/status").read_text()
        return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])

    before = switches()
    time.sleep(seconds)
    return switches() - before


def test_near_the_limit_it_sleeps_and_a_leak_of_a_gigabyte_a_second_is_seen_all_the_same() -> None:
    with memory_cgroup(500 * MB) as group, contextlib.ExitStack() as stack:
        if VERSION_2:
            hand_over(group.directory)
        pool = stack.enter_context(remote_pool(group.enter, load_bytes=280 * MB))
        asked = pool.ask(run={"do": "steps", "count": 20, "step_s": 0.25})
        until(lambda: "busy" in pool.status()["states"])
        time.sleep(1)
        # Polling would wake it every 20 to 30 ms.
        assert wakes_in(pool, 3.0) < 3 * 20
        assert "result" in pool.answer(asked)
        refused = pool.run(do="leak", bytes=5000 * MB, rate=1000 * MB)
        assert refused["error"] in ("memory_pressure", "too_large_for_server")
        assert pool.status()["deaths"] == {"guard": 2}
        assert group.oom_kills() == 0
