"""Waiting for something to become true, among things that say when they have changed."""

import asyncio
from collections.abc import Callable


class Changes:
    """One for all that belongs together."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def notify(self) -> None:
        """Something that an `until` may wait for has changed."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Wait until `predicate` holds; it is asked again after every change."""
        while not predicate():
            await self._changed.wait()
