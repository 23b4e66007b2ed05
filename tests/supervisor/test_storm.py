"""Kills, recycles, renewals, pauses and deaths of fork servers over a pool of toys, in any order:
every job is answered once, the pool is whole again, and nothing is left over.

`STORM_S=3600 pytest tests/supervisor/test_storm.py` runs for an hour;
it takes most of a minute by default.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import psutil
import structlog
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pools import toy

from supervisor import (
    DeadlineExceeded,
    JobCrashed,
    JobError,
    NotReady,
    Pool,
    PoolSettings,
    WorkerLost,
)

STORM_S = float(os.environ.get("STORM_S", "45"))
STEPS = 50

JOBS = (
    {"do": "echo"},
    {"do": "steps", "count": 5, "step_s": 0.002},
    {"do": "steps", "count": 40, "step_s": 0.002},
    {"do": "raise"},
    {"do": "refuse"},
    {"do": "huge"},
    {"do": "talk", "count": 30, "how": "SIGSEGV"},
    {"do": "end", "how": "exit"},
)
KILLS = (signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGSTOP)

step = st.one_of(
    st.tuples(st.just("job"), st.sampled_from(JOBS)),
    st.tuples(st.just("job"), st.sampled_from(JOBS)),
    st.tuples(st.just("impatient"), st.sampled_from(JOBS)),
    st.tuples(st.just("cancel"), st.integers(0, 20)),
    st.tuples(st.just("kill worker"), st.tuples(st.integers(0, 9), st.sampled_from(KILLS))),
    st.tuples(st.just("kill fork server"), st.sampled_from(KILLS[:2])),
    st.tuples(st.just("recycle"), st.integers(0, 2)),
    st.tuples(st.just("renew"), st.none()),
    st.tuples(st.just("discard"), st.none()),
    st.tuples(st.just("stall"), st.sampled_from([0.01, 0.1, 0.7])),
    st.tuples(st.just("pause all"), st.sampled_from([0.01, 0.7])),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.001, 0.01, 0.05])),
)


def signal_if_there(pid: int, number: int) -> None:
    """Send a signal to a process, which may have ended meanwhile."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


class Storm:
    """Pool with the jobs that it was given."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.jobs: list[asyncio.Task[Any]] = []
        self.cancelled: set[asyncio.Task[Any]] = set()

    async def do(self, what: str, how: Any) -> None:
        pool, lifecycle = self.pool, self.pool._lifecycle
        match what:
            case "job" | "impatient":
                patience = 0.02 if what == "impatient" else 60.0
                job = pool.run(how, timeout_s=patience, on_progress=lambda _: None)
                self.jobs.append(asyncio.ensure_future(job))
            case "cancel":
                if self.jobs:
                    victim = self.jobs[how % len(self.jobs)]
                    if victim.cancel():
                        self.cancelled.add(victim)
            case "kill worker":
                number, sent = how
                running = [w for w in lifecycle.workers if w.running]
                if running:
                    signal_if_there(running[number % len(running)].pid, sent)
            case "kill fork server":
                for server in lifecycle.servers:
                    if server.running:
                        signal_if_there(server.pid, how)
            case "recycle":
                pool.recycle(how)
            case "renew":
                pool.renew()
            case "discard":
                lifecycle.discard("the storm has said so")
            case "stall":
                time.sleep(how)
            case "pause all":
                running = [p.pid for p in (*lifecycle.workers, *lifecycle.servers) if p.running]
                for pid in running:
                    signal_if_there(pid, signal.SIGSTOP)
                time.sleep(how)
                for pid in running:
                    signal_if_there(pid, signal.SIGCONT)
            case "wait":
                await asyncio.sleep(how)
        self.must_hold()

    def must_hold(self) -> None:
        """Check what must hold at any moment."""
        assert self.pool.watched()
        workers = self.pool._lifecycle.workers
        busy = [w.job for w in workers if w.job is not None]
        assert len({id(job) for job in busy}) == len(busy), "a job on two workers"
        waiting = set(map(id, self.pool._dispatcher.scheduler.queue))
        assert not waiting & {id(job) for job in busy}, "a job that waits and runs"
        self.pool.status()

    async def must_come_to_rest(self) -> None:
        """Wait until every job has its answer, and all workers are able."""
        answered = await asyncio.wait_for(asyncio.gather(*self.jobs, return_exceptions=True), 60)
        expected = (JobCrashed, JobError, WorkerLost, DeadlineExceeded, NotReady)
        for job, answer in zip(self.jobs, answered, strict=True):
            if isinstance(answer, asyncio.CancelledError):
                assert job in self.cancelled
            else:
                assert not isinstance(answer, BaseException) or isinstance(answer, expected)
        async with asyncio.timeout(60):
            while [w.state.value for w in self.pool.status().workers] != ["idle"] * 2:
                await asyncio.sleep(0.005)
        assert (await self.pool.run({"do": "echo"}, timeout_s=30)).value["bytes"] == 0
        assert self.pool.status().admitted == self.pool.status().waiting == 0


def descriptors() -> dict[str, str]:
    """Return the open descriptors, to find out what they are."""
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found[link.name] = str(link.readlink())
    return found


async def storm(steps: list[tuple[str, Any]]) -> None:
    others, before = psutil.Process().children(), psutil.Process().num_fds()
    settings = PoolSettings(workers=2, queue=1000, hang_s=1.5)
    async with Pool(toy(), settings) as pool:
        weather = Storm(pool)
        for what, how in steps:
            await weather.do(what, how)
        await weather.must_come_to_rest()
    assert [child for child in psutil.Process().children() if child not in others] == []
    # What fork servers had in temporary directories is removed in a thread.
    until = time.monotonic() + 10
    while psutil.Process().num_fds() > before and time.monotonic() < until:
        await asyncio.sleep(0.01)
    assert psutil.Process().num_fds() <= before, descriptors()


def test_whatever_comes_in_whatever_order_nothing_is_lost(
    monkeypatch: Any, record_property: Callable[[str, Any], None]
) -> None:
    until, done = time.monotonic() + STORM_S, 0
    # What is asked here is whether all comes to rest, not how long it is rested after deaths.
    monkeypatch.setattr("supervisor.processes.backoff.Backoff.failed", lambda *_: 0.0)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(loop.run_in_executor(None, lambda: None))  # its thread is there
    loop.run_until_complete(storm([]))

    @settings(
        max_examples=1_000_000,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    @given(st.lists(step, min_size=STEPS, max_size=STEPS))
    def play(steps: list[tuple[str, Any]]) -> None:
        nonlocal done
        if time.monotonic() > until:
            raise _Over
        with structlog.testing.capture_logs() as events:
            loop.run_until_complete(storm(steps))
        failed = ("task.failed", "channel.message_failed", "guard.failed")
        assert [e for e in events if e["event"] in failed] == []
        done += len(steps)

    try:
        play()
    except _Over:
        pass
    finally:
        _close(loop)
    record_property("steps", done)
    print(f"{done} steps")
    assert done > 100


class _Over(BaseException):
    """The time is up."""


def _close(loop: asyncio.AbstractEventLoop) -> None:
    endings: list[Coroutine[Any, Any, None]] = [
        loop.shutdown_asyncgens(),
        loop.shutdown_default_executor(),
    ]
    for ending in endings:
        loop.run_until_complete(ending)
    loop.close()
