"""Actions that a worker can still do in its sandbox: a toy model tries them."""

import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pools import run, toy, whole

from supervisor import Cause, JobCrashed, Pool, PoolSettings, Sandbox, WorkerLost

FORBIDDEN = {
    "run a program": "execve",
    "start a process": "clone",
    "start a shell": ("clone", "vfork"),
    "read a file": "openat",
    "write a file": "openat",
    "remove a file": "unlink",
    "connect": "socket",
    "listen": "socket",
    "end another": "kill",
    "end all": "kill",
    "trace another": "ptrace",
    "read another's memory": "process_vm_readv",
    "be somebody else": "setuid",
    "leave its namespaces": "unshare",
    "load a program into the kernel": "bpf",
    "use a ring": "io_uring_setup",
}


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    settings = PoolSettings(workers=2, sandbox=Sandbox.ON, attempts=1)
    async with Pool(toy(), settings) as pool:
        await whole(pool)
        yield pool


@pytest.mark.parametrize("what", FORBIDDEN)
async def test_what_is_forbidden_is_a_death_that_names_the_call(
    pool: Pool, what: str, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("untouched")
    with pytest.raises(WorkerLost) as lost:
        await run(pool, do="forbidden", what=what, file=str(file), pid=os.getpid())
    calls = FORBIDDEN[what]
    named = [calls] if isinstance(calls, str) else calls
    assert any(f"was ended by its sandbox: it called {call}" in str(lost.value) for call in named)
    assert pool.status().last_deaths[-1].death.cause is Cause.SANDBOX
    assert file.read_text() == "untouched"
    await whole(pool)
    assert (await run(pool, b"four", do="echo"))["bytes"] == 4


@pytest.mark.parametrize("what", ["raise its own limits", "ask what is not known", "look around"])
async def test_what_a_library_may_try_is_refused_and_costs_nothing(pool: Pool, what: str) -> None:
    before = dict(pool.deaths)
    try:
        assert await run(pool, do="forbidden", what=what) == 1  # EPERM
    except JobCrashed as error:
        assert re.search("not permitted|not allowed", str(error))  # noqa: PT017
    assert pool.deaths == before


async def test_what_a_worker_needs_is_left_to_it(pool: Pool) -> None:
    before = dict(pool.deaths)
    assert (await run(pool, b"x" * 3_000_000, do="echo"))["bytes"] == 3_000_000
    assert await run(pool, do="forbidden", what="start a thread") == "done"
    assert (await run(pool, do="grow", bytes=30_000_000))["pid"]
    assert len((await run(pool, do="long", length=500_000))["text"]) == 500_000
    with pytest.raises(JobCrashed) as crashed:
        await run(pool, do="raise")
    assert "a bug in the model" in str(crashed.value)
    with pool.stream() as stream:
        stream.begin({})
        await stream.send({"say": "hello"})
        assert (await stream.receive())[0]["partial"] == "hello"
    assert pool.deaths == before


async def test_a_crash_is_still_a_crash(pool: Pool) -> None:
    for how in ("SIGABRT", "SIGSEGV"):
        with pytest.raises(WorkerLost) as lost:
            await run(pool, how.encode(), do="end", how=how)
        assert how in str(lost.value)
        await whole(pool)


async def test_what_is_in_force_is_told(pool: Pool) -> None:
    status = pool.status()
    assert "seccomp" in status.sandbox
    assert "no_new_privs" in status.sandbox
    assert "rlimits" in status.sandbox
    worker = status.workers[0]
    fields = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines()
        if ":\t" in line
    )
    assert fields["Seccomp"] == "2"
    assert fields["NoNewPrivs"] == "1"
    limits = Path(f"/proc/{worker.pid}/limits").read_text()
    assert re.search(r"Max core file size +0 +0 ", limits)


async def test_off_is_off() -> None:
    async with Pool(toy(), PoolSettings(workers=2)) as pool:
        await whole(pool)
        assert pool.status().sandbox == ()
        assert "root" in await run(pool, do="forbidden", what="read a file")


@pytest.mark.parametrize("mode", [Sandbox.AUTO, Sandbox.ON])
async def test_where_no_filter_can_be_made(
    mode: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run as on a machine without libseccomp: the other measures are used, or nothing is served."""
    (tmp_path / "pyseccomp.py").write_text("raise RuntimeError('no libseccomp here')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    async with Pool(toy(), PoolSettings(workers=2, sandbox=mode)) as pool:
        if mode is Sandbox.ON:
            reason = await pool.loaded_or_failed()
            assert reason is not None
            assert "no sandbox can be made here: seccomp: no libseccomp here" in reason
            return
        await whole(pool)
        status = pool.status()
        assert "no_new_privs" in status.sandbox
        assert "seccomp: no libseccomp here" in status.sandbox_missing
        assert (await run(pool, b"four", do="echo"))["bytes"] == 4
