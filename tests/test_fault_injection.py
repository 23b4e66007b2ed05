"""Exceptions in the middle: each callback and awaited call of the pool raises once, in turn, and
afterwards every job and stream has its answer, every worker is able, and the pool looks after
itself."""

import asyncio
import contextlib
import functools
import inspect
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from test_pool import toy
from test_streams import say

from supervisor import Pool, PoolError, PoolSettings, SpoolStore
from supervisor.dispatcher import Dispatcher
from supervisor.guard.admission_control import AdmissionControl
from supervisor.guard.effects import Effects
from supervisor.guard.guard import Guard
from supervisor.guard.history import History
from supervisor.guard.observer import Observer
from supervisor.job import Job
from supervisor.poison import PoisonInputs
from supervisor.processes.backoff import Backoff
from supervisor.processes.deaths import Deaths
from supervisor.processes.forkserver import ForkServer
from supervisor.processes.lifecycle import ProcessLifecycle
from supervisor.processes.slots import WorkerSlots
from supervisor.processes.worker import Worker
from supervisor.queue import JobQueue
from supervisor.readings.kernel_oom import OomEvidence
from supervisor.streams import Streams
from supervisor.wire.async_channel import AsyncChannel


DEADLINE_S = 20.0


class Injected(Exception):
    """What the test has raised."""


CALLS: dict[type, tuple[str, ...]] = {
    Dispatcher: ("worker_changed", "worker_message", "worker_busy", "_learn", "_run_again"),
    Guard: ("ended", "finished", "begin_what_may", "hasten", "_look", "_read", "_decide"),
    AdmissionControl: ("may_begin", "began", "ended", "reserved"),
    Observer: ("read", "look", "outdated", "interval", "situation", "moment"),
    Effects: ("do", "remember", "tidy", "reap_orphans"),
    History: ("passed", "died"),
    Deaths: ("died",),
    OomEvidence: ("look", "killed"),
    Streams: ("fed", "failed", "place", "look", "worker_lost", "worker_leaves", "add"),
    Job: ("succeed",),
    JobQueue: ("begin", "put_back"),
    PoisonInputs: ("deaths_by", "remember"),
    WorkerSlots: ("worker_changed", "worker_gone", "_start_worker", "_occupy", "_rest_after"),
    ProcessLifecycle: ("_install", "_load", "_find_target", "notify"),
    ForkServer: ("fork",),
    Worker: ("job_over", "run", "leave", "work_changed", "_on_ready", "output"),
    Backoff: ("failed",),
    AsyncChannel: ("send_encoded", "_take_one"),
}
"""What is called while jobs and streams come, run, end and die."""


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
    """Its answer, or what it was told: a `PoolError` or what was injected, and nothing else."""
    try:
        return await asyncio.wait_for(work, 30)
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
        async with asyncio.timeout(20):
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
    monkeypatch.setattr("supervisor.tasks._PAUSE_S", 0.05)
    hit, spools = 0, SpoolStore()
    settings = PoolSettings(workers=2, queue=50, hang_s=3.0)
    async with Pool(toy(), settings, spools, measure=lambda _: 1.0) as pool:
        async with asyncio.timeout(20):
            await pool.wait_ready()
        for name in CALLS[owner]:
            for at in (1, 3):
                with raising(owner, name, at) as calls, structlog.testing.capture_logs():
                    began = time.monotonic()
                    await scenario(pool, spools, tmp_path / f"{name}{at}")
                    # Before any deadline: what is lost is found.
                    assert time.monotonic() - began < DEADLINE_S, name
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
            async with asyncio.timeout(20):
                await pool.wait_ready()
            await scenario(pool, spools, tmp_path / "marker")
            await must_come_to_rest(pool, "a log that cannot be written")
    finally:
        structlog.configure(processors=before)
