"""Workers that were taken over: hostile code inside the real sandbox, and what the supervisor and
the clients of other workers notice of it. `HOSTILE_MESSAGES=10000` sends that many."""

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from places import SUPPORT
from pools import eventually, run, toy, whole
from running import gone
from stopwatch import within

from supervisor import Cause, Pool, PoolSettings, Sandbox, Target, WorkerLost
from supervisor.processes.output import WorkerOutput
from supervisor.readings.processes import read_process
from supervisor.wire import messages, payload
from supervisor.wire.messages import ProtocolError

MESSAGES = int(os.environ.get("HOSTILE_MESSAGES", "1500"))
CALLS = int(os.environ.get("HOSTILE_CALLS", "170"))
MB = 1_000_000


@pytest.mark.parametrize(("what", "count"), [("calls", CALLS), ("messages", MESSAGES)])
def test_no_other_client_notices(what: str, count: int) -> None:
    done = subprocess.run(
        [sys.executable, SUPPORT / "hostile_pool.py", what, str(count), "1"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60 + count / 5,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["watched"]
    assert found["answered"] > 100
    assert found["good_deaths"] == {}
    assert found["rss"] < 20 * MB
    assert found["descriptors"] == 0
    # Lateness of the machine itself does not count as that of the loop.
    assert found["late_cpu_s"] < 0.1
    assert found["late_s"] < 0.1 + found["sleeper_late_s"]
    assert set(found["errors"]) <= {"WorkerLost", "JobCrashed", "DeadlineExceeded"}
    if what == "messages":
        assert found["deaths"]["protocol"] > count / 2
    else:
        assert found["deaths"]["sandbox"] > 0


# --- allowed messages -----------------------------------------------------------------------------

TWISTED = [
    messages.Load("os", "system", {}, [], "", 1.0, 0, Sandbox.OFF),
    messages.Run(1, {}, None),
    messages.Cancel(1),
    messages.Leave(),
    messages.Forked(1, 1),
    messages.Fed(1, 1, b"\x90", True, None, float("nan"), 0.0),
    messages.Fed(1, 1, b"\x90", True, None, 1.0, float("inf")),
    messages.Fed(1, 1, b"\x90", True, None, -1.0, 0.0),
    messages.Fed(1, 1, b"\x90", True, None, 1e300, 0.0),
    messages.Fed(0, 1, b"\x90", True, None, 1.0, 0.0),
    messages.Fed(1, -1, b"\x90", True, None, 1.0, 0.0),
    messages.Fed(1, 1, b"\x90", True, b"x" * 600_000, 1.0, 0.0),
    messages.Failed(1, "x" * 1000, "", ""),
    messages.Failed(1, None, "x" * 100_000, ""),
    messages.Ready(["x"] * 1000),
]


@pytest.mark.parametrize("message", TWISTED, ids=lambda message: type(message).__name__)
def test_what_a_worker_may_not_send_is_refused(message: Any) -> None:
    with pytest.raises(ProtocolError):
        messages.decode(messages.from_worker, messages.encode(message), 0)


@pytest.mark.parametrize(
    ("message", "descriptors"), [(messages.Done(1, b"\xc0"), 1), (messages.Ready([]), 2)]
)
def test_descriptors_that_a_message_does_not_carry_are_refused(
    message: Any, descriptors: int
) -> None:
    with pytest.raises(ProtocolError, match="descriptors"):
        messages.decode(messages.from_worker, messages.encode(message), descriptors)


@pytest.mark.parametrize("unit", [b"\x80", b"\x90", b"\xa0", b"\xc0", b"\x01", b"\x91"])
def test_few_bytes_that_would_be_many_objects_are_refused(unit: bytes) -> None:
    count = 4 * 1024 * 1024
    with pytest.raises(ProtocolError):
        payload.unpack_value(b"\xdd" + count.to_bytes(4, "big") + unit * count)
    with pytest.raises(ProtocolError):
        payload.unpack_value(b"\x91" * 5000)


def test_a_large_map_has_no_arrays_as_keys() -> None:
    """Use arrays whose hashes all collide: 9 s for half a megabyte."""
    count = 30_000
    keys = b"".join(b"\x92\xcd" + n.to_bytes(2, "big") + b"\x01\xc0" for n in range(count))
    with pytest.raises(ProtocolError, match="an array as a key"):
        payload.unpack_value(b"\xdf" + count.to_bytes(4, "big") + keys)
    assert payload.unpack_value(b"\x81\x92\x01\x02\xc0") == {(1, 2): None}


@pytest.mark.parametrize(
    "value",
    [
        {"text": "안녕하세요" * 100_000, "words": [["말", 0.25, 0.5, 0.987]] * 20_000},
        b"\x80" * 1_400_000,
        [{"word": "é" * 20, "start": n / 7, "end": n / 7 + 0.2} for n in range(10_000)],
        [None, True, 1, -1, 1 << 40, 1.5, "", b"", [], {}],
    ],
)
def test_what_a_model_says_comes_back_whole(value: Any) -> None:
    assert payload.unpack_value(payload.pack_value(value)) == value


def test_what_cannot_be_taken_is_not_sent() -> None:
    for value in ([[]] * 200_000, "x" * 9_000_000, 1 << 70):
        with pytest.raises(payload.Unsendable):
            payload.pack_value(value)


def test_half_characters_can_be_sent() -> None:
    text = messages.sendable("a\udc80b")
    assert messages.decode(
        messages.from_worker, messages.encode(messages.StreamFailed(1, None, text, "")), 0
    )
    assert "a" in text
    assert "b" in text


# --- one worker and its supervisor ----------------------------------------------------------------


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    settings = PoolSettings(workers=2, sandbox=Sandbox.ON, hang_s=2.0)
    async with Pool(toy(), settings) as pool:
        await whole(pool)
        yield pool


async def test_a_worker_has_only_its_channel_its_page_its_output_and_its_input(pool: Pool) -> None:
    held: dict[str, str] = await run(pool, b"x" * 100, do="descriptors")
    kinds = sorted(held.values())
    # Standard input is /dev/null; output and error are one pipe.
    assert kinds == ["character", "memory", "memory", "pipe", "pipe", "socket"]


@pytest.mark.parametrize(
    "what",
    [
        "write its input",
        "shrink its input",
        "make a memory file",
        "shrink its page",
        "punch a hole",
    ],
)
async def test_what_is_shared_cannot_be_changed_or_made(pool: Pool, what: str) -> None:
    for size in (1000, 3 * MB):
        assert (await run(pool, b"x" * size, do="tamper", what=what))["errno"] != 0
    await whole(pool)


@pytest.mark.parametrize("what", ["own", "signal", "async"])
async def test_no_signal_can_be_ordered(pool: Pool, what: str) -> None:
    answer = run(pool, do="order a signal", what=what, pid=os.getpid())
    if what == "async":
        assert (await answer)["errno"] != 0
    else:
        with pytest.raises(WorkerLost, match="it called fcntl"):
            await answer


async def test_a_path_at_an_impossible_address_is_a_death_all_the_same(pool: Pool) -> None:
    with pytest.raises(WorkerLost, match="it called openat"):
        await run(pool, do="open far away")


async def test_a_worker_has_few_threads(pool: Pool) -> None:
    # The guard looks while the threads are being started: how many there are by then differs.
    with pytest.raises(WorkerLost, match=r"it had \d+ threads, and 64 are allowed"):
        await run(pool, do="start threads", count=300)


def test_memory_that_is_open_and_not_mapped_is_its_own() -> None:
    before = read_process(os.getpid(), held=True)
    fd = os.memfd_create("hidden")
    try:
        os.write(fd, b"x" * 20_000_000)
        after, mapped_only = read_process(os.getpid(), held=True), read_process(os.getpid())
    finally:
        os.close(fd)
    assert before is not None
    assert after is not None
    assert mapped_only is not None
    assert after.unreclaimable - before.unreclaimable > 19_000_000
    assert after.unreclaimable - mapped_only.unreclaimable > 19_000_000


async def test_root_has_no_privilege_left(pool: Pool) -> None:
    (worker, *_) = pool.status().workers
    fields = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines()
        if ":\t" in line
    )
    assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 0
    limits = Path(f"/proc/{worker.pid}/limits").read_text()
    assert "Max file size             0 " in limits


async def test_what_it_writes_is_logged_and_not_shared(pool: Pool, events: list[Any]) -> None:
    await run(pool, do="write", text="something odd\n")
    async with within(10):
        while not any("something odd" in e.get("text", "") for e in events):
            await asyncio.sleep(0.02)
    # More than a pipe holds blocks no worker.
    assert await run(pool, do="write", text="y" * 1_000_000)


def test_output_that_is_not_read_is_dropped() -> None:
    output = WorkerOutput()
    try:
        for _ in range(100):
            try:
                os.write(output.writer, b"z" * 10_000)
            except BlockingIOError:
                break
        assert output.take() == "z" * 4096
    finally:
        output.close()


async def test_a_sandbox_that_is_less_than_was_promised_is_reported(
    events: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that `AUTO` continues and reports it, and `ON` serves nothing."""
    loading = Target("toy", "load_with_a_lesser_sandbox", import_path=(str(SUPPORT),))
    async with Pool(loading, PoolSettings(workers=1, sandbox=Sandbox.AUTO)) as pool:
        await whole(pool, 1)
        assert "seccomp" not in pool.status().sandbox
        assert any("seccomp" in missing for missing in pool.status().sandbox_missing)
        async with within(10):
            while not any(e["event"] == "worker.sandbox_reduced" for e in events):
                await asyncio.sleep(0.01)
    async with Pool(loading, PoolSettings(workers=1, sandbox=Sandbox.ON)) as pool, within(20):
        while "its sandbox lacks seccomp" not in (pool.unready_reason() or ""):
            await asyncio.sleep(0.05)


async def test_the_supervisor_outlives_a_worker_that_says_it_is_ready_twice(pool: Pool) -> None:
    known = pool._guard._observer.accounting.known
    workers = {worker.pid for worker in pool.status().workers}
    await eventually(lambda: workers <= set(known()))  # each has a descriptor with the guard
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    had = len(os.listdir("/proc/self/fd"))
    with pytest.raises(WorkerLost):
        await run(pool, do="say", message=msgspec.msgpack.encode({"type": "Ready", "in_force": []}))
    await whole(pool)
    assert pool.deaths[Cause.PROTOCOL] == 2
    await eventually(lambda: len(os.listdir("/proc/self/fd")) <= had)
    assert (before, hard) == resource.getrlimit(resource.RLIMIT_NOFILE)


async def test_a_worker_whose_supervisor_is_killed_ends() -> None:
    script = (
        "import asyncio, sys\nfrom supervisor import Pool, PoolSettings, Target\n"
        f"target = Target('toy', import_path=({str(SUPPORT)!r},))\n"
        "async def main():\n"
        "    async with Pool(target, PoolSettings(workers=1)) as pool:\n"
        "        await pool.wait_ready()\n"
        "        print('WORKER', pool.status().workers[0].pid, flush=True)\n"
        "        await pool.run({'do': 'steps', 'count': 1, 'step_s': 600})\n"
        "asyncio.run(main())\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid = next(int(line.split()[1]) for line in process.stdout if line.startswith("WORKER"))
    worker = psutil.Process(pid)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    async with within(5):
        while not gone(worker):
            await asyncio.sleep(0.01)
