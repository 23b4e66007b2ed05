"""Exceptions in the middle: each callback and awaited call of the pool raises once, in turn, and
afterwards every job and stream has its answer, every worker is able, and the pool looks after
itself."""

import asyncio
import contextlib
import functools
import inspect
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import structlog
from cgroup import freezer
from pools import alone, say, toy
from running import gone
from stopwatch import Stopwatch, wait_for, within

from supervisor import Cause, Guard, MemorySettings, Pool, PoolError, PoolSettings, SpoolStore
from supervisor.deaths.death import Intent
from supervisor.deaths.history import Deaths, History
from supervisor.deaths.kernel_oom import OomEvidence
from supervisor.dispatch.dispatcher import Dispatcher
from supervisor.dispatch.poison import PoisonInputs
from supervisor.dispatch.retries import Retries
from supervisor.dispatch.scheduler import Scheduler
from supervisor.dispatch.streams import Streams
from supervisor.guard.admission_control import AdmissionControl
from supervisor.guard.effects import Effects
from supervisor.guard.observer import Observer
from supervisor.guard.snapshot import Snapshots
from supervisor.job import Job
from supervisor.loop.changes import Changes
from supervisor.processes.backoff import Backoff
from supervisor.processes.forkserver_handle import ForkServerHandle
from supervisor.processes.lifecycle import ProcessLifecycle
from supervisor.processes.scratch import Scratch
from supervisor.processes.slots import WorkerSlots
from supervisor.processes.worker_handle import WorkerHandle
from supervisor.wire.async_channel import AsyncChannel

DEADLINE_S = 20.0


class Injected(Exception):
    """Exception that the test raises."""


CALLS: dict[type, tuple[str, ...]] = {
    Dispatcher: ("worker_changed", "worker_message", "worker_busy", "_learn"),
    Retries: ("worker_lost", "check"),
    Guard: ("finished", "hasten", "_look", "_read", "_decide"),
    AdmissionControl: ("may_begin", "began", "ended", "reserved"),
    Observer: ("read", "look", "outdated", "interval"),
    Snapshots: ("situation", "moment"),
    Effects: ("do", "remember", "tidy", "reap_orphans"),
    History: ("passed", "died"),
    Deaths: ("died",),
    OomEvidence: ("look", "killed"),
    Streams: ("fed", "failed", "schedule", "look", "worker_lost", "worker_leaves", "add"),
    Job: ("succeed",),
    Scheduler: ("schedule", "_begin", "put_back"),
    PoisonInputs: ("deaths_by", "remember"),
    WorkerSlots: ("worker_gone", "_start_worker", "_occupy", "_rest_after"),
    ProcessLifecycle: ("_install", "hopeless"),
    Changes: ("notify",),
    ForkServerHandle: ("fork",),
    WorkerHandle: ("job_over", "run", "leave", "work_changed", "_on_ready", "output"),
    Backoff: ("failed",),
    AsyncChannel: ("send_encoded", "_take_one"),
}
"""Functions that are called while jobs and streams come, run, end and die."""


@contextlib.contextmanager
def raising(owner: type, name: str, at: int) -> Iterator[list[int]]:
    """The call number `at` (from 1) of that method raises; gives the number of calls so far."""
    original: Callable[..., Any] = getattr(owner, name)
    calls = [0]

    def count() -> None:
        calls[0] += 1
        if calls[0] == at:
            raise Injected(f"{owner.__name__}.{name}")

    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def wrapped(*arguments: Any, **named: Any) -> Any:
            count()
            return await original(*arguments, **named)

    else:

        @functools.wraps(original)
        def wrapped(*arguments: Any, **named: Any) -> Any:
            count()
            return original(*arguments, **named)

    setattr(owner, name, wrapped)
    try:
        yield calls
    finally:
        setattr(owner, name, original)


async def errand(work: Any) -> Any:
    """Return its answer, or its error: a `PoolError` or an injected exception, and nothing else."""
    try:
        return await wait_for(work, 30)
    except (PoolError, Injected, asyncio.CancelledError) as error:
        return error


async def spoken(pool: Pool) -> None:
    with pool.stream() as stream:
        stream.begin({})
        for word in ("a", ".", "b", "."):
            await say(stream, word)


async def with_input(pool: Pool, spools: SpoolStore, request: dict[str, Any]) -> Any:
    async with spools.open() as spool:
        await spool.write(b"input")
        return await pool.run(request, spool, units=1.0, timeout_s=DEADLINE_S)


async def scenario(pool: Pool, spools: SpoolStore, marker: Path) -> None:
    """Jobs and streams of all kinds, a crash, a kill, a cancelled job, a recycle."""
    once = {"do": "once", "how": "SIGSEGV", "marker": str(marker)}
    works = [
        with_input(pool, spools, {"do": "echo"}),
        with_input(pool, spools, {"do": "steps", "count": 5, "step_s": 0.01}),
        with_input(pool, spools, once),
        with_input(pool, spools, {"do": "raise"}),
        with_input(pool, spools, {"do": "refuse"}),
        pool.run({"do": "steps", "count": 1000}, timeout_s=0.2, on_progress=lambda _: None),
        spoken(pool),
        spoken(pool),
    ]
    tasks = [asyncio.create_task(errand(work)) for work in works]
    await asyncio.sleep(0.05)
    for worker in pool.status().workers[:1]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)
    await asyncio.sleep(0.1)
    with contextlib.suppress(Injected):
        pool.recycle(1)
    await asyncio.gather(*tasks)


async def must_come_to_rest(pool: Pool, what: str) -> None:
    try:
        async with within(20):
            while [w.state.value for w in pool.status().workers] != ["idle"] * 2:
                await asyncio.sleep(0.01)
            while not pool.watched():
                await asyncio.sleep(0.01)
            assert (await pool.run({"do": "echo"}, timeout_s=10)).value["bytes"] == 0
            await spoken(pool)
            while pool.status().admitted or pool.status().waiting:
                await asyncio.sleep(0.01)
    except BaseException as error:
        raise AssertionError(f"after {what}: {pool.status()}") from error
    guard = pool.status().guard
    assert guard is not None
    assert guard.reserved == 0, what
    busy = [w for w in pool._lifecycle.workers if w.job is not None]
    assert busy == [], what


@pytest.mark.parametrize("owner", CALLS, ids=lambda owner: owner.__name__)
async def test_an_exception_anywhere_leaves_nothing_behind(
    owner: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is asked here is whether all comes to rest, not how long it is rested after deaths.
    monkeypatch.setattr("supervisor.loop.tasks._PAUSE_S", 0.05)
    hit, spools = 0, SpoolStore()
    settings = PoolSettings(workers=2, queue=50, hang_s=3.0)
    async with Pool(toy(), settings, spools, measure=lambda _: 1.0) as pool:
        async with within(20):
            await pool.wait_ready()
        for name in CALLS[owner]:
            for at in (1, 3):
                with raising(owner, name, at) as calls, structlog.testing.capture_logs():
                    watch = Stopwatch()
                    await scenario(pool, spools, tmp_path / f"{name}{at}")
                    # Before any deadline: what is lost is found.
                    assert watch.seconds < DEADLINE_S, name
                hit += calls[0] >= at
                await must_come_to_rest(pool, f"{owner.__name__}.{name} number {at}")
    assert spools.usage().open == 0
    assert hit > 0


async def test_a_log_that_cannot_be_written_loses_nothing(tmp_path: Path) -> None:
    def fail(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    before = structlog.get_config()["processors"][:]
    structlog.configure(processors=[fail])
    try:
        spools = SpoolStore()
        async with Pool(toy(), PoolSettings(workers=2, queue=50), spools) as pool:
            async with within(20):
                await pool.wait_ready()
            await scenario(pool, spools, tmp_path / "marker")
            await must_come_to_rest(pool, "a log that cannot be written")
    finally:
        structlog.configure(processors=before)


# --- what is not known ----------------------------------------------------------------------------


async def test_without_descriptors_memory_is_not_taken_for_none(events: list[Any]) -> None:
    """Fail a reading: no level changes, and no worker is ended for it."""
    async with Pool(toy(), PoolSettings(workers=1)) as pool:
        async with within(20):
            await pool.wait_ready()
        before = pool.status()
        assert before.guard is not None
        job = asyncio.create_task(pool.run({"do": "steps", "count": 150, "step_s": 0.02}))
        async with within(10):
            while pool.status().workers[0].state.value != "busy":
                await asyncio.sleep(0.01)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            for _ in range(8):
                await asyncio.sleep(0.25)
                status = pool.status().guard
                assert status is not None
                assert status.state.level.word == "normal"
                assert status.limits.limit == before.guard.limits.limit
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert (await job).deaths == ()
        assert [w.pid for w in pool.status().workers] == [w.pid for w in before.workers]
        assert not [e for e in events if e["event"] == "guard.level_changed"]


async def test_a_fork_server_that_cannot_be_ended_is_not_waited_for(events: list[Any]) -> None:
    with freezer() as frozen:
        async with Pool(toy(), PoolSettings(workers=1, hang_s=1.0)) as pool:
            async with within(20):
                await pool.wait_ready()
            server = pool._lifecycle.live_server()
            assert server is not None
            frozen.freeze(server.pid)
            server.kill(Intent.HANG)
            async with within(30):
                while pool.status().fork_server_pid in (None, server.pid):
                    await asyncio.sleep(0.05)
            assert (await pool.run({"do": "echo"}, timeout_s=20)).value["pid"]
            assert [e for e in events if e["event"] == "fork_server.kill_failed"]


async def test_a_helpers_children_end_with_it() -> None:
    script = (
        "import subprocess, time; subprocess.Popen(['sleep', '600']);"
        "print('there', flush=True); time.sleep(600)"
    )
    async with Guard() as guard:
        async with guard.helper("errand", [sys.executable, "-c", script], os.environ) as helper:
            async for line in helper.lines():
                assert line == b"there"
                break
            (child,) = psutil.Process(helper.pid).children()
            watch = Stopwatch()
        assert watch.seconds < 8
        async with within(5):
            while not gone(child):
                await asyncio.sleep(0.01)


async def test_what_a_loader_starts_counts_while_it_loads() -> None:
    memory = MemorySettings(limit=220_000_000)
    pool = alone(Pool(toy(child_bytes=300_000_000), PoolSettings(workers=1), memory=memory))
    async with pool:
        async with within(60):
            while "ended by the guard" not in (pool.unready_reason() or ""):
                await asyncio.sleep(0.05)
        death = pool.load_death()
        assert death is not None
        assert death.death.cause is Cause.GUARD


def test_scratch_directories_of_supervisors_that_were_killed_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    held = Scratch()
    left = tmp_path / "modelserver-load-left"
    left.mkdir()
    for old in (left, Path(held.name)):
        os.utime(old, (0, 0))
    new = Scratch()
    assert not left.exists()
    assert Path(held.name).exists()
    for one in (held, new):
        one.remove()
    assert list(tmp_path.iterdir()) == []
