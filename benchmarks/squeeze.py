"""Servers whose memory gets short: a limit of 1 GB, and another process in it that takes more and
more. A part of `bench.py`; as root, with version 1 of the memory controller."""

import asyncio
import contextlib
import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
from contestants import Contestant, Start, litserve, mosec, prefork, this_server, threads
from findings import Asked, Finding, LeftOutError, Line, Plot, Table, say
from load import Seen, gone, steady
from parts import MB, MemoryCgroup, Neighbour, memory_cgroup, neighbour

LIMIT = 1000 * MB
LEFT = (1000, 700, 300, 1000)
"""MB that are left for the server, phase after phase."""
_CLIENTS = 3
_LOOK_S = 0.25


class _Watch:
    """Observations, four times a second."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.memory_mb: list[float] = []
        self.answered: list[int] = []
        self.failed: list[int] = []


def squeeze(asked: Asked) -> Finding:
    """Memory, answers and kills, phase by phase."""
    if os.geteuid() != 0 or not Path("/sys/fs/cgroup/memory").is_dir():
        raise LeftOutError("it needs root and version 1 of the memory controller")
    phase_s = 15.0 if asked.full else 5.0
    starts: list[Start] = [this_server, threads, mosec, prefork]
    if asked.full:
        starts.append(litserve)
    files = asked.short(3.0)
    finding, rows = Finding(raw={"squeeze": {}}), []
    memory, answers = [], []
    for start in starts:
        name, watch, seen, kills, end = _one(start, files, phase_s)
        phases = _by_phase(watch, phase_s)
        why = ", ".join(f"{count} x {reason}" for reason, count in seen.failed.items())
        rows.append((name, *phases, str(kills), why or "none", end))
        say(" | ".join(rows[-1]))
        finding.raw["squeeze"][name] = {
            "at_s": watch.at, "memory_mb": watch.memory_mb, "answered": watch.answered,
            "failed": watch.failed, "oom_kills": kills, "reasons": seen.failed, "end": end,
        }  # fmt: skip
        memory.append(Line(name, watch.at, watch.memory_mb))
        answers.append(Line(name, watch.at, watch.answered))
    finding.notes += [
        (
            f"Another process takes memory, so that {', '.join(f'{left} MB' for left in LEFT)} are "
            f"left for the server, {phase_s:g} s each."
        ),
        f"{_CLIENTS} clients send short clips without a pause.",
        (
            "503 is a rejection with `Retry-After`; the other failures are errors of clients whose "
            "server has ended."
        ),
    ]
    head = ("", *(f"answered at {left} MB" for left in LEFT), "OOM kills", "requests that failed",
            "at the end")  # fmt: skip
    finding.tables.append(Table("", head, rows))
    marks = [(number * phase_s, f"{left} MB left") for number, left in enumerate(LEFT)]
    finding.plots += [
        Plot("squeeze-memory", "A memory squeeze: memory of each server", "seconds",
             "MB of anonymous memory", memory, marks=marks, steps=True),
        Plot("squeeze-answers", "A memory squeeze: requests answered so far", "seconds",
             "requests", answers, marks=marks, steps=True),
    ]  # fmt: skip
    return finding


def _one(start: Start, files: list[bytes], phase_s: float) -> tuple[str, _Watch, Seen, int, str]:
    watch, seen = _Watch(), Seen()
    name, end = start.__name__.replace("_", " "), ""
    with memory_cgroup(LIMIT) as group:
        try:
            with start(enter=_victim(group)) as contestant, neighbour(group.enter) as other:
                name, end = contestant.name, "ended"
                asyncio.run(_watched(contestant, other, files, phase_s, watch, seen))
                if able := contestant.able():
                    end = f"{able} workers"
        except (AssertionError, OSError, ValueError, psutil.NoSuchProcess) as error:
            # Where the kernel has killed a server or the neighbour, pipes to them are broken.
            end = end or f"did not start ({type(error).__name__})"
        return name, watch, seen, group.oom_kills(), end


async def _watched(
    contestant: Contestant,
    other: Neighbour,
    files: list[bytes],
    phase_s: float,
    watch: _Watch,
    seen: Seen,
) -> None:
    over = threading.Event()
    taking = asyncio.create_task(asyncio.to_thread(_take, other, phase_s, over))
    clients = asyncio.create_task(steady(contestant, files, over.is_set, seen, _CLIENTS))
    began = time.monotonic()
    while not over.is_set():
        watch.at.append(round(time.monotonic() - began, 2))
        watch.memory_mb.append(round(contestant.memory_mb(), 1))
        watch.answered.append(len(seen.took_s))
        watch.failed.append(seen.lost)
        await asyncio.sleep(_LOOK_S)
    await taking
    await gone(clients, seen, phase_s)


def _victim(group: MemoryCgroup) -> Callable[[], None]:
    """Return a function that makes a process the kernel's victim before the neighbour, which is
    larger."""

    def enter() -> None:
        group.enter()
        Path("/proc/self/oom_score_adj").write_text("900")

    return enter


def _take(other: Neighbour, phase_s: float, over: threading.Event) -> None:
    began = time.monotonic()
    for number, (before, left) in enumerate(itertools.pairwise(LEFT), 1):
        time.sleep(max(0.0, began + number * phase_s - time.monotonic()))
        # The kernel may have killed the neighbour after all: then there is room again.
        with contextlib.suppress(AssertionError, OSError):
            if left < before:
                other.take((before - left) * MB)
            else:
                other.give_back()
    time.sleep(max(0.0, began + len(LEFT) * phase_s - time.monotonic()))
    over.set()


def _by_phase(watch: _Watch, phase_s: float) -> list[str]:
    counts: Counter[int] = Counter()
    last = 0
    for at, answered in zip(watch.at, watch.answered, strict=True):
        counts[min(len(LEFT) - 1, int(at / phase_s))] += answered - last
        last = answered
    return [str(counts[number]) for number in range(len(LEFT))]
