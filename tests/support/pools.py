"""Pools of the toy model in the test's own process."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psutil
from places import SUPPORT
from stopwatch import Stopwatch, within

from supervisor import Pool, PoolSettings, SpoolStore, Stream, StreamSettings, Target


def toy(**options: Any) -> Target:
    """Return the toy model with these options."""
    return Target("toy", options=options, import_path=(str(SUPPORT),))


async def eventually(condition: Any, timeout_s: float = 10.0) -> None:
    """Wait until `condition` returns something true. `timeout_s`: by a `Stopwatch`."""
    watch = Stopwatch()
    while not condition():
        if watch.past(timeout_s):
            raise TimeoutError(f"not within {timeout_s} s")
        await asyncio.sleep(watch.pause_s)


async def whole(pool: Pool, workers: int = 2) -> None:
    """Wait until every slot has an idle worker."""
    await eventually(lambda: [w.state.value for w in pool.status().workers] == ["idle"] * workers)


async def run(pool: Pool, body: bytes = b"", **request: Any) -> Any:
    """Run one job with `body` as its input; returns the result's value."""
    async with SpoolStore().open() as spool:
        await spool.write(body)
        return (await pool.run(request, spool)).value


def alone(pool: Pool) -> Pool:
    """Keep the pool's guard from ending other tests' servers, children of this process."""
    others = tuple(child.pid for child in psutil.Process().children())
    pool._guard._observer.left_alone = others
    return pool


@asynccontextmanager
async def pool_of(
    workers: int = 2, sound: Callable[[], Awaitable[bool]] | None = None, **streams: Any
) -> AsyncIterator[Pool]:
    """A pool for streams, once all its workers are able. `sound`: see `Pool`."""
    settings = PoolSettings(workers=workers, hang_s=2.0, streams=StreamSettings(**streams))
    async with Pool(toy(), settings, sound=sound) as pool:
        await pool.wait_ready()
        await eventually(lambda: sum(w.able for w in pool._lifecycle.workers) == workers)
        yield pool


@contextmanager
def stream_on(pool: Pool, request: dict[str, Any] | None = None) -> Iterator[Stream]:
    """A stream that has begun."""
    with pool.stream() as stream:
        stream.begin(request or {})
        yield stream


async def answers(stream: Stream, count: int) -> list[Any]:
    """Receive `count` answers."""
    said: list[Any] = []
    async with within(20):
        while len(said) < count:
            said += await stream.receive()
    return said


async def say(stream: Stream, *words: str, **more: Any) -> list[Any]:
    """Send each word; returns their answers."""
    for word in words:
        await stream.send({"say": word, **more}, 1.0)
    return await answers(stream, len(words))


def texts(said: list[Any]) -> list[str]:
    """Return the text of each answer."""
    return [one.get("final", one.get("partial")) for one in said]
