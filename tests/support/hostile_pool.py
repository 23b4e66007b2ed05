"""A model that is taken over at every job, served beside one that behaves, by one supervisor.

As a program, `hostile_pool.py calls|messages COUNT SEED`: lets the first do its worst, and prints
as JSON what that has cost the supervisor and the client of the second.
"""

import asyncio
import ctypes
import gc
import json
import os
import random
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

HERE = str(Path(__file__).parent)
ENDS_ITSELF_S = 0.3
"""Seconds after which a process ends itself, since a call may block forever."""
MORE_CALLS = "fcntl madvise clone clone3 prctl newfstatat prlimit64 kill tgkill ioctl memfd_create"


class Hostile:
    """`do` in a request says what is tried."""

    def __init__(self) -> None:
        from supervisor.child import sandbox

        self.calls = [*sandbox._ALLOWED.split(), *MORE_CALLS.split()]
        self.buffer = ctypes.create_string_buffer(b"\xff" * 4096, 4096)

    def run(self, request: dict[str, Any], spool: Any) -> Generator[Any, None, Any]:
        yield
        match request["do"]:
            case "names":
                return self.calls
            case "echo":
                return request["say"]
            case "call":
                self.call(request["name"], random.Random(request["seed"]), request["supervisor"])
            case "send":
                self.send(random.Random(request["seed"]), request["job"])
        return "survived"

    def call(self, name: str, chance: random.Random, supervisor: int) -> None:
        """Make one system call repeatedly, each time with other arguments."""
        import pyseccomp

        number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
        threading.Thread(target=_end_soon, daemon=True).start()
        call = ctypes.CDLL(None, use_errno=True).syscall
        address = ctypes.addressof(self.buffer)
        likely = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, -1, -100, 1 << 31, (1 << 63) - 1, 1 << 63, address]
        likely += [supervisor, -supervisor, os.getpid(), 0x1000, 0x2000, 0o20000, 1 << 40]
        for _ in range(60):
            values = [chance.choice(likely) for _ in range(6)]
            call(ctypes.c_long(number), *(ctypes.c_uint64(v & (1 << 64) - 1) for v in values))

    def send(self, chance: random.Random, job: int) -> None:
        """Send one packet that is not a message, or that is not true."""
        import socket

        from supervisor.wire.channel import Channel

        channel = next(o for o in gc.get_objects() if isinstance(o, Channel) and o.fileno() >= 0)
        packet = _packet(chance, job)
        there = [fd for fd in range(64) if _open(fd)]
        fds = [chance.choice(there) for _ in range(chance.choice((0, 0, 0, 1, 2, 4, 30)))]
        socket.send_fds(channel._socket, [packet], fds)
        if chance.random() < 0.1:
            os._exit(chance.randrange(256))


def _end_soon() -> None:
    time.sleep(ENDS_ITSELF_S)
    os._exit(5)


def _open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _packet(chance: random.Random, job: int) -> bytes:
    from supervisor.wire import messages

    flag = chance.choice((b"\0", b"\0", b"\0", b"\0", b"\0", b"\1", b"\2", b""))
    kind = chance.randrange(6)
    if kind == 0:
        return flag + chance.randbytes(chance.choice((0, 1, 10, 1000, 65536)))
    numbers = [job, job + 1, 0, -1, 1, 2, 1 << 62, (1 << 63) - 1]
    floats = [0.0, 1.0, float("nan"), float("inf"), -1.0, 1e300]
    bombs = [b"\x80" * 60_000, b"\xdd\xff\xff\xff\xff", b"\x91" * 50_000, b"\xc1", b"", b"\x90"]
    number = chance.choice(numbers)
    bomb = chance.choice([*bombs, messages.encode({"wrong": [1, 2.5, None, "\udc80"[:0]]})])
    told: list[Any] = [
        messages.Ready(["seccomp"] * chance.choice((0, 1, 100))),
        messages.Progress(number, bomb),
        messages.Done(number, bomb),
        messages.Failed(number, chance.choice((None, "x" * 10_000)), "m" * 30_000, ""),
        messages.Cancelled(number),
        messages.Fed(number, chance.choice(numbers), bomb, True, bomb, chance.choice(floats), 0.0),
        messages.Fed(number, 1, b"\x90", False, None, 1.0, chance.choice(floats)),
        messages.StreamFailed(number, None, "", ""),
        messages.Loaded(0.0, 0.0, {"pid": 1, "event": "x"}, [], []),
        messages.Forked(1, 1),
        messages.Run(1, {}, None),
        messages.Cancel(number),
        messages.Leave(),
    ]
    body = messages.encode(chance.choice(told))
    if kind == 1:  # some bytes of it are others
        changed = bytearray(body)
        for _ in range(chance.choice((1, 2, 10))):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        body = bytes(changed)
    elif kind == 2:
        body = body[: chance.randrange(len(body))]
    elif kind == 3:
        body += struct.pack(">Q", chance.getrandbits(64))
    return (flag + body)[: 64 * 1024 + 1]


def load() -> Hostile:
    return Hostile()


# --- the supervisor -------------------------------------------------------------------------------


class Watch:
    """Lateness of the loop, beyond its waits for a processor that others use."""

    def __init__(self) -> None:
        self.worst_s = self.worst_cpu_s = 0.0

    async def keep(self) -> None:
        while True:
            before, cpu, waited = time.monotonic(), time.thread_time(), waited_for_a_processor_s()
            await asyncio.sleep(0.005)
            late = time.monotonic() - before - 0.005 - (waited_for_a_processor_s() - waited)
            self.worst_s = max(self.worst_s, late)
            self.worst_cpu_s = max(self.worst_cpu_s, time.thread_time() - cpu)


def waited_for_a_processor_s() -> float:
    """Return the seconds in which this thread could run and others had the processors (proc(5),
    schedstat)."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9


_SLEEPER = """
import sys, time, select
worst = 0.0
while not select.select([sys.stdin], [], [], 0)[0]:
    before = time.monotonic()
    time.sleep(0.005)
    worst = max(worst, time.monotonic() - before - 0.005)
print(worst)
"""


def rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def settle(*pools: Any) -> None:
    """Wait until every worker is back, and nothing is under way."""
    async with asyncio.timeout(60):
        for pool in pools:
            workers = pool.settings.workers
            while [w.state.value for w in pool.status().workers] != ["idle"] * workers:
                await asyncio.sleep(0.01)


async def main(what: str, count: int, seed: int) -> dict[str, Any]:
    from supervisor import Guard, Pool, PoolSettings, Sandbox, Target

    target = Target("hostile_pool", import_path=(HERE,))
    evil = PoolSettings(workers=4, sandbox=Sandbox.ON, hang_s=2.0, attempts=1, queue=1000)
    good = PoolSettings(workers=1, first_slot=4, sandbox=Sandbox.ON)
    worst: dict[str, Any] = {"rss": 0, "errors": {}}
    async with (
        Guard() as guard,
        Pool(target, evil, guard=guard) as bad,
        Pool(target, good, guard=guard) as other,
    ):
        await settle(bad, other)
        names = (await bad.run({"do": "names"})).value
        for _ in range(8):  # whatever is made once is there
            await attack(bad, worst, {"do": "send", "seed": seed, "job": 1})
        await settle(bad, other)
        await asyncio.sleep(1.5)
        before, had = rss(), descriptors()
        sleeper = subprocess.Popen(
            [sys.executable, "-c", _SLEEPER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        watch, answered, over = Watch(), 0, asyncio.Event()
        watching = asyncio.create_task(watch.keep())

        async def client() -> None:
            nonlocal answered
            while not over.is_set():
                said = (await other.run({"do": "echo", "say": answered}, timeout_s=30)).value
                assert said == answered, said
                answered += 1
                await asyncio.sleep(0.001)

        behaving = asyncio.create_task(client())
        chance, waiting = random.Random(seed), iter(range(count))

        async def attacker() -> None:
            for number in waiting:
                asked = {"do": "send", "seed": seed + number, "job": chance.randrange(9000)}
                if what == "calls":
                    name = names[number % len(names)]
                    asked = {"do": "call", "name": name, "seed": seed + number}
                await attack(bad, worst, asked | {"supervisor": os.getpid()})
                worst["rss"] = max(worst["rss"], rss() - before)

        await asyncio.gather(*(attacker() for _ in range(4)))
        over.set()
        await behaving
        watching.cancel()
        await settle(bad, other)
        slept, _ = sleeper.communicate("\n")
        # The guard opens a file for each worker that is new, and closes those of workers that are
        # gone, at its next reading.
        for _ in range(200):
            if descriptors() == had:
                break
            await asyncio.sleep(0.05)
        return worst | {
            "answered": answered,
            "late_s": watch.worst_s,
            "late_cpu_s": watch.worst_cpu_s,
            "sleeper_late_s": float(slept),
            "descriptors": descriptors() - had,
            "watched": bad.watched() and other.watched(),
            "deaths": {cause.value: n for cause, n in bad.deaths.items()},
            "good_deaths": {cause.value: n for cause, n in other.deaths.items()},
        }


async def attack(pool: Any, worst: dict[str, Any], request: dict[str, Any]) -> None:
    try:
        await pool.run(request, timeout_s=30)
    except Exception as error:  # noqa: BLE001 - what it is told is its own affair
        name = type(error).__name__
        worst["errors"][name] = worst["errors"].get(name, 0) + 1


if __name__ == "__main__":
    import structlog

    structlog.configure(processors=[lambda *_: (_ for _ in ()).throw(structlog.DropEvent)])
    print(json.dumps(asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))))
