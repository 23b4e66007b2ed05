"""The guard against the real kernel, in counts: the story, leaks, neighbours; and what it costs.

    python benchmarks/guard.py [--skip-cost | --only-cost]

Needs root and version 1 memory cgroups; uses the parts of the tests.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import utterances
from parts import (
    MB,
    ORDINARY_USER,
    TESTS,
    MemoryCgroup,
    RemotePool,
    RunningServer,
    entrance,
    memory_cgroup,
    naive_server,
    neighbour,
    remote_pool,
    swap_file,
    until,
)
from server import server
from tables import spread, table
from waves import wav

from modelserver.serving.load_specs import find_model
from modelserver.settings import Settings

LIMIT = 1150 * MB
COST_S = 20.0


def naive(clips: list[bytes]) -> list[str]:
    """Measure a server of several processes that each load the model."""
    model = find_model(Settings()).directory
    with memory_cgroup(LIMIT) as group, naive_server(model, 2, group.enter) as server_:
        ends: Counter[str] = Counter()

        def one(clip: bytes) -> None:
            status = server_.try_convert(clip)
            ends["no answer" if status is None else str(status)] += 1

        clients = [threading.Thread(target=one, args=(clip,), daemon=True) for clip in clips]
        for client in clients:
            client.start()
        deadline = time.monotonic() + 30
        while any(client.is_alive() for client in clients) and time.monotonic() < deadline:
            time.sleep(0.1)
        ends["still waiting after 30 s"] += sum(client.is_alive() for client in clients)
        return ["old shape, 2 processes", in_words(ends), kills(group)]


def ours(form: str, clips: list[bytes]) -> list[str]:
    """Measure this server under the same limit and load."""
    with (
        memory_cgroup(LIMIT) as group,
        server(form, before_exec=group.enter, MODELSERVER_DEBUG_WARMUP="none") as running,
        ThreadPoolExecutor(4) as clients,
    ):
        ends = Counter(clients.map(lambda clip: convert(running, clip), clips))
        return [f"this server, {form}, 2 workers", in_words(ends), kills(group)]


def convert(running: RunningServer, clip: bytes) -> str:
    answer = running.convert(clip)
    code = answer.json.get("error", {}).get("code")
    return "transcript" if answer.status == 200 else f"{answer.status} {code}"


def leak(rate: int | None) -> list[str]:
    """Measure a worker that leaks until it is ended, twice, beside one that works."""
    with memory_cgroup(500 * MB) as group, remote_pool(group.enter) as pool:
        other = pool.ask(run={"do": "steps", "count": 200, "step_s": 0.01})
        refused = pool.run(do="leak", bytes=5000 * MB, rate=rate)
        undisturbed = "result" in pool.answer(other)
        deaths = pool.status()["deaths"]
        speed = "as fast as it goes" if rate is None else f"{rate / MB:.0f} MB/s"
        result = f"{deaths}; {refused['error']}; the other job {'done' if undisturbed else 'lost'}"
        return [f"leak, {speed}, in 500 MB", result, kills(group)]


def visit() -> list[str]:
    """Measure a neighbour that takes memory and gives it back."""
    with (
        memory_cgroup(400 * MB) as group,
        remote_pool(group.enter) as pool,
        neighbour(group.enter) as other,
    ):
        other.take(1)
        levels = []
        for target in (24 * MB, 5 * MB):
            other.take(pool.status()["left"] - target)
            levels.append(level_after(pool))
        other.give_back()
        until(lambda: pool.status()["level"] == "normal", 20)
        result = f"{' -> '.join(levels)} -> normal; {pool.status()['deaths'] or 'no deaths'}"
        return ["neighbour takes all but 24, then 5 MB, and leaves", result, kills(group)]


def squeezed(user: int | None) -> list[str]:
    """Measure a limit that is lowered while a worker works, to less than its job needs."""
    with tempfile.TemporaryDirectory() as temporary, memory_cgroup(500 * MB) as group:
        marker = Path(temporary) / "marker"
        marker.parent.chmod(0o777)
        enter, python = entrance(group, user)
        with remote_pool(enter, python=python) as pool:
            group.limit(group.usage() + 3 * MB)
            once = {"do": "once", "marker": str(marker), "how": "grow", "bytes": 90 * MB}
            job = pool.ask(run=once)
            pool.event("worker.exited")
            group.limit(500 * MB)
            answered = "result" in pool.answer(job)
            result = f"{pool.status()['deaths']}; the job {'answered' if answered else 'lost'}"
            who = "root" if user is None else "an ordinary user"
            return [f"limit lowered under a worker's feet, as {who}", result, kills(group)]


def burst() -> list[str]:
    """Measure 500 uploads of two minutes of silence at once, where there are slots for 6."""
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp") as directory,
        memory_cgroup(700 * MB) as group,
        server(
            "prepared",
            before_exec=group.enter,
            MODELSERVER_DEBUG_WARMUP="none",
            MODELSERVER_LIMITS_QUEUE="4",
            MODELSERVER_SPOOL_DIRECTORY=directory,
        ) as running,
    ):
        supervisor = psutil.Process(running.pid)
        before = supervisor.memory_info().rss
        sent = subprocess.run(
            [sys.executable, str(TESTS / "burst.py"), running.url, "500"],
            input=json.dumps({"bytes": 4 * MB, "admin": str(running.admin)}),
            capture_output=True,
            text=True,
            check=True,
        )
        outcome = json.loads(sent.stdout)
        grown = (supervisor.memory_info().rss - before) / MB
        result = (
            f"{in_words(Counter(outcome['codes']))}; at most {outcome['most_on_disk'] / MB:.0f} MB "
            f"on disk; supervisor grown by {grown:.0f} MB"
        )
        return ["500 uploads of 4 MB at once, 6 places, in 700 MB", result, kills(group)]


def swapped() -> list[str]:
    """Measure a small cgroup with swap: the kernel swaps a leak out instead of killing."""
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp") as directory,
        swap_file(Path(directory) / "swap", 256 * MB),
        memory_cgroup(200 * MB) as group,
        remote_pool(group.enter, budget=120 * MB) as pool,
    ):
        refused = pool.run(do="leak", bytes=1000 * MB, rate=200 * MB, timeout_s=60)
        result = f"{pool.status()['deaths']}; {refused['error']}"
        return ["leak, 200 MB/s, in 200 MB, budget 120 MB, with swap", result, kills(group)]


def set_limit() -> list[str]:
    """No cgroup at all: the limit is the setting's."""
    with remote_pool(limit=400 * MB, budget=1000 * MB) as pool:
        refused = pool.run(do="leak", bytes=2000 * MB, rate=1000 * MB)
        result = f"{pool.status()['deaths']}; {refused['error']}"
        return ["leak, 1000 MB/s, no cgroup, memory.limit = 400 MB", result, "-"]


def kills(group: MemoryCgroup) -> str:
    return str(group.oom_kills())


def level_after(pool: RemotePool) -> str:
    time.sleep(1.5)
    return str(pool.status()["level"])


def watching() -> list[list[str]]:
    """Measure the supervisor's processor time in a pool of two workers of 300 MB, in percent of one
    core: with the guard's looks off, on, and on near the limit while both workers have a job."""
    rows = []
    for name, options in (
        ("idle, not watched", {"watch": False, "wait": False}),
        ("idle", {}),
        ("both at work, near the limit", {"limit": 500 * MB}),
    ):
        with remote_pool(load_bytes=300 * MB, **options) as pool:
            pool.event("worker.started")
            supervisor = psutil.Process(pool.process.pid)
            time.sleep(12 if "watch" not in options else 1)  # the exact readings after a start
            jobs = 2 if "limit" in options else 0
            steps = {"do": "steps", "count": int(COST_S * 4), "step_s": 0.25}
            asked = [pool.ask(run=steps) for _ in range(jobs)]
            shares = [share(supervisor, COST_S / 4) for _ in range(4)]
            left = pool.status()["left"] / MB if "watch" not in options else 0
            for number in asked:
                assert "result" in pool.answer(number, COST_S)
            rows.append([name, spread(shares), f"{left:.0f} MB" if jobs else ""])
    return rows


def cost() -> list[list[str]]:
    """Measure the supervisor's processor time for everything it does, in percent of one core."""
    rows = []
    for name, limit in (("plenty of memory", None), ("340 MB", 340 * MB)):
        with limited(limit) as enter, server("prepared", before_exec=enter) as running:
            clip = wav(utterances.utterances(None, 24)[0])
            time.sleep(12)  # the exact readings that follow a start
            supervisor = psutil.Process(running.pid)
            idle = [share(supervisor, COST_S / 4) for _ in range(4)]
            over = threading.Event()
            busy_threads = [
                threading.Thread(target=keep_busy, args=(running, clip, over)) for _ in range(2)
            ]
            before = supervisor.cpu_times()
            for thread in busy_threads:
                thread.start()
            time.sleep(COST_S / 2)
            over.set()
            for thread in busy_threads:
                thread.join()
            after = supervisor.cpu_times()
            busy = (sum(after[:2]) - sum(before[:2])) / (COST_S / 2) * 100
            rows.append([name, spread(idle), f"{busy:.2f}"])
    return rows


@contextlib.contextmanager
def limited(limit: int | None) -> Iterator[Any]:
    if limit is None:
        yield None
    else:
        with memory_cgroup(limit) as group:
            yield group.enter


def keep_busy(running: RunningServer, clip: bytes, over: threading.Event) -> None:
    while not over.is_set():
        convert(running, clip)


def share(process: psutil.Process, seconds: float) -> float:
    before = sum(process.cpu_times()[:2])
    time.sleep(seconds)
    return (sum(process.cpu_times()[:2]) - before) / seconds * 100


def in_words(ends: Counter[str]) -> str:
    return ", ".join(f"{count} {end}" for end, count in ends.most_common() if count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--skip-cost", action="store_true")
    parser.add_argument("--only-cost", action="store_true")
    options = parser.parse_args()
    if not options.only_cost:
        clips = [wav(pcm) for pcm in utterances.utterances(None, 24)]
        rows = [naive(clips), ours("plain", clips), ours("prepared", clips)]
        rows += [leak(50 * MB), leak(1000 * MB), leak(None), visit()]
        rows += [squeezed(None), squeezed(ORDINARY_USER), burst(), swapped(), set_limit()]
        print(table(["what", "result", "OOM kills by the kernel's count"], rows))
    if not options.skip_cost:
        head = ["a pool's supervisor, % of one core", "processor time", "left"]
        print(table(head, watching()))
        head = ["the server's supervisor, % of one core", "idle", "with requests"]
        print(table(head, cost()))


if __name__ == "__main__":
    main()
