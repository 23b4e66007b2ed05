"""Streams are work like jobs: for the guard, for the question whose fault a death is, and for the
worker's turns."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pools import alone, answers, eventually, pool_of, say, stream_on, texts, toy, whole
from stopwatch import Stopwatch

from supervisor import (
    Cause,
    MemoryPressure,
    MemorySettings,
    Pool,
    PoolSettings,
    Sandbox,
    SpoolStore,
    StreamLost,
    StreamSettings,
    WorkerLost,
)
from supervisor.deaths.death import ExitStatus, Fault, Intent, name_death, whose_fault
from supervisor.guard.accounting import Accounting
from supervisor.guard.estimate import GrowthEstimate, Pace
from supervisor.readings.processes import read_process

MB = 1_000_000


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    async with Pool(toy(), PoolSettings(workers=2, hang_s=2.0)) as pool:
        await whole(pool)
        yield pool


# --- the guard ------------------------------------------------------------------------------------


async def leak(pool: Pool, how: str) -> None:
    asked = {"do": "leak", "bytes": 3000 * MB, "rate": 1000 * MB}
    with pytest.raises(Exception, match="ended by the guard"):  # noqa: PT012 - each its own way
        if how == "job":
            await pool.run(asked)
        else:
            opened = pool.stream if how == "stream" else pool.background_stream
            with opened() as stream:
                stream.begin({})
                await stream.send({"say": "a", **asked}, 1.0)
                stream.finish()
                await stream.receive()


async def test_a_leak_is_ended_at_the_same_level_wherever_it_is(events: list[Any]) -> None:
    """A gigabyte a second, in a job, a live stream and a long recording: within a fifth."""
    grown: dict[str, list[int]] = {}
    for how in ("job", "stream", "recording"):
        memory = MemorySettings(budget=200 * MB)
        async with Pool(toy(), PoolSettings(workers=1), memory=memory) as pool:
            await whole(pool, 1)
            await leak(pool, how)
        ends = [e for e in events if e["event"] == "worker.exited" and e["cause"] == "guard"]
        grown[how] = [e["growth_bytes"] for e in ends]
        assert len(ends) == 2
        events.clear()
    least, most = min(map(max, grown.values())), max(map(max, grown.values()))
    assert most < 1.2 * least, grown


async def test_many_modest_streams_are_no_leak() -> None:
    """Ten of 6 MB with a budget of 40, and plenty free."""
    memory, share = MemorySettings(budget=40 * MB), StreamSettings(share=100.0)
    settings = PoolSettings(workers=1, streams=share)
    async with Pool(toy(), settings, memory=memory) as pool:
        await whole(pool, 1)
        with contextlib.ExitStack() as held:
            streams = [held.enter_context(pool.stream()) for _ in range(10)]
            for stream in streams:
                stream.begin({})
                await say(stream, "a", do="grow", bytes=6 * MB)
            until_ = time.monotonic() + 3
            while time.monotonic() < until_:
                for stream in streams:
                    await say(stream, "b")
                await asyncio.sleep(0.05)
        assert set(pool.deaths) <= {Cause.RECYCLED}


async def test_a_stream_that_has_no_room_is_refused_and_not_admitted_and_killed() -> None:
    me = read_process(os.getpid())
    assert me is not None
    memory = MemorySettings(limit=me.unreclaimable + 110 * MB, reserve=1 * MB)
    settings = PoolSettings(workers=1, streams=StreamSettings(share=100.0))
    async with alone(Pool(toy(), settings, memory=memory)) as pool:
        await whole(pool, 1)
        opened: list[Any] = []
        held = contextlib.ExitStack()
        with pytest.raises(MemoryPressure) as refused:  # noqa: PT012 - one of them is
            for _ in range(100):
                opened.append(held.enter_context(pool.stream()))
                opened[-1].begin({})
        held.close()
        assert refused.value.retry_after_s
        assert 0 < len(opened) < 40
        assert pool.deaths.get(Cause.GUARD, 0) == 0


async def test_streams_reserve_no_upload() -> None:
    spools = SpoolStore()
    async with Pool(toy(), PoolSettings(workers=1), spools) as pool:
        await whole(pool, 1)
        with pool.stream(), pool.stream():
            status = pool.status().guard
            assert status is not None
            assert status.reserved == 0


async def test_a_worker_with_a_stream_at_work_is_busy(pool: Pool) -> None:
    with pool.stream() as stream:
        stream.begin({})
        await say(stream, "a")
        (worker,) = {w for w in pool._lifecycle.workers if w.streams}
        assert not worker.busy
        before = worker.worked_s
        await stream.send({"say": "b", "steps": 5, "step_s": 0.1}, 1.0)
        await eventually(lambda: worker.busy)
        await stream.receive()
        assert not worker.busy
        assert 0.3 < worker.worked_s - before < 5


def test_one_huge_page_between_two_looks_is_no_leak() -> None:
    accounting, me = Accounting(), read_process(os.getpid())
    assert me is not None
    accounting.take(1.0, me)
    account = accounting._accounts[me.pid]
    account.move_to(1.01, me.unreclaimable + 2 * MB)
    assert accounting.of(me.pid).rate == 0
    account.move_to(1.02, me.unreclaimable + 2 * MB)
    assert accounting.of(me.pid).rate == 0
    account.move_to(1.03, me.unreclaimable + 12 * MB)
    account.move_to(1.04, me.unreclaimable + 22 * MB)
    assert accounting.of(me.pid).rate > 900 * MB
    accounting.close()


# --- whose fault a death is -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "intent", "kernel_oom", "fault"),
    [
        (ExitStatus(signal=11), Intent.NONE, False, Fault.INPUT),
        (ExitStatus(code=1), Intent.NONE, False, Fault.INPUT),
        (ExitStatus(), Intent.NONE, False, Fault.INPUT),
        (ExitStatus(signal=9), Intent.SANDBOX, False, Fault.INPUT),
        (ExitStatus(signal=9), Intent.PROTOCOL, False, Fault.INPUT),
        (ExitStatus(signal=9), Intent.HANG, False, Fault.INPUT),
        (ExitStatus(signal=9), Intent.BUDGET, False, Fault.INPUT),
        (ExitStatus(signal=9), Intent.SHORTAGE, False, Fault.SHORTAGE),
        (ExitStatus(signal=9), Intent.NONE, True, Fault.SHORTAGE),
        (ExitStatus(signal=9), Intent.NONE, False, Fault.OUTSIDE),
        (ExitStatus(signal=15), Intent.NONE, False, Fault.OUTSIDE),
        (ExitStatus(signal=9), Intent.SHUTDOWN, False, Fault.OUTSIDE),
        (ExitStatus(code=0), Intent.RECYCLE, False, Fault.OUTSIDE),
    ],
)
def test_one_rule_says_whose_fault_a_death_is(
    status: ExitStatus, intent: Intent, kernel_oom: bool, fault: Fault
) -> None:
    assert whose_fault(name_death("worker", 1, status, intent, kernel_oom=kernel_oom)) is fault


@pytest.mark.parametrize("background", [False, True], ids=["live", "background"])
@pytest.mark.parametrize("how", ["exit", "SIGSEGV", "forbidden"])
async def test_an_input_that_ends_its_workers_ends_its_stream(how: str, background: bool) -> None:
    settings = PoolSettings(workers=2, sandbox=Sandbox.ON)
    async with Pool(toy(), settings) as pool:
        await whole(pool)
        jobs = [asyncio.create_task(good(pool)) for _ in range(2)]
        opened = pool.background_stream if background else pool.stream
        with opened() as stream:
            stream.begin({})
            request = {"do": "forbidden"} if how == "forbidden" else {"do": "end", "how": how}
            with pytest.raises(WorkerLost):
                await say(stream, "a", **request)
        for job in jobs:
            await job
        assert sum(pool.deaths.values()) == 2


async def test_a_stream_that_ends_its_worker_when_it_is_opened_is_ended(pool: Pool) -> None:
    jobs = [asyncio.create_task(good(pool)) for _ in range(2)]
    with pool.stream() as stream:
        stream.begin({"end": "SIGSEGV"})
        with pytest.raises(WorkerLost):
            await say(stream, "a")
    for job in jobs:
        await job
    assert pool.deaths == {Cause.CRASH: 2}


async def good(pool: Pool) -> None:
    """Ordinary jobs beside it."""
    for _ in range(30):
        result = await pool.run({"do": "steps", "count": 3, "step_s": 0.005}, timeout_s=20)
        assert result.value["pid"]


async def test_a_stream_that_cannot_be_carried_is_its_callers_mistake_alone(pool: Pool) -> None:
    with pool.stream() as stream:
        with pytest.raises(OverflowError):
            stream.begin({"n": 1 << 70})
        pool.recycle(0)
        await whole(pool)
    assert pool.deaths.keys() <= {Cause.RECYCLED}


async def test_a_stream_that_loses_its_workers_is_given_up_whoever_is_to_blame(pool: Pool) -> None:
    """Lie about the work at hand, which a worker reports itself: the stream is not retried without
    end."""
    with pool.stream() as stream:
        stream.begin({})
        with pytest.raises(WorkerLost):
            await say(stream, "a", do="end", how="SIGKILL")
    assert pool.deaths[Cause.KILLED] == 5, "as many as a job"


async def test_a_bug_in_closing_a_session_costs_nothing_else(pool: Pool) -> None:
    with pool.stream() as stream:
        stream.begin({"bad_close": True})
        await say(stream, "a")
        (worker,) = {w for w in pool._lifecycle.workers if w.streams}
        jobs = [
            asyncio.create_task(pool.run({"do": "steps", "count": 20, "step_s": 0.02}))
            for _ in range(2)
        ]
        await eventually(lambda: worker.job is not None)
    for job in jobs:
        assert (await job).deaths == ()
    assert worker.running
    assert pool.deaths == {}


async def test_a_bug_in_opening_a_session_costs_its_stream_alone(pool: Pool) -> None:
    with pool.stream() as stream:
        stream.begin({"raise": True})
        with pytest.raises(Exception, match="a bug in opening"):
            await say(stream, "a")
    assert pool.deaths == {}


# --- turns ----------------------------------------------------------------------------------------


async def test_a_file_beside_a_stream_that_sends_as_fast_as_it_can_is_answered() -> None:
    async with pool_of(1) as pool:
        with stream_on(pool) as stream:
            over = asyncio.Event()

            async def pour() -> None:
                while not over.is_set():
                    await stream.send({"say": "a", "spin_s": 0.01}, 0.1)

            async def take() -> None:
                while not over.is_set():
                    await stream.receive()

            pouring = [asyncio.create_task(pour()), asyncio.create_task(take())]
            await eventually(lambda: stream._answered > 20)
            watch = Stopwatch()
            await pool.run({"do": "steps", "count": 10, "step_s": 0.01})
            alone = 0.1
            assert watch.seconds < 20 * alone
            # And one that is not wanted any more is stopped between two steps.
            with pytest.raises(Exception, match="not done after"):
                await pool.run({"do": "steps", "count": 10_000, "step_s": 0.01}, timeout_s=0.3)
            (worker,) = pool._lifecycle.workers
            await eventually(lambda: worker.job is None)
            over.set()
            for task in pouring:
                task.cancel()
            await asyncio.gather(*pouring, return_exceptions=True)


async def test_files_one_after_the_other_leave_a_share_to_the_background() -> None:
    """A tenth of the time; one step between two files would be less than two hundredths."""
    async with pool_of(1) as pool:
        over, steps = asyncio.Event(), 0

        def stepped(_: Any) -> None:
            nonlocal steps
            steps += 1

        async def files() -> None:
            file = {"do": "steps", "count": 20, "step_s": 0.03}
            while not over.is_set():
                await pool.run(file, on_progress=stepped)

        with pool.background_stream() as stream:
            stream.begin({})
            busy = [asyncio.create_task(files()) for _ in range(2)]
            heard = 0
            while steps < 100:
                await say(stream, "a", step_s=0.01)
                heard += 1
            over.set()
            await asyncio.gather(*busy)
        assert heard * 0.01 > 0.04 * 100 * 0.03, heard


async def test_a_file_goes_to_the_worker_without_a_busy_stream() -> None:
    async with pool_of(2) as pool:
        with stream_on(pool) as stream:
            await stream.send({"say": "a", "steps": 300, "step_s": 0.01}, 1.0)
            (busy,) = {w for w in pool._lifecycle.workers if w.streams}
            await eventually(lambda: busy.busy)
            busy.idle_since = time.monotonic() + 100
            for _ in range(3):
                assert (await pool.run({"do": "echo"})).value["pid"] != busy.pid


# --- moves ----------------------------------------------------------------------------------------


async def test_a_recycle_loses_nothing_of_what_was_said() -> None:
    """Check that a stream stays until its next checkpoint if the last one is older than its
    retained input."""
    async with pool_of(1, checkpoint_wait_s=0.2, replay=10.0) as pool:
        with stream_on(pool) as stream:
            words = [f"w{n}" for n in range(40)]
            await say(stream, *words)
            (before,) = pool._lifecycle.workers
            pool.recycle(before.slot)
            await asyncio.sleep(1.5)
            (final,) = texts(await say(stream, "."))
            assert final == " ".join(words)
            await eventually(lambda: before.gone.done())
            assert texts(await say(stream, "x")) == ["x"]


async def test_a_stream_that_cannot_be_moved_keeps_no_slot() -> None:
    """Keep the worker for its stream, while another one works beside it."""
    async with pool_of(1, checkpoint_wait_s=0.2, replay=10.0) as pool:
        with stream_on(pool) as stream:
            words = [f"w{n}" for n in range(40)]
            await say(stream, *words)
            (before,) = pool._lifecycle.workers
            pool.recycle(before.slot)
            result = await pool.run({"do": "echo"}, timeout_s=20)
            assert result.value["pid"] != before.pid
            (final,) = texts(await say(stream, "."))
            assert final == " ".join(words)
            await eventually(lambda: before.gone.done())
            await eventually(lambda: len(pool._lifecycle.workers) == 1)


async def test_what_all_streams_keep_is_bounded_together() -> None:
    settings = StreamSettings(replay_total=1 * MB)
    async with Pool(toy(), PoolSettings(workers=1, streams=settings)) as pool:
        await whole(pool, 1)
        with contextlib.ExitStack() as held:
            streams = [held.enter_context(pool.stream()) for _ in range(4)]
            for stream in streams:
                stream.begin({"whole": True}, whole=True)
            for _ in range(30):
                for stream in streams:
                    await say(stream, "x" * 20_000)
                assert pool.streams.replay_bytes < 1.1 * MB
            os.kill(pool.status().workers[0].pid, 9)
            # The streams that retained most cannot continue on another worker, and get the reason.
            with pytest.raises(StreamLost):  # noqa: PT012 - one of them is
                for stream in streams:
                    await say(stream, "y")


async def test_an_even_load_is_left_alone() -> None:
    """A background stream on each worker, and live streams beside: each answer moves none."""
    async with pool_of(2) as pool:
        with contextlib.ExitStack() as held:
            for _ in range(2):
                held.enter_context(pool.background_stream()).begin({})
            streams = [held.enter_context(pool.stream()) for _ in range(4)]
            for stream in streams:
                stream.begin({})
            for _ in range(10):
                for stream in streams:
                    await say(stream, ".")
            assert [stream.replays for stream in streams] == [0] * 4


# --- untrusted reports ----------------------------------------------------------------------------


@pytest.mark.parametrize("units", [float("nan"), float("inf"), -1.0, 0.0, 1e300])
def test_an_impossible_size_teaches_nothing(units: float) -> None:
    pace, growth = Pace(), GrowthEstimate()
    for _ in range(20):
        pace.learn(2.0, 0.2)
        growth.learn(2.0, 4 * MB)
    before = pace.s_per_unit, growth.expected(1.0)
    for _ in range(30):
        pace.learn(units, 0.2)
        growth.learn(units, 4 * MB)
    assert (pace.s_per_unit, growth.expected(1.0)) == before


async def test_a_measure_that_raises_costs_no_worker(events: list[Any]) -> None:
    def measure(_: Any) -> float:
        raise KeyError("duration_s")

    async with Pool(toy(), PoolSettings(workers=1), measure=measure) as pool:
        await whole(pool, 1)
        for _ in range(5):
            assert (await pool.run({"do": "echo"}, units=1.0, timeout_s=5)).value["pid"]
        assert any(e["event"] == "step.failed" for e in events)
        await whole(pool, 1)


async def test_progress_may_raise_what_a_deadline_raises(pool: Pool) -> None:
    def progress(_: Any) -> None:
        raise TimeoutError("the caller's own")

    with pytest.raises(TimeoutError, match="the caller's own"):
        await pool.run({"do": "steps", "count": 5}, on_progress=progress)
    await whole(pool)


async def test_answers_are_in_order(pool: Pool, tmp_path: Path) -> None:
    with stream_on(pool) as stream:
        for word in "abc":
            await stream.send({"say": word}, 1.0)
        assert texts(await answers(stream, 3)) == ["a", "a b", "a b c"]
