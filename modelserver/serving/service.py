"""Speech recognition as a service, without HTTP: requests and streams are admitted to the models
that are served."""

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator

from modelserver.access.gate import AccessGate
from modelserver.serving.counters import Traffic
from modelserver.serving.drain import Drain
from modelserver.serving.pool_settings import memory_settings
from modelserver.serving.registry import ModelRegistry
from modelserver.serving.served import ServedModel
from modelserver.settings import Settings
from modelserver.tracing.export import start_export
from supervisor import (
    Admission,
    Allocator,
    Guard,
    PoolState,
    PoolStatus,
    Spool,
    SpoolLimits,
    SpoolStore,
    Stream,
    choose_allocator,
    find_jemalloc,
)

_MOST_BYTES_PER_S = 2 * 2 * 48_000
"""Most bytes per second of almost any audio file: until an upload has been probed its length is
assumed to be no longer than its size divided by this, so that it is not refused for a length that
it does not have. The pool counts a job's size in seconds of audio."""


class SpeechService:
    """Use as `async with`; entering returns at once, while models load."""

    def __init__(self, settings: Settings) -> None:
        """Prepare the service. Raises `supervisor.AllocatorMissing`."""
        choose_allocator(Allocator(settings.debug.allocator), find_jemalloc())
        self.settings = settings
        self.url = ""
        """Where HTTP clients reach the server; empty until it accepts them."""
        self.spools = SpoolStore(
            SpoolLimits(
                settings.debug.spool_memory_each,
                settings.spool.memory_total,
                settings.spool.directory,
            )
        )
        self.traffic = Traffic()
        self._stop_tracing = start_export(os.environ)
        self.access = AccessGate(lambda: self.settings.auth)
        self.guard = Guard(memory_settings(settings), self.spools, reap_strangers=True)
        self.models = ModelRegistry(settings, self.guard, self.spools)
        self.drain = Drain(self.models, lambda: self.settings.notice_s)
        self.reload_refused: str | None = None
        """Why the last reload of settings was refused; None if it was not, or there was none."""
        self.jobs_refused: str | None = None
        """Why jobs are rejected until an operator does something; None if they are not."""

    async def __aenter__(self) -> "SpeechService":
        await self.guard.__aenter__()
        await self.models.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.drain.refuse()
        await self.models.__aexit__(*exception)
        await self.guard.__aexit__(*exception)
        await asyncio.to_thread(self._stop_tracing)

    @contextlib.asynccontextmanager
    async def admit(
        self,
        served: ServedModel,
        input_bytes: int | None = None,
        *,
        patient: bool = False,
        client: str | None = None,
    ) -> AsyncIterator[Admission]:
        """Admit one request of that `client`, before its body of `input_bytes` is read; a `patient`
        one has no deadline. A model that is loaded on demand is loaded first. Raises
        `supervisor.PoolError`."""
        self.drain.must_admit()
        units = None if input_bytes is None else input_bytes / _MOST_BYTES_PER_S
        if not patient and units is not None and units >= self.settings.debug.long_from_s:
            served.turns.refuse_late(units, self.settings.limits.request_s)
        with served.used():
            pool = await served.ready(self.settings.limits.request_s)
            with pool.admit(
                units=units,
                input_bytes=input_bytes,
                deadline_s=None if patient else self.settings.limits.request_s,
                client=client,
            ) as admission:
                yield admission

    @contextlib.asynccontextmanager
    async def stream(
        self, served: ServedModel, *, request_id: str | None = None
    ) -> AsyncIterator[Stream]:
        """Admit one live stream; what it takes is measured in seconds of audio. Raises
        `supervisor.PoolError`."""
        self.drain.must_admit()
        with served.used():
            pool = await served.ready(self.settings.limits.request_s)
            with pool.stream(request_id=request_id) as stream:
                yield stream

    def open_spool(self) -> Spool:
        """Open a spool for a request's audio."""
        return self.spools.open()

    # --- readings -------------------------------------------------------------------------------

    def watched(self) -> bool:
        """Return whether everything that keeps the processes alive is itself alive."""
        pools = [served.pool for served in self.models.all_served() if served.pool is not None]
        return self.guard.alive() and all(pool.watched() for pool in pools)

    def status(self) -> PoolStatus:
        """Return a reading of all pools as one; reason, report and pace are the default model's."""
        first = self.models.default.status()
        found = [status for served in self.models.all_served() if (status := served.status())]
        reason = self.unready_reason()
        state = PoolState.READY if reason is None else PoolState.NOT_READY
        return PoolStatus(
            state=PoolState.DRAINING if self.drain.reason else state,
            reason=reason,
            allocator=first.allocator if first else "",
            sandbox=first.sandbox if first else (),
            sandbox_missing=first.sandbox_missing if first else (),
            fork_server_pid=first.fork_server_pid if first else None,
            model=first.model if first else {},
            workers=tuple(worker for status in found for worker in status.workers),
            admitted=sum(status.admitted for status in found),
            waiting=sum(status.waiting for status in found),
            deaths=dict(self.models.deaths() + Counter(self.guard.deaths)),
            last_deaths=self.guard.history.deaths,
            guard=self.guard.status(),
            starved_needs=self.guard.starved_needs(),
            s_per_unit=first.s_per_unit if first else None,
        )

    def stale(self) -> list[str]:
        """Return sentences that say why what is served is not what the settings say now."""
        said = []
        if self.jobs_refused is not None:
            said.append(f"jobs are rejected: {self.jobs_refused}")
        if self.reload_refused is not None:
            said.append(f"the reload was rejected: {self.reload_refused}")
        said += [
            f"{served.label} was not reloaded, and serves as before: {reason}"
            for served in self.models.values()
            if served.pool is not None and (reason := served.pool.not_renewed()) is not None
        ]
        return said

    def preparing(self) -> str | None:
        """Return how far a preparation is, in words; None while nothing is prepared."""
        said = (served.preparing() for served in self.models.values())
        return next((words for words in said if words is not None), None)

    def unready_reason(self) -> str | None:
        """Return why the default model can make no transcript now; None if it can."""
        return self.models.default.unready_reason()
