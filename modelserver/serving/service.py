"""Speech recognition as a service, without HTTP: the models that are served, and what they
share."""

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import msgspec.structs
import structlog

from modelserver.access.gate import AccessGate
from modelserver.access.keyring import KeysUnreadable, read_keys
from modelserver.serving.kernel_supply import KernelSupply
from modelserver.serving.served import MakeWay, ServedModel, memory_settings
from modelserver.serving.traffic import Traffic
from modelserver.settings import ModelSettings, Settings
from modelserver.settings.labels import own_settings, settings_for
from modelserver.speech.phrases import PhrasesRefused
from modelserver.tracing import Tracing
from supervisor import (
    Admission,
    Allocator,
    Cause,
    Draining,
    Guard,
    PoolState,
    PoolStatus,
    Spool,
    SpoolLimits,
    SpoolStore,
    Stream,
    choose_allocator,
    find_jemalloc,
)

log: structlog.stdlib.BoundLogger = structlog.get_logger("models")

_MOST_BYTES_PER_S = 2 * 2 * 48_000
"""Of an audio file, as good as always: until it has been seen it is taken for no longer than that
makes it, so that it is not refused for a length that it does not have. A job's size, for the pool,
is seconds of audio."""

_PHRASES_IDLE_S = 300.0
"""A model that was loaded for phrases alone goes if nobody has asked for any so long."""
_PHRASES_NICER = 5
"""Its worker's priority is below the others'."""
_ENDING = "the server is shutting down"
_IDLE_LOOK_S = 0.5
_LAST_ANSWERS_S = 1.0

# What only a new start brings into force, by the names of the settings.
_FIXED = (
    "host",
    "port",
    "vosk",
    "wyoming",
    "streams",
    "jobs",
    "workers",
    "memory",
    "spool",
    "admin",
    "allocator",
    "sandbox",
    "log",
    "tracing",
)


class UnknownModel(Exception):
    """No model is served under that name, or for that language; the text lists what there is."""


class SettingsRefused(Exception):
    """These settings cannot be taken over while the server runs; the text says why."""


async def _nobody_there(needs: int, left: int) -> None:
    """The model is loaded whatever is left: readings may be late."""


@dataclass(frozen=True, slots=True)
class Place:
    """A request's place with a model. `admission.resize` tells the audio's seconds once they are
    known."""

    served: ServedModel
    admission: Admission


class SpeechService:
    """Use as `async with`; entering returns at once, while models load."""

    def __init__(self, settings: Settings) -> None:
        """Raises `supervisor.AllocatorMissing` or `CannotTrace`."""
        choose_allocator(Allocator(settings.allocator), find_jemalloc())
        self.settings = settings
        self.url = ""
        """Where HTTP clients reach the server; empty until it accepts them."""
        self.make_way: MakeWay = _nobody_there
        """Has the server before this one end where both do not fit."""
        self.spools = SpoolStore(
            SpoolLimits(
                settings.spool.memory_each, settings.spool.memory_total, settings.spool.directory
            )
        )
        self.traffic = Traffic()
        self.tracing = Tracing(settings.tracing, os.environ)
        self.access = AccessGate(lambda: self.settings.auth)
        self.guard = Guard(memory_settings(settings), self.spools, reap_strangers=True)
        self._kernels = KernelSupply(self.guard)
        self._draining = ""  # or why
        self._announced = ""
        self._notice: asyncio.TimerHandle | None = None
        self.reload_refused: str | None = None
        """Why the last reload of settings was refused; None if it was not, or there was none."""
        self._uploads: set[asyncio.Timeout] = set()
        self._idling: asyncio.Task[None] | None = None
        self._leaving: dict[ServedModel, asyncio.Task[None]] = {}
        self._for_phrases: dict[str, ServedModel] = {}
        self._slots = 0
        self._past_deaths: Counter[Cause] = Counter()
        self.models = {
            label: self._served(label, own) for label, own in own_settings(settings).items()
        }

    async def __aenter__(self) -> "SpeechService":
        await self.guard.__aenter__()
        for served in self.models.values():
            if not served.on_demand:
                await served.start()
        self._idling = asyncio.create_task(self._unload_idle_ones())
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._refuse_from_now_on(_ENDING)
        if self._idling is not None:
            self._idling.cancel()
            await asyncio.gather(self._idling, return_exceptions=True)
        leaving = tuple(self._leaving.values())
        await asyncio.gather(*(served.stop() for served in self.all_served()))
        await asyncio.gather(*leaving)
        await self.guard.__aexit__(*exception)
        await asyncio.to_thread(self.tracing.close)

    # --- requests -------------------------------------------------------------------------------

    def find(self, name: str | None = None, language: str | None = None) -> ServedModel:
        """The model that is called so, or that speaks the language; without either, the first.

        Raises `UnknownModel`.
        """
        for served in self.models.values():
            if name is not None and name not in served.names:
                continue
            if language is not None and not served.speaks(language):
                continue
            return served
        wanted = [f"called {name!r}"] if name is not None else []
        wanted += [f"for the language {language!r}"] if language is not None else []
        there = ", ".join(served.in_words() for served in self.models.values())
        raise UnknownModel(f"there is no model {' and '.join(wanted)}; there are: {there}")

    def with_phrases(self, served: ServedModel) -> ServedModel:
        """The same model as it was published, on one worker of its own, loaded when it is used: a
        compiled graph cannot be limited to phrases. Raises `PhrasesRefused`."""
        if not served.takes_phrases():
            raise PhrasesRefused(
                f"{served.in_words()} has a graph that cannot be limited to phrases"
            )
        if (found := self._for_phrases.get(served.label)) is None:
            own = msgspec.structs.replace(
                served.own, load="first_use", idle_s=_PHRASES_IDLE_S, workers=1
            )
            nice = min(19, self.settings.workers.nice + _PHRASES_NICER)
            settings = msgspec.structs.replace(
                served.settings,
                prepare="never",
                warmup="none",
                workers=msgspec.structs.replace(served.settings.workers, count=1, nice=nice),
            )
            found = self._new_model(f"{served.label}.phrases", settings, own, plain=True)
            self._for_phrases[served.label] = found
        return found

    @contextlib.asynccontextmanager
    async def admit(
        self,
        served: ServedModel,
        input_bytes: int | None = None,
        *,
        patient: bool = False,
        client: str | None = None,
    ) -> AsyncIterator[Place]:
        """A place for one request of that `client`, before its body of `input_bytes` is read; a
        `patient` one has no deadline. A model that is loaded on demand is loaded first. Raises
        `supervisor.PoolError`."""
        if self._draining:
            raise Draining(self._draining)
        units = None if input_bytes is None else input_bytes / _MOST_BYTES_PER_S
        if not patient and units is not None and units >= self.settings.long.from_s:
            served.turns.refuse_late(units, self.settings.limits.request_s)
        with served.used():
            pool = await served.ready(self.settings.limits.request_s)
            with pool.admit(
                units=units,
                input_bytes=input_bytes,
                deadline_s=None if patient else self.settings.limits.request_s,
                client=client,
            ) as admission:
                yield Place(served, admission)

    @contextlib.asynccontextmanager
    async def stream(
        self, served: ServedModel, *, request_id: str | None = None
    ) -> AsyncIterator[Stream]:
        """A place for one live stream; what it takes is measured in seconds of audio. Raises
        `supervisor.PoolError`."""
        if self._draining:
            raise Draining(self._draining)
        with served.used():
            pool = await served.ready(self.settings.limits.request_s)
            with pool.stream(request_id=request_id) as stream:
                yield stream

    @contextlib.asynccontextmanager
    async def uploading(self) -> AsyncIterator[None]:
        """Around the receiving of a body: it is cut off where the server ends before it is whole.
        Raises `supervisor.Draining`."""
        timeout = asyncio.timeout(None)
        self._uploads.add(timeout)
        try:
            async with timeout:
                yield
        except TimeoutError:
            if timeout.expired():
                raise Draining(
                    "the server is shutting down, and the upload was not whole"
                ) from None
            raise
        finally:
            self._uploads.discard(timeout)

    async def end_uploads(self) -> None:
        """Those that are still on their way are told, and have a moment to tell their clients."""
        if not self._uploads:
            return
        for timeout in list(self._uploads):
            timeout.reschedule(asyncio.get_running_loop().time())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_ANSWERS_S):
                for served in self.all_served():
                    await served.out_of_use()

    def open_spool(self) -> Spool:
        """Where the request's audio goes."""
        return self.spools.open()

    # --- the life of the models -----------------------------------------------------------------

    async def settled(self) -> str | None:
        """Wait until every model that is loaded at the start is there, or cannot be loaded: why
        the first is not there; None if it is."""
        pools = [served.pool for served in self.models.values() if served.pool is not None]
        reasons = [await pool.loaded_or_failed() for pool in pools]
        return reasons[0] if self.default.pool is not None else None

    def announce_end(self) -> None:
        """Gateways are told that this process ends, and nobody is refused: somebody else will take
        what comes."""
        self._forget_notice()
        self._announced = _ENDING

    def end_streams(self) -> None:
        """Those that are open get their last result, and are closed."""
        for served in self.all_served():
            if served.pool is not None:
                served.pool.end_streams()

    def stop_admitting(self, reason: str = _ENDING) -> float:
        """Take no new requests, `notice_s` from now (which is returned); those inside go on, and
        those who wait for a model get it."""
        notice_s = self.settings.notice_s
        if not notice_s:
            self._refuse_from_now_on(self._draining or reason)
        elif not self._announced or reason == _ENDING:
            self._announced = reason
            loop = asyncio.get_running_loop()
            self._forget_notice()
            self._notice = loop.call_later(notice_s, self._refuse_from_now_on, reason)
        return notice_s

    def _refuse_from_now_on(self, reason: str) -> None:
        self._forget_notice()
        self._announced = self._draining = reason

    def _forget_notice(self) -> None:
        if self._notice is not None:
            self._notice.cancel()
            self._notice = None

    def resume(self) -> bool:
        """Take requests again after an operator's `stop_admitting`; False where the server ends."""
        if self._announced == _ENDING:
            return False
        self._forget_notice()
        self._announced = self._draining = ""
        return True

    def draining(self) -> str:
        """Why no new requests are taken, or soon will not be; empty while they are."""
        return self._announced

    async def drain(self, timeout_s: float) -> bool:
        """Take no new requests, and wait for those inside; True if all were done in time."""
        self._refuse_from_now_on(_ENDING)
        self.end_streams()
        try:
            async with asyncio.timeout(timeout_s):
                for served in self.all_served():
                    await served.out_of_use()
        except TimeoutError:
            return False
        return True

    def recycle(self, slot: int) -> list[int]:
        """Replace the worker on this slot, after its job; returns the pids."""
        return [
            pid
            for served in self.models.values()
            if served.pool is not None
            for pid in served.pool.recycle(slot)
        ]

    async def reload(self, settings: Settings) -> None:
        """Take over other settings, and load every model anew beside the one that serves.

        Raises `SettingsRefused` where a model would change that needs a new start, or the keys
        cannot be read.
        """
        if keys_file := settings.auth.keys_file:
            try:
                await asyncio.to_thread(read_keys, Path(keys_file))
            except KeysUnreadable as error:
                raise SettingsRefused(f"auth.keys_file: {error}") from error
        wanted = own_settings(settings)
        fixed = [name for name in _FIXED if getattr(settings, name) != getattr(self.settings, name)]
        if settings.limits.queue != self.settings.limits.queue:
            fixed.append("limits.queue")
        if fixed:
            log.warning("settings.need_a_restart", names=fixed)
        kept = {name: getattr(self.settings, name) for name in _FIXED}
        limits = msgspec.structs.replace(settings.limits, queue=self.settings.limits.queue)
        settings = msgspec.structs.replace(settings, limits=limits, **kept)
        for label, own in list(wanted.items()):
            served = self.models.get(label)
            if served is not None and served.own.workers != own.workers:
                log.warning("settings.need_a_restart", names=[f"models.{label}.workers"])
                wanted[label] = msgspec.structs.replace(own, workers=served.own.workers)
        before, self.settings = self.models, settings
        self.models = {
            label: before.get(label) or self._served(label, own) for label, own in wanted.items()
        }
        for label, served in self.models.items():
            if label in before:
                served.change(settings_for(settings, label, wanted[label]), wanted[label])
            if not served.on_demand:
                await served.start()
        # Those for phrases are loaded anew when somebody asks for them.
        gone = [before[label] for label in before.keys() - wanted.keys()]
        gone += self._for_phrases.values()
        self._for_phrases = {}
        for served in gone:
            self._leaving[served] = asyncio.create_task(self._retire(served, settings.drain_s))

    async def _retire(self, served: ServedModel, drain_s: float) -> None:
        """No new request finds it; those inside go on."""
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(drain_s):
                    await served.out_of_use()
            await self._let_go(served, "it is not in the settings any more")
        finally:
            self._past_deaths += served.deaths()
            del self._leaving[served]

    async def _let_go(self, served: ServedModel, reason: str) -> None:
        """Whoever asks for it from now on has it loaded anew."""
        await served.stop()
        log.info("model.unloaded", model=served.label, reason=reason)

    async def _make_room(self, wanted: ServedModel) -> bool:
        """Unload the model that was used longest ago, of those that are loaded on demand."""
        candidates = [
            served
            for served in (*self.models.values(), *self._for_phrases.values())
            if served is not wanted and served.on_demand and served.idle
        ]
        if not candidates:
            return False
        oldest = min(candidates, key=lambda served: served.used_at)
        await self._let_go(oldest, f"{wanted.label} needs its memory")
        await self.guard.look_again()
        return True

    async def _unload_idle_ones(self) -> None:
        while True:
            await asyncio.sleep(_IDLE_LOOK_S)
            for served in (*self.models.values(), *self._for_phrases.values()):
                patience = served.own.idle_s
                since = time.monotonic() - served.used_at
                if served.on_demand and patience and served.idle and since > patience:
                    await self._let_go(served, f"nobody asked for it for {patience:g} s")

    def all_served(self) -> tuple[ServedModel, ...]:
        """Those that leave, and those that were loaded for phrases, included."""
        return (*self.models.values(), *self._for_phrases.values(), *self._leaving)

    def _served(self, label: str, own: ModelSettings) -> ServedModel:
        return self._new_model(label, settings_for(self.settings, label, own), own)

    def _new_model(
        self, label: str, settings: Settings, own: ModelSettings, *, plain: bool = False
    ) -> ServedModel:
        served = ServedModel(
            label,
            settings,
            own,
            first_slot=self._slots,
            guard=self.guard,
            spools=self.spools,
            make_room=self._make_room,
            make_way=lambda needs, left: self.make_way(needs, left),
            kernels=self._kernels,
            plain=plain,
        )
        self._slots += served.slots
        return served

    # --- readings -------------------------------------------------------------------------------

    @property
    def default(self) -> ServedModel:
        """The model for requests that name none."""
        return next(iter(self.models.values()))

    @property
    def places(self) -> int:
        """Requests that may be inside at once."""
        return sum(served.places for served in self.models.values())

    def label_of(self, slot: int) -> str:
        """The model that the worker on this slot serves."""
        found = (served.label for served in self.all_served() if slot in served.numbers)
        return next(found, "")

    def watched(self) -> bool:
        """All that keeps the processes alive is itself alive."""
        pools = [served.pool for served in self.all_served() if served.pool is not None]
        return self.guard.alive() and all(pool.watched() for pool in pools)

    def status(self) -> PoolStatus:
        """A reading of all pools as one; reason, report and pace are the default model's."""
        first = self.default.status()
        found = [status for served in self.all_served() if (status := served.status())]
        reason = self.unready_reason()
        state = PoolState.READY if reason is None else PoolState.NOT_READY
        return PoolStatus(
            state=PoolState.DRAINING if self._announced else state,
            reason=reason,
            allocator=first.allocator if first else "",
            sandbox=first.sandbox if first else (),
            sandbox_missing=first.sandbox_missing if first else (),
            fork_server_pid=first.fork_server_pid if first else None,
            model=first.model if first else {},
            workers=tuple(worker for status in found for worker in status.workers),
            admitted=sum(status.admitted for status in found),
            waiting=sum(status.waiting for status in found),
            deaths=dict(
                sum(
                    (m.deaths() for m in self.all_served()),
                    self._past_deaths + Counter(self.guard.deaths),
                )
            ),
            last_deaths=self.guard.history.deaths,
            guard=self.guard.status(),
            starved_needs=self.guard.starved_needs(),
            s_per_unit=first.s_per_unit if first else None,
        )

    def stale(self) -> list[str]:
        """Why what is served is not what the settings say now, in sentences."""
        said = []
        if self.reload_refused is not None:
            said.append(f"the settings were not taken over: {self.reload_refused}")
        said += [
            f"{served.label} was not loaded anew, and serves as it was: {reason}"
            for served in self.models.values()
            if served.pool is not None and (reason := served.pool.not_renewed()) is not None
        ]
        return said

    def preparing(self) -> str | None:
        """How far a preparation is, in words; None while nothing is prepared."""
        said = (served.preparing() for served in self.models.values())
        return next((words for words in said if words is not None), None)

    def unready_reason(self) -> str | None:
        """Why the default model can make no transcript now; None if it can."""
        return self.default.unready_reason()
