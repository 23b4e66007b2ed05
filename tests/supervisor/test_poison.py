"""An input that ends every worker it meets: it fails after two, is remembered, and affects no other
request."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pools import toy, whole
from stopwatch import within

import supervisor.dispatch.poison
from supervisor import (
    Cause,
    MemoryPressure,
    Pool,
    PoolSettings,
    SpoolStore,
    WorkerLost,
    WorkerState,
)
from supervisor.deaths.level import Level

CRASH = {"do": "end", "how": "SIGSEGV"}


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    async with Pool(toy(), PoolSettings(workers=2, queue=100, hang_s=2.0)) as pool:
        await whole(pool)
        yield pool


async def send(pool: Pool, request: dict[str, Any], body: bytes) -> Any:
    async with SpoolStore().open() as spool:
        await spool.write(body)
        return await pool.run(request, spool)


async def refused(pool: Pool, request: dict[str, Any], body: bytes) -> str:
    with pytest.raises(WorkerLost) as lost:
        await send(pool, request, body)
    return str(lost.value)


async def test_the_same_input_costs_two_workers_once(pool: Pool, events: list[Any]) -> None:
    assert "ended 2 workers and failed" in await refused(pool, CRASH, b"bad input")
    for _ in range(20):
        said = await refused(pool, CRASH, b"bad input")
        assert "ended 2 workers and was not tried again" in said
        assert "SIGSEGV" in said
    assert pool.deaths == {Cause.CRASH: 2}
    assert [e["event"] for e in events].count("job.quarantined") == 1


async def test_what_only_looks_like_it_is_tried(pool: Pool) -> None:
    await refused(pool, CRASH, b"bad input")
    assert (await send(pool, {"do": "echo"}, b"bad input")).value["bytes"] == 9
    assert (await send(pool, {"do": "echo"}, b"other one")).value["bytes"] == 9
    await refused(pool, CRASH, b"other one")
    assert pool.deaths == {Cause.CRASH: 4}


async def test_workers_that_somebody_else_has_killed_are_no_fault_of_the_input(pool: Pool) -> None:
    killed = {"do": "end", "how": "SIGKILL"}
    for _ in range(2):
        assert "and failed: " in await refused(pool, killed, b"good input")
    assert pool.deaths == {Cause.KILLED: 10}


async def test_several_kills_from_outside_are_waited_out(pool: Pool, events: list[Any]) -> None:
    """A program that ends the largest process, such as earlyoom, needs more than milliseconds."""
    await refused(pool, {"do": "end", "how": "SIGKILL"}, b"good input")
    retried = [event["wait_s"] for event in events if event["event"] == "job.retried"]
    assert retried == [None, 0.2, 0.4, 0.8]
    await refused(pool, CRASH, b"bad input")
    assert [e["wait_s"] for e in events if e["event"] == "job.retried"][4:] == [None]


async def test_kills_while_memory_is_short_count_as_too_little_memory(pool: Pool) -> None:
    """Expect what an out-of-memory kill gives where the kernel does not count it."""
    guard = pool._guard
    guard.state = replace(guard.state, level=Level.PRESSURE)
    assert guard.evidence.memory_short()
    guard.evidence.memory_short = lambda: True  # whatever the next reading says
    with pytest.raises(MemoryPressure, match="was killed by SIGKILL while memory was short"):
        await send(pool, {"do": "end", "how": "SIGKILL"}, b"large input")
    assert pool.deaths == {Cause.KILLED: 2}


async def test_a_job_whose_workers_are_killed_from_outside_is_answered(
    pool: Pool, tmp_path: Path
) -> None:
    file = tmp_path / "go"
    answer = asyncio.create_task(pool.run({"do": "until", "file": str(file)}))
    for killed in range(4):
        async with within(20):
            while not (busy := [w for w in pool.status().workers if w.state is WorkerState.BUSY]):
                assert not answer.done()
                await asyncio.sleep(0.01)
        os.kill(busy[0].pid, signal.SIGKILL)
        async with within(20):
            while pool.deaths.get(Cause.KILLED, 0) == killed:
                await asyncio.sleep(0.01)
    file.touch()
    await answer
    assert pool.deaths == {Cause.KILLED: 4}


async def test_a_kill_from_outside_does_not_hide_that_the_input_is_at_fault(
    pool: Pool, tmp_path: Path
) -> None:
    request = {
        "do": "end",
        "how": "SIGSEGV",
        "first": "SIGKILL",
        "marker": str(tmp_path / "killed"),
    }
    assert "ended 2 workers and failed" in await refused(pool, request, b"bad input")
    assert pool.deaths == {Cause.KILLED: 1, Cause.CRASH: 2}
    said = await refused(pool, request, b"bad input")
    assert "ended 2 workers and was not tried again" in said
    assert "SIGKILL" not in said


async def test_after_a_while_it_may_be_tried_again(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor.dispatch.poison, "KEEP_S", 0.0)
    for _ in range(2):
        assert "and failed: " in await refused(pool, CRASH, b"bad input")


async def test_thirty_who_send_them_take_nothing_from_four_good_clients(pool: Pool) -> None:
    over = asyncio.Event()
    longest_s = 0.0

    async def good(number: int) -> None:
        nonlocal longest_s
        for _ in range(8):
            began = asyncio.get_running_loop().time()
            result = await send(pool, {"do": "echo"}, bytes([number]) * 5)
            longest_s = max(longest_s, asyncio.get_running_loop().time() - began)
            assert (result.value["bytes"], result.deaths) == (5, ())

    async def bad(number: int) -> None:
        count = 0
        while not over.is_set():
            await refused(pool, CRASH, b"bad %d %d" % (number, count))
            count += 1

    async with asyncio.TaskGroup() as senders:
        for number in range(30):
            senders.create_task(bad(number))
        async with asyncio.TaskGroup() as clients:
            for number in range(4):
                clients.create_task(good(number))
        over.set()
    assert pool.deaths[Cause.CRASH] >= 60
    # Their turn in the queue, and no back-off on top of it.
    assert longest_s < 5, longest_s
    await whole(pool)
