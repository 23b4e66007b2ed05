"""Preparing the served model while the server runs: a process of its own, with the lowest
priority, that ends with the server; tried again later where it could not be done."""

import asyncio
import contextlib
import dataclasses
import enum
from collections.abc import Coroutine
from typing import Any

import msgspec
import structlog

import models
from models.leftovers import remove_leftover
from modelserver.serving.commands import ProgressLine, run_models_command
from modelserver.serving.load_specs import find_model
from modelserver.serving.selection import engine_settings
from modelserver.settings import Settings
from supervisor import Cause, Guard, Pool

log: structlog.stdlib.BoundLogger = structlog.get_logger("models")

_SERVING_RESERVE_BYTES = 512 * 1024 * 1024
"""Bytes that must stay available while preparing, for requests that arrive meanwhile."""


_FIRST_PAUSE_S, _PAUSE_FACTOR, _LONGEST_PAUSE_S = 5.0, 4.0, 3600.0
"""Seconds between two attempts, if an attempt failed for reasons other than the model."""

_NOT_ITS_FAULT = (Cause.GUARD, Cause.KERNEL_OOM, Cause.KILLED, Cause.TERMINATED)

_LATER = frozenset({"being_prepared", "cannot_afford", "model_changed", "no_space"})
"""Codes of `models.ModelError`: it may succeed at another time."""

_MOST_ENDED = 5
"""Attempts in a row that are begun and ended by others, each after minutes of work."""


class Outcome(enum.Enum):
    """The result of an attempt."""

    MADE = "made"
    NOT_NEEDED = "not_needed"
    LATER = "later"
    """Memory or disk were short, another process is at it, or this one was ended."""
    FAILED = "failed"
    """Preparing failed, and would fail again."""


def in_words(progress: ProgressLine) -> str:
    """Return how far a preparation is, in words."""
    if progress.total == 0:
        return progress.phase
    return f"{progress.phase}, {min(99, 100 * progress.done // progress.total)} %"


class Preparation:
    """Prepares the model that `settings` name. `progress` tells how far it is, None when nothing is
    being prepared; `why_not` why the last attempt came to nothing, None if it did not."""

    def __init__(self, settings: Settings, guard: Guard) -> None:
        self.settings = settings
        self.progress: ProgressLine | None = None
        self.why_not: str | None = None
        self._guard = guard
        self._name = ""
        """Name of the model, also if the settings have a path or `auto`."""
        self._consequence = ""
        """What it means to go without it."""
        self._elsewhere = False
        """Another process was preparing it at the last attempt."""
        self._ended = 0
        """Attempts that were begun and ended by others, one after the other."""
        self._task: asyncio.Task[None] | None = None

    def begin(self, pool: Pool, settings: Settings) -> None:
        """Prepare the model that `pool` serves, unless it is prepared, and have the pool move over
        to what was made; returns at once. Replaces what was begun before."""
        self._in_background(self._prepare(pool, settings))

    def renew(self, pool: Pool, settings: Settings) -> None:
        """Have `pool` load the model that `settings` name, and prepare that one if it is to be
        prepared; returns at once."""
        self.settings = settings
        self._in_background(self._renew(pool, settings))

    async def stop(self) -> None:
        """End what was begun."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        if self._task is not None:
            self._task.cancel()
        self._task = asyncio.create_task(work)
        self._task.add_done_callback(_log_crash)

    async def _prepare(self, pool: Pool, settings: Settings) -> None:
        await pool.wait_ready()
        served = pool.report().get("model")
        self.settings = await asyncio.to_thread(_settings_of, settings, served)
        if await self.until_made("the model is served as it was published meanwhile"):
            pool.renew()

    async def _renew(self, pool: Pool, settings: Settings) -> None:
        await pool.renewed()
        if settings.prepare == "auto":
            await self._prepare(pool, settings)

    async def until_made(self, note: str) -> bool:
        """Attempt it, and again later, as long as that may help; True once it is made, by this
        server or by another process."""
        pause_s, waited, self._ended = _FIRST_PAUSE_S, False, 0
        while True:
            outcome = await self.attempt(note)
            if outcome is Outcome.NOT_NEEDED:
                return waited
            if outcome in (Outcome.MADE, Outcome.FAILED):
                return outcome is Outcome.MADE
            if self._ended == _MOST_ENDED:
                self.why_not = (
                    f"{self.why_not}; {_MOST_ENDED} attempts have ended so, and the next one is "
                    "made when the settings are read again"
                )
                log.error("prepare.abandoned", reason=self.why_not)
                return False
            log.info("prepare.retry_scheduled", in_s=pause_s)
            await asyncio.sleep(pause_s)
            waited = True
            if self._elsewhere:
                continue  # it takes minutes, and then it is made
            pause_s = min(_PAUSE_FACTOR * pause_s, _LONGEST_PAUSE_S)

    async def attempt(self, note: str) -> Outcome:
        """Prepare the model if it is not, and if that can be afforded. `note`: what happens
        meanwhile, for the log. Cancelling ends the process."""
        self.why_not, self._elsewhere = None, False
        await asyncio.to_thread(self._tidy_up)
        if not await asyncio.to_thread(self._needed):
            return Outcome.NOT_NEEDED
        try:
            await asyncio.to_thread(self._must_be_possible)
        except models.ModelError as error:
            self.why_not = error.message
            log.warning("prepare.postponed", reason=error.message, consequence=self._consequence)
            return Outcome.LATER if error.code == "cannot_afford" else Outcome.FAILED
        log.info("prepare.planned", note=note)
        return await self._run()

    def _tidy_up(self) -> None:
        """Remove what killed runs and replaced models have left in the store."""
        stores = [engine.store for engine in models.installed_engines() if engine.store is not None]
        try:
            for store in stores:
                for leftover in store.leftovers(self.settings.prepared_dir):
                    if leftover.certain and remove_leftover(leftover):
                        path, why = str(leftover.path), leftover.why
                        log.info("prepared_model.removed", path=path, why=why)
        except OSError as error:
            log.warning("prepared_model.removal_failed", path=error.filename, reason=error.strerror)

    def _needed(self) -> bool:
        """Return whether preparing the model would change it. Reads disks."""
        try:
            location = find_model(self.settings)
            self._name = location.name
            engine = models.engine_of(location.directory)
            improvement = engine.improvement(location, engine_settings(self.settings, engine))
        except models.ModelError:
            return False
        self._consequence = improvement.consequence if improvement is not None else ""
        return improvement is not None

    def _must_be_possible(self) -> None:
        """Raises `ModelError` where it cannot be done, or not now. Reads disks."""
        location = find_model(self.settings)
        engine = models.engine_of(location.directory)
        assert engine.store is not None
        settings = engine_settings(self.settings, engine)
        spare = settings.available - _SERVING_RESERVE_BYTES
        engine.store.must_be_possible(location, dataclasses.replace(settings, available=spare))

    async def _run(self) -> Outcome:
        name = self._name

        def started(pid: int) -> None:
            log.info("prepare.started", pid=pid, model=name)

        try:
            failure = await run_models_command(
                *(self._guard, "preparation", ["prepare"], self.settings),
                on_progress=self._advanced,
                on_start=started,
            )
        finally:
            self.progress = None
        if failure is None:
            log.info("prepare.done", model=name)
            self._ended = 0
            return Outcome.MADE
        self.why_not = failure.reason
        self._elsewhere = failure.code == "being_prepared"
        if self._elsewhere or failure.code in _LATER:
            log.warning("prepare.postponed", model=name, reason=self.why_not)
            return Outcome.LATER
        if failure.cause in _NOT_ITS_FAULT:
            log.warning("prepare.interrupted", model=name, reason=self.why_not)
            self._ended += 1
            return Outcome.LATER
        log.error("prepare.failed", model=name, reason=self.why_not)
        return Outcome.FAILED

    def _advanced(self, progress: ProgressLine) -> None:
        self.progress = progress


def _log_crash(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("prepare.crashed", exc_info=error)


def _settings_of(settings: Settings, served: str | None) -> Settings:
    """Return the settings with that model alone in them, of several that they name. Reads disks."""
    for wanted in settings.model:
        alone = msgspec.structs.replace(settings, model=(wanted,))
        with contextlib.suppress(models.ModelError):
            if find_model(alone).name == served:
                return alone
    return settings
