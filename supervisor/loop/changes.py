"""Notifications of changes, for conditions that are waited for."""

import asyncio
import contextlib
from collections.abc import Callable


class Changes:
    """Notifications for a group of conditions."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[None], Callable[[], bool]] = {}
        self._to_look = False

    def notify(self) -> None:
        """Announce that a condition of an `until` has changed, or will before the loop continues.
        Only waiters whose condition holds are woken."""
        if self._waiting and not self._to_look:
            self._to_look = True
            asyncio.get_running_loop().call_soon(self._look)

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Wait until `predicate` holds; it is called again after every change."""
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
            # the waiter calls it again, and gets its exception
            with contextlib.suppress(Exception):
                true = predicate()
            if true and not waiting.done():
                waiting.set_result(None)
