"""Time as tests count it: on a machine that is busy with other things, less of it passes."""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from supervisor.readings.pressure import read_pressure

T = TypeVar("T")

_LOOK_EVERY_S = 0.05
_COUNTS = 0.1
"""Factor for seconds in which a task waited for a processor or the disk."""
_STALLS = (Path("/proc/pressure/cpu"), Path("/proc/pressure/io"))


def _stalled_s() -> float:
    """Return such seconds since boot; 0 if the kernel does not count them."""
    total_us = 0
    for file in _STALLS:
        if (pressure := read_pressure(file)) is not None:
            total_us += pressure.some_total_us
    return total_us / 1e6


class Stopwatch:
    """Counts seconds since it was made. On an idle machine they are those of the clock; where tasks
    wait for a processor all the time, a tenth of those."""

    def __init__(self) -> None:
        self._began, self._stalled_s = time.monotonic(), _stalled_s()

    @property
    def seconds(self) -> float:
        """Seconds that count so far."""
        elapsed_s = time.monotonic() - self._began
        stalled_s = min(elapsed_s, _stalled_s() - self._stalled_s)
        return elapsed_s - (1 - _COUNTS) * stalled_s

    @property
    def pause_s(self) -> float:
        """Return how long to sleep before the next look: longer in a long wait, since a look takes
        processor time from what is waited for."""
        return min(0.1, max(0.005, (time.monotonic() - self._began) / 20))

    def past(self, seconds: float) -> bool:
        """Return whether so many have gone by. Cheap before that."""
        return time.monotonic() - self._began > seconds and self.seconds > seconds


def processor_s(action: Callable[[], object], *, rounds: int = 3, enough_s: float = 0.0) -> float:
    """Return the seconds of processor time that an action takes: the least of several rounds, since
    the same work takes longer on a processor whose other half is busy. A round of `enough_s` is the
    last."""
    least = math.inf
    for _ in range(rounds):
        began = time.process_time()
        action()
        least = min(least, time.process_time() - began)
        if least <= enough_s:
            break
    return least


@contextlib.asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Cancel what runs inside and raise `TimeoutError` once so many seconds of a `Stopwatch` have
    gone by."""
    watch, loop = Stopwatch(), asyncio.get_running_loop()

    async def end() -> None:
        while not watch.past(seconds):
            await asyncio.sleep(_LOOK_EVERY_S)
        limit.reschedule(loop.time())

    async with asyncio.timeout(None) as limit:
        ending = asyncio.create_task(end())
        try:
            yield
        finally:
            ending.cancel()


async def wait_for(awaitable: Awaitable[T], seconds: float) -> T:
    """Return what it results in, `within` so many seconds."""
    async with within(seconds):
        return await awaitable
