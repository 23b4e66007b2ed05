"""Waiting for something to become true, among things that say when they have changed."""

import asyncio
import contextlib
from collections.abc import Callable


class Changes:
    """Change notifications, one for all that belongs together."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[None], Callable[[], bool]] = {}
        self._to_look = False

    def notify(self) -> None:
        """Something that an `until` may wait for has changed, or is about to before the loop goes
        on. Who still waits for something else is not woken."""
        if self._waiting and not self._to_look:
            self._to_look = True
            asyncio.get_running_loop().call_soon(self._look)

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Wait until `predicate` holds; it is asked again after every change."""
        while not predicate():
            waiting = asyncio.get_running_loop().create_future()
            self._waiting[waiting] = predicate
            try:
                await waiting
            finally:
                del self._waiting[waiting]

    def _look(self) -> None:
        self._to_look = False
        for waiting, predicate in list(self._waiting.items()):
            true = True
            with contextlib.suppress(Exception):  # who waits asks again, and hears of it
                true = predicate()
            if true and not waiting.done():
                waiting.set_result(None)
