"""Speech recognition as a service, without HTTP: a pool with a speech model, and its spools."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import msgspec

import models
from modelserver.settings import Settings
from modelserver.speech import Speech, SpeechRequest, speech_target
from supervisor import (
    Admission,
    Allocator,
    JobInput,
    Pool,
    PoolSettings,
    PoolStatus,
    Spool,
    SpoolLimits,
    SpoolStore,
    Target,
    TargetUnavailable,
    usable_cpus,
)


class SpeechService:
    """Use as `async with`; entering returns at once, while the model loads."""

    def __init__(self, settings: Settings) -> None:
        """Raises `supervisor.AllocatorMissing`."""
        self.settings = settings
        self.workers = settings.workers.count or usable_cpus()
        self.pool = Pool(
            self._target,
            PoolSettings(
                workers=self.workers,
                queue=settings.limits.queue,
                hang_s=settings.workers.hang_s,
                growth_limit_bytes=settings.workers.budget or None,
                allocator=Allocator(settings.allocator),
            ),
        )
        self.spools = SpoolStore(
            SpoolLimits(
                settings.spool.memory_each, settings.spool.memory_total, settings.spool.directory
            )
        )

    async def __aenter__(self) -> "SpeechService":
        await self.pool.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.pool.__aexit__(*exception)

    def status(self) -> PoolStatus:
        """A reading of the pool."""
        return self.pool.status()

    def unready_reason(self) -> str | None:
        """Why no transcript can be made now; None if one can."""
        return self.pool.unready_reason()

    def failed(self) -> bool:
        """Loading the model has failed at least once, and no worker is able."""
        return self.pool.failed()

    def admit(self) -> contextlib.AbstractContextManager[Admission]:
        """A place for one request, before its body is read. Raises `supervisor.PoolError`."""
        return self.pool.admit()

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
        return msgspec.convert(result.value, Speech)

    def _target(self) -> Target:
        """Asked before each load, so that a model that was put there meanwhile is found."""
        return find_target(self.settings)


def find_target(settings: Settings) -> Target:
    """What to load for these settings. Raises `supervisor.TargetUnavailable`."""
    try:
        location = find_model(settings)
    except models.ModelError as error:
        raise TargetUnavailable(error.message) from error
    return speech_target(location, settings.warmup)


def find_model(settings: Settings) -> models.ModelLocation:
    """The model that the settings name. Raises `models.ModelError`."""
    return models.find_model(settings.model, Path(settings.models_dir), settings.language or None)
