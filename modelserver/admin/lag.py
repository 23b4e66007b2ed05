"""Event loop lag: how late the supervisor's event loop runs what is due. While it is late no
request is answered, no stream advances and memory is not watched."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator

from modelserver.serving.counters import Histogram

_EVERY_S = 0.05
_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_REMEMBERED_S = 60.0


class LoopLag:
    """Measures the running loop's lag, in seconds."""

    def __init__(self) -> None:
        self.seen = Histogram(_BOUNDS_S)
        self._worst: deque[tuple[float, float]] = deque()
        """When it was how late, of the last minute; each later than all that came after it."""
        self._due = 0.0
        self._timer: asyncio.TimerHandle

    async def measured(self, _: object) -> AsyncIterator[None]:
        """Measure while the application runs (for `Application.cleanup_ctx`)."""
        self._wait()
        yield
        self._timer.cancel()

    def worst_s(self) -> float:
        """Return the largest lag of the last minute."""
        self._forget(time.monotonic())
        return self._worst[0][1] if self._worst else 0.0

    def _wait(self) -> None:
        self._due = time.monotonic() + _EVERY_S
        self._timer = asyncio.get_running_loop().call_later(_EVERY_S, self._measure)

    def _measure(self) -> None:
        """Measure, as a timer's callback: half the cost of waking a task."""
        now = time.monotonic()
        late_s = max(0.0, now - self._due)
        self.seen.observe(late_s)
        self._forget(now)
        while self._worst and self._worst[-1][1] <= late_s:
            self._worst.pop()
        self._worst.append((now, late_s))
        self._wait()

    def _forget(self, now: float) -> None:
        while self._worst and now - self._worst[0][0] > _REMEMBERED_S:
            self._worst.popleft()
