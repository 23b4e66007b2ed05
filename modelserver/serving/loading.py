"""How one served model is loaded: what is chosen before each load, and what loads that failed have
taught."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from models.vosk.layout import composes_its_graph
from modelserver.serving.learned import CrashInquiry, Lessons
from modelserver.serving.load_specs import find_choice, target_of, wants_simd
from modelserver.serving.rlimits import not_allowed
from modelserver.serving.selection import Choice, worker_count
from modelserver.serving.simd_supply import SimdSupply
from modelserver.settings import Settings
from supervisor import Cause, DeathRecord, Pool, Target, TargetUnavailable

log: structlog.stdlib.BoundLogger = structlog.get_logger("models")

_BY_ITSELF = (Cause.CRASH, Cause.EXITED, Cause.HANG)
_FOR_MEMORY = (Cause.GUARD, Cause.KERNEL_OOM)
_CANNOT_LOAD = "the model cannot be loaded: "
_UNSEEN = 1.25
"""By how much more a model is expected to need than it held when its load was ended. The load was
not complete, so it is more; and a room that is larger by that is worth another try."""

MakeRoom = Callable[[], Awaitable[bool]]
"""Unload something else for this model; False if there is nothing."""

MakeWay = Callable[[int, int], Awaitable[None]]
"""So many bytes are needed and so many are left: have the server before this one end, if there is
one."""


class ModelLoading:
    """Chooses the target of each load of one served model."""

    def __init__(
        self, simd: SimdSupply, make_room: MakeRoom, make_way: MakeWay, *, plain: bool
    ) -> None:
        """`plain`: as the model was published, though it may be prepared."""
        self._plain = plain
        self._simd = simd
        self._make_room, self._make_way = make_room, make_way
        self._with_simd = False
        self._learnt: DeathRecord | None = None
        self._tried = False
        """The last target was found, so that what failed since was loading it."""
        self._lessons = Lessons()
        self._inquiry = CrashInquiry(self._lessons)
        self._chosen: Choice | None = None
        self.simd_missing: str | None = None
        """Why the SIMD library, which would pay, cannot be used."""

    def begin_again(self) -> None:
        """Forget what loads have taught: an operator has changed something."""
        self._lessons.begin_again()

    def takes_phrases(self) -> bool:
        """Return whether the model can be limited to phrases once it is loaded as it was published;
        True while that is not known."""
        chosen = self._chosen
        return chosen is None or composes_its_graph(chosen.location.directory)

    def lost_prepared(self) -> str | None:
        """Return why a prepared form of the model is not in use; None if there is no reason."""
        chosen = self._chosen
        return next(iter(chosen.problems), None) if chosen and chosen.prepared is None else None

    async def learn(self, pool: Pool, sound: Callable[[], Awaitable[bool]]) -> None:
        """Draw conclusions from how the last load ended. `sound`: see `supervisor.Pool`."""
        tried, self._tried = self._tried, False
        if (record := pool.load_death()) is not None and record != self._learnt:
            self._learnt = record
            self._learn_from(record)
            if record.death.cause is Cause.CRASH:
                await sound()
        elif tried and record is None and (why := _load_error(pool)) is not None:
            self._load_failed(why)

    async def target(self, settings: Settings, pool: Pool) -> Target:
        """Choose what to load now, so that a model that was installed meanwhile is found. Raises
        `supervisor.TargetUnavailable`."""
        slots = worker_count(settings)
        while True:
            headroom = await pool.headroom()
            try:
                choice = await asyncio.to_thread(
                    find_choice, settings, headroom, self._lessons, plain=self._plain
                )
            except TargetUnavailable:
                if not await self._make_room():
                    raise
            else:
                break
        if (missing := not_allowed(choice, slots)) is not None:
            raise TargetUnavailable(missing)
        if (needs := choice.needs(slots)) > headroom.now:
            await self._make_way(needs, headroom.now)
        self._chosen = choice
        simd, self.simd_missing = None, None
        if wants_simd(settings, choice):
            refused = self._lessons.without_simd.get(choice.form)
            simd, self.simd_missing = await self._simd.get(settings, refused)
        self._with_simd = simd is not None
        target = await asyncio.to_thread(target_of, settings, choice, simd)
        self._tried = True
        return target

    async def sound(self) -> bool:
        """Return whether what is served is as it was made. If it is not, it is not used again."""
        chosen = self._chosen
        return chosen is None or await self._inquiry.sound(
            chosen.prepared, chosen.location.directory
        )

    def _load_failed(self, why: str) -> None:
        if self._chosen is not None:
            self._lessons.load_failed(self._chosen.form, why, with_simd=self._with_simd)

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


def _load_error(pool: Pool) -> str | None:
    """What the process said that could not load the last target; None if it could, or refused to. A
    model that was loaded, and whose fork server has ended since, is unready for another reason."""
    if pool.load_refused():
        return None
    reason = pool.unready_reason()
    if reason is not None and reason.startswith(_CANNOT_LOAD):
        return reason.removeprefix(_CANNOT_LOAD)
    return pool.not_renewed()
