"""Tasks that must keep running, and steps that must all be taken; failures are logged."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

from supervisor.log import get_logger

log = get_logger("supervisor")

_PAUSE_S = 1.0


def each_of(*steps: Callable[[], object]) -> None:
    """Take every step, even if earlier ones raise."""
    for step in steps:
        try:
            step()
        except Exception:
            log.critical("step.failed", step=str(step), exc_info=True)


class Tasks:
    """Tasks of one owner, who closes them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._lasting: set[asyncio.Future[None]] = set()

    def keep(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run it until `close`: if it fails, which it should not, that is logged and it starts
        again."""
        self._lasting.add(self._start(name, self._again_and_again(name, run)))

    def once(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run it to its end; a failure is logged."""
        self._start(name, self._logged(name, run))

    def wholly(self, name: str, run: Callable[[], Awaitable[None]]) -> Awaitable[None]:
        """Run it to its end, even if the waiter is cancelled, who also gets its failure."""
        task = self._start(name, run())
        task.add_done_callback(retrieve)
        return asyncio.shield(task)

    def alive(self) -> bool:
        """Return whether all tasks that are to keep running do."""
        return bool(self._lasting) and not any(task.done() for task in self._lasting)

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
        except asyncio.CancelledError:
            # A future that `run` waits for may have been cancelled, and not this task.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            log.critical("task.failed", task=name, exc_info=True)


def retrieve(task: "asyncio.Future[None]") -> None:
    """Retrieve a failure that may have no waiter any more, so that the loop does not log it."""
    if not task.cancelled():
        task.exception()
