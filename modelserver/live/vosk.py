"""The WebSocket protocol of the Vosk project's server: samples in, one JSON answer a message.

Source: alphacep/vosk-server, `websocket/asr_server.py`, and its clients. A client may first send
`{"config": {...}}`, then binary messages of 16-bit samples, each answered with a partial or a final
result, and at the end `{"eof": 1}`, answered with the last one. `{"reset": 1}` ends an utterance.
"""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from models import PROFILES
from modelserver.http.app_keys import SERVICE
from modelserver.http.decoding import decoded
from modelserver.http.errors import refusal_of
from modelserver.http.middleware import KEY_NAME, NOTES, REQUEST_ID
from modelserver.live.session import Ended, live_session
from modelserver.live.websockets import (
    LiveSocket,
    close_of,
    closed_by,
    cut_reason,
    end_code,
    open_socket,
    tell_end,
)
from modelserver.refusal import Refusal
from modelserver.serving.served import ServedModel
from modelserver.serving.service import SpeechService
from modelserver.speech.engine_answers import with_texts
from modelserver.speech.messages import RESET, StreamRequest
from modelserver.speech.phrases import phrase_list
from modelserver.speech.transcript import reader_text
from supervisor import PoolError

_LEAST_RATE, _MOST_RATE = 1000, 192_000


class Refused(Exception):
    """The stream is closed with this code and reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class _Config(msgspec.Struct):
    """What a client may say; what is not here is ignored, as that server does. It passes values
    through `float()`, `int()` and `bool()`, and so do we."""

    sample_rate: Any = None
    words: Any = None
    max_alternatives: Any = None
    partial_words: Any = None
    phrase_list: list[Any] | None = None
    model: str | None = None
    profile: str | None = None


N = TypeVar("N", int, float)


def _number(name: str, value: Any, kind: type[N]) -> N:
    """Raises `Refused`."""
    try:
        return kind(value)
    except (TypeError, ValueError, OverflowError):
        raise Refused(
            WSCloseCode.UNSUPPORTED_DATA, f"{name}: a number is expected, not {value!r:.40}"
        ) from None


class _Said(msgspec.Struct):
    config: _Config | None = None
    eof: Any = None
    reset: Any = None


@dataclass(slots=True)
class _Wanted:
    """What the client has asked for so far."""

    sample_rate: float
    words: bool = True
    alternatives: int = 0
    profile: str = ""
    partial_words: bool = False
    phrases: tuple[str, ...] = ()

    def take(self, config: _Config) -> None:
        """Raises `Refused`."""
        if config.phrase_list is not None:
            self.phrases = phrase_list(config.phrase_list)
        if config.sample_rate is not None:
            rate = _number("sample_rate", config.sample_rate, float)
            if not _LEAST_RATE <= rate <= _MOST_RATE:
                raise Refused(
                    WSCloseCode.POLICY_VIOLATION,
                    f"sample_rate must be from {_LEAST_RATE} to {_MOST_RATE}",
                )
            self.sample_rate = rate
        if config.profile is not None:
            if config.profile not in ("", *PROFILES):
                raise Refused(
                    WSCloseCode.POLICY_VIOLATION, f"profile must be one of {', '.join(PROFILES)}"
                )
            self.profile = config.profile
        if config.words is not None:
            self.words = bool(config.words)
        if config.partial_words is not None:
            self.partial_words = bool(config.partial_words)
        if config.max_alternatives is not None:
            alternatives = _number("max_alternatives", config.max_alternatives, int)
            if not 0 <= alternatives <= 100:
                raise Refused(
                    WSCloseCode.POLICY_VIOLATION, "max_alternatives must be from 0 to 100"
                )
            self.alternatives = alternatives

    def request(self) -> StreamRequest:
        """For a worker."""
        return StreamRequest(
            self.sample_rate,
            self.words,
            self.alternatives,
            self.partial_words,
            self.phrases,
            self.profile,
        )


async def vosk_stream(request: web.Request) -> web.StreamResponse:
    """`/` and `/ws`, for WebSockets only."""
    socket = open_socket(request)
    if not socket.can_prepare(request).ok:
        if request.path == "/ws":
            raise Refusal("upgrade_required", "this is a WebSocket")
        raise web.HTTPNotFound
    service = request.app[SERVICE]
    # Refused before the handshake, with a document, where it cannot be carried.
    client = _Client(request, socket, service)
    async with contextlib.AsyncExitStack() as place:
        await client.find_place(client.asked_for, place)
        await socket.prepare(request)
        await client.serve()
    return socket


class _Client:
    """One of them, from before the handshake to the close frame."""

    def __init__(self, request: web.Request, socket: LiveSocket, service: SpeechService) -> None:
        self._request = request
        self._socket = socket
        self._service = service
        self._wanted = _Wanted(float(service.settings.vosk.sample_rate))
        self._for_readers = request.query.get("text") == "reader"
        self.asked_for = service.models.find(
            request.query.get("model"), request.query.get("language")
        )

    async def find_place(self, served: ServedModel, place: contextlib.AsyncExitStack) -> None:
        """For its stream. Raises `supervisor.PoolError`."""
        self._served = self._next = served
        self._place = place
        self._session = await place.enter_async_context(
            live_session(
                self._service,
                served,
                self._tell,
                self._request[REQUEST_ID],
                self._request.get(KEY_NAME),
            )
        )
        self._request[NOTES].update(model=served.label)

    async def serve(self) -> None:
        """Until either side ends it."""
        try:
            code, reason = await self._until_its_end()
        except asyncio.CancelledError:  # the client has gone without a word
            self._ended(int(WSCloseCode.ABNORMAL_CLOSURE), "")
            raise
        self._ended(code, reason)
        await self._session.close()
        with contextlib.suppress(ConnectionError):
            await self._socket.close(code=code, message=cut_reason(reason))

    async def _until_its_end(self) -> tuple[int, str]:
        """How to close."""
        try:
            try:
                while True:
                    async with self._session.listening():
                        if (end := await self._listen()) is not None:
                            return end
                    await self._move()
            except Ended as ended:
                # The last result first.
                await self._session.end_soon()
                return end_code(ended.why), ended.reason
        except Refused as refused:
            # What was said before it is not lost.
            await self._session.end_soon()
            return refused.code, refused.reason
        except PoolError as error:
            return close_of(error)
        except ConnectionError:
            return int(WSCloseCode.ABNORMAL_CLOSURE), ""
        except Exception as error:
            if (known := refusal_of(error)) is None:
                raise
            return close_of(known)

    def _ended(self, code: int, reason: str) -> None:
        tell_end(self._request, self._session, code, reason)

    async def _listen(self) -> tuple[int, str] | None:
        """Messages, until the client is done, or asks for another model. Returns how to close."""
        while True:
            message = await self._socket.next_message()
            self._session.busy()
            match message.type:
                case WSMsgType.BINARY:
                    await self._ask(message.data, len(message.data) / 2 / self._wanted.sample_rate)
                case WSMsgType.TEXT:
                    if await self._text(message.data):
                        return int(WSCloseCode.OK), ""
                    if self._next is not self._served:
                        return None
                case _:
                    code = closed_by(self._socket, message)
                    self._ended(code, "")
                    return code, ""
            self._session.heard()

    async def _text(self, text: str) -> bool:
        """A message that is no audio. True if it was the last."""
        try:
            said = decoded(text, _Said)
        except Refusal as error:
            raise Refused(
                WSCloseCode.UNSUPPORTED_DATA,
                f"audio is binary, and this text is not known: {error}",
            ) from None
        if said.config is not None:
            self._wanted.take(said.config)
            self._choose(said.config.model)
        elif said.eof:
            self._begin()
            await self._session.end()
            return True
        elif said.reset:
            await self._ask(RESET)
        else:
            raise Refused(
                WSCloseCode.UNSUPPORTED_DATA, "audio is binary, and this text is not known"
            )
        return False

    def _choose(self, name: str | None) -> None:
        """The model for this connection, from its next message on."""
        try:
            if name is not None:
                self.asked_for = self._service.models.find(name)
            self._next = self.asked_for
            if self._wanted.phrases:
                self._next = self._service.models.with_phrases(self.asked_for)
        except Refusal as error:
            raise Refused(WSCloseCode.POLICY_VIOLATION, str(error)) from None

    async def _move(self) -> None:
        """To the model that was asked for."""
        await self._session.end(None)
        await self._place.aclose()
        await self.find_place(self._next, self._place)

    def _begin(self) -> None:
        if not self._session.begun:
            self._session.begin(self._wanted.request())

    async def _ask(self, data: bytes | str, audio_s: float = 0.0) -> None:
        self._begin()
        await self._session.ask(data, audio_s)

    async def _tell(self, answer: str) -> None:
        await self._socket.send_text(for_readers(answer) if self._for_readers else answer)


def for_readers(answer: str) -> str:
    """With texts as people write them: without the spaces that the engine puts between words of
    scripts that have none."""
    return with_texts(answer, ("text", "partial"), lambda text: reader_text([text]))
