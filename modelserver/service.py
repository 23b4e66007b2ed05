"""Speech recognition as a service, without HTTP: a pool with a speech model, and its spools."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable

import msgspec
import structlog

from modelserver.preparation import Preparation
from modelserver.settings import Settings
from modelserver.speech import Speech, SpeechRequest
from modelserver.targets import find_target
from modelserver.traffic import Traffic
from supervisor import (
    Admission,
    Allocator,
    JobInput,
    MemorySettings,
    Pool,
    PoolSettings,
    PoolStatus,
    Spool,
    SpoolLimits,
    SpoolStore,
    Target,
    usable_cpus,
)

log: structlog.stdlib.BoundLogger = structlog.get_logger("models")


_MOST_BYTES_PER_S = 2 * 2 * 48_000
"""Of a WAV file, as good as always: until its header is seen it is taken for no longer than that
makes it, so that it is not refused for a length that it does not have. A job's size, for the pool,
is seconds of audio."""


def pool_settings(settings: Settings) -> PoolSettings:
    """What the pool is told of them."""
    workers = settings.workers
    return PoolSettings(
        workers=workers.count or usable_cpus(),
        queue=settings.limits.queue,
        hang_s=workers.hang_s,
        memory=MemorySettings(
            limit=_unless_auto(settings.memory.limit),
            reserve=_unless_auto(settings.memory.reserve),
            budget=_unless_auto(workers.budget),
            max_rss=_unless_auto(workers.max_rss),
        ),
        allocator=Allocator(settings.allocator),
    )


def _unless_auto(size: int | str) -> int | None:
    return size if isinstance(size, int) else None


class SpeechService:
    """Use as `async with`; entering returns at once, while the model loads."""

    def __init__(self, settings: Settings) -> None:
        """Raises `supervisor.AllocatorMissing`."""
        self.settings = settings
        self.spools = SpoolStore(
            SpoolLimits(
                settings.spool.memory_each, settings.spool.memory_total, settings.spool.directory
            )
        )
        self.pool = Pool(self._target, pool_settings(settings), self.spools)
        self.traffic = Traffic()
        self._preparation = Preparation(settings)
        self._background: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "SpeechService":
        await self.pool.__aenter__()
        if self.settings.prepare == "auto":
            self._background = asyncio.create_task(self._prepare_in_background())
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._background is not None:
            self._background.cancel()
            # What it raised besides, nobody else would hear of.
            (outcome,) = await asyncio.gather(self._background, return_exceptions=True)
            if isinstance(outcome, Exception):
                log.error("prepare.crashed", exc_info=outcome)
        await self.pool.__aexit__(*exception)

    def status(self) -> PoolStatus:
        """A reading of the pool."""
        status = self.pool.status()
        progress = self.preparing()
        if status.reason is not None and progress is not None:
            reason = f"the model is being prepared: {progress}"
            return dataclasses.replace(status, reason=reason)
        return status

    def preparing(self) -> str | None:
        """How far the preparation is, in words; None while nothing is prepared."""
        progress = self._preparation.progress
        return None if progress is None else progress.in_words()

    def unready_reason(self) -> str | None:
        """Why no transcript can be made now; None if one can."""
        return self.status().reason

    def failed(self) -> bool:
        """Loading the model has failed at least once, and no worker is able."""
        return self.pool.failed()

    def admit(
        self, input_bytes: int | None = None, *, patient: bool = False
    ) -> contextlib.AbstractContextManager[Admission]:
        """A place for one request, before its body of `input_bytes` is read; a `patient` one has
        no deadline. Raises `supervisor.PoolError`."""
        return self.pool.admit(
            units=None if input_bytes is None else input_bytes / _MOST_BYTES_PER_S,
            input_bytes=input_bytes,
            deadline_s=None if patient else self.settings.limits.request_s,
        )

    def open_spool(self) -> Spool:
        """Where the request's audio goes."""
        return self.spools.open()

    async def transcribe(
        self,
        admission: Admission,
        audio: JobInput,
        *,
        words: bool = False,
        patient: bool = False,
        on_progress: Callable[[float], None] | None = None,
    ) -> Speech:
        """What is said in the file; `on_progress` gets seconds of audio done.

        `patient`: however long it takes, and however long the audio is. Raises
        `supervisor.PoolError`.
        """
        limits = self.settings.limits
        request = SpeechRequest(words=words, longest_audio_s=None if patient else limits.audio_s)
        result = await admission.run(
            msgspec.to_builtins(request),
            audio,
            timeout_s=None if patient else limits.request_s,
            on_progress=on_progress,
        )
        speech = msgspec.convert(result.value, Speech)
        self.traffic.audio_s += speech.duration_s
        return speech

    async def _target(self) -> Target:
        """Asked before each load, so that a model that was put there meanwhile is found."""
        if self.settings.prepare == "first":
            await self._prepare("the model is prepared before it is served")
        return await asyncio.to_thread(find_target, self.settings)

    async def _prepare_in_background(self) -> None:
        """Prepare the model while it is served as it is, then move over to what was made."""
        await self.pool.wait_ready()
        if await self._prepare("the model is served as it was published meanwhile"):
            self.pool.renew()

    async def _prepare(self, note: str) -> bool:
        """Prepare the model if it is not, and if that can be afforded; True if it was made."""
        preparation = self._preparation
        if not await asyncio.to_thread(preparation.needed):
            return False
        reason = await asyncio.to_thread(preparation.unaffordable_reason)
        if reason is not None:
            log.warning(
                "prepare.not_now",
                reason=reason,
                consequence="served as it was published, a model is several times slower and "
                "takes several times the memory",
            )
            return False
        log.info("prepare.begins", note=note)
        return await preparation.run()
