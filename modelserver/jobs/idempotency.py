"""Requests that come again, with their Idempotency-Key: each makes one job."""

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from modelserver.jobs.record import Job, Repeat
from modelserver.jobs.store import JobStore
from modelserver.refusal import Refusal


class NotTheSame(Refusal):
    """The request's Idempotency-Key was used for another one."""

    def __init__(self) -> None:
        super().__init__(
            "repeat_differs", "this Idempotency-Key was used for another request before"
        )


class InProgress(Refusal):
    """The request with this Idempotency-Key is being received."""

    def __init__(self) -> None:
        super().__init__(
            "repeat_in_progress", "a request with this Idempotency-Key is being received", 1.0
        )


class Repeats:
    """Requests that were repeated, of all owners. Calls raise `supervisor.PoolError`."""

    def __init__(self, do: Callable[[Callable[[JobStore], Any]], Awaitable[Any]]) -> None:
        """Look up requests in the store. `do`: runs a function with the store, in its thread."""
        self._do = do
        self._arriving: set[tuple[str, str]] = set()

    @contextlib.contextmanager
    def once(self, owner: str, key: str | None) -> Iterator[None]:
        """Receive a request that may come again. Raises `InProgress`."""
        if key is None:
            yield
            return
        if (owner, key) in self._arriving:
            raise InProgress
        self._arriving.add((owner, key))
        try:
            yield
        finally:
            self._arriving.discard((owner, key))

    async def known(self, owner: str, key: str) -> bool:
        """Return whether a job was created with this key, and still exists."""
        return await self._do(lambda store: store.repeated(owner, key)) is not None

    async def same(self, owner: str, repeat: Repeat) -> Job | None:
        """Return the job that an identical request created; None if there is none, or it has been
        deleted. Raises `NotTheSame`."""

        def look(store: JobStore) -> Job | None:
            if (before := store.repeated(owner, repeat.key)) is None:
                return None
            job_id, fingerprint = before
            if fingerprint != repeat.fingerprint:
                raise NotTheSame
            return store.get(job_id)

        found: Job | None = await self._do(look)
        return found
