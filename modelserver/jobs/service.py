"""Jobs as a service, without HTTP: taken in, looked up, forgotten, told of when they are over."""

import asyncio
import contextlib
import functools
import re
import secrets
import shutil
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import structlog

from modelserver.access.hosts import AllowedHosts
from modelserver.jobs.outside import Outside
from modelserver.jobs.record import Delivery, Job, Repeat, State, Wanted
from modelserver.jobs.store import Damaged, InUse, JobStore, directory_problem
from modelserver.jobs.thread import StoreThread
from modelserver.jobs.webhooks import SecretUnreadable, Webhooks, read_secrets
from modelserver.jobs.work import JobWork, Told
from modelserver.serving.service import SpeechService
from modelserver.serving.usage import Usage
from supervisor import (
    NotReady,
    QueueFull,
    Spool,
    SpoolFull,
    SpoolLimits,
    SpoolStore,
    Tasks,
    in_units,
)

log: structlog.stdlib.BoundLogger = structlog.get_logger("jobs")

_TIDY_S = 30.0
_TIDY_AGAIN_S = 1.0
_OPEN_AGAIN_S = 0.2
_OPENING_S = 1.0
"""For so long a request waits for the directory."""
_LEAST_FREE_BYTES = 64 * 1024 * 1024
"""On the disk, beside what jobs may hold of it."""
_FORGOTTEN_AT_ONCE = 20
_NO_NAME = re.compile("[^A-Za-z0-9.]+")


Result = TypeVar("Result")


class NotTheSame(Exception):
    """The request's Idempotency-Key was used for another one."""


class InProgress(Exception):
    """The request with this Idempotency-Key is being taken in just now."""


class JobService:
    """Use as `async with`, inside the `SpeechService`'s. Where the directory cannot be used jobs
    are refused, and `problem` says why; all else goes on."""

    def __init__(self, service: SpeechService, body_of: Callable[[Job, int], bytes]) -> None:
        """`body_of`: the message that a job is over, and its attempt's number. Raises
        `SecretUnreadable`."""
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
        self._spools = SpoolStore(SpoolLimits(0, 0, settings.directory))
        self.outside = Outside(lambda: self.url_hosts)
        self._webhooks_outside = Outside(lambda: self.webhook_hosts)
        self._webhooks = Webhooks(self._store, self._webhooks_outside, lambda: settings, body_of)
        self._work = JobWork(service, self._store, self._one_has_ended)
        self._tidy_now = asyncio.Event()
        self._arriving: set[tuple[str, str]] = set()
        self._directory = -1
        self.patience_s = _OPENING_S
        """How long a request waits for the directory: longer where the server before this one is
        about to hand it over."""
        self._waited_for = asyncio.Event()
        self._usage = Usage()
        self._counts: dict[State, int] = {}
        self._held_bytes = 0
        self._tasks = Tasks()

    async def __aenter__(self) -> "JobService":
        if self._settings.queue:
            self._tasks.keep("jobs", self._live)
        else:
            self.problem = "no jobs are taken (jobs.queue is 0)"
            self._waited_for.set()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.pause()
        await self._close("the server is shutting down")
        await self.outside.__aexit__()
        await self._webhooks_outside.__aexit__()

    def directory_problem(self) -> str | None:
        """Say why jobs cannot be kept, before a server that keeps them now ends; None if they can,
        or none are taken. Waits for the disk."""
        return directory_problem(self._settings.directory) if self._settings.queue else None

    async def pause(self) -> None:
        """Work on none any more, and have nobody follow one: the server is about to end."""
        await self._work.pause()

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
        """Another server takes the jobs from here, once who uses them now has his answer."""
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

    def must_take(self, size: int | None) -> None:
        """One more, of `size` bytes as far as is known. Raises `supervisor.PoolError`."""
        if self.problem is not None:
            raise _unusable(self.problem)
        if len(self._work) >= self._settings.queue:
            raise QueueFull(f"{len(self._work)} jobs are unfinished, no more are allowed", 10.0)
        if (size or 0) > (room := self._room()):
            wanted = f" of {in_units(size)}" if size else ""
            raise SpoolFull(
                f"no space left to keep the job's audio{wanted}: "
                f"{in_units(max(0, room))} may be used where jobs are kept"
            )

    def unfinished(self, owner: str) -> int:
        """How many of that owner's are."""
        return self._work.of(owner)

    def open_spool(self) -> Spool:
        """For a job's audio, on the disk where it is to stay."""
        self._spools.note_disk(self._room())
        return self._spools.open()

    @contextlib.contextmanager
    def once(self, owner: str, key: str | None) -> Iterator[None]:
        """Around the taking in of a request that may come again. Raises `InProgress`."""
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
        """A job for what is in the spool, on the disk when this returns; False with the one that
        was made of the same request before. Raises `supervisor.PoolError` or `NotTheSame`."""
        job = Job(
            id=f"{self.name}-{int(time.time() * 1000):011x}{secrets.token_hex(5)}",
            owner=owner,
            state="waiting",
            created=time.time(),
            wanted=wanted,
            size=spool.size,
            seconds=seconds,
            request_id=request_id,
            traceparent=traceparent,
            delivery=Delivery(webhook) if webhook else None,
        )
        if repeat is not None:
            before = await self._do(lambda store: store.repeated(owner, repeat.key))
            if before is not None:
                return await self._same(before, repeat), False
        # A client that goes away now does not leave it half done.
        await self._tasks.wholly("a new job", lambda: self._keep(job, spool, repeat))
        return job, True

    async def _keep(self, job: Job, spool: Spool, repeat: Repeat | None) -> None:
        audio = self._store.audio(job.id)
        await spool.keep(self._directory, audio.name)
        try:
            await self._do(lambda store: store.add(job, repeat))
        except BaseException:
            audio.unlink(missing_ok=True)
            raise
        self._work.add(job)

    async def _same(self, before: tuple[str, str], repeat: Repeat) -> Job:
        job_id, fingerprint = before
        if fingerprint != repeat.fingerprint:
            raise NotTheSame
        job = await self.get(job_id)
        assert job is not None
        return job

    # --- those that are there -------------------------------------------------------------------

    async def get(self, job_id: str, *, speech: bool = False) -> Job | None:
        """One of them; with its transcript where that is asked for."""
        return await self._do(lambda store: store.get(job_id, speech=speech))

    async def listed(
        self, owner: str | None, state: State | None, before: str | None, limit: int
    ) -> list[Job]:
        """The newest first, from the one `before`; `owner`: None for all."""
        return await self._do(lambda store: store.listed(owner, state, before, limit))

    async def delete(self, job_id: str) -> None:
        """Whatever its state is."""
        await self._work.forget(job_id)
        await self._do(lambda store: store.remove([job_id]))

    async def follow(self, job_id: str, told: Told) -> None:
        """Hear how far it is, until it is over, or `pause` is called."""
        await self._work.follow(job_id, told)

    def positions(self) -> dict[str, int]:
        """The place of each that waits, from 1, in the order of their turns."""
        return self._work.positions()

    def done_s(self, job_id: str) -> float:
        """Seconds of its audio that are understood, while it is worked on."""
        return self._work.done_s(job_id)

    def keep_until(self, job: Job) -> float | None:
        """Unix time until which it is kept, if there is room; None while it is unfinished."""
        return None if job.ended is None else job.ended + self._settings.keep_s

    @property
    def counts(self) -> dict[State, int]:
        """By state, as of the last look."""
        return self._counts

    @property
    def held_bytes(self) -> int:
        """On the disk, as of the last look."""
        return self._held_bytes

    # --- the life of the store ------------------------------------------------------------------

    async def _live(self) -> None:
        """Open the store, when it can be; then tidy up now and then."""
        while self._directory < 0:
            try:
                await self._open()
            except (InUse, Damaged, OSError) as error:
                # The server before this one may be about to end.
                reason = error.strerror if isinstance(error, OSError) else None
                problem = f"{self._settings.directory}: {reason}" if reason else str(error)
                if problem != self.problem:
                    log.error("jobs.unusable", reason=problem)
                self.problem = problem
                if not isinstance(error, InUse):
                    self._waited_for.set()
                await asyncio.sleep(_OPEN_AGAIN_S)
        while True:
            self._tidy_now.clear()
            wait_s = _TIDY_S
            try:
                wait_s = min(wait_s, await self._tidy())
            except (sqlite3.Error, OSError, SpoolFull) as error:
                log.error("jobs.cannot_be_tidied", reason=str(error))
            await asyncio.sleep(_TIDY_AGAIN_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._tidy_now.wait()

    async def _open(self) -> None:
        store = await self._store.open(self._settings.directory)
        self._directory = store.directory
        waiting = await self._store.do(lambda store: store.unfinished())
        for job in waiting:
            self._work.add(job)
        self.problem = None
        self._waited_for.set()
        if waiting:
            log.info("jobs.go_on", unfinished=len(waiting))
        self._tasks.keep("webhooks", self._webhooks.run)

    def _one_has_ended(self) -> None:
        self._webhooks.look()
        self._tidy_now.set()

    async def _tidy(self) -> float:
        """Forget what is too old, or too much; in how many seconds the next will be too old."""
        settings = self._settings
        while True:
            self._held_bytes = await self._store.do(lambda store: store.held_bytes())
            # In one call: the clock may be set between two.
            over, now = await self._store.do(
                lambda store: (store.oldest_over(_FORGOTTEN_AT_ONCE), self._store.now())
            )
            before = now - settings.keep_s
            gone = [job_id for job_id, ended in over if ended < before]
            if not gone and self._held_bytes > settings.disk:
                gone = [job_id for job_id, _ in over]
            if not gone:
                break
            await self._store.do(functools.partial(JobStore.remove, job_ids=gone))
            log.info("jobs.forgotten", count=len(gone))
        self._counts = await self._store.do(lambda store: store.counts())
        return max(0.0, over[0][1] + settings.keep_s - now) if over else settings.keep_s

    def _room(self) -> int:
        """Bytes that a job's audio may have. Raises `supervisor.NotReady`."""
        directory = self._settings.directory
        try:
            free = shutil.disk_usage(directory).free - _LEAST_FREE_BYTES
        except OSError as error:
            raise _unusable(f"{directory}: {error.strerror}") from error
        return min(free, self._settings.disk - self._held_bytes)

    async def _do(self, call: Callable[[JobStore], Result]) -> Result:
        if self.problem is not None:
            raise _unusable(self.problem)
        try:
            return await self._store.do(call)
        except sqlite3.Error as error:
            raise _unusable(error) from error


def _unusable(reason: object) -> NotReady:
    return NotReady(f"jobs cannot be used: {reason}")
