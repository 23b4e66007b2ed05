"""This server beside those that people would take instead: throughput, latency against offered
load, memory.

    python benchmarks/contest.py [--rounds N] [--count N] [--seconds S] [--audio DIR]

All run at once, and are asked one after the other, round by round. In the closed loop eight clients
ask without a pause. In the open loop requests come at random (Poisson), at shares of what each did
in the closed loop, whether or not the ones before are answered; past 1 the queue grows for as long
as it goes on, or the server refuses.
"""

import argparse
import asyncio
import contextlib
import random
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import utterances
from bare import Bare
from contestants import Contestant, old_shape, prefork, this_server, threads
from server import WORKERS
from tables import spread, table

CONCURRENCY = 8
SHARES = (0.5, 0.8, 1.2)
_PATIENCE_S = 60.0


@dataclass
class Outcome:
    """What the clients of one round saw; seconds."""

    took_s: list[float] = field(default_factory=list)
    failed: int = 0
    wall_s: float = 0.0

    def percentile(self, share: float) -> float:
        ordered = sorted(self.took_s) or [float("nan")]
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


async def _one(
    contestant: Contestant, session: aiohttp.ClientSession, pcm: bytes, seen: Outcome
) -> None:
    began = time.monotonic()
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await contestant.ask(session, pcm)
    except (aiohttp.ClientError, TimeoutError, OSError, TypeError, ValueError):
        seen.failed += 1
    else:
        seen.took_s.append(time.monotonic() - began)


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))


async def closed(contestant: Contestant, files: list[bytes]) -> Outcome:
    """Each file once."""
    seen, left = Outcome(), iter(files)

    async def client(session: aiohttp.ClientSession) -> None:
        for pcm in left:
            await _one(contestant, session, pcm, seen)

    async with _session() as session:
        began = time.monotonic()
        await asyncio.gather(*(client(session) for _ in range(CONCURRENCY)))
        seen.wall_s = time.monotonic() - began
    return seen


async def offered(
    contestant: Contestant, files: list[bytes], a_second: float, seconds: float
) -> Outcome:
    """So many requests a second, for so long."""
    seen, random_ = Outcome(), random.Random(1)
    async with _session() as session:
        began = time.monotonic()
        at, number, asked = 0.0, 0, []
        while (at := at + random_.expovariate(a_second)) < seconds:
            await asyncio.sleep(max(0.0, began + at - time.monotonic()))
            pcm = files[number % len(files)]
            asked.append(asyncio.create_task(_one(contestant, session, pcm, seen)))
            number += 1
        await asyncio.gather(*asked)
        seen.wall_s = time.monotonic() - began
    return seen


def contest(rounds: int, files: list[bytes], seconds: float, audio: str, count: int) -> str:
    """Both loops, and the memory after them."""
    audio_s = sum(map(utterances.seconds, files))
    rates: dict[str, list[float]] = {}
    closed_p95: dict[str, list[float]] = {}
    ratios: dict[str, list[float]] = {}
    limit = Bare("prepared", WORKERS, audio, count, "auto")
    with contextlib.ExitStack() as running:
        servers = [
            running.enter_context(start()) for start in (this_server, threads, prefork, old_shape)
        ]
        ours = servers[0].name
        for contestant in servers:  # the first requests are slower
            asyncio.run(closed(contestant, files[: len(files) // 4]))
        limit.run()
        for number in range(rounds):
            found = {"the limit": audio_s / limit.run()["wall_s"]}
            for contestant in servers:
                seen = asyncio.run(closed(contestant, files))
                assert not seen.failed, f"{contestant.name}: {seen.failed} failed"
                found[contestant.name] = audio_s / seen.wall_s
                closed_p95.setdefault(contestant.name, []).append(seen.percentile(0.95))
            for name, rate in found.items():
                rates.setdefault(name, []).append(rate)
                ratios.setdefault(name, []).append(found[ours] / rate)
            _say(f"round {number + 1} of {rounds}: {found}")
        rows = [
            [
                name,
                spread(rates[name], ".1f"),
                spread(ratios[name], ".2f"),
                spread(closed_p95[name]) if name in closed_p95 else "",
            ]
            for name in rates
        ]
        head = ["closed loop, 8 clients", "audio s per s", "this server over it", "p95, s"]
        parts = [table(head, rows)]
        mean_s = audio_s / len(files)
        rows = []
        for contestant in servers:
            own = statistics.median(rates[contestant.name]) / mean_s
            for share in SHARES:
                seen = asyncio.run(offered(contestant, files, own * share, seconds))
                rows.append(
                    [
                        contestant.name,
                        f"{share:g}",
                        f"{own * share * mean_s:.1f}",
                        *(f"{seen.percentile(p):.2f}" for p in (0.5, 0.95, 0.99)),
                        str(len(seen.took_s)),
                        str(seen.failed),
                    ]
                )
                _say(str(rows[-1]))
        head = ["open loop", "of its own rate", "offered, audio s per s", "p50, s", "p95, s",
                "p99, s", "answered", "not"]  # fmt: skip
        parts.append(table(head, rows))
    limit.close()
    return "\n\n".join(parts)


def memory(files: list[bytes]) -> str:
    """After all files, with one, two and four workers."""
    rows = []
    for workers in (1, 2, 4):
        with this_server(workers) as ours, prefork(workers) as theirs:
            for contestant in (ours, theirs):
                asyncio.run(closed(contestant, files))
            mine, other = ours.memory_mb(), theirs.memory_mb()
            rows.append([str(workers), f"{mine:.0f}", f"{other:.0f}", f"{mine / other:.3f}"])
    head = ["workers", "this server, MB", "prefork, MB", "ratio"]
    return table(head, rows)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=24, help="utterances")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each offered load")
    parser.add_argument("--audio", default="", help="directory of 16 kHz mono WAV files")
    asked = parser.parse_args()
    files = utterances.utterances(Path(asked.audio) if asked.audio else None, asked.count)
    result = contest(asked.rounds, files, asked.seconds, asked.audio, asked.count)
    print(result, end="\n\n", flush=True)
    print(memory(files))


if __name__ == "__main__":
    main()
