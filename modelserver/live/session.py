"""A live stream, whichever protocol carries it.

A protocol translates: `LiveSession.carry` asks it for the client's next input, and `tell` gets each
answer. Waiting, limits, the end of the server and the end of the stream are handled here.
"""

import asyncio
import contextlib
import enum
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from modelserver.access.gate import NotAllowed, Pass
from modelserver.serving.keywords import KeywordsFile
from modelserver.serving.served import ServedModel
from modelserver.serving.service import SpeechService
from modelserver.speech.messages import EOF, RESET, CaptionRequest, StreamRequest
from supervisor import Stream

LAST_RESULT_S = 20.0
"""Seconds that the last result of a stream that has ended may take."""


@dataclass(frozen=True, slots=True)
class Audio:
    """Audio from the client; `seconds`: 0 where that is not known yet."""

    data: bytes
    seconds: float = 0.0


class Signal(enum.Enum):
    """Message from the client other than audio."""

    KEEPALIVE = enum.auto()
    RESET = enum.auto()
    """End the segment now."""
    END = enum.auto()
    """End the stream: the last results are sent."""
    LEAVE = enum.auto()
    """Leave the stream, after which nothing is carried; `LiveSession.end` has not been called."""


Input = Audio | Signal


class Why(enum.Enum):
    """The reason why the server ends a stream."""

    SHUTDOWN = enum.auto()
    IDLE = enum.auto()
    TOO_OLD = enum.auto()


class Ended(Exception):
    """End of the stream by the server; `LiveSession.end` may still return its last result."""

    def __init__(self, why: Why, reason: str) -> None:
        super().__init__(reason)
        self.why = why
        self.reason = reason


class LiveSession:
    """Use as `async with`, from `live_session`: `begin`, then `carry`."""

    def __init__(
        self,
        service: SpeechService,
        stream: Stream,
        tell: Callable[[Any], Awaitable[None]],
        passed: Pass,
        keywords: KeywordsFile,
        since: float | None = None,
    ) -> None:
        """Carry one stream. `tell`: receives each answer; `passed`: the admission of its client;
        `since`: when the client connected, on the event loop's clock, if that was earlier;
        `keywords`: those of its model."""
        self._passed, self._keywords = passed, keywords
        self._stamp = service.access.stamp_of(passed.name)
        self._service = service
        self._settings = service.settings.streams
        self._stream = stream
        self._tell = tell
        self._answering: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[Any] | None = None
        self._patience: asyncio.Timeout | None = None
        self._over = False
        self._since = asyncio.get_running_loop().time() if since is None else since
        self.audio_s = 0.0
        """Seconds of audio that have come, as far as that is known."""

    @property
    def begun(self) -> bool:
        """True if the stream has a worker, or waits for one."""
        return self._stream.begun

    @property
    def replays(self) -> int:
        """Number of times that it was replayed on another worker."""
        return self._stream.replays

    def begin(self, asked: StreamRequest | CaptionRequest, *, whole: bool = False) -> None:
        """Describe the stream, before any input. `whole`: see `supervisor.Stream.begin`."""
        asked = self._keywords.added_to(asked)
        self._stream.begin(msgspec.to_builtins(asked), whole=whole)
        self._answering = asyncio.create_task(self._answer())
        self._answering.add_done_callback(self._interrupt)

    async def carry(self, receive: Callable[[], Awaitable[Input]]) -> Signal:
        """Send what `receive` returns, until the client ends the stream or leaves; waiting in
        `receive` counts as idle. Raises `Ended`, `supervisor.PoolError`, `NotAllowed`, and what
        `receive` and telling raise."""
        async with self._watching():
            while True:
                self._begin_idling()
                said = await receive()
                self._stop_idling()
                match said:
                    case Audio(data, seconds):
                        await self._send(data, seconds)
                    case Signal.RESET:
                        await self._send(RESET)
                    case Signal.END:
                        await self.end()
                        return said
                    case Signal.LEAVE:
                        return said

    async def _send(self, data: bytes | str, audio_s: float = 0.0) -> None:
        """Wait while enough is on its way. Raises `NotAllowed` once the key was revoked."""
        if not self._service.access.still_valid(self._passed.name, self._stamp):
            raise NotAllowed("unauthorized", "this key was revoked")
        self._count(audio_s)
        await self._stream.send(data, audio_s)

    def count_until(self, seconds: float) -> None:
        """Count audio up to `seconds` from the start, where that is known only now."""
        if seconds > self.audio_s:
            self._count(seconds - self.audio_s)

    def _count(self, seconds: float) -> None:
        self.audio_s += seconds
        self._service.traffic.audio_s += seconds
        self._passed.charge(seconds)

    async def end(self, last: str | None = EOF) -> None:
        """End the stream (with None, without a last message), and wait for all answers. Raises
        `supervisor.PoolError`, and what telling raises."""
        if self._answering is not None:
            self._over = True
            self._stop_idling()
            if last is not None:
                await self._stream.send(last)
            self._stream.finish()
            await self._answering

    async def end_soon(self) -> None:
        """End the stream, waiting no longer than `LAST_RESULT_S`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_RESULT_S):
                await self.end()

    async def _answer(self) -> None:
        while said := await self._stream.receive():
            for answer in said:
                await self._tell(answer)

    # --- waiting for the client -----------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _watching(self) -> AsyncIterator[None]:
        """Raise `Ended`, `supervisor.PoolError`, and what telling raises, whatever is waited for
        within."""
        self._ending = asyncio.create_task(self._stream.ending.wait())
        self._ending.add_done_callback(self._interrupt)
        age = asyncio.timeout_at(self._since + self._settings.longest_s)
        try:
            async with age, asyncio.timeout(None) as patience:
                self._patience = patience
                if self._interrupted:
                    patience.reschedule(asyncio.get_running_loop().time())
                yield
        except TimeoutError:
            if not age.expired() and not patience.expired():
                raise
            raise self._end_of(age) from None
        finally:
            self._patience = None

    def _end_of(self, age: asyncio.Timeout) -> Exception:
        if (
            self._answering is not None
            and self._answering.done()
            and not self._answering.cancelled()
            and (error := self._answering.exception()) is not None
        ):
            return error if isinstance(error, Exception) else RuntimeError(str(error))
        if self._stream.ending.is_set():
            return Ended(Why.SHUTDOWN, "the server is shutting down: reconnect")
        if age.expired():
            return Ended(Why.TOO_OLD, f"older than {self._settings.longest_s:g} s")
        return Ended(Why.IDLE, f"nothing came for {self._settings.idle_s:g} s")

    def _begin_idling(self) -> None:
        if self._patience is not None and not self._interrupted:
            now = asyncio.get_running_loop().time()
            self._patience.reschedule(now + self._settings.idle_s)

    def _stop_idling(self) -> None:
        if self._patience is not None and not self._interrupted:
            self._patience.reschedule(None)

    @property
    def _interrupted(self) -> bool:
        tasks = (self._answering, self._ending)
        return any(task is not None and task.done() for task in tasks)

    def _interrupt(self, task: "asyncio.Task[Any]") -> None:
        if self._patience is not None and not self._over and not task.cancelled():
            self._patience.reschedule(asyncio.get_running_loop().time())

    async def close(self) -> None:
        """Tell no more answers. May be called twice."""
        tasks = [task for task in (self._answering, self._ending) if task is not None]
        self._answering = self._ending = None
        if not tasks:
            return
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def live_session(
    service: SpeechService,
    served: ServedModel,
    tell: Callable[[Any], Awaitable[None]],
    request_id: str | None = None,
    key_name: str | None = None,
    *,
    since: float | None = None,
) -> AsyncIterator[LiveSession]:
    """Admit one, for the client with the key of that name, which came at `since` on the event
    loop's clock (by default now). Raises `supervisor.PoolError` or `NotAllowed`."""
    with service.access.stream(key_name) as passed:
        async with service.stream(served, request_id=request_id) as stream:
            session = LiveSession(service, stream, tell, passed, served.keywords, since)
            try:
                yield session
            finally:
                await session.close()
