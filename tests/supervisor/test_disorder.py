"""A pool in which rare things meet: events come in any order, and nothing is lost by it."""

import asyncio
import errno
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from cgroup import freezer
from pools import eventually, toy, whole
from stopwatch import wait_for, within

import supervisor.wire.async_channel
from supervisor import (
    Cause,
    Draining,
    Guard,
    JobCrashed,
    JobError,
    MemorySettings,
    Pool,
    PoolError,
    PoolSettings,
    SpoolStore,
    Target,
    TargetUnavailable,
    WorkerLost,
)
from supervisor.deaths.death import Intent
from supervisor.wire.async_channel import MOST_AT_ONCE


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    async with Pool(toy(), PoolSettings(workers=2, queue=50, hang_s=2.0)) as pool:
        await whole(pool)
        yield pool


@pytest.fixture(autouse=True)
def nothing_failed(events: list[Any]) -> Iterator[None]:
    """No task and no callback of the supervisor's own has stumbled."""
    yield
    failed = ("task.failed", "channel.message_failed", "guard.failed")
    assert [e for e in events if e["event"] in failed] == []


def pids(pool: Pool) -> set[int]:
    return {worker.pid for worker in pool.status().workers}


async def works(pool: Pool) -> None:
    async with within(5):
        assert (await pool.run({"do": "echo"})).value["bytes"] == 0


def stall(seconds: float) -> None:
    """Block the supervisor, as when it is stopped or throttled."""
    time.sleep(seconds)


def pause_all(pids: list[int], seconds: float) -> None:
    """Stop the whole tree, as in a paused container."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    stall(seconds)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


# --- workers come, go and are replaced ------------------------------------------------------------


@pytest.mark.parametrize("before", [0, 1], ids=["unknown", "answered before"])
async def test_an_answer_for_another_job_is_nobodys(
    pool: Pool, events: list[Any], tmp_path: Path, before: int
) -> None:
    """Answer late, or twice: that is not taken for the answer of the present job."""
    number = 10_000
    for _ in range(before):
        await pool.run({"do": "echo"})
        number = max(e["job"] for e in events if e["event"] == "job.done")
    request = {"do": "answer_for", "job": number, "marker": str(tmp_path / "marker")}
    result = await wait_for(pool.run(request), 10)
    assert result.value["pid"] in pids(pool)
    assert [death.cause for death in result.deaths] == [Cause.PROTOCOL]
    (broken,) = (e for e in events if e["event"] == "worker.protocol_broken")
    assert f"an answer for job {number}" in broken["reason"]
    await whole(pool)


@pytest.mark.parametrize("workers", [1, 2])
async def test_renewals_one_after_the_other_while_all_workers_are_busy(workers: int) -> None:
    async with Pool(toy(), PoolSettings(workers=workers)) as pool:
        await whole(pool, workers)
        long = [
            asyncio.create_task(pool.run({"do": "steps", "count": 200})) for _ in range(workers)
        ]
        await eventually(lambda: [w.state.value for w in pool.status().workers].count("busy") > 0)
        for _ in range(4):
            assert await pool.renewed() is None
        await works(pool)
        answers = await asyncio.gather(*long)
        assert all(answer.deaths == () for answer in answers)
        await whole(pool, workers)


async def test_a_worker_is_recycled_while_it_starts_and_a_job_waits() -> None:
    async with Pool(toy(born_s=0.3), PoolSettings(workers=1)) as pool:
        await eventually(lambda: pool.status().workers)
        job = asyncio.create_task(pool.run({"do": "echo"}))
        await asyncio.sleep(0)
        assert pool.recycle(0)
        assert (await wait_for(job, 5)).deaths == ()
        await whole(pool, 1)


async def test_a_worker_that_takes_long_to_be_born_is_not_taken_for_hung() -> None:
    async with Pool(toy(born_s=0.8), PoolSettings(workers=1, hang_s=1.5)) as pool:
        await eventually(lambda: pool.status().workers)
        pool.recycle(0)
        await whole(pool, 1)
        assert Cause.HANG not in pool.deaths


async def test_a_worker_that_never_gets_ready_is_ended_and_named() -> None:
    async with Pool(toy(born_s=60), PoolSettings(workers=1, hang_s=0.5)) as pool:
        await eventually(lambda: pool.deaths.get(Cause.HANG, 0) > 0)


async def test_a_worker_that_is_ready_and_dead_at_once_gets_no_job(pool: Pool) -> None:
    for _ in range(3):
        for pid in pids(pool):
            os.kill(pid, signal.SIGKILL)
        stall(0.05)  # their successors are born, and die, before the supervisor looks again
        await works(pool)
        await whole(pool)


async def test_jobs_given_to_workers_that_are_dead_already_lose_no_attempt(pool: Pool) -> None:
    for _ in range(10):
        for pid in pids(pool):
            os.kill(pid, signal.SIGKILL)
        result = await pool.run({"do": "echo"})
        assert result.deaths == ()
        await whole(pool)


async def test_the_end_of_a_worker_that_dies_at_birth_is_known() -> None:
    async with Pool(toy(stillborn=True), PoolSettings(workers=1)) as pool:
        await eventually(lambda: pool.deaths.get(Cause.EXITED, 0) >= 2)
        assert set(pool.deaths) == {Cause.EXITED}
        await eventually(lambda: "exited with status 9" in (pool.unready_reason() or ""))


async def test_a_death_is_named_though_the_fork_server_stands_still(pool: Pool) -> None:
    server = pool.status().fork_server_pid
    assert server is not None
    os.kill(server, signal.SIGSTOP)
    victim = min(pids(pool))
    os.kill(victim, signal.SIGSEGV)
    await eventually(lambda: pool.deaths.get(Cause.CRASH) == 1, 2)
    os.kill(server, signal.SIGCONT)
    await whole(pool)


async def test_a_worker_killed_while_it_was_asked_to_leave_is_not_called_recycled(
    pool: Pool,
) -> None:
    job = asyncio.create_task(pool.run({"do": "steps", "count": 300}))
    # By its own word: before that the job has not begun, and its death would not count.
    await eventually(lambda: any(w.at_hand for w in pool._lifecycle.workers))
    (busy,) = (w for w in pool.status().workers if w.state.value == "busy")
    pool.recycle(busy.slot)
    os.kill(busy.pid, signal.SIGKILL)
    (death,) = (await job).deaths
    assert death.cause is Cause.KILLED


async def test_a_worker_that_cannot_be_ended_costs_neither_its_job_nor_the_end(
    events: list[Any],
) -> None:
    with freezer() as frozen:
        async with Pool(toy(), PoolSettings(workers=1, hang_s=0.5)) as pool:
            await whole(pool, 1)
            job = asyncio.create_task(pool.run({"do": "steps", "count": 20, "step_s": 0.02}))
            await eventually(lambda: pool.status().workers[0].state.value == "busy")
            frozen.freeze(pool.status().workers[0].pid)
            result = await wait_for(job, 15)
            assert [death.cause for death in result.deaths] == [Cause.HANG]
            assert "cannot be ended" in result.deaths[0].sentence
        hung = [e for e in events if e["event"] == "worker.hung"]
        assert len(hung) == 1
        assert [e["event"] for e in events].count("worker.abandoned") == 1


# --- jobs and their callers -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "error"), [("\ud800", UnicodeEncodeError), (1 << 70, OverflowError), ({1}, None)]
)
async def test_a_request_that_cannot_be_carried_is_its_callers_error_alone(
    pool: Pool, value: Any, error: type[Exception] | None
) -> None:
    other = asyncio.create_task(pool.run({"do": "steps", "count": 20}))
    if error is None:
        value = deep = []
        for _ in range(3000):
            deep.append([])
            deep = deep[0]
        error = RecursionError
    for _ in range(3):
        with pytest.raises((error, ValueError)):
            await pool.run({"do": "echo", "x": value})
    assert (await other).deaths == ()
    await works(pool)
    await whole(pool)


async def test_what_the_kernel_will_not_carry_waits_for_another_worker(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry, refused = socket.send_fds, []

    def refuse_once(*arguments: Any) -> int:
        if not refused:
            refused.append(1)
            raise OSError(105, "No buffer space available")
        return carry(*arguments)

    monkeypatch.setattr(supervisor.wire.async_channel.socket, "send_fds", refuse_once)
    assert (await pool.run({"do": "echo"})).deaths == ()
    await whole(pool)


async def test_a_result_that_cannot_be_carried_costs_the_job_and_not_the_worker() -> None:
    async with Pool(toy(), PoolSettings(workers=2)) as pool:  # which takes a step of seconds
        await whole(pool)
        before = pids(pool)
        with pytest.raises(JobCrashed, match="cannot be carried"):
            await pool.run({"do": "huge"})
        with pytest.raises(JobCrashed, match="are allowed"):
            await pool.run({"do": "long", "length": 40_000_000})
        assert pids(pool) == before


@pytest.mark.parametrize("how", ["exit", "SIGKILL"])
async def test_progress_that_its_caller_cannot_take_fails_that_job_alone(
    pool: Pool, how: str, events: list[Any]
) -> None:
    def bad(_: Any) -> None:
        raise RuntimeError("the caller's own bug")

    with pytest.raises(RuntimeError, match="own bug"):
        await pool.run({"do": "talk", "count": 100, "how": how}, on_progress=bad)
    await works(pool)
    await whole(pool)


async def test_progress_without_end_leaves_the_loop_to_others(pool: Pool) -> None:
    heard = worst = 0

    def hear(_: Any) -> None:
        nonlocal heard
        heard += 1
        stall(0.0003)

    job = asyncio.create_task(
        pool.run({"do": "talk", "count": 1_000_000, "how": "exit"}, on_progress=hear, timeout_s=1.0)
    )
    while not job.done():
        before = heard
        await asyncio.sleep(0)
        worst = max(worst, heard - before)
    with pytest.raises(Exception, match="not done after 1 s"):
        await job
    assert heard > 10 * MOST_AT_ONCE
    assert worst <= MOST_AT_ONCE


async def test_a_job_run_while_the_pool_closes_is_told() -> None:
    pool = await Pool(toy(), PoolSettings(workers=2)).__aenter__()
    await whole(pool)
    with pool.admit() as early, pool.admit() as late:
        closing = asyncio.create_task(pool.__aexit__(None, None, None))
        await asyncio.sleep(0)
        with pytest.raises(Draining):
            await wait_for(early.run({"do": "echo"}), 5)
        await closing
        with pytest.raises(Draining):
            await wait_for(late.run({"do": "echo"}), 5)


async def test_an_input_cut_short_under_its_job_is_said_in_words(
    pool: Pool, tmp_path: Path
) -> None:
    from supervisor import FileInput

    file = tmp_path / "input"
    file.write_bytes(bytes(10_000))
    with file.open("rb") as opened:
        given = FileInput(opened)
        os.truncate(file, 100)
        with pytest.raises(JobError, match="cut short"):
            await pool.run({"do": "echo"}, given)


# --- fork servers, loads and renewals -------------------------------------------------------------


async def test_a_fork_server_killed_while_something_writes_to_its_scratch_directory(
    events: list[Any],
) -> None:
    async with Pool(toy(litterer=True), PoolSettings(workers=1)) as pool:
        reason = await wait_for(pool.loaded_or_failed(), 10)
        assert reason is not None
        assert "killed by SIGKILL while loading" in reason
        death = pool.load_death()
        assert death is not None
        assert death.death.cause is Cause.KILLED


async def test_a_fork_server_that_stays_is_ended_by_force(pool: Pool) -> None:
    async with Pool(toy(stays=True), PoolSettings(workers=1)) as staying:
        await whole(staying, 1)
        servers = set()
        for _ in range(3):
            servers.add(staying.status().fork_server_pid)
            await staying.renewed()
        await eventually(lambda: not any(psutil.pid_exists(pid or 0) for pid in servers))


async def test_a_target_that_cannot_be_found_is_told_and_tried_again(events: list[Any]) -> None:
    answers = iter([toy(), ValueError("a bug in the source"), TargetUnavailable("gone"), toy()])

    async def source() -> Target:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with Pool(source, PoolSettings(workers=1)) as pool:
        await whole(pool, 1)
        assert await pool.renewed() == "ValueError: a bug in the source"
        assert await pool.renewed() == "gone" == pool.not_renewed()
        await works(pool)
        assert await pool.renewed() is None
        assert pool.not_renewed() is None


async def test_renewed_waits_for_a_load_that_began_after_it_was_asked() -> None:
    found = 0

    async def source() -> Target:
        nonlocal found
        found += 1
        mine = found
        await asyncio.sleep(0.1)
        return toy(greeting=f"number {mine}")

    async with Pool(source, PoolSettings(workers=1)) as pool:
        await asyncio.sleep(0.05)  # the first load is under way, with the target that it has found
        await pool.renewed()
        assert pool.report() == {"greeting": "number 2"}


async def test_the_old_model_is_loaded_again_while_a_new_one_is_still_looked_for() -> None:
    looked_for = asyncio.Event()
    first = True

    async def source() -> Target:
        nonlocal first
        if first:
            first = False
            return toy(greeting="old")
        await looked_for.wait()
        return toy(greeting="new")

    async with Pool(source, PoolSettings(workers=1)) as pool:
        await whole(pool, 1)
        renewal = asyncio.create_task(pool.renewed())
        await asyncio.sleep(0.05)
        server = pool.status().fork_server_pid
        assert server is not None
        for pid in (server, *pids(pool)):
            os.kill(pid, signal.SIGKILL)
        await eventually(lambda: pool.status().fork_server_pid not in (None, server))
        assert (await pool.run({"do": "echo"})).value["greeting"] == "old"
        looked_for.set()
        assert await renewal is None
        await whole(pool, 1)
        assert (await pool.run({"do": "echo"})).value["greeting"] == "new"


async def test_a_model_whose_workers_die_at_birth_does_not_replace_one_that_serves() -> None:
    targets = iter([toy(greeting="old"), toy(stillborn=True)])

    async def source() -> Target:
        return next(targets)

    async with Pool(source, PoolSettings(workers=2)) as pool:
        await whole(pool)
        assert "exited with status 9" in (await pool.renewed() or "")
        for pid in pids(pool):
            os.kill(pid, signal.SIGKILL)
        await whole(pool)
        assert (await pool.run({"do": "echo"})).value["greeting"] == "old"


async def test_a_target_with_options_that_cannot_be_carried_leaves_no_process(
    events: list[Any],
) -> None:
    before = set(psutil.Process().children())
    for target in (toy(fail=1 << 70), Target("toy", environment={"A": "\0"})):
        async with Pool(target, PoolSettings(workers=1)) as pool:
            assert await wait_for(pool.loaded_or_failed(), 5) is not None
            assert set(psutil.Process().children()) == before


# --- time that did not run ------------------------------------------------------------------------


async def test_a_pause_of_the_whole_tree_is_no_hang(pool: Pool) -> None:
    before = pids(pool)
    job = asyncio.create_task(pool.run({"do": "steps", "count": 100}))
    await asyncio.sleep(0.1)
    server = pool.status().fork_server_pid
    assert server is not None
    pause_all([server, *before], 4.0)
    assert pool.watched()
    assert (await job).deaths == ()
    await asyncio.sleep(0.7)
    assert pids(pool) == before


async def test_a_stall_of_the_supervisor_is_no_hang_of_its_workers(pool: Pool) -> None:
    before = pids(pool)
    job = asyncio.create_task(
        pool.run({"do": "talk", "count": 3000, "how": "exit"}, on_progress=lambda _: None)
    )
    await asyncio.sleep(0.05)
    stall(3.0)
    with pytest.raises(WorkerLost, match=r"status 7.*status 7"):
        await job
    await whole(pool)
    assert Cause.HANG not in pool.deaths
    assert before


async def test_a_stall_while_a_fork_is_in_flight_costs_nothing() -> None:
    async with Pool(toy(), PoolSettings(workers=1, hang_s=1.0)) as pool:
        await whole(pool, 1)
        server = pool.status().fork_server_pid
        known = pool._guard._observer.accounting.known
        ours = {os.getpid(), server, *pids(pool)}
        await eventually(lambda: ours <= set(known()), 60)  # each has a descriptor with the guard
        files = psutil.Process().num_fds()
        for _ in range(3):
            os.kill(*pids(pool), signal.SIGKILL)
            forking = pool._lifecycle.server
            assert forking is not None
            async with within(5):
                while not forking.forking:
                    await asyncio.sleep(0)
            stall(1.3)
            await whole(pool, 1)
        assert pool.status().fork_server_pid == server
        await eventually(lambda: psutil.Process().num_fds() == files, 60)


async def test_a_load_is_not_timed_while_nothing_ran() -> None:
    async with Pool(toy(load_s=0.5), PoolSettings(workers=1, load_timeout_s=4.0)) as pool:
        await asyncio.sleep(0.1)
        server = next(iter(pool._lifecycle.servers)).pid
        pause_all([server], 4.5)
        assert await wait_for(pool.loaded_or_failed(), 5) is None


# --- other failures -------------------------------------------------------------------------------


async def test_children_of_others_in_the_process_keep_their_status(pool: Pool) -> None:
    child = subprocess.Popen(["sh", "-c", "exit 3"])
    await asyncio.sleep(2.5)
    assert child.wait() == 3


async def test_a_damaged_page_ends_nothing(pool: Pool) -> None:
    worker = next(iter(pool._lifecycle.workers))
    worker._signs._page._map[:48] = b"\xff" * 48
    await asyncio.sleep(0.6)
    assert worker.at_hand == 0
    pool.status()
    await works(pool)


async def test_without_descriptors_answers_wait_and_workers_live(
    pool: Pool, events: list[Any]
) -> None:
    before = pids(pool)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    job = asyncio.create_task(pool.run({"do": "long", "length": 200_000}))
    await asyncio.sleep(0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        await asyncio.sleep(0.5)
        assert not job.done()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len((await wait_for(job, 5)).value["text"]) == 200_000
    assert pids(pool) == before
    events.clear()  # that memory could not be read meanwhile was said


async def test_shared_memory_of_a_worker_counts_as_its_growth() -> None:
    mb = 1_000_000
    memory = MemorySettings(limit=2000 * mb, budget=50 * mb)
    async with Pool(toy(), PoolSettings(workers=1), memory=memory) as pool:
        await whole(pool, 1)
        with pytest.raises(Exception, match="grown by"):
            await pool.run({"do": "share", "bytes": 200 * mb, "s": 6})


async def test_a_helper_may_say_more_than_anybody_remembers() -> None:
    script = (
        "import sys\n"
        "for _ in range(1000): sys.stderr.write('x' * 99_999 + '\\n')\n"
        "sys.stderr.write('the last words')\n"
        "sys.stdout.write('y' * 300_000 + '\\nshort\\n')\n"
        "sys.exit(5)"
    )
    process = psutil.Process()
    async with Guard() as guard:
        before = process.memory_info().rss
        async with guard.helper("talker", [sys.executable, "-c", script], os.environ) as helper:
            lines = [line async for line in helper.lines()]
            death = await helper.ended()
        assert process.memory_info().rss - before < 20e6
    assert death is not None
    assert lines[-1] == b"short"
    assert helper.said.endswith("the last words")
    assert len(helper.said) <= 65_536


@pytest.mark.parametrize("sound", [True, False])
async def test_a_crash_is_asked_about_before_its_job_runs_again(sound: bool) -> None:
    asked: list[bool] = []

    async def is_sound() -> bool:
        await asyncio.sleep(0.05)
        asked.append(sound)
        return sound

    async with Pool(toy(), PoolSettings(workers=2), sound=is_sound) as pool:
        await whole(pool)
        first = pool.status().fork_server_pid
        others = [pool.run({"do": "steps", "count": 50}, timeout_s=30) for _ in range(3)]
        with pytest.raises(WorkerLost):
            await asyncio.gather(pool.run({"do": "end", "how": "SIGSEGV"}, timeout_s=30), *others)
        assert asked[0] == sound
        await eventually(lambda: asked == [sound] * 2)  # the last crash tells as much as the first
        await whole(pool)
        assert (pool.status().fork_server_pid == first) is sound
        assert pool.deaths[Cause.CRASH] == 2


async def test_a_crash_of_a_worker_without_a_job_is_asked_about() -> None:
    asked: list[int] = []

    async def is_sound() -> bool:
        asked.append(len(asked))
        return len(asked) > 1

    async with Pool(toy(), PoolSettings(workers=1), sound=is_sound) as pool:
        await whole(pool, 1)
        first = pool.status().fork_server_pid
        (worker,) = pool._lifecycle.workers
        os.kill(worker.pid, signal.SIGSEGV)
        await eventually(lambda: asked)
        await eventually(lambda: pool.status().fork_server_pid != first)
        await whole(pool, 1)
        assert asked == [0]


async def test_a_job_that_nobody_wants_any_more_is_not_run_after_the_question() -> None:
    asked = asyncio.Event()

    async def is_sound() -> bool:
        asked.set()
        await asyncio.sleep(0.2)
        return True

    async with Pool(toy(), PoolSettings(workers=1), sound=is_sound) as pool:
        await whole(pool, 1)
        job = asyncio.create_task(pool.run({"do": "end", "how": "SIGSEGV"}, timeout_s=30))
        await asked.wait()
        job.cancel()
        await asyncio.sleep(0.3)
        assert pool.deaths[Cause.CRASH] == 1
        assert (await pool.run({"do": "echo"}, timeout_s=10)).value["bytes"] == 0


class Unopenable:
    """An input whose descriptor leads nowhere."""

    size = 5

    def fileno(self) -> int:
        return 987_654

    async def flush(self) -> None:
        pass


async def test_an_input_that_cannot_be_opened_fails_its_job_and_no_other(pool: Pool) -> None:
    async with within(10):
        with pytest.raises(PoolError, match="cannot be opened"):
            await pool.run({"do": "echo"}, Unopenable())
        assert (await pool.run({"do": "echo"})).value["pid"]


async def test_without_descriptors_an_input_waits(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr("supervisor.dispatch.scheduler.open_for_reading", refuse)
        async with SpoolStore().open() as spool:
            await spool.write(b"12345")
            job = asyncio.create_task(pool.run({"do": "echo"}, spool))
            await eventually(lambda: pool.waiting == 1)
            patched.undo()
            assert (await wait_for(job, 10)).value["bytes"] == 5


async def test_the_first_reason_for_a_kill_is_kept() -> None:
    async with Pool(toy(), PoolSettings(workers=1)) as pool:
        await whole(pool, 1)
        server = pool._lifecycle.live_server()
        assert server is not None
        server.kill(Intent.SHORTAGE, "no room")
        server.kill(Intent.HANG)
        death = await wait_for(asyncio.shield(server.ended), 10)
        assert (death.intent, server.outcome.reason) == (Intent.SHORTAGE, "no room")


async def test_a_worker_that_never_gets_ready_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: list[Any]
) -> None:
    monkeypatch.setattr("supervisor.processes.worker_handle._START_S", 0.2)
    (tmp_path / "idler.py").write_text(
        "import time\n"
        "from supervisor.child.worker import Worker\n"
        "def idle(worker):\n"
        "    while True:\n"
        "        worker._page.beat()\n"
        "        time.sleep(0.05)\n"
        "Worker._get_ready = idle\n"
        "def load():\n"
        "    return object()\n"
    )
    target = Target("idler", import_path=(str(tmp_path),))
    async with Pool(target, PoolSettings(workers=1, hang_s=1.0)):
        await eventually(lambda: [e for e in events if e["event"] == "worker.hung"], 20)


async def test_a_cgroup_that_is_ended_as_a_whole_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: list[Any]
) -> None:
    monkeypatch.setattr("supervisor.guard.guard.oom_groups", lambda: [tmp_path])
    async with Guard():
        (warned,) = [e for e in events if e["event"] == "guard.oom_group_found"]
    assert warned["cgroup"] == str(tmp_path)
