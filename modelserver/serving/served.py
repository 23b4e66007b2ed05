"""A model that is served: its pool while it is loaded, and what holds for it."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import PurePath
from typing import Any

import msgspec
import structlog

import models
from modelserver.serving.keywords import KeywordsFile
from modelserver.serving.loading import MakeWay, ModelLoading
from modelserver.serving.pool_settings import pool_settings
from modelserver.serving.preparation import Preparation, in_words
from modelserver.serving.recording_queue import Turns
from modelserver.serving.requirements import RequirementSupply
from modelserver.serving.selection import worker_count
from modelserver.serving.usage import Usage
from modelserver.settings import ModelSettings, Settings
from modelserver.settings.changes import same_preparation
from modelserver.settings.labels import DEFAULT_LABEL
from modelserver.speech.languages import all_languages, closest_language, languages_text
from supervisor import Cause, Guard, NotReady, Pool, PoolStatus, SpoolStore, Target


def _recognised_s(answer: dict[str, Any]) -> float:
    """Return the seconds of audio that were really there, as a header may say anything. Channels
    that were recognised one by one count each; audio that was only decoded counts 0."""
    return 0.0 if "pieces" in answer else float(answer["duration_s"]) * answer["channels"]


class ServedModel:
    """A label, the settings that hold for it, and a pool while it is loaded."""

    def __init__(
        self,
        label: str,
        settings: Settings,
        own: ModelSettings,
        *,
        first_slot: int,
        guard: Guard,
        spools: SpoolStore,
        make_room: Callable[["ServedModel"], Awaitable[bool]],
        make_way: MakeWay,
        requirements: RequirementSupply,
        phrases: bool = False,
    ) -> None:
        """`settings` with what is its `own` in place; `phrases`: in a form that takes phrases."""
        self.label = label
        self.settings = settings
        self.own = own
        self.used_at = time.monotonic()
        self._usage = Usage()
        self._past_deaths: Counter[Cause] = Counter()
        self._first_slot = first_slot
        self._guard = guard
        self._spools = spools
        self._preparation = Preparation(settings, guard)
        self._loading = ModelLoading(
            requirements, lambda: make_room(self), make_way, phrases=phrases
        )
        self._changing = asyncio.Lock()
        self.keywords = KeywordsFile(settings.keywords_file)
        self.turns = Turns()
        """Of long recordings."""
        self.pool: Pool | None = None

    @property
    def slots(self) -> int:
        """Number of its workers."""
        return worker_count(self.settings)

    @property
    def numbers(self) -> range:
        """Numbers of its workers' slots."""
        return range(self._first_slot, self._first_slot + self.slots)

    @property
    def most_admitted(self) -> int:
        """Requests that may be inside at once."""
        return self.slots + self.settings.limits.queue

    # --- what it is called ----------------------------------------------------------------------

    @property
    def names(self) -> set[str]:
        """Names by which a request may ask for it."""
        asked = {PurePath(name).name for name in self.settings.model} - {"auto"}
        loaded = str(self.report().get("model", ""))
        return ({self.label} | asked | {loaded}) - {""}

    @property
    def language(self) -> str:
        """BCP 47 tag of its language; "und" while that is not known."""
        if self.settings.language:
            return self.settings.language
        loaded = str(self.report().get("language", ""))
        return loaded or models.language_of(PurePath(self.settings.model[0]).name)

    @property
    def abilities(self) -> models.Abilities | None:
        """Abilities of the model; None while they are unknown."""
        found = self.report().get("abilities")
        return (
            self._loading.abilities if found is None else msgspec.convert(found, models.Abilities)
        )

    @property
    def languages(self) -> list[str]:
        """BCP 47 tags of the languages that it speaks, its own first."""
        return all_languages(self.language, self.abilities)

    def speaks(self, language: str) -> bool:
        """Return whether it speaks the language, or one that differs in its region only."""
        return closest_language(language, self.languages) is not None

    def takes_phrases(self) -> bool:
        """Return whether a form of it takes phrases; True while that is not known."""
        return self._loading.takes_phrases()

    def in_words(self) -> str:
        """Return a line for a list of models."""
        name = self.report().get("model") or self.settings.model[0]
        return f"{self.label} ({name}, {languages_text(self.languages)})"

    def report(self) -> dict[str, Any]:
        """Return how its model was loaded, in the model's words; empty while there is none."""
        return self.pool.report() if self.pool is not None else {}

    async def look(self) -> None:
        """Find out what it can do, before a request has it loaded. Reads the model's directory."""
        await self._loading.look(self.settings)

    # --- its life -------------------------------------------------------------------------------

    @property
    def on_demand(self) -> bool:
        """True if the first request for the model loads it."""
        return self.own.load == "first_use"

    @property
    def idle(self) -> bool:
        """True if the model is loaded, and no request uses it or waits for it."""
        return self.pool is not None and not self._usage.count

    async def out_of_use(self) -> None:
        """Wait until no request uses it or waits for it."""
        await self._usage.over()

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Mark it as used by a request, from before it is loaded until the answer."""
        try:
            with self._usage.one_more():
                yield
        finally:
            self.used_at = time.monotonic()

    async def start(self) -> None:
        """Begin to load it, unless it is loaded; returns at once."""
        async with self._changing:
            if self.pool is not None:
                return
            pool = self._new_pool()
            # What its tasks log says whose they are, where there are several.
            named = {} if self.label == DEFAULT_LABEL else {"label": self.label}
            with structlog.contextvars.bound_contextvars(**named):
                await pool.__aenter__()
            self.pool = pool
            self.used_at = time.monotonic()
            if self.settings.prepare == "auto":
                self._preparation.begin(pool, self.settings)

    def prepare_soon(self) -> None:
        """Prepare it now, if it is loaded and is not prepared; returns at once."""
        if self.pool is not None and self._preparation.progress is None:
            self._preparation.begin(self.pool, self.settings)

    async def stop(self) -> None:
        """Unload it; jobs that are inside are abandoned."""
        async with self._changing:
            pool, self.pool = self.pool, None
            await self._preparation.stop()
            if pool is not None:
                await pool.__aexit__()
                self._past_deaths.update(pool.deaths)

    async def ready(self, timeout_s: float) -> Pool:
        """Return its pool, loaded if that is done on demand. Raises `supervisor.NotReady`."""
        if not self.on_demand:
            return await self._started()
        try:
            async with asyncio.timeout(timeout_s):
                return await self.loaded()
        except TimeoutError:
            raise NotReady(self.unready_reason() or "the model is being loaded") from None

    async def loaded(self) -> Pool:
        """Return its pool once a worker is ready. Raises `supervisor.NotReady` if loading fails."""
        pool = await self._started()
        if (reason := await pool.loaded_or_failed()) is not None:
            raise NotReady(reason)
        return pool

    async def _started(self) -> Pool:
        if self.pool is None:
            await self.start()
        assert self.pool is not None
        return self.pool

    def change(self, settings: Settings, own: ModelSettings) -> None:
        """Apply other settings; a loaded model is loaded again beside the old one."""
        before, self.settings, self.own = self.settings, settings, own
        self.keywords = self.keywords.renamed(settings.keywords_file)
        self._loading.begin_again()
        if self.pool is None:
            self._preparation.settings = settings
        elif self._preparation.progress is not None and same_preparation(before, settings):
            self.pool.renew()  # the preparation continues
        else:
            self._preparation.renew(self.pool, settings)

    def _new_pool(self) -> Pool:
        async def target() -> Target:
            return await self._target(pool)

        settings = pool_settings(self.settings, self._first_slot)

        async def sound() -> bool:
            return await self._sound(pool)

        pool = Pool(target, settings, self._spools, self._guard, sound, _recognised_s)
        return pool

    async def _target(self, pool: Pool) -> Target:
        await self._loading.learn(pool, lambda: self._sound(pool))
        if self.settings.prepare == "first":
            await self._preparation.attempt("the model is prepared before it is served")
        return await self._loading.target(self.settings, pool)

    async def _sound(self, pool: Pool) -> bool:
        """Return whether what is served is not damaged. If it is, it is prepared again in the
        background once the original serves."""
        sound = await self._loading.sound()
        if not sound and self.settings.prepare == "auto":
            self._preparation.begin(pool, self.settings)
        return sound

    # --- readings -------------------------------------------------------------------------------

    def status(self) -> PoolStatus | None:
        """Return a reading of its pool; None while it is not loaded."""
        return None if self.pool is None else self.pool.status()

    def deaths(self) -> Counter[Cause]:
        """Return how many of its processes have ended, by cause, over all loads."""
        return self._past_deaths + Counter(self.pool.deaths if self.pool is not None else {})

    def unready_reason(self) -> str | None:
        """Return why it can make no transcript; None if it can, if need be after loading."""
        if self.pool is None:
            return None if self.on_demand else "the model is not loaded yet"
        reason, progress = self.pool.unready_reason(), self.preparing()
        if reason is not None and progress is not None:
            return f"the model is being prepared: {progress}"
        return reason

    def preparing(self) -> str | None:
        """Return how far the preparation is, in words; None while nothing is prepared."""
        progress = self._preparation.progress
        return None if progress is None else in_words(progress)

    def not_prepared_because(self) -> str | None:
        """Return why it is not prepared, or its prepared form not in use; None without a reason."""
        return self._preparation.why_not or self._loading.lost_prepared()

    def missing(self) -> str | None:
        """Return why it is not loaded as well as it could be: what a better form requires is
        missing, or loading has not come to what was asked for."""
        return self._loading.missing or next(iter(self.report().get("problems", ())), None)
