"""One model that is served: its pool while it is loaded, and its preparation."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import PurePath
from typing import Any

import msgspec
import structlog

import models
from modelserver.serving.allowances import not_allowed
from modelserver.serving.choice import Choice, worker_count
from modelserver.serving.kernel_supply import KernelSupply
from modelserver.serving.lessons import CrashInquiry, Lessons
from modelserver.serving.preparation import Preparation, in_words
from modelserver.serving.targets import find_choice, find_model, target_of, wants_kernels
from modelserver.serving.turns import Turns
from modelserver.serving.usage import Usage
from modelserver.settings import ModelSettings, Settings
from modelserver.settings.labels import DEFAULT_LABEL
from modelserver.speech.languages import primary_language
from supervisor import (
    Allocator,
    Cause,
    DeathRecord,
    Guard,
    MemorySettings,
    NotReady,
    Pool,
    PoolSettings,
    PoolStatus,
    Sandbox,
    SpoolStore,
    StreamSettings,
    Target,
    TargetUnavailable,
)

log: structlog.stdlib.BoundLogger = structlog.get_logger("models")

_BY_ITSELF = (Cause.CRASH, Cause.EXITED, Cause.HANG)
_FOR_MEMORY = (Cause.GUARD, Cause.KERNEL_OOM)
_CANNOT_LOAD = "the model cannot be loaded: "
_UNSEEN = 1.25
"""By how much more a model is expected to need than it held when its load was ended. It was not
done, so it is more; and a room that is larger by that is worth another try."""

MakeRoom = Callable[["ServedModel"], Awaitable[bool]]
"""Unload something else for this model; False if there is nothing."""

MakeWay = Callable[[int, int], Awaitable[None]]
"""So many bytes are needed and so many are left: have the server before this one end, if there is
one."""


def memory_settings(settings: Settings) -> MemorySettings:
    """What the guard is told of them."""
    return MemorySettings(
        limit=_unless_auto(settings.memory.limit),
        reserve=_unless_auto(settings.memory.reserve),
        budget=_unless_auto(settings.workers.budget),
        max_rss=_unless_auto(settings.workers.max_rss),
    )


def pool_settings(settings: Settings, first_slot: int = 0) -> PoolSettings:
    """What a pool is told of them."""
    return PoolSettings(
        workers=worker_count(settings),
        first_slot=first_slot,
        queue=settings.limits.queue,
        hang_s=settings.workers.hang_s,
        nice=settings.workers.nice,
        memory=memory_settings(settings),
        allocator=Allocator(settings.allocator),
        sandbox=Sandbox(settings.sandbox),
        streams=StreamSettings(replay=settings.streams.replay_s, share=settings.streams.share),
    )


def _unless_auto(size: int | str) -> int | None:
    return size if isinstance(size, int) else None


def _of_same_model(one: Settings, other: Settings) -> bool:
    """Preparing for one is preparing for the other."""
    names = ("model", "language", "models_dir", "prepared_dir", "blas", "prepare")
    return all(getattr(one, name) == getattr(other, name) for name in names)


def _heard_s(answer: dict[str, Any]) -> float:
    """Seconds of audio that were really there: a header may say anything. Channels that were
    recognised one by one count each. 0 where they were not recognised, but decoded only: nothing is
    to be learned from that."""
    return 0.0 if "pieces" in answer else float(answer["duration_s"]) * answer["channels"]


def _tell_if_crashed(task: asyncio.Task[None]) -> None:
    """Nobody else would hear of it."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("prepare.crashed", exc_info=error)


def _load_error(pool: Pool) -> str | None:
    """What the process said that could not load the last target; None if it could. A model that was
    loaded, and whose fork server has ended since, is unready for another reason."""
    reason = pool.unready_reason()
    if reason is not None and reason.startswith(_CANNOT_LOAD):
        return reason.removeprefix(_CANNOT_LOAD)
    return pool.not_renewed()


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
        make_room: MakeRoom,
        make_way: MakeWay,
        kernels: KernelSupply,
        plain: bool = False,
    ) -> None:
        """`settings` with what is its `own` in place already; `plain`: as the model was published,
        though it may be prepared."""
        self.label = label
        self._plain = plain
        self.settings = settings
        self.own = own
        self.used_at = time.monotonic()
        self._usage = Usage()
        self._past_deaths: Counter[Cause] = Counter()
        self._first_slot = first_slot
        self._guard = guard
        self._spools = spools
        self._make_room, self._make_way = make_room, make_way
        self._preparation = Preparation(settings, guard)
        self._kernels = kernels
        self._background: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()
        self._chosen: Choice | None = None
        self._with_kernels = False
        self._learnt: DeathRecord | None = None
        self._tried = False
        """The last target was found, so that what failed since was loading it."""
        self._lessons = Lessons()
        self.turns = Turns()
        """Of long recordings."""
        self._inquiry = CrashInquiry(self._lessons)
        self.pool: Pool | None = None
        self.kernels_missing: str | None = None
        """Why our kernels, which would pay, are not to be had."""

    @property
    def slots(self) -> int:
        """Its workers."""
        return worker_count(self.settings)

    @property
    def numbers(self) -> range:
        """Of its workers' slots."""
        return range(self._first_slot, self._first_slot + self.slots)

    @property
    def places(self) -> int:
        """Requests that may be inside at once."""
        return self.slots + self.settings.limits.queue

    # --- what it is called ----------------------------------------------------------------------

    @property
    def names(self) -> set[str]:
        """What a request may call it."""
        asked = {PurePath(name).name for name in self.settings.model} - {"auto"}
        loaded = str(self.report().get("model", ""))
        return ({self.label} | asked | {loaded}) - {""}

    @property
    def language(self) -> str:
        """What it speaks, as a BCP 47 tag; "und" while that is not known."""
        if self.settings.language:
            return self.settings.language
        loaded = str(self.report().get("language", ""))
        return loaded or models.language_of(PurePath(self.settings.model[0]).name)

    def speaks(self, language: str) -> bool:
        """The language, or one that differs in its region only."""
        return primary_language(self.language) == primary_language(language)

    def takes_phrases(self) -> bool:
        """It can be limited to phrases, once it is loaded as it was published; True while that is
        not known."""
        chosen = self._chosen
        return chosen is None or models.composes_its_graph(chosen.location.directory)

    def in_words(self) -> str:
        """For a list of what there is."""
        name = self.report().get("model") or self.settings.model[0]
        return f"{self.label} ({name}, {self.language})"

    def report(self) -> dict[str, Any]:
        """What its model says of how it was loaded; empty while there is none."""
        return self.pool.report() if self.pool is not None else {}

    # --- its life -------------------------------------------------------------------------------

    @property
    def on_demand(self) -> bool:
        """Loaded when somebody asks for it."""
        return self.own.load == "first_use"

    @property
    def idle(self) -> bool:
        """Loaded, and nobody uses it or waits for it."""
        return self.pool is not None and not self._usage.count

    async def out_of_use(self) -> None:
        """Until nobody uses it or waits for it."""
        await self._usage.over()

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """By a request, from before it is loaded until it is answered."""
        try:
            with self._usage.one_more():
                yield
        finally:
            self.used_at = time.monotonic()

    async def start(self) -> None:
        """Begin to load it; returns at once. Does nothing if it is there."""
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
                self._in_background(self._prepare_in_background(pool))

    def prepare_soon(self) -> None:
        """Prepare it now, if it is loaded and is not prepared; returns at once."""
        if self.pool is not None and self._preparation.progress is None:
            self._in_background(self._prepare_in_background(self.pool))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """In place of what was done there before."""
        if self._background is not None:
            self._background.cancel()
        self._background = asyncio.create_task(work)
        self._background.add_done_callback(_tell_if_crashed)

    async def stop(self) -> None:
        """Unload it; jobs that are inside are given up."""
        async with self._changing:
            pool, self.pool = self.pool, None
            if self._background is not None:
                self._background.cancel()
                await asyncio.gather(self._background, return_exceptions=True)
                self._background = None
            if pool is not None:
                await pool.__aexit__()
                self._past_deaths.update(pool.deaths)

    async def ready(self, timeout_s: float) -> Pool:
        """Its pool; loaded, if it is loaded on demand. Raises `supervisor.NotReady`."""
        if not self.on_demand:
            return await self._started()
        try:
            async with asyncio.timeout(timeout_s):
                return await self.loaded()
        except TimeoutError:
            raise NotReady(self.unready_reason() or "the model is being loaded") from None

    async def loaded(self) -> Pool:
        """Its pool, once a worker is able. Raises `supervisor.NotReady` where loading fails."""
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
        """Other settings hold from now on; a loaded model is loaded anew beside the old one."""
        before, self.settings, self.own = self.settings, settings, own
        self._lessons.begin_again()
        if self.pool is None:
            self._preparation.settings = settings
        elif self._preparation.progress is not None and _of_same_model(before, settings):
            self.pool.renew()  # what is being prepared goes on
        else:
            self._preparation.settings = settings
            self._in_background(self._renew(self.pool))

    def _new_pool(self) -> Pool:
        async def target() -> Target:
            return await self._target(pool)

        settings = pool_settings(self.settings, self._first_slot)

        async def sound() -> bool:
            return await self._sound(pool)

        pool = Pool(target, settings, self._spools, self._guard, sound, _heard_s)
        return pool

    async def _target(self, pool: Pool) -> Target:
        """Asked before each load, so that a model that was put there meanwhile is found."""
        tried, self._tried = self._tried, False
        if (record := pool.load_death()) is not None and record != self._learnt:
            self._learnt = record
            self._learn_from(record)
            if record.death.cause is Cause.CRASH:
                await self._sound(pool)
        elif tried and record is None and (why := _load_error(pool)) is not None:
            self._load_failed(why)
        if self.settings.prepare == "first":
            await self._preparation.attempt("the model is prepared before it is served")
        while True:
            headroom = await pool.headroom()
            try:
                choice = await asyncio.to_thread(
                    find_choice, self.settings, headroom, self._lessons, plain=self._plain
                )
            except TargetUnavailable:
                if not await self._make_room(self):
                    raise
            else:
                break
        if (missing := not_allowed(choice, self.slots)) is not None:
            raise TargetUnavailable(missing)
        if (needs := choice.needs(self.slots)) > headroom.now:
            await self._make_way(needs, headroom.now)
        self._chosen = choice
        wanted = wants_kernels(self.settings, choice)
        kernels, self.kernels_missing = None, None
        if wanted:
            refused = self._lessons.without_kernels.get(choice.form)
            kernels, self.kernels_missing = await self._kernels.get(self.settings, refused)
        self._with_kernels = kernels is not None
        target = await asyncio.to_thread(target_of, self.settings, choice, kernels)
        self._tried = True
        return target

    def _load_failed(self, why: str) -> None:
        if self._chosen is not None:
            self._lessons.load_failed(self._chosen.form, why, with_kernels=self._with_kernels)

    def _learn_from(self, record: DeathRecord) -> None:
        """A load was ended for its memory, though what was predicted did fit: from now on it is
        expected to need more than it held then, and the next in the list may be served. Or it
        failed by itself: another way to load it may succeed."""
        chosen, last = self._chosen, record.last
        if record.death.cause in _BY_ITSELF:
            self._load_failed(record.death.sentence)
        if chosen is None or last is None or record.death.cause not in _FOR_MEMORY:
            return
        expected = max(self._lessons.needs_of(chosen.form), int(last.unreclaimable * _UNSEEN))
        self._lessons.needs[chosen.form] = expected
        log.warning(
            "model.mispredicted",
            model=chosen.location.name,
            predicted_bytes=chosen.prediction.model,
            held_bytes=last.unreclaimable,
            expected_bytes=expected,
        )

    async def _sound(self, pool: Pool) -> bool:
        """Whether what is served is not damaged. If it is, it is prepared anew in the background
        once the original serves."""
        chosen = self._chosen
        if chosen is None or await self._inquiry.sound(chosen.prepared, chosen.location.directory):
            return True
        if self.settings.prepare == "auto":
            self._in_background(self._prepare_in_background(pool))
        return False

    # --- readings -------------------------------------------------------------------------------

    def status(self) -> PoolStatus | None:
        """A reading of its pool, with how far a preparation is; None while it is not loaded."""
        return None if self.pool is None else self.pool.status()

    def deaths(self) -> Counter[Cause]:
        """How many of its processes have ended, by cause, however often it was unloaded."""
        return self._past_deaths + Counter(self.pool.deaths if self.pool is not None else {})

    def unready_reason(self) -> str | None:
        """Why it can make no transcript, or None if it can, if need be after loading."""
        if self.pool is None:
            return None if self.on_demand else "the model is not loaded yet"
        reason, progress = self.pool.unready_reason(), self.preparing()
        if reason is not None and progress is not None:
            return f"the model is being prepared: {progress}"
        return reason

    def preparing(self) -> str | None:
        """How far the preparation is, in words; None while nothing is prepared."""
        progress = self._preparation.progress
        return None if progress is None else in_words(progress)

    def not_prepared_because(self) -> str | None:
        """Why preparing it has come to nothing so far, or why what was prepared is not in use; None
        if there is no reason, or it was not tried."""
        not_mapped: str | None = self.report().get("not_mapped")
        chosen = self._chosen
        lost = chosen.problems if chosen is not None and chosen.prepared is None else ()
        return self._preparation.why_not or not_mapped or next(iter(lost), None)

    # --- preparing ------------------------------------------------------------------------------

    async def _renew(self, pool: Pool) -> None:
        await pool.renewed()
        if self.settings.prepare == "auto":
            await self._prepare_in_background(pool)

    async def _prepare_in_background(self, pool: Pool) -> None:
        """Prepare the model while it is served as it is, then move over to what was made."""
        await pool.wait_ready()
        self._preparation.settings = await asyncio.to_thread(self._settings_of_loaded, pool)
        if await self._preparation.until_made("the model is served as it was published meanwhile"):
            pool.renew()

    def _settings_of_loaded(self, pool: Pool) -> Settings:
        """With only that model in them that was chosen of several."""
        for wanted in self.settings.model:
            alone = msgspec.structs.replace(self.settings, model=(wanted,))
            with contextlib.suppress(models.ModelError):
                if find_model(alone).name == pool.report().get("model"):
                    return alone
        return self.settings
