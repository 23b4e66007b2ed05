"""The pool with a toy model: real processes, real signals."""

import asyncio
import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from places import SUPPORT
from pools import eventually, toy, whole
from running import gone, until
from stopwatch import Stopwatch

import supervisor.pool
from supervisor import (
    Cause,
    DeadlineExceeded,
    Draining,
    Guard,
    JobCrashed,
    JobError,
    MemorySettings,
    NotReady,
    Pool,
    PoolSettings,
    QueueFull,
    SpoolStore,
    Target,
    WorkerLost,
)
from supervisor.wire.channel import channel_pair


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    async with Pool(toy(), PoolSettings(workers=2, queue=4, hang_s=1.0)) as pool:
        await whole(pool)
        yield pool


async def test_a_job_gets_its_spool_and_its_result(pool: Pool) -> None:
    async with SpoolStore().open() as spool:
        await spool.write(b"12345")
        result = await pool.run({"do": "echo"}, spool)
    assert result.value["bytes"] == 5
    assert result.value["head"] == b"12345"
    assert result.value["greeting"] == "hello"
    assert result.deaths == ()


async def test_the_model_is_loaded_and_warmed_once_in_the_fork_server(pool: Pool) -> None:
    answers = await asyncio.gather(*(pool.run({"do": "echo"}) for _ in range(4)))
    assert {a.value["loaded_by"] for a in answers} == {pool.status().fork_server_pid}
    assert {a.value["warm_count"] for a in answers} == {1}
    assert pool.status().fork_server_pid not in {a.value["pid"] for a in answers}


async def test_the_supervisor_comes_first_where_processors_are_busy(pool: Pool) -> None:
    status = pool.status()
    pids = [status.fork_server_pid, *(worker.pid for worker in status.workers)]
    assert {psutil.Process(pid).nice() for pid in pids} == {psutil.Process().nice() + 5}


async def test_results_longer_than_a_packet_arrive(pool: Pool) -> None:
    result = await pool.run({"do": "long", "length": 3_000_000})
    assert len(result.value["text"]) == 3_000_000


async def test_requests_longer_than_a_packet_arrive(pool: Pool) -> None:
    result = await pool.run({"do": "echo", "padding": "x" * 3_000_000})
    assert result.value["bytes"] == 0


async def test_progress_is_told_in_order(pool: Pool) -> None:
    told: list[Any] = []
    await pool.run({"do": "steps", "count": 5}, on_progress=told.append)
    assert [t["step"] for t in told] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("SIGKILL", Cause.KILLED),
        ("SIGSEGV", Cause.CRASH),
        ("SIGABRT", Cause.CRASH),
        ("SIGTERM", Cause.TERMINATED),
        ("SIGSTOP", Cause.HANG),
        ("exit", Cause.EXITED),
    ],
)
async def test_a_job_outlives_its_worker_and_the_death_has_its_name(
    pool: Pool, tmp_path: Path, events: list[Any], how: str, cause: Cause
) -> None:
    before = {w.pid for w in pool.status().workers}
    result = await pool.run({"do": "once", "how": how, "marker": str(tmp_path / "marker")})
    (death,) = result.deaths
    assert death.cause is cause
    assert death.pid in before
    assert result.value["pid"] != death.pid
    logged = [e for e in events if e["event"] == "worker.exited"]
    assert [(e["pid"], e["cause"]) for e in logged] == [(death.pid, cause.value)]
    await whole(pool)
    assert len({w.pid for w in pool.status().workers} & before) == 1


async def test_a_job_that_ends_two_workers_is_given_up_and_the_pool_goes_on(pool: Pool) -> None:
    with pytest.raises(WorkerLost, match=r"SIGSEGV.*SIGSEGV") as caught:
        await pool.run({"do": "end", "how": "SIGSEGV"})
    assert [death.cause for death in caught.value.deaths] == [Cause.CRASH, Cause.CRASH]
    assert (await pool.run({"do": "echo"})).value["bytes"] == 0
    await whole(pool)


async def test_an_idle_worker_that_is_stopped_is_replaced(pool: Pool) -> None:
    victim = pool.status().workers[0].pid
    os.kill(victim, signal.SIGSTOP)
    await eventually(lambda: victim not in {w.pid for w in pool.status().workers})
    await whole(pool)
    assert pool.status().deaths == {Cause.HANG: 1}


async def test_a_bug_in_the_model_costs_the_job_and_not_the_worker(
    pool: Pool, events: list[Any]
) -> None:
    before = {w.pid for w in pool.status().workers}
    with pytest.raises(JobCrashed, match="ValueError: a bug in the model"):
        await pool.run({"do": "raise"})
    (crash,) = [e for e in events if e["event"] == "job.crashed"]
    assert "toy.py" in crash["traceback"]
    assert {w.pid for w in pool.status().workers} == before


async def test_a_refusal_arrives_with_its_code(pool: Pool) -> None:
    with pytest.raises(JobError, match="this is refused") as caught:
        await pool.run({"do": "refuse"})
    assert caught.value.code == "no_thanks"


async def test_a_cancelled_job_stops_between_two_steps(pool: Pool, events: list[Any]) -> None:
    steps: list[Any] = []
    task = asyncio.create_task(pool.run({"do": "steps", "count": 10_000}, on_progress=steps.append))
    await eventually(lambda: steps)
    task.cancel()
    await asyncio.wait({task})
    told = len(steps)
    await whole(pool)
    assert [e["event"] for e in events if e["event"].startswith("job.")] == ["job.cancelled"]
    assert len(steps) == told


async def test_a_job_cancelled_in_the_queue_never_runs(pool: Pool, tmp_path: Path) -> None:
    blockers = [asyncio.create_task(pool.run({"do": "steps", "count": 20})) for _ in range(2)]
    await asyncio.sleep(0)
    marker = tmp_path / "marker"
    waiting = asyncio.create_task(pool.run({"do": "once", "how": "exit", "marker": str(marker)}))
    await eventually(lambda: pool.status().waiting == 1)
    waiting.cancel()
    await asyncio.gather(*blockers)
    assert pool.status().waiting == 0
    assert not marker.exists()


async def test_a_cancelled_job_is_not_tried_again(pool: Pool, tmp_path: Path) -> None:
    task = asyncio.create_task(
        pool.run({"do": "once", "how": "SIGSTOP", "marker": str(tmp_path / "marker")})
    )
    await eventually((tmp_path / "marker").exists)
    task.cancel()
    await eventually(lambda: pool.status().deaths == {Cause.HANG: 1})
    await whole(pool)
    assert all(w.jobs_done == 0 for w in pool.status().workers)


async def test_a_deadline_ends_a_running_job(pool: Pool) -> None:
    with pytest.raises(DeadlineExceeded, match="on a worker"):
        await pool.run({"do": "steps", "count": 10_000}, timeout_s=0.1)
    await whole(pool)


async def test_a_deadline_ends_a_waiting_job(pool: Pool) -> None:
    blockers = [asyncio.create_task(pool.run({"do": "steps", "count": 50})) for _ in range(2)]
    await eventually(lambda: all(w.state.value == "busy" for w in pool.status().workers))
    with pytest.raises(DeadlineExceeded, match="in the queue"):
        await pool.run({"do": "echo"}, timeout_s=0.05)
    await asyncio.gather(*blockers)


async def test_the_queue_is_bounded(pool: Pool) -> None:
    tasks = [asyncio.create_task(pool.run({"do": "steps", "count": 5})) for _ in range(6)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFull, match="6"):
        await pool.run({"do": "echo"})
    await asyncio.gather(*tasks)
    await pool.run({"do": "echo"})


async def test_pools_under_one_guard_take_turns_where_not_all_may_work_at_once() -> None:
    """Give every job an idle worker, and let only one work: first come, first served."""
    order: list[str] = []

    async def ask(pool: Pool, name: str) -> None:
        await pool.run({"do": "steps", "count": 2})
        order.append(name)

    async with Guard() as guard, Pool(toy(), guard=guard) as one, Pool(toy(), guard=guard) as two:
        await whole(one)
        await whole(two)
        guard.state = dataclasses.replace(guard.state, starved_concurrency=1)
        pools = {"one": one, "two": two}
        expected = ["one", "one", "two", "one", "two", "two"]
        await asyncio.gather(*(ask(pools[name], name) for name in expected))
    assert order == expected


async def test_a_draining_pool_finishes_what_is_inside_and_takes_no_more(pool: Pool) -> None:
    task = asyncio.create_task(pool.run({"do": "steps", "count": 20}))
    await eventually(lambda: pool.status().admitted == 1)
    drained = asyncio.create_task(pool.drain(5.0))
    await asyncio.sleep(0)
    with pytest.raises(Draining):
        await pool.run({"do": "echo"})
    assert await drained is True
    assert task.done()
    await task


async def test_draining_gives_up_after_its_time(pool: Pool) -> None:
    task = asyncio.create_task(pool.run({"do": "steps", "count": 10_000}))
    await eventually(lambda: pool.status().admitted == 1)
    assert await pool.drain(0.05) is False
    task.cancel()


async def test_closing_the_pool_ends_running_jobs_with_a_reason() -> None:
    async with Pool(toy(), PoolSettings(workers=1)) as pool:
        await pool.wait_ready()
        running = asyncio.create_task(pool.run({"do": "steps", "count": 10_000}))
        waiting = asyncio.create_task(pool.run({"do": "echo"}))
        await eventually(lambda: pool.status().waiting == 1)
    for task in (running, waiting):
        with pytest.raises(Draining):
            await task


async def test_a_worker_that_has_outgrown_its_limit_is_recycled() -> None:
    memory = MemorySettings(budget=30_000_000)
    async with Pool(toy(), PoolSettings(workers=1), memory=memory) as pool:
        await pool.wait_ready()
        slim = await pool.run({"do": "grow", "bytes": 1_000_000})
        again = await pool.run({"do": "grow", "bytes": 35_000_000})
        assert again.value["pid"] == slim.value["pid"]
        await eventually(lambda: pool.status().deaths == {Cause.RECYCLED: 1})
        after = await pool.run({"do": "echo"})
        assert after.value["pid"] != slim.value["pid"]


async def test_a_dead_worker_is_replaced_quickly(pool: Pool) -> None:
    victim = pool.status().workers[0].pid
    killed = Stopwatch()
    os.kill(victim, signal.SIGKILL)
    await eventually(lambda: victim not in {w.pid for w in pool.status().workers})
    await whole(pool)
    assert killed.seconds < 1.0  # the benchmark measures; this is "without a back-off"


async def test_when_the_fork_server_dies_work_goes_on_and_a_new_one_takes_over(
    pool: Pool, events: list[Any]
) -> None:
    before = {w.pid for w in pool.status().workers}
    server = pool.status().fork_server_pid
    assert server is not None
    in_flight = asyncio.create_task(pool.run({"do": "steps", "count": 20}))
    await eventually(lambda: any(w.state.value == "busy" for w in pool.status().workers))
    os.kill(server, signal.SIGKILL)
    during = await pool.run({"do": "echo"})
    finished = await in_flight
    assert {during.value["pid"], finished.value["pid"]} <= before
    await eventually(lambda: pool.status().fork_server_pid not in (None, server))
    await eventually(lambda: not before & {w.pid for w in pool.status().workers})
    await whole(pool)
    after = await pool.run({"do": "echo"})
    assert after.value["loaded_by"] == pool.status().fork_server_pid
    assert pool.status().deaths == {Cause.KILLED: 1, Cause.RECYCLED: 2}
    (exited,) = [e for e in events if e["event"] == "fork_server.exited"]
    assert (exited["pid"], exited["cause"]) == (server, "killed")


async def test_a_pool_moves_over_to_what_is_loaded_anew_without_losing_a_job(
    events: list[Any],
) -> None:
    greetings = iter(["old", "new"])

    async def source() -> Target:
        return toy(greeting=next(greetings))

    async with Pool(source, PoolSettings(workers=2, queue=64)) as pool:
        await whole(pool)
        before = {w.pid for w in pool.status().workers}
        server = pool.status().fork_server_pid
        answers: list[Any] = []

        async def client() -> None:
            while not answers or answers[-1].value["greeting"] == "old":
                await pool.run({"do": "steps", "count": 3})
                answers.append(await pool.run({"do": "echo"}))

        async with asyncio.TaskGroup() as group:
            for _ in range(6):
                group.create_task(client())
            await eventually(lambda: len(answers) > 6)
            pool.renew()
        await eventually(lambda: not before & {w.pid for w in pool.status().workers})
        assert pool.status().fork_server_pid != server
        assert pool.status().model == {"greeting": "new"}
        assert server is not None
        await eventually(lambda: not psutil.pid_exists(server))
        assert all(a.deaths == () for a in answers)
        assert pool.status().deaths == {Cause.RECYCLED: 2, Cause.SHUTDOWN: 1}
    assert len(_named(events, "model.loaded")) == 2


async def test_a_renewal_that_fails_leaves_the_old_one_serving(events: list[Any]) -> None:
    targets = iter([toy(), toy(fail="raise"), toy(greeting="third")])

    async def source() -> Target:
        return next(targets)

    async with Pool(source, PoolSettings(workers=1)) as pool:
        await whole(pool, 1)
        (before,) = pool.status().workers
        pool.renew()
        await eventually(lambda: _named(events, "model.renewal_failed"))
        assert pool.status().workers[0].pid == before.pid
        assert (await pool.run({"do": "echo"})).value["greeting"] == "hello"
        pool.renew()
        await eventually(lambda: before.pid not in {w.pid for w in pool.status().workers})
        assert (await pool.run({"do": "echo"})).value["greeting"] == "third"


async def test_a_worker_orphaned_by_the_fork_server_dies_with_its_right_name(pool: Pool) -> None:
    server = pool.status().fork_server_pid
    assert server is not None
    os.kill(server, signal.SIGSTOP)  # it can neither reap nor report
    victim = pool.status().workers[0].pid
    os.kill(victim, signal.SIGSEGV)
    os.kill(server, signal.SIGKILL)
    await eventually(lambda: pool.status().deaths.get(Cause.CRASH) == 1)
    await whole(pool)


async def test_a_fork_server_that_hangs_is_replaced(pool: Pool) -> None:
    server = pool.status().fork_server_pid
    assert server is not None
    os.kill(server, signal.SIGSTOP)
    os.kill(pool.status().workers[0].pid, signal.SIGKILL)
    await eventually(lambda: pool.status().fork_server_pid not in (None, server), 10)
    await whole(pool)
    assert pool.status().deaths[Cause.HANG] == 1


@pytest.mark.parametrize(
    ("fail", "reason"),
    [
        ("raise", "RuntimeError: the toy does not want to load"),
        ("SIGSEGV", "crashed with SIGSEGV while loading the model"),
        ("exit", "exited with status 7 while loading the model"),
    ],
)
async def test_a_model_that_cannot_be_loaded_is_tried_again_and_the_reason_told(
    fail: str, reason: str, events: list[Any]
) -> None:
    async with Pool(toy(fail=fail), PoolSettings(workers=1)) as pool:
        await eventually(lambda: len(_named(events, "model.start_failed")) >= 2)
        assert reason in (pool.unready_reason() or "")
        with pytest.raises(NotReady, match=reason):
            await pool.run({"do": "echo"})
    delays = [e["retry_in_s"] for e in _named(events, "model.start_failed")]
    assert delays == sorted(delays)
    assert delays[0] > 0


async def test_a_load_error_is_told_in_its_own_words() -> None:
    async with Pool(toy(fail="explain"), PoolSettings(workers=1)) as pool:
        await eventually(
            lambda: pool.unready_reason() is not None and "broken" in pool.unready_reason()
        )
        assert pool.unready_reason() == "the model cannot be loaded: the toy is broken"


async def test_a_load_that_is_refused_is_repeated_only_when_asked_for(events: list[Any]) -> None:
    async with Pool(toy(fail="refuse"), PoolSettings(workers=1)) as pool:
        await eventually(pool.failed)
        assert await pool.renewed() == "the model cannot be loaded: the toy needs a battery"
        assert pool.load_refused()
        with pytest.raises(NotReady, match="the toy needs a battery"):
            await pool.run({"do": "echo"})
    assert [e["retry_in_s"] for e in _named(events, "model.start_failed")] == [None, None]
    assert not _named(events, "model.load_failed")


async def test_a_missing_module_is_a_reason_too() -> None:
    async with Pool(Target("there_is_no_such_module"), PoolSettings(workers=1)) as pool:
        await eventually(pool.failed)
        assert "No module named" in (pool.unready_reason() or "")


async def test_a_load_that_takes_too_long_is_ended() -> None:
    settings = PoolSettings(workers=1, load_timeout_s=0.3)
    async with Pool(toy(load_s=60), settings) as pool:
        await eventually(pool.failed)
        assert "longer than 0.3 s" in (pool.unready_reason() or "")


@pytest.mark.parametrize("ends", ["well", "raise", "exit", "SIGKILL", "too late"])
async def test_what_a_load_leaves_in_temporary_files_is_removed(
    ends: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    late = ends == "too late"
    fail = "" if late or ends == "well" else ends
    target = toy(litter=True, fail=fail, load_s=60.0 if late else 0.3)
    async with Pool(target, PoolSettings(workers=1, load_timeout_s=1.0 if late else 20.0)) as pool:
        await eventually(lambda: list(tmp_path.glob("*/*")))
        await pool.loaded_or_failed()
        await eventually(lambda: not list(tmp_path.iterdir()))
        if ends == "well":
            await pool.run({"do": "echo"})
    assert list(tmp_path.iterdir()) == []


async def test_closing_leaves_no_process_and_no_descriptor() -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    async with Pool(toy(), PoolSettings(workers=3)) as pool:
        await whole(pool, 3)
        pids = [pool.status().fork_server_pid, *(w.pid for w in pool.status().workers)]
        assert all(pid and psutil.pid_exists(pid) for pid in pids)
    assert not any(pid and psutil.pid_exists(pid) for pid in pids)
    assert len(os.listdir("/proc/self/fd")) == descriptors


_SUPERVISOR = """
import asyncio, sys
from supervisor import Pool, PoolSettings, Target

async def main():
    target = Target("toy", options={options!r}, import_path=({tests!r},))
    async with Pool(target, PoolSettings(workers=2, hang_s=60)) as pool:
        if {wait}:
            await pool.wait_ready()
            while len(pool.status().workers) < 2:
                await asyncio.sleep(0.01)
        print("up", flush=True)
        await pool.run({request!r})

asyncio.run(main())
"""


@pytest.mark.parametrize("situation", ["idle", "busy", "one stopped", "loading"])
def test_nothing_outlives_a_supervisor_that_is_killed(situation: str) -> None:
    loading = situation == "loading"
    script = _SUPERVISOR.format(
        options={"load_s": 60} if loading else {},
        tests=str(SUPPORT),
        wait=not loading,
        request={"do": "steps", "count": 1 if situation == "idle" else 100_000},
    )
    if situation == "idle":
        script = script.replace("await pool.run", "await asyncio.sleep(60); await pool.run")
    if loading:
        script = script.replace("await pool.run", "await asyncio.sleep(60); await pool.run")
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        while process.stdout.readline().strip() != b"up":
            assert process.poll() is None
    expected = 1 if loading else 3
    until(lambda: len(psutil.Process(process.pid).children(recursive=True)) == expected)
    tree = psutil.Process(process.pid).children(recursive=True)
    if situation == "one stopped":
        tree[-1].suspend()
    process.kill()
    process.wait()
    try:
        until(lambda: all(gone(process) for process in tree), 10.0)
    finally:
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def test_a_fork_server_whose_supervisor_is_gone_before_it_begins_ends_at_once() -> None:
    ours, theirs = channel_pair()
    descriptors = (theirs.fileno(),)
    stranger = psutil.Process().ppid()
    with ours, theirs:
        done = subprocess.run(
            [sys.executable, "-m", "supervisor.child", *map(str, (*descriptors, stranger))],
            pass_fds=descriptors,
            timeout=10,
            check=False,
        )
    assert done.returncode == 0


def test_the_example_in_the_docstring_runs(tmp_path: Path) -> None:
    documentation = textwrap.dedent((supervisor.pool.__doc__ or "").partition("::\n")[2])
    model, _, main = documentation.partition("# main.py")
    (tmp_path / "toy.py").write_text(model)
    (tmp_path / "main.py").write_text(main)
    expected = re.findall(r"print\(.*\)  # (.*)", main)
    done = subprocess.run(
        [sys.executable, "main.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert len(expected) == 1
    assert expected[0] in done.stdout.splitlines()


def _named(events: list[Any], name: str) -> list[Any]:
    return [e for e in events if e["event"] == name]


async def test_what_is_left_to_the_first_process_is_reaped_and_its_own_children_are_not() -> None:
    guard = Guard(reap_strangers=True)
    async with guard, Pool(toy(), PoolSettings(workers=1), guard=guard) as pool:
        await whole(pool, 1)
        await _orphans_are_reaped()


async def _orphans_are_reaped() -> None:
    script = "sleep 0.1 >/dev/null & echo $!"
    shell = await asyncio.create_subprocess_exec(
        *("sh", "-c", script), stdout=asyncio.subprocess.PIPE
    )
    assert shell.stdout is not None
    orphan = psutil.Process(int(await shell.stdout.readline()))
    assert await shell.wait() == 0
    child = await asyncio.create_subprocess_exec("sh", "-c", "exit 3")
    await eventually(lambda: not orphan.is_running(), 10)
    assert await child.wait() == 3


async def test_an_idle_worker_gives_freed_memory_back(pool: Pool) -> None:
    """Return memory to other processes: an allocator would retain freed memory for the next job."""
    pid = (await pool.run({"do": "churn", "bytes": 60_000_000})).value["pid"]
    grown = psutil.Process(pid).memory_full_info().uss

    def given_back() -> bool:
        return psutil.Process(pid).memory_full_info().uss < grown - 40_000_000

    assert not given_back()
    await eventually(given_back, 20.0)
    assert pid in [worker.pid for worker in pool.status().workers]
