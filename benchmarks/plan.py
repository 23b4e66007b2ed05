"""What `modelserver plan` foretells of this machine, against this machine.

    python benchmarks/plan.py [--rounds N] [--seconds S] [--audio DIR]

The machine is measured as the command does it. Then recordings, whose lengths are spread
lognormally, come at random times (a Poisson process, an open loop) to a server of one worker and of
two, at shares of what they can carry, and at last faster than that. Throughput and the 95th
percentile are compared with the simulation's and the formula's.
"""

import argparse
import asyncio
import random
import time
from pathlib import Path
from statistics import fmean

import aiohttp
import msgspec
import utterances
from server import server
from tables import spread, table
from waves import wav

from modelserver.planning.load import Load, supposed
from modelserver.planning.machine import Machine, measured_machine
from modelserver.planning.queueing import latency
from modelserver.planning.simulation import simulate
from modelserver.settings import Settings

SHARES = (0.5, 0.7, 1.3)


async def arrive(
    url: str, load: Load, speech: bytes, seconds: float, seed: int
) -> tuple[float, float]:
    """Audio seconds a second that were answered, and the 95th percentile of the time it took."""
    chance = random.Random(seed)
    took: list[float] = []
    heard = 0.0
    # As the simulation has it: nobody is refused, and nobody shares a connection.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def one(length_s: float) -> None:
            nonlocal heard
            size = int(length_s * utterances.RATE) * 2
            at = chance.randrange(0, len(speech) - size, 2)
            began = time.monotonic()
            async with session.post(
                f"{url}/api/audio/convert", data=wav(speech[at : at + size])
            ) as a:
                assert a.status == 200, await a.text()
            took.append(time.monotonic() - began)
            heard += length_s

        begun = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            while time.monotonic() - begun < seconds:
                await asyncio.sleep(chance.expovariate(load.rate))
                tasks.create_task(one(chance.choice(load.lengths)))
        span = time.monotonic() - begun
    took.sort()
    return heard / span, took[int(0.95 * len(took))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--audio", type=Path)
    options = parser.parse_args()
    speech = b"".join(utterances.utterances(options.audio, 40)) * 2
    rows = []
    for workers in (1, 2):
        settings = Settings()
        settings = msgspec.structs.replace(
            settings,
            warmup="none",
            workers=msgspec.structs.replace(settings.workers, count=workers),
        )
        seen: dict[float, list[tuple[float, float]]] = {share: [] for share in SHARES}
        told: dict[float, list[tuple[float, float, float]]] = {share: [] for share in SHARES}
        for number in range(options.rounds):
            machine = asyncio.run(measured_machine(settings))
            print(workers, machine, flush=True)
            with server("prepared", workers, MODELSERVER_LIMITS_QUEUE="10000") as running:
                for share in SHARES:
                    load = at_share(machine, share)
                    seen[share].append(
                        asyncio.run(arrive(running.url, load, speech, options.seconds, number))
                    )
                    requests = max(50, int(load.rate * options.seconds))
                    told[share].append(foretold(load, machine, requests))
                    print(workers, share, seen[share][-1], told[share][-1], flush=True)
        rows += [row(workers, share, seen[share], told[share]) for share in SHARES]
    head = ["workers", "share of what it carries", "audio s/s", "over foretold"]
    print(table([*head, "95 % within, s", "over simulation", "over formula"], rows))


def at_share(machine: Machine, share: float) -> Load:
    """So much of what it can carry at all."""
    load = supposed(1.0, 5.0, 0.8)
    mean = fmean(machine.service_s(length) for length in load.lengths)
    return Load(share * machine.workers / mean, load.lengths, load.of)


def foretold(load: Load, machine: Machine, requests: int) -> tuple[float, float, float]:
    """Throughput and the 95th percentile by simulation (of as many requests, the median of several
    runs where they are few), and the latter by the formula."""
    runs = [simulate(load, machine, 1, requests, seed) for seed in range(1, 10)]
    middle = sorted(runs, key=lambda run: run.p95)[len(runs) // 2]
    throughput = sorted(run.throughput for run in runs)[len(runs) // 2]
    return throughput, middle.p95, latency(load, machine, 1, 0.95)


def row(
    workers: int,
    share: float,
    seen: list[tuple[float, float]],
    told: list[tuple[float, float, float]],
) -> list[str]:
    pairs = list(zip(seen, told, strict=True))
    return [
        str(workers),
        f"{share:.1f}",
        spread([one for one, _ in seen], ".1f"),
        spread([s[0] / t[0] for s, t in pairs]),
        spread([one for _, one in seen]),
        spread([s[1] / t[1] for s, t in pairs]),
        spread([s[1] / t[2] for s, t in pairs]) if share < 1 else "-",
    ]


if __name__ == "__main__":
    main()
