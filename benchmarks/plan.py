"""What `modelserver plan` foretells of this machine, against this machine.

    python benchmarks/plan.py [--rounds N] [--seconds S] [--audio DIR]

The machine is measured as the command does it. Then recordings, whose lengths are spread
lognormally, come at random times (a Poisson process, an open loop) to a server of one worker and of
two, at shares of what they can carry, and at last faster than that. Throughput and the 95th
percentile are compared with the simulation's, of the same arrivals: with the pace that was measured
before, and with that of the run itself.
"""

import argparse
import asyncio
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import aiohttp
import utterances
from server import server
from tables import spread, table
from waves import wav

from modelserver.logs import configure_logs
from modelserver.planning.load import Load, supposed
from modelserver.planning.machine import Machine, fitted_line, measured_machine
from modelserver.planning.simulation import Arrival, arrivals_of, simulate_arrivals
from modelserver.settings import LogSettings, Settings
from modelserver.settings.changes import with_values

SHARES = (0.5, 0.7, 1.3)


async def arrive(url: str, arrivals: list[Arrival], speech: bytes) -> tuple[float, float]:
    """Audio seconds a second that were answered, and the 95th percentile of the time it took."""
    took: list[float] = []
    # As the simulation has it: nobody is refused, and nobody shares a connection.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        begun = time.monotonic()

        async def one(number: int, when: float, length_s: float) -> None:
            body = cut(speech, length_s, 54_321 * number)
            await asyncio.sleep(when - (time.monotonic() - begun))
            sent = time.monotonic()
            async with session.post(f"{url}/api/audio/convert", data=body) as answer:
                assert answer.status == 200, await answer.text()
            took.append(time.monotonic() - sent)

        await asyncio.gather(*(one(n, *arrival) for n, arrival in enumerate(arrivals)))
        span = time.monotonic() - begun - arrivals[0][0]
    took.sort()
    return sum(length for _, length in arrivals) / span, took[int(0.95 * len(took))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--audio", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    speech = b"".join(utterances.utterances(options.audio, 40)) * 4
    rows = []
    configure_logs(LogSettings(level="error"))
    for workers in options.workers:
        settings = with_values(Settings(), {"debug.warmup": "none", "workers.count": workers})
        seen: dict[float, list[tuple[float, float]]] = {share: [] for share in SHARES}
        told: dict[float, list[tuple[float, ...]]] = {share: [] for share in SHARES}
        for number in range(options.rounds):
            machine = asyncio.run(measured_machine(settings, like_those(speech)))
            print(workers, machine, flush=True)
            with server("prepared", workers, MODELSERVER_LIMITS_QUEUE="10000") as running:
                warm = [(0.01 * n, 10.0) for n in range(6)]
                asyncio.run(arrive(running.url, warm, speech))
                for share in SHARES:
                    load = at_share(machine, share)
                    requests = int(load.rate * options.seconds)
                    arrivals = list(arrivals_of(load, requests, 1 + number))
                    before = len(running.events("request.done"))
                    seen[share].append(asyncio.run(arrive(running.url, arrivals, speech)))
                    done = running.events("request.done")[before:]
                    then = as_it_was(machine, [(e["audio_s"], e["run_s"]) for e in done])
                    foretold, at_its_pace = (
                        simulate_arrivals(arrivals, one, 1) for one in (machine, then)
                    )
                    told[share].append(
                        (foretold.throughput, foretold.p95, at_its_pace.throughput, at_its_pace.p95)
                    )
                    print(workers, share, seen[share][-1], told[share][-1], flush=True)
        rows += [row(workers, share, seen[share], told[share]) for share in SHARES]
    ratios = ["over foretold", "over the simulation at the run's own pace"]
    head = ["workers", "share", "audio s/s", *ratios, "95 % within, s", *ratios]
    print(table(head, rows))


def like_those(speech: bytes) -> list[bytes]:
    """What the machine is measured with: of the same speech, but other parts of it."""
    lengths = (1.0, 2.0, 4.0, 8.0, 16.0) * 4
    return [cut(speech, length_s, 98_765 * number) for number, length_s in enumerate(lengths)]


def cut(speech: bytes, length_s: float, sample: int) -> bytes:
    """So much of it, from that sample on, as a file."""
    size = int(length_s * utterances.RATE) * 2
    at = 2 * sample % (len(speech) - size)
    return wav(speech[at : at + size])


def as_it_was(machine: Machine, points: list[tuple[float, float]]) -> Machine:
    """The machine by what its log says of the run itself: on a machine that others use, too, the
    pace of a minute ago is not that of now."""
    overhead_s, pace, noise = fitted_line(points)
    return replace(machine, overhead_s=overhead_s, pace=pace, noise=noise)


def at_share(machine: Machine, share: float) -> Load:
    """So much of what it can carry at all."""
    load = supposed(1.0, 5.0, 0.8)
    mean = fmean(machine.service_s(length) for length in load.lengths)
    return Load(share * machine.workers / mean, load.lengths, load.of)


def row(
    workers: int, share: float, seen: list[tuple[float, float]], told: list[tuple[float, ...]]
) -> list[str]:
    pairs = list(zip(seen, told, strict=True))
    return [
        str(workers),
        f"{share:.1f}",
        spread([one for one, _ in seen], ".1f"),
        spread([s[0] / t[0] for s, t in pairs]),
        spread([s[0] / t[2] for s, t in pairs]),
        spread([one for _, one in seen]),
        spread([s[1] / t[1] for s, t in pairs]),
        spread([s[1] / t[3] for s, t in pairs]),
    ]


if __name__ == "__main__":
    main()
