"""Clients of a contestant: without a pause, or at random moments; what they saw."""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import aiohttp
from contestants import Contestant
from tables import percentile

CONCURRENCY = 8
_PATIENCE_S = 120.0
_REFUSED_S = 0.2
"""Before one who was refused asks again, where it may."""


@dataclass
class Seen:
    """Times that the clients of one round saw, in seconds."""

    took_s: list[float] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)
    begun: int = 0
    wall_s: float = 0.0

    @property
    def lost(self) -> int:
        """Number of requests without an answer."""
        return sum(self.failed.values())

    def percentile(self, share: float) -> float:
        """Return a percentile of the answered requests."""
        return percentile(self.took_s, share)


async def one(
    contestant: Contestant, session: aiohttp.ClientSession, pcm: bytes, seen: Seen
) -> bool:
    """Send one request; return whether it was answered."""
    began = time.monotonic()
    seen.begun += 1
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await contestant.ask(session, pcm)
    except aiohttp.ClientResponseError as error:
        why = str(error.status)
    except (aiohttp.ClientError, TimeoutError, OSError, TypeError, ValueError) as error:
        why = type(error).__name__
    else:
        seen.took_s.append(time.monotonic() - began)
        return True
    seen.failed[why] = seen.failed.get(why, 0) + 1
    return False


def session() -> aiohttp.ClientSession:
    """Open a session with a new connection for each request, without a limit."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))


async def closed(
    contestant: Contestant, files: Sequence[bytes], concurrency: int = CONCURRENCY
) -> Seen:
    """Send each file once, `concurrency` at a time."""
    seen, left = Seen(), iter(files)

    async def client(connections: aiohttp.ClientSession) -> None:
        for pcm in left:
            await one(contestant, connections, pcm, seen)

    async with session() as connections:
        began = time.monotonic()
        await asyncio.gather(*(client(connections) for _ in range(concurrency)))
        seen.wall_s = time.monotonic() - began
    return seen


async def steady(
    contestant: Contestant,
    files: Sequence[bytes],
    over: Callable[[], bool],
    seen: Seen,
    concurrency: int,
) -> None:
    """Run `concurrency` clients until `over`; a client that is refused waits a moment."""
    began = time.monotonic()

    async def client(connections: aiohttp.ClientSession, number: int) -> None:
        while not over():
            pcm = files[number % len(files)]
            number += concurrency
            if not await one(contestant, connections, pcm, seen):
                await asyncio.sleep(_REFUSED_S)

    async with session() as connections:
        await asyncio.gather(*(client(connections, n) for n in range(concurrency)))
    seen.wall_s = time.monotonic() - began


async def gone(clients: "asyncio.Task[None]", seen: Seen, patience_s: float) -> None:
    """Wait for the clients to end; a client that still waits for an answer after `patience_s` has
    none."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(clients), patience_s)
    if not clients.done():
        seen.failed["still waiting"] = seen.begun - seen.lost - len(seen.took_s)
        clients.cancel()
    await asyncio.gather(clients, return_exceptions=True)


async def offered(
    contestant: Contestant, files: Sequence[bytes], a_second: float, count: int, seed: int = 1
) -> Seen:
    """Send `count` requests, at random moments (Poisson), `a_second` per second."""
    seen, chance = Seen(), random.Random(seed)
    async with session() as connections:
        began = time.monotonic()
        at, asked = 0.0, []
        for number in range(count):
            at += chance.expovariate(a_second)
            await asyncio.sleep(max(0.0, began + at - time.monotonic()))
            pcm = files[number % len(files)]
            asked.append(asyncio.create_task(one(contestant, connections, pcm, seen)))
        await asyncio.gather(*asked)
        seen.wall_s = time.monotonic() - began
    return seen
