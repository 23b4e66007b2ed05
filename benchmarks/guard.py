"""The guard against the real kernel, in counts: the story, leaks, neighbours; and what it costs.

    python benchmarks/guard.py [--skip-cost]

Needs root and version 1 memory cgroups; uses the parts of the tests.
"""

import argparse
import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import utterances
from serving import Server, server
from tables import spread, table
from waves import wav

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from cgroup import MB, memory_cgroup
from naive_client import naive_server
from neighbour import neighbour
from remote_pool import RemotePool, remote_pool
from running import until

from modelserver.serving.targets import find_model
from modelserver.settings import Settings

LIMIT = 1150 * MB
COST_S = 20.0


def naive(clips: list[bytes]) -> list[str]:
    """A server of the old shape."""
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
        return ["old shape, 2 processes", in_words(ends), str(group.oom_kills())]


def ours(form: str, clips: list[bytes]) -> list[str]:
    """The same limit and load."""
    with (
        memory_cgroup(LIMIT) as group,
        server(form, before_exec=group.enter, MODELSERVER_WARMUP="none") as running,
        ThreadPoolExecutor(4) as clients,
    ):
        ends = Counter(clients.map(lambda clip: convert(running, clip), clips))
        return [f"this server, {form}, 2 workers", in_words(ends), str(group.oom_kills())]


def convert(running: Server, clip: bytes) -> str:
    status, document = running.ask("POST", "/api/audio/convert", clip)
    return "transcript" if status == 200 else f"{status} {document['error']['code']}"


def leak(rate: int | None) -> list[str]:
    """A worker that leaks until it is ended, twice, beside one that works."""
    with memory_cgroup(500 * MB) as group, remote_pool(group.enter) as pool:
        other = pool.ask(run={"do": "steps", "count": 200, "step_s": 0.01})
        refused = pool.run(do="leak", bytes=5000 * MB, rate=rate)
        undisturbed = "result" in pool.answer(other)
        deaths = pool.status()["deaths"]
        speed = "as fast as it goes" if rate is None else f"{rate / MB:.0f} MB/s"
        result = f"{deaths}; {refused['error']}; the other job {'done' if undisturbed else 'lost'}"
        return [f"leak, {speed}, in 500 MB", result, str(group.oom_kills())]


def visit() -> list[str]:
    """A neighbour that takes memory and gives it back."""
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
        return ["neighbour takes all but 24, then 5 MB, and leaves", result, str(group.oom_kills())]


def level_after(pool: RemotePool) -> str:
    time.sleep(1.5)
    return str(pool.status()["level"])


def cost() -> list[list[str]]:
    """The supervisor's processor time, all that it does included, in percent of one core."""
    rows = []
    for name, limit in (("plenty of memory", None), ("340 MB", 340 * MB)):
        with limited(limit) as enter, server("prepared", before_exec=enter) as running:
            clip = wav(utterances.utterances(None, 24)[0])
            time.sleep(12)  # the exact readings that follow a start
            supervisor = psutil.Process(running.process.pid)
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


def keep_busy(running: Server, clip: bytes, over: threading.Event) -> None:
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
    options = parser.parse_args()
    clips = [wav(pcm) for pcm in utterances.utterances(None, 24)]
    rows = [naive(clips), ours("plain", clips), ours("prepared", clips)]
    rows += [leak(50 * MB), leak(1000 * MB), leak(None), visit()]
    print(table(["what", "result", "OOM kills by the kernel's count"], rows))
    if not options.skip_cost:
        head = ["supervisor's processor time, % of one core", "idle", "with requests"]
        print(table(head, cost()))


if __name__ == "__main__":
    main()
