"""How many use something that can go only when nobody does."""

import asyncio
import contextlib
from collections.abc import Iterator


class Usage:
    """Counts those inside; whoever wants it to go waits for the last of them."""

    def __init__(self) -> None:
        self.count = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @contextlib.contextmanager
    def one_more(self) -> Iterator[None]:
        """For as long as the block lasts."""
        self.count += 1
        self._unused.clear()
        try:
            yield
        finally:
            self.count -= 1
            if not self.count:
                self._unused.set()

    async def over(self) -> None:
        """Until there is none."""
        await self._unused.wait()
