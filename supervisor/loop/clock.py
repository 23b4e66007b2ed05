"""A clock that only counts time in which this event loop ran.

While a container is paused, a machine suspended, or the supervisor stopped or throttled, we do not
run ourselves, and the silence of other processes means nothing. Timeouts after which something
counts as dead are measured by this clock.
"""

import asyncio
import time
from typing import Any

_MOST_S = 0.75
"""Seconds that one gap between two calls counts at most."""
_STEP_S = 0.25


class LoopClock:
    """Clock of the loop. Call `now` twice a second (the guard does); otherwise it runs slow, which
    is harmless."""

    def __init__(self) -> None:
        self._seen = time.monotonic()
        self._counted = 0.0

    def now(self) -> float:
        """Return the seconds counted so far."""
        now = time.monotonic()
        self._counted += min(now - self._seen, _MOST_S)
        self._seen = now
        return self._counted

    async def wait(self, future: "asyncio.Future[Any]", seconds: float) -> bool:
        """Wait for `future` for at most `seconds`; return whether it is done. Events that arrived
        during a pause are handled before the time counts as up."""
        until = self.now() + seconds
        while not future.done() and (left := until - self.now()) > 0:
            await asyncio.wait({future}, timeout=min(left, _STEP_S))
        return future.done()
