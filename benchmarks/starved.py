"""A model that does not fit into the file cache: what the workers' time goes into, and how many of
them should work at once.

    python benchmarks/starved.py [--rounds 2]

Needs root and version 1 cgroups (memory, block I/O). The cache is dropped before each run, for the
whole machine.
"""

import argparse
import contextlib
import os
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import utterances
from parts import MB, RunningServer, memory_cgroup, slow_disk
from server import server
from tables import spread, table
from waves import wav

from modelserver.cli import main as cli
from modelserver.settings import Settings
from supervisor.guard import policy

CLIENTS = 4
ALL_AT_ONCE = ("-c", "import starved; starved.all_at_once()")
"""A server whose guard never lets fewer workers work."""


@dataclass
class Run:
    """Seconds of audio a second; of the workers' time, what was waited and what was lost; faults a
    second of work."""

    speed: float
    waiting: float
    lost: float
    faults: float


def all_at_once() -> None:
    """Runs in that server's process."""
    policy.THRASHING_SHARE = 9.0
    cli()


def run(limit: int, reads_per_s: int | None, workers: int, clips: list[bytes]) -> Run:
    """One server in its cgroup, from a cold cache, until every clip is answered."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("1")
    store = Settings().prepared_dir
    with contextlib.ExitStack() as stack:
        group = stack.enter_context(memory_cgroup(limit))
        disk = stack.enter_context(slow_disk(store))

        def enter() -> None:
            group.enter()
            disk.enter()

        if reads_per_s is not None:
            disk.reads_per_s(reads_per_s)
        running = stack.enter_context(
            server(
                "prepared",
                workers,
                enter,
                ALL_AT_ONCE,
                MODELSERVER_DEBUG_WARMUP="none",
                PYTHONPATH=str(Path(__file__).parent),
            )
        )
        over = threading.Event()
        seen: list[tuple[float, float, float]] = []
        watching = threading.Thread(target=watch, args=(running, over, seen))
        watching.start()
        started = time.monotonic()
        with ThreadPoolExecutor(CLIENTS) as clients:
            statuses = set(clients.map(lambda clip: running.convert(wav(clip)).status, clips))
        took = time.monotonic() - started
        over.set()
        watching.join()
        assert statuses == {200}, statuses
        assert group.oom_kills() == 0
    settled = seen[2:] or seen
    waiting, lost, faults = (statistics.median(values) for values in zip(*settled, strict=True))
    return Run(sum(map(utterances.seconds, clips)) / took, waiting, lost, faults)


def watch(
    running: RunningServer, over: threading.Event, seen: list[tuple[float, float, float]]
) -> None:
    """What the guard sees, once a second."""
    while not over.wait(1.0):
        memory = running.health()["memory"]
        seen.append(
            (memory["waiting_share"], memory["lost_share"], memory["major_faults_per_work_s"])
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    clips = utterances.utterances(None, 24)
    cases = [
        ("280 MB", 280 * MB, None, clips),
        ("320 MB", 320 * MB, None, clips),
        ("300 MB, 1500 reads a second", 300 * MB, 1500, clips[:8]),
    ]
    rows = []
    for name, limit, reads, some in cases:
        rounds = [
            (run(limit, reads, 2, some), run(limit, reads, 1, some)) for _ in range(options.rounds)
        ]
        both, alone = zip(*rounds, strict=True)
        rows.append(
            [
                name,
                spread([r.speed for r in both]),
                spread([r.speed for r in alone]),
                spread([one.speed / two.speed for two, one in rounds]),
                spread([r.waiting for r in both]),
                spread([r.lost for r in both]),
                spread([r.faults for r in both], ".0f"),
            ]
        )
    head = ["memory cgroup", "2 at once, audio s per s", "1 at once", "1 over 2"]
    head += ["share of the time waiting", "lost", "faults per second of work (2 at once)"]
    print(table(head, rows))


if __name__ == "__main__":
    main()
