"""The one thread in which the store of jobs is used: the event loop never waits for the disk."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import structlog

from modelserver.jobs.clock import SetClock
from modelserver.jobs.store import JobStore

log: structlog.stdlib.BoundLogger = structlog.get_logger("jobs")

Result = TypeVar("Result")


class StoreThread:
    """A `JobStore` in it."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "jobs")
        self._store: JobStore | None = None
        self._clock = SetClock()

    async def open(self, directory: Path) -> JobStore:
        """Open the store, in place of one that is open. Raises what `JobStore` raises."""
        await self._close()
        loop = asyncio.get_running_loop()
        self._store = await loop.run_in_executor(self._executor, JobStore, directory)
        return self._store

    async def do(self, call: Callable[[JobStore], Result]) -> Result:
        """Return what `call` returns. A caller that is cancelled does not undo it."""
        assert self._store is not None
        loop = asyncio.get_running_loop()
        doing = loop.run_in_executor(self._executor, self._call, self._store, call)
        doing.add_done_callback(_retrieve)
        return await asyncio.shield(doing)

    def _call(self, store: JobStore, call: Callable[[JobStore], Result]) -> Result:
        if moved := self._clock.set_by():
            log.warning("clock.adjusted", by_s=round(moved))
            store.move(moved, self._clock.now())
        return call(store)

    def now(self) -> float:
        """Return the time of day, by the clock of the stored times: the same throughout a call,
        even if the clock is set meanwhile."""
        return self._clock.now()

    @property
    def held_bytes(self) -> int:
        """Bytes of all jobs on the disk; 0 while the store is not open."""
        return self._store.held_bytes() if self._store is not None else 0

    def audio(self, job_id: str) -> Path:
        """Return the path of a job's audio."""
        assert self._store is not None
        return self._store.audio(job_id)

    async def close(self) -> None:
        """Close the store when all that was asked for is done."""
        await self._close()
        self._executor.shutdown(wait=False)

    async def _close(self) -> None:
        if self._store is not None:
            store, self._store = self._store, None
            await asyncio.get_running_loop().run_in_executor(self._executor, store.close)


def _retrieve(doing: asyncio.Future[Any]) -> None:
    """Retrieve the exception: its caller has it, or has gone."""
    if not doing.cancelled():
        doing.exception()
