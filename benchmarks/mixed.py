"""A long recording, alone and with short files beside it. A part of `bench.py`."""

import asyncio
import random
import statistics

import utterances
from contestants import Contestant, litserve, mosec, prefork, this_server
from findings import Asked, Finding, Table, say
from load import Seen, closed, one, session
from tables import spread


def mixed(asked: Asked) -> Finding:
    """Measure how long the recording takes, and how long a short file waits beside it."""
    seconds = 600.0 if asked.full else 30.0
    pcm = recording(asked.files(), seconds)
    short = asked.short(2.0)
    starts = (this_server, mosec, litserve, prefork) if asked.full else (this_server, mosec)
    finding, rows = Finding(raw={"mixed": {}}), []
    for start in starts:
        with start() as contestant:
            alone, beside, waited = [], [], []
            for _ in range(asked.rounds if asked.full else 1):
                seen = asyncio.run(closed(contestant, [pcm]))
                assert not seen.lost, seen.failed
                alone += seen.took_s
                took, seen = asyncio.run(_beside(contestant, pcm, short))
                beside.append(took)
                waited += seen.took_s
        rows.append(
            (
                contestant.name,
                spread([seconds / took for took in alone], ".1f"),
                spread([seconds / took for took in beside], ".1f"),
                f"{statistics.median(waited):.2f} (at most {max(waited):.2f})",
                str(len(waited)),
            )
        )
        say(" | ".join(rows[-1]))
        finding.raw["mixed"][contestant.name] = {
            "alone_s": alone, "beside_s": beside, "short_s": waited
        }  # fmt: skip
    finding.notes.append(
        f"A recording of {seconds:g} s, alone and while one client sends clips of at most 2 s."
    )
    head = ("", "audio s per s, alone", "audio s per s, with clips", "latency of a clip, median, s",
            "clips")  # fmt: skip
    finding.tables.append(Table("", head, rows))
    return finding


def recording(spoken: list[bytes], seconds: float) -> bytes:
    """Utterances with pauses of up to a second."""
    chance = random.Random(1)
    pcm = bytearray()
    while utterances.seconds(pcm) < seconds:
        pcm += chance.choice(spoken) + _near_silence(chance, chance.random())
    return bytes(pcm[: int(seconds * utterances.RATE) * 2])


def _near_silence(chance: random.Random, seconds: float) -> bytes:
    samples = int(seconds * utterances.RATE)
    return b"".join(
        chance.randint(-30, 30).to_bytes(2, "little", signed=True) for _ in range(samples)
    )


async def _beside(contestant: Contestant, pcm: bytes, short: list[bytes]) -> tuple[float, Seen]:
    long, seen = Seen(), Seen()
    async with session() as connections:
        recording_ = asyncio.create_task(one(contestant, connections, pcm, long))
        number = 0
        while not recording_.done():
            assert await one(contestant, connections, short[number % len(short)], seen), seen.failed
            number += 1
        assert await recording_, long.failed
    return long.took_s[0], seen
