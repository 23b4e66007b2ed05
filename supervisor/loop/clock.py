"""A clock that only counts time in which this event loop turned.

A paused container, a suspended machine, a stopped or throttled supervisor: time in which we did not
run ourselves is no silence of others. Whatever is taken for dead after some seconds is measured by
this clock.
"""

import asyncio
import time
from typing import Any

_MOST_S = 0.75
"""What one gap between two looks at the clock counts at the most."""
_STEP_S = 0.25


class LoopClock:
    """To be looked at twice a second (the guard does), or it runs slow, which is harmless."""

    def __init__(self) -> None:
        self._seen = time.monotonic()
        self._counted = 0.0

    def now(self) -> float:
        """Seconds."""
        now = time.monotonic()
        self._counted += min(now - self._seen, _MOST_S)
        self._seen = now
        return self._counted

    async def wait(self, future: "asyncio.Future[Any]", seconds: float) -> bool:
        """Wait for `future` for so long at the most; whether it is done. What arrived during a
        pause is looked at before time is called."""
        until = self.now() + seconds
        while not future.done() and (left := until - self.now()) > 0:
            await asyncio.wait({future}, timeout=min(left, _STEP_S))
        return future.done()
