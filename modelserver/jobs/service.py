"""Job service, without HTTP: accepts, finds and deletes jobs, and reports their ends."""

import asyncio
import contextlib
import re
import secrets
import socket
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import structlog

from modelserver.jobs.disk_space import Room, unusable
from modelserver.jobs.idempotency import Repeats
from modelserver.jobs.record import Delivery, Job, Repeat, State, Wanted
from modelserver.jobs.store import Damaged, InUse, JobStore
from modelserver.jobs.thread import StoreThread
from modelserver.jobs.webhooks import SecretUnreadable, Webhooks, read_secrets
from modelserver.jobs.work import JobWork
from modelserver.outbound.client import OutboundClient
from modelserver.outbound.hosts import AllowedHosts
from modelserver.serving.service import SpeechService
from modelserver.serving.usage import Usage
from supervisor import RepeatLimit, Spool, SpoolFull, Tasks

log: structlog.stdlib.BoundLogger = structlog.get_logger("jobs")

_TIDY_S = 30.0
_TIDY_AGAIN_S = 1.0
_OPEN_AGAIN_S = 0.2
_OPENING_S = 1.0
"""Seconds for which a request waits for the directory to open."""
_NO_NAME = re.compile("[^A-Za-z0-9.]+")


Result = TypeVar("Result")


class JobService:
    """Service for jobs. Use as `async with`, inside the `SpeechService`'s. If the directory cannot
    be used, jobs are refused and `problem` says why; the rest of the server works."""

    def __init__(self, service: SpeechService, body_of: Callable[[Job, int], bytes]) -> None:
        """Prepare the service. `body_of`: returns the message that a job has ended, given the
        number of the attempt. Raises `SecretUnreadable`."""
        settings = self._settings = service.settings.jobs
        self._service = service
        self.url_hosts = AllowedHosts(settings.url_hosts, "jobs.url_hosts")
        self.webhook_hosts = AllowedHosts(settings.webhook_hosts, "jobs.webhook_hosts")
        if self.webhook_hosts:
            if not settings.webhook_secret_file:
                raise SecretUnreadable("it is needed where jobs.webhook_hosts is set")
            read_secrets(Path(settings.webhook_secret_file))
        self.name = settings.name or _NO_NAME.sub(".", socket.gethostname()).strip(".") or "server"
        self.problem: str | None = "the directory of jobs is being opened"
        self._store = StoreThread()
        self.outbound = OutboundClient(lambda: self.url_hosts)
        self._webhooks_client = OutboundClient(lambda: self.webhook_hosts)
        self._webhooks = Webhooks(self._store, self._webhooks_client, lambda: settings, body_of)
        self.work = JobWork(service, self._store, self._one_has_ended)
        self._room = Room(settings, lambda: len(self.work), lambda: self._store.held_bytes)
        self._tidy_now = asyncio.Event()
        self.repeats = Repeats(self._do)
        self._directory = -1
        self.patience_s = _OPENING_S
        """How long a request waits for the directory: longer where the server before this one is
        about to hand it over."""
        self._waited_for = asyncio.Event()
        self._usage = Usage()
        self.counts: dict[State, int] = {}
        """By state, as of the last look."""
        self._tasks = Tasks()

    async def __aenter__(self) -> "JobService":
        if self._settings.queue:
            self._tasks.keep("jobs", self._live)
        else:
            self.problem = "jobs are disabled (jobs.queue is 0)"
            self._waited_for.set()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.pause()
        await self._close("the server is shutting down")
        await self.outbound.__aexit__()
        await self._webhooks_client.__aexit__()

    async def pause(self) -> None:
        """Stop working on jobs, and end requests that follow one: the server is about to exit."""
        await self.work.pause()

    async def opened(self) -> None:
        """Wait until the directory is open, or it is known why it cannot be; while another server
        has it, for `patience_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.patience_s):
                await self._waited_for.wait()

    def in_use(self) -> contextlib.AbstractContextManager[None]:
        """`hand_over` waits until this is left."""
        return self._usage.one_more()

    async def hand_over(self, timeout_s: float) -> None:
        """Hand the jobs over to another server, after the requests that use them now."""
        await self.pause()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._usage.over()
        await self._close("the jobs are another server's now")

    async def _close(self, problem: str) -> None:
        await self._tasks.close()
        self.problem = problem
        await self._store.close()

    # --- taking in ------------------------------------------------------------------------------

    def arriving(
        self, owner: str, size: int | None
    ) -> contextlib.AbstractAsyncContextManager[Spool]:
        """See `Room.arriving`. Raises `supervisor.PoolError`."""
        if self.problem is not None:
            raise unusable(self.problem)
        return self._room.arriving(owner, size)

    def unfinished(self, owner: str) -> int:
        """Return how many jobs of that owner are unfinished or arriving."""
        return self.work.of(owner) + self._room.arriving_of(owner)

    async def add(
        self,
        spool: Spool,
        wanted: Wanted,
        *,
        owner: str,
        seconds: float,
        webhook: str | None,
        repeat: Repeat | None,
        request_id: str,
        traceparent: str = "",
    ) -> tuple[Job, bool]:
        """Create a job from the contents of a spool; it is on the disk when this returns. Return it
        and True, or False with the job that an identical request created before. Raises
        `supervisor.PoolError` or `NotTheSame`."""
        now = time.time()
        job = Job(
            id=f"{self.name}-{int(now * 1000):011x}{secrets.token_hex(5)}",
            owner=owner,
            state="waiting",
            created=now,
            wanted=wanted,
            size=spool.size,
            seconds=seconds,
            request_id=request_id,
            traceparent=traceparent,
            delivery=Delivery(webhook) if webhook else None,
        )
        if repeat and (same := await self.repeats.same(owner, repeat)):
            return same, False
        # A client that goes away now does not leave it half done.
        await self._tasks.wholly("a new job", lambda: self._store_new(job, spool, repeat))
        return job, True

    async def _store_new(self, job: Job, spool: Spool, repeat: Repeat | None) -> None:
        audio = self._store.audio(job.id)
        await spool.keep(self._directory, audio.name)
        try:
            await self._do(lambda store: store.add(job, repeat))
        except BaseException:
            audio.unlink(missing_ok=True)
            raise
        self.work.add(job)

    # --- those that are there -------------------------------------------------------------------

    async def get(self, job_id: str, *, speech: bool = False) -> Job | None:
        """Return a job, with its transcript where that is asked for; None if there is none."""
        return await self._do(lambda store: store.get(job_id, speech=speech))

    async def listed(
        self, owner: str | None, state: State | None, before: str | None, limit: int
    ) -> tuple[list[Job], str | None]:
        """Return at most `limit` jobs, the newest first, after the one that `before` names; and the
        value of `before` for the next page, if there is one. `owner`: None for all. Raises
        `supervisor.PoolError` or `UnknownCursor`."""

        def look(store: JobStore) -> tuple[list[Job], str | None]:
            found = store.listed(owner, state, before, limit + 1)
            more = store.cursor(found[limit - 1].id) if found[limit:] else None
            return found[:limit], more

        return await self._do(look)

    async def delete(self, job_id: str) -> None:
        """Delete a job, whatever its state is."""
        await self.work.forget(job_id)
        await self._do(lambda store: store.remove([job_id]))

    def keep_until(self, job: Job) -> float | None:
        """Unix time until which it is stored, if there is room; None while it is unfinished."""
        return None if job.ended is None else job.ended + self._settings.keep_s

    @property
    def held_bytes(self) -> int:
        """Bytes of jobs on the disk."""
        return self._store.held_bytes

    # --- the life of the store ------------------------------------------------------------------

    async def _live(self) -> None:
        """Open the store, when it can be; then tidy up now and then."""
        began, logged = time.monotonic(), ""
        while self._directory < 0:
            try:
                await self._open()
            except (InUse, Damaged, OSError, SpoolFull, sqlite3.Error) as error:
                reason = error.strerror if isinstance(error, OSError) else None
                problem = f"{self._settings.directory}: {reason}" if reason else str(error)
                # The server before this one may be about to end.
                waits = isinstance(error, InUse) and time.monotonic() - began < self.patience_s
                if not waits and problem != logged:
                    log.error("jobs.disabled", reason=problem)
                    logged = self._service.jobs_refused = problem
                self.problem = problem
                if not isinstance(error, InUse):
                    self._waited_for.set()
                await asyncio.sleep(_OPEN_AGAIN_S)
        if logged:
            log.info("jobs.enabled", after_s=round(time.monotonic() - began, 1))
        repeats = RepeatLimit()
        while True:
            self._tidy_now.clear()
            wait_s = _TIDY_S
            try:
                wait_s = min(wait_s, await self._tidy())
            except (sqlite3.Error, OSError, SpoolFull) as error:
                if repeats.due(str(error)):
                    log.error("jobs.cleanup_failed", reason=str(error))
            await asyncio.sleep(_TIDY_AGAIN_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._tidy_now.wait()

    async def _open(self) -> None:
        store = await self._store.open(self._settings.directory)
        self._directory = store.directory
        waiting = await self._store.do(lambda store: store.unfinished())
        for job in waiting:
            self.work.add(job)
        self.problem = self._service.jobs_refused = None
        self._waited_for.set()
        if waiting:
            log.info("jobs.resumed", unfinished=len(waiting))
        self._tasks.keep("webhooks", self._webhooks.run)

    def _one_has_ended(self) -> None:
        self._webhooks.look()
        self._tidy_now.set()

    async def _tidy(self) -> float:
        """Forget what is too old, or too much; in how many seconds the next will be too old."""
        while True:
            count, more, next_s = await self._store.do(
                lambda store: store.forget(
                    self._store.now(), self._settings.keep_s, self._settings.disk // 2
                )
            )
            if count:
                log.info("jobs.deleted", count=count)
            elif not more:
                break
        self.counts = await self._store.do(lambda store: store.counts())
        return next_s

    async def _do(self, call: Callable[[JobStore], Result]) -> Result:
        if self.problem is not None:
            raise unusable(self.problem)
        try:
            return await self._store.do(call)
        except sqlite3.Error as error:
            raise unusable(error) from error
