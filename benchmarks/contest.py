"""Comparison of this server with those that people would take instead: throughput, latency against
offered load, memory. A part of `bench.py`.

All run at once, and are measured one after the other, round by round. In the closed loop eight
clients send without a pause. In the open loop requests come at random moments (Poisson), at shares
of what each did in a short closed loop, whether or not earlier ones are answered; past 1 the queue
grows until the end, or the server refuses.
"""

import asyncio
import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence

import utterances
from bare import Bare, bare_vosk
from contestants import (
    THIS,
    Contestant,
    Start,
    litserve,
    mosec,
    old_shape,
    prefork,
    this_server,
    threads,
    threads_name,
)
from findings import Asked, Finding, Line, Plot, Table, say
from load import CONCURRENCY, closed, offered
from server import WORKERS
from tables import spread

SHARES = (0.5, 0.8, 1.2)
LIMIT = "no server"
"""Forked processes that only decode, as many as a server has workers."""
_FAST_TIMES = 8
"""Number of times that fast contestants go through the files in a round, without a pause: once
takes them half a second, most of it beginning and end."""


@contextlib.contextmanager
def everyone(asked: Asked, *, slowest: bool = True) -> Iterator[list[Contestant]]:
    """Start all contestants, this server first."""
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(this_server())]
        if asked.before is not None:
            another = this_server(name=asked.before_name, tree=asked.before)
            found.append(stack.enter_context(another))
        found += [stack.enter_context(start()) for start in (threads, mosec, litserve, prefork)]
        if slowest:
            found.append(stack.enter_context(old_shape()))
        yield found


def _quick(contestant: Contestant, asked: Asked) -> bool:
    return contestant.name in (THIS, asked.before_name)


def closed_loop(asked: Asked) -> Finding:
    """Audio seconds a second, eight clients without a pause, beside as many forked processes
    without a server."""
    limit = bare_vosk("prepared", WORKERS, str(asked.audio), len(asked.files()), "auto")
    with contextlib.closing(limit), everyone(asked) as contestants:
        fast = {one.name for one in contestants if _quick(one, asked)} | {LIMIT}
        finding = in_turn(asked, contestants, limit, fast)
    finding.notes += [
        f"`{LIMIT}` is the upper bound: forked processes that decode the files without a server.",
        "The ratio in the third column is taken round by round.",
    ]
    for name, target in ((LIMIT, 0.95), (threads_name(), 22), ("single process", 40)):
        finding.target(f"{THIS} / {name}", target, finding.raw["modelserver_over"][name])
    return finding


def in_turn(
    asked: Asked,
    contestants: Sequence[Contestant],
    limit: Bare,
    fast: Collection[str] = (),
    title: str = "",
) -> Finding:
    """Send all files to running servers in turn, round by round, and have `limit` decode them.
    `fast`: names of those that go through the files several times in a round."""
    files = asked.files()
    audio_s = sum(map(utterances.seconds, files))
    rates: dict[str, list[float]] = {}
    p95: dict[str, list[float]] = {}
    limit.run()
    for contestant in contestants:  # the first requests are slower
        asyncio.run(closed(contestant, files[-WORKERS:]))

    def times(name: str) -> int:
        return _FAST_TIMES if name in fast else 1

    for number in range(asked.rounds):
        wall_s = limit.run(times(LIMIT))["wall_s"]
        rates.setdefault(LIMIT, []).append(times(LIMIT) * audio_s / wall_s)
        for contestant in contestants[:: 1 if number % 2 else -1]:
            name = contestant.name
            seen = asyncio.run(closed(contestant, files * times(name)))
            assert not seen.lost, (name, seen.failed)
            rates.setdefault(name, []).append(times(name) * audio_s / seen.wall_s)
            p95.setdefault(name, []).append(seen.percentile(0.95))
        last = ", ".join(f"{name} {found[-1]:.1f}" for name, found in rates.items())
        say(f"round {number + 1} of {asked.rounds}: {last}")
    ratios, table = _throughput_table(title, rates, p95)
    finding = Finding(raw={"audio_s_per_s": rates, "p95_s": p95, "modelserver_over": ratios})
    finding.notes += [
        (
            f"{len(files)} files with {audio_s:.0f} s of audio, {CONCURRENCY} clients, {WORKERS} "
            f"workers, {asked.rounds} rounds."
        ),
        "All servers run at the same time and receive their requests in turn.",
    ]
    finding.tables.append(table)
    return finding


def _throughput_table(
    title: str, rates: Mapping[str, list[float]], p95: Mapping[str, list[float]]
) -> tuple[dict[str, list[float]], Table]:
    """Return the ratio of this server to each row, round by round, and the table of all rows."""
    ratios = {
        name: [ours / theirs for ours, theirs in zip(rates[THIS], found, strict=True)]
        for name, found in rates.items()
    }
    names = [LIMIT, THIS, *(name for name in rates if name not in (LIMIT, THIS))]
    rows = [
        (
            name,
            spread(rates[name], ".1f"),
            spread(ratios[name], ".2f"),
            spread(p95[name]) if name in p95 else "",
        )
        for name in names
    ]
    head = ("", "audio s per s", "modelserver / row", "95th percentile of latency, s")
    return ratios, Table(title, head, rows)


def open_loop(asked: Asked) -> Finding:
    """Measure how long requests take when they come at random, below and above what a server can
    do."""
    files = asked.short(3.0)
    mean_s = sum(map(utterances.seconds, files)) / len(files)
    count = 200 if asked.full else 12
    finding = Finding(raw={"mean_s": mean_s, "offered": {}})
    rows, lines = [], []
    with everyone(asked, slowest=asked.full) as contestants:
        for contestant in contestants:
            quick = _quick(contestant, asked)
            first = asyncio.run(closed(contestant, files * (_FAST_TIMES if quick else 1)))
            assert not first.lost, (contestant.name, first.failed)
            own = len(first.took_s) / first.wall_s
            xs, ys = [], []
            for share in SHARES:
                seen = asyncio.run(
                    offered(contestant, files, own * share, count * (8 if quick else 1))
                )
                xs.append(own * share * mean_s)
                ys.append(seen.percentile(0.95))
                rows.append(
                    (
                        contestant.name,
                        f"{share:g}",
                        f"{xs[-1]:.1f}",
                        *(f"{seen.percentile(p):.2f}" for p in (0.5, 0.95, 0.99)),
                        str(len(seen.took_s)),
                        str(seen.lost),
                    )
                )
                finding.raw["offered"].setdefault(contestant.name, []).append(
                    {"share": share, "audio_s_per_s": xs[-1], "took_s": seen.took_s,
                     "failed": seen.failed}
                )  # fmt: skip
            lines.append(Line(contestant.name, xs, ys))
            say(", ".join(" ".join(row[1:5]) for row in rows[-len(SHARES) :]) + contestant.name)
    finding.notes += [
        f"Clips of at most 3 s ({mean_s:.1f} s on average) arrive at random moments.",
        f"The offered load is {', '.join(map(str, SHARES))} of the throughput of each server.",
        f"Each row has {count} requests, of {THIS} {8 * count}.",
    ]
    head = ("", "share of its throughput", "offered, audio s per s", "median, s",
            "95th percentile, s", "99th percentile, s", "answered", "failed")  # fmt: skip
    finding.tables.append(Table("", head, rows))
    finding.plots.append(
        Plot(
            "latency",
            "95th percentile of latency against offered load",
            "offered, audio seconds a second",
            "seconds",
            lines,
            log_x=True,
            log_y=True,
        )
    )
    return finding


def vosk_memory(asked: Asked) -> Finding:
    """Measure unreclaimable memory, after all files, over the number of workers."""
    finding = memory(asked, (this_server, mosec, litserve, prefork, threads))
    found = finding.raw["anonymous_mb"]
    at = finding.raw["workers"].index(4)
    share = found[THIS][at] / found["prefork"][at]
    finding.target(f"memory of 4 workers, {THIS} / prefork", 0.12, [share], most=True)
    return finding


def memory(asked: Asked, starts: Sequence[Start]) -> Finding:
    """Measure the anonymous memory of several servers, by their number of workers."""
    files = asked.short(3.0)
    counts = (1, 2, 4, 8) if asked.full else (1, 2, 4)
    found: dict[str, list[float]] = {}
    for workers in counts:
        for start in starts:
            with start(workers) as contestant:
                asyncio.run(closed(contestant, files))
                found.setdefault(contestant.name, []).append(contestant.memory_mb())
        say(f"{workers} workers: " + ", ".join(f"{n} {mb[-1]:.0f} MB" for n, mb in found.items()))
    finding = Finding(raw={"workers": counts, "anonymous_mb": found})
    finding.notes.append("The kernel cannot take anonymous memory back; shared pages count once.")
    finding.tables.append(
        Table(
            "Anonymous memory of all processes, MB",
            ("workers", *map(str, counts)),
            [(name, *(f"{one:.0f}" for one in mb)) for name, mb in found.items()],
        )
    )
    finding.plots.append(
        Plot("memory", "Memory over workers", "workers", "MB of anonymous memory",
             [Line(name, counts, mb) for name, mb in found.items()])
    )  # fmt: skip
    return finding
