"""A count of those who use something that is closed only when it is unused."""

import asyncio
import contextlib
from collections.abc import Iterator


class Usage:
    """Count of the users of a model; `over` waits for the last of them."""

    def __init__(self) -> None:
        self.count = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @contextlib.contextmanager
    def one_more(self) -> Iterator[None]:
        """Count one more user for as long as the block lasts."""
        self.count += 1
        self._unused.clear()
        try:
            yield
        finally:
            self.count -= 1
            if not self.count:
                self._unused.set()

    async def over(self) -> None:
        """Wait until there are no users."""
        await self._unused.wait()
