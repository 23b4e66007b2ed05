"""Loading of one served model: chooses the target of each load, and learns from those that
failed."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

import models
from modelserver.serving.learned import CrashInquiry, Lessons
from modelserver.serving.load_specs import describe_choice, find_model, target_of
from modelserver.serving.requirements import RequirementMissing, RequirementSupply
from modelserver.serving.rlimits import not_allowed
from modelserver.serving.selection import Choice, candidate, choose_model, worker_count
from modelserver.settings import Settings
from supervisor import Cause, DeathRecord, Headroom, Pool, RepeatLimit, Target, TargetUnavailable

log: structlog.stdlib.BoundLogger = structlog.get_logger("models")

_BY_ITSELF = (Cause.CRASH, Cause.EXITED, Cause.HANG)
_FOR_MEMORY = (Cause.GUARD, Cause.KERNEL_OOM)
_CANNOT_LOAD = "the model cannot be loaded: "
_UNSEEN = 1.25
"""Factor by which a model is expected to need more than it held when its loading was stopped. The
load was not complete, so it needs more; if there is room for that, another try is worth it."""

MakeRoom = Callable[[], Awaitable[bool]]
"""Unload something else for this model; False if there is nothing."""

MakeWay = Callable[[int, int], Awaitable[None]]
"""Function that asks the server before this one, if any, to exit, given the bytes needed and the
bytes left."""


class ModelLoading:
    """Chooses the target of each load of one served model."""

    def __init__(
        self,
        requirements: RequirementSupply,
        make_room: MakeRoom,
        make_way: MakeWay,
        *,
        phrases: bool,
    ) -> None:
        """Choose how to load the model. `phrases`: in a form that accepts phrases, even if there is
        a better one."""
        self._phrases = phrases
        self._requirements = requirements
        self._make_room, self._make_way = make_room, make_way
        self._learnt: DeathRecord | None = None
        self._tried = False
        """The last target was found, so that what failed since was loading it."""
        self._lessons = Lessons()
        self._inquiry = CrashInquiry(self._lessons)
        self._chosen: Choice | None = None
        self._seen: Choice | None = None
        self._repeats = RepeatLimit()

    def begin_again(self) -> None:
        """Forget what loads have taught: an operator has changed something."""
        self._lessons.begin_again()
        self._repeats.forget()

    @property
    def _known(self) -> Choice | None:
        """Choice that was made or would be; None while that is not known."""
        return self._chosen or self._seen

    @property
    def abilities(self) -> models.Abilities | None:
        """Abilities of the form that was chosen or would be; None while that is not known."""
        return None if self._known is None else self._known.form.abilities

    async def look(self, settings: Settings) -> None:
        """See which form would be best, of the first model that is there."""
        try:
            self._seen = await asyncio.to_thread(lambda: candidate(find_model(settings), settings))
        except (models.ModelError, OSError):
            self._seen = None  # the first load says why

    def takes_phrases(self) -> bool:
        """Return whether a form of the model takes phrases; True while that is not known."""
        return self._known is None or self._known.takes_phrases

    def lost_prepared(self) -> str | None:
        """Return why a prepared form of the model is not in use; None if there is no reason."""
        chosen = self._chosen
        return next(iter(chosen.problems), None) if chosen and not chosen.form.prepared else None

    @property
    def missing(self) -> str | None:
        """Reason why what a better form of the model requires is not used."""
        return self._chosen.missing if self._chosen is not None else None

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
        slots, unavailable = worker_count(settings), dict[str, str]()
        while True:
            choice, headroom = await self._choose(settings, pool, unavailable)
            if (reason := not_allowed(choice, slots)) is not None:
                raise TargetUnavailable(reason)
            if (needs := choice.needs(slots)) > headroom.now:
                await self._make_way(needs, headroom.now)
            variables: Mapping[str, str] = {}
            if (requirement := choice.form.requirement) is not None:
                try:
                    variables = await self._requirements.get(requirement)
                except RequirementMissing as error:
                    unavailable[requirement.name] = str(error)
                    continue
            break
        self._chosen = choice
        describe_choice(choice, settings, headroom, self._repeats)
        self._tried = True
        return target_of(settings, choice, variables)

    async def _choose(
        self, settings: Settings, pool: Pool, unavailable: Mapping[str, str]
    ) -> tuple[Choice, Headroom]:
        """Choose what fits, after unloading other models if need be."""
        while True:
            headroom = await pool.headroom()
            try:
                choice = await asyncio.to_thread(
                    choose_model,
                    settings,
                    headroom,
                    self._lessons,
                    unavailable,
                    phrases=self._phrases,
                )
            except TargetUnavailable:
                if not await self._make_room():
                    raise
            else:
                return choice, headroom

    async def sound(self) -> bool:
        """Return whether what is served is as it was made. If it is not, it is not used again."""
        if (chosen := self._chosen) is None:
            return True
        return await self._inquiry.sound(models.engine_named(chosen.engine), chosen.form)

    def _load_failed(self, why: str) -> None:
        if self._chosen is not None:
            self._lessons.load_failed(self._chosen.form, why, last=self._chosen.last)

    def _learn_from(self, record: DeathRecord) -> None:
        """Learn from a load that was ended. If it was for memory, though the prediction fitted, the
        form is expected to need more than it held then, and the next in the list may be served. If
        it failed by itself, another way to load it may succeed."""
        chosen, last = self._chosen, record.last
        if record.death.cause in _BY_ITSELF:
            self._load_failed(record.death.sentence)
        if chosen is None or last is None or record.death.cause not in _FOR_MEMORY:
            return
        expected = max(self._lessons.needs_of(chosen.form), int(last.unreclaimable * _UNSEEN))
        self._lessons.needs[chosen.form.key] = chosen.prediction.model, expected
        log.warning(
            "model.mispredicted",
            model=chosen.location.name,
            predicted_bytes=chosen.prediction.model,
            held_bytes=last.unreclaimable,
            expected_bytes=expected,
        )


def _load_error(pool: Pool) -> str | None:
    """Return what the process said that could not load the last target; None if it could, or
    refused to. A model that was loaded, and whose fork server has ended since, is unready for
    another reason."""
    if pool.load_refused():
        return None
    reason = pool.unready_reason()
    if reason is not None and reason.startswith(_CANNOT_LOAD):
        return reason.removeprefix(_CANNOT_LOAD)
    return pool.not_renewed()
