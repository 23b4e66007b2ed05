"""Registry of served models: found by name or language, loaded, unloaded, and replaced."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping

import msgspec.structs
import structlog

from modelserver.refusal import Refusal
from modelserver.serving.loading import MakeWay
from modelserver.serving.requirements import RequirementSupply
from modelserver.serving.served import ServedModel
from modelserver.settings import ModelSettings, Settings
from modelserver.settings.changes import with_values
from modelserver.settings.labels import own_settings, settings_for
from modelserver.speech.phrases import phrases_refused
from supervisor import Cause, Guard, SpoolStore

log: structlog.stdlib.BoundLogger = structlog.get_logger("models")

_PHRASES_IDLE_S = 300.0
"""Idle seconds after which a model is unloaded that was loaded for phrases only."""
_PHRASES_NICER = 5
"""Increase of the nice value of that model's worker over the others'."""
_IDLE_LOOK_S = 0.5
_KEYWORDS_LOOK_S = 1.0


class UnknownModel(Refusal):
    """Error for a request whose model or language is not served; the message lists the models."""

    def __init__(self, message: str) -> None:
        super().__init__("model_not_found", message)


def _no_second_pass(why: str) -> Refusal:
    return Refusal("bad_parameter", f"second_pass: {why}")


async def _load_anyway(needs: int, left: int) -> None:
    """Load the model whatever memory is left: readings may be late."""


class ModelRegistry(Mapping[str, ServedModel]):
    """The models of the settings, by label. Use as `async with`; entering returns at once, while
    models load."""

    def __init__(self, settings: Settings, guard: Guard, spools: SpoolStore) -> None:
        self.make_way: MakeWay = _load_anyway
        """Has the server before this one end where both do not fit."""
        self._settings = settings
        self._guard, self._spools = guard, spools
        self._requirements = RequirementSupply(guard)
        self._watching: list[asyncio.Task[None]] = []
        self._leaving: dict[ServedModel, asyncio.Task[None]] = {}
        self._for_phrases: dict[str, ServedModel] = {}
        self._slots = 0
        self._past_deaths: Counter[Cause] = Counter()
        self._models = {
            label: self._served(label, own) for label, own in own_settings(settings).items()
        }

    def __getitem__(self, label: str) -> ServedModel:
        return self._models[label]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    async def __aenter__(self) -> "ModelRegistry":
        await self._begin()
        self._watching = [
            asyncio.create_task(self._unload_idle_ones()),
            asyncio.create_task(self._follow_keywords()),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        leaving = tuple(self._leaving.values())
        await asyncio.gather(*(served.stop() for served in self.all_served()))
        await asyncio.gather(*leaving)

    # --- finding --------------------------------------------------------------------------------

    def find(
        self, name: str | None = None, language: str | None = None, phrases: tuple[str, ...] = ()
    ) -> ServedModel:
        """Return the model of that name, or that speaks the language; without either, the first.
        With `phrases`, return its form that can be limited to them. Raises `Refusal`."""
        for served in self._models.values():
            if name is not None and name not in served.names:
                continue
            if language is not None and not served.speaks(language):
                continue
            return self.with_phrases(served) if phrases else served
        wanted = [f"called {name!r}"] if name is not None else []
        wanted += [f"for the language {language!r}"] if language is not None else []
        there = ", ".join(served.in_words() for served in self._models.values())
        raise UnknownModel(f"there is no model {' and '.join(wanted)}; there are: {there}")

    def with_phrases(self, served: ServedModel) -> ServedModel:
        """Return the same model in a form that takes phrases, on one worker of its own, loaded on
        demand. Raises `Refusal`."""
        if not served.takes_phrases():
            raise phrases_refused(f"{served.in_words()} cannot be limited to phrases")
        if (found := self._for_phrases.get(served.label)) is None:
            own = msgspec.structs.replace(
                served.own, load="first_use", idle_s=_PHRASES_IDLE_S, workers=1
            )
            one_worker = {
                "prepare": "never",
                "workers.count": 1,
                "debug.warmup": "none",
                "debug.nice": min(19, self._settings.debug.nice + _PHRASES_NICER),
            }
            settings = with_values(served.settings, one_worker)
            found = self._new_model(f"{served.label}.phrases", settings, own, phrases=True)
            self._for_phrases[served.label] = found
        return found

    def for_second_pass(
        self, served: ServedModel, language: str | None, phrases: tuple[str, ...]
    ) -> ServedModel:
        """Return the model that recognises live streams of `served` once more: the one that its
        settings name, or itself. Raises `Refusal`."""
        other = self._models[served.own.second_pass] if served.own.second_pass else served
        if other is served:
            abilities = served.abilities
            if abilities is not None and "accurate" not in abilities.profiles:
                raise _no_second_pass("this model has no profile accurate")
            return served
        if language is not None and not other.speaks(language):
            raise _no_second_pass(f"{other.in_words()} does not speak {language!r}")
        return self.with_phrases(other) if phrases else other

    @property
    def default(self) -> ServedModel:
        """Model for requests that name none."""
        return next(iter(self._models.values()))

    def all_served(self) -> tuple[ServedModel, ...]:
        """Return all models, with those that leave and those that were loaded for phrases."""
        return (*self._models.values(), *self._for_phrases.values(), *self._leaving)

    @property
    def most_admitted(self) -> int:
        """Requests that may be inside at once."""
        return sum(served.most_admitted for served in self._models.values())

    def label_of(self, slot: int) -> str:
        """Return the label of the model that the worker on this slot serves."""
        found = (served.label for served in self.all_served() if slot in served.numbers)
        return next(found, "")

    def deaths(self) -> Counter[Cause]:
        """Return how many processes of all models have ended, by cause."""
        return sum((served.deaths() for served in self.all_served()), self._past_deaths)

    # --- loading and unloading ------------------------------------------------------------------

    async def loaded_or_failed(self) -> str | None:
        """Wait until every model that is loaded at the start is ready or has failed; returns why
        the first is not ready, or None."""
        pools = [served.pool for served in self._models.values() if served.pool is not None]
        reasons = [await pool.loaded_or_failed() for pool in pools]
        return reasons[0] if self.default.pool is not None else None

    def recycle(self, slot: int) -> list[int]:
        """Replace the worker on this slot, after its job; returns the pids."""
        return [
            pid
            for served in self._models.values()
            if served.pool is not None
            for pid in served.pool.recycle(slot)
        ]

    async def change(self, settings: Settings) -> None:
        """Serve the models of other settings; each is loaded again beside the one that serves."""
        wanted = own_settings(settings)
        for label, own in list(wanted.items()):
            served = self._models.get(label)
            if served is not None and served.own.workers != own.workers:
                log.warning("settings.restart_required", names=[f"models.{label}.workers"])
                wanted[label] = msgspec.structs.replace(own, workers=served.own.workers)
        before, self._settings = self._models, settings
        self._models = {
            label: before.get(label) or self._served(label, own) for label, own in wanted.items()
        }
        for label, served in self._models.items():
            if label in before:
                served.change(settings_for(settings, label, wanted[label]), wanted[label])
        await self._begin()
        # Models for phrases are loaded again by the next request for them.
        gone = [before[label] for label in before.keys() - wanted.keys()]
        gone += self._for_phrases.values()
        self._for_phrases = {}
        for served in gone:
            self._leaving[served] = asyncio.create_task(self._retire(served, settings.drain_s))

    async def _begin(self) -> None:
        """Begin to load the models that are loaded at the start, and look at the others."""
        served = tuple(self._models.values())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_KEYWORDS_LOOK_S):
                await self._look_at_keywords()
        for one in served:
            if not one.on_demand:
                await one.start()
        await asyncio.gather(*(one.look() for one in served if one.on_demand))

    async def _retire(self, served: ServedModel, drain_s: float) -> None:
        """Wait for the requests inside, for `drain_s`, and unload it; no new request finds it."""
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(drain_s):
                    await served.out_of_use()
            await self._unload(served, "it is not in the settings any more")
        finally:
            self._past_deaths += served.deaths()
            del self._leaving[served]

    async def _unload(self, served: ServedModel, reason: str) -> None:
        """Unload it; a request that asks for it loads it again."""
        await served.stop()
        log.info("model.unloaded", model=served.label, reason=reason)

    async def _make_room(self, wanted: ServedModel) -> bool:
        """Unload the model that was used longest ago, of those that are loaded on demand."""
        candidates = [
            served for served in self._unloadable() if served is not wanted and served.idle
        ]
        if not candidates:
            return False
        oldest = min(candidates, key=lambda served: served.used_at)
        await self._unload(oldest, f"{wanted.label} needs its memory")
        await self._guard.look_again()
        return True

    async def _unload_idle_ones(self) -> None:
        while True:
            await asyncio.sleep(_IDLE_LOOK_S)
            for served in self._unloadable():
                patience = served.own.idle_s
                since = time.monotonic() - served.used_at
                if patience and served.idle and since > patience:
                    await self._unload(served, f"no request for {patience:g} s")

    async def _follow_keywords(self) -> None:
        """Read files of keywords that have changed."""
        while True:
            await asyncio.sleep(_KEYWORDS_LOOK_S)
            await self._look_at_keywords()

    async def _look_at_keywords(self) -> None:
        await asyncio.gather(*(served.keywords.look(served.label) for served in self.all_served()))

    def _unloadable(self) -> tuple[ServedModel, ...]:
        served = (*self._models.values(), *self._for_phrases.values())
        return tuple(one for one in served if one.on_demand)

    def _served(self, label: str, own: ModelSettings) -> ServedModel:
        return self._new_model(label, settings_for(self._settings, label, own), own)

    def _new_model(
        self, label: str, settings: Settings, own: ModelSettings, *, phrases: bool = False
    ) -> ServedModel:
        served = ServedModel(
            label,
            settings,
            own,
            first_slot=self._slots,
            guard=self._guard,
            spools=self._spools,
            make_room=self._make_room,
            make_way=lambda needs, left: self.make_way(needs, left),
            requirements=self._requirements,
            phrases=phrases,
        )
        self._slots += served.slots
        return served
