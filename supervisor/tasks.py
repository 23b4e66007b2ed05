"""Tasks that must go on: none of them ends unseen."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

import structlog

log: structlog.stdlib.BoundLogger = structlog.get_logger("supervisor")

_PAUSE_S = 1.0


class Tasks:
    """Those of one owner, who closes them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._kept = 0

    def keep(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run it for ever: where it fails, which it should not, it is logged and begins anew."""
        self._kept += 1
        self._start(name, self._again_and_again(name, run))

    def once(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run it to its end; a failure is logged."""
        self._start(name, self._logged(name, run))

    def wholly(self, name: str, run: Callable[[], Awaitable[None]]) -> Awaitable[None]:
        """Run it to its end, even if whoever waits for that is cancelled; a failure is theirs."""
        task = self._start(name, run())
        task.add_done_callback(_heard)
        return asyncio.shield(task)

    def alive(self) -> bool:
        """All that are to be kept run."""
        return self._kept > 0 and len(self._tasks) >= self._kept

    async def close(self) -> None:
        """Cancel them, and wait until they have ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, name: str, coroutine: Awaitable[None]) -> "asyncio.Future[None]":
        task = cast("asyncio.Task[None]", asyncio.ensure_future(coroutine))
        task.set_name(name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _again_and_again(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self._logged(name, run)
            await asyncio.sleep(_PAUSE_S)

    async def _logged(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        try:
            await run()
        except Exception:
            log.critical("task.failed", task=name, exc_info=True)


def _heard(task: "asyncio.Future[None]") -> None:
    """A failure that nobody waits for any more is no news to the event loop."""
    if not task.cancelled():
        task.exception()
