"""The WebSocket protocol of the Vosk project's server: samples in, one JSON answer a message.

Source: alphacep/vosk-server, `websocket/asr_server.py`, and its clients. A client may first send
`{"config": {...}}`, then binary messages of 16-bit samples, each answered with a partial or a final
result, and at the end `{"eof": 1}`, answered with the last one. `{"reset": 1}` ends an utterance.
"""

import asyncio
import contextlib
import enum
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog
from aiohttp import WSCloseCode, WSMsgType, web

from modelserver.http.errors import ApiError, as_api_error
from modelserver.http.keys import SERVICE
from modelserver.http.middleware import NOTES, REQUEST_ID
from modelserver.serving.served import ServedModel
from modelserver.serving.service import SpeechService, UnknownModel
from modelserver.settings import Settings
from modelserver.speech.messages import EOF, RESET, StreamRequest
from modelserver.speech.transcript import reader_text
from supervisor import PoolError, Stream

log: structlog.stdlib.BoundLogger = structlog.get_logger("http")

_LEAST_RATE, _MOST_RATE = 1000, 192_000
_MOST_REASON_BYTES = 123
"""Of a close frame (RFC 6455, 5.5)."""


class CloseCode(enum.IntEnum):
    """Beside those of RFC 6455: why a stream was ended."""

    IDLE = 4408
    TOO_OLD = 4410


class Refused(Exception):
    """The stream is closed with this code and reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class _Config(msgspec.Struct):
    """What a client may say; what is not here is ignored, as that server does."""

    sample_rate: float | None = None
    words: bool | int | None = None
    max_alternatives: int | None = None
    partial_words: bool | int | None = None
    phrase_list: list[Any] | None = None
    model: str | None = None


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
    partial_words: bool = False

    def take(self, config: _Config) -> None:
        """Raises `Refused`."""
        if config.phrase_list:
            raise Refused(
                WSCloseCode.POLICY_VIOLATION,
                "phrase_list: this model's graph is compiled, and takes no grammar",
            )
        if config.sample_rate is not None:
            if not _LEAST_RATE <= config.sample_rate <= _MOST_RATE:
                raise Refused(
                    WSCloseCode.POLICY_VIOLATION,
                    f"sample_rate must be from {_LEAST_RATE} to {_MOST_RATE}",
                )
            self.sample_rate = config.sample_rate
        if config.words is not None:
            self.words = bool(config.words)
        if config.partial_words is not None:
            self.partial_words = bool(config.partial_words)
        if config.max_alternatives is not None:
            if not 0 <= config.max_alternatives <= 100:
                raise Refused(
                    WSCloseCode.POLICY_VIOLATION, "max_alternatives must be from 0 to 100"
                )
            self.alternatives = config.max_alternatives

    def request(self) -> dict[str, Any]:
        """For a worker."""
        asked = StreamRequest(self.sample_rate, self.words, self.alternatives, self.partial_words)
        built: dict[str, Any] = msgspec.to_builtins(asked)
        return built


async def vosk_stream(request: web.Request) -> web.StreamResponse:
    """`/` and `/ws`, for WebSockets only."""
    socket = _socket(request)
    if not socket.can_prepare(request).ok:
        if request.path == "/ws":
            raise ApiError(
                "upgrade_required", "this is a WebSocket", headers={"Upgrade": "websocket"}
            )
        raise web.HTTPNotFound
    service = request.app[SERVICE]
    served = service.find(request.query.get("model"), request.query.get("language"))
    # Refused before the handshake, with a document, where it cannot be carried.
    async with contextlib.AsyncExitStack() as place:
        stream = await place.enter_async_context(
            service.stream(served, request_id=request[REQUEST_ID])
        )
        request[NOTES].update(model=served.label)
        await socket.prepare(request)
        session = _Session(request, socket, service, served, stream, place)
        await session.run()
    return socket


def _socket(request: web.Request) -> web.WebSocketResponse:
    settings = request.app[SERVICE].settings.streams
    return web.WebSocketResponse(
        heartbeat=settings.ping_s, max_msg_size=settings.message, compress=False
    )


class _Session:
    """One client, from the handshake to the close frame."""

    def __init__(
        self,
        request: web.Request,
        socket: web.WebSocketResponse,
        service: SpeechService,
        served: ServedModel,
        stream: Stream,
        place: contextlib.AsyncExitStack,
    ) -> None:
        settings: Settings = service.settings
        self._request = request
        self._socket = socket
        self._service = service
        self._served = served
        self._stream = stream
        self._place = place
        self._settings = settings.streams
        self._wanted = _Wanted(float(settings.vosk.sample_rate))
        self._for_readers = request.query.get("text") == "reader"
        self._answering: asyncio.Task[None] | None = None
        self._asked = self._answered = 0
        self._all_answered = asyncio.Event()
        self._heard_s = 0.0

    async def run(self) -> None:
        """Until either side ends it."""
        try:
            code, reason = await self._until_its_end()
            await self._close(code, reason)
        except asyncio.CancelledError:  # the client has gone without a word
            self._ended(int(WSCloseCode.ABNORMAL_CLOSURE), "")
            raise
        finally:
            await self._stop_answering()

    async def _until_its_end(self) -> tuple[int, str]:
        """How to close."""
        code, reason = int(WSCloseCode.OK), ""
        try:
            async with asyncio.timeout(self._settings.longest_s) as age:
                code, reason = await self._listen()
        except TimeoutError:
            if not age.expired():
                raise
            code, reason = CloseCode.TOO_OLD, f"older than {self._settings.longest_s:g} s"
        except Refused as refused:
            code, reason = refused.code, refused.reason
        except PoolError as error:
            code, reason = _close_of(error)
        except ConnectionError:
            code = int(WSCloseCode.ABNORMAL_CLOSURE)
        return code, reason

    async def _close(self, code: int, reason: str) -> None:
        """The last result first, where there is one to be had."""
        try:
            if code in (WSCloseCode.GOING_AWAY, *CloseCode) and self._stream.begun:
                async with asyncio.timeout(self._settings.ping_s):
                    await self._ask(EOF)
                    await self._wait_answered()
        except (PoolError, ConnectionError, TimeoutError):
            pass  # there is none, and the code says why
        await self._stop_answering()
        self._ended(code, reason)
        with contextlib.suppress(ConnectionError):
            await self._socket.close(code=code, message=_cut(reason))

    def _ended(self, code: int, reason: str) -> None:
        self._service.traffic.stream_ends[str(int(code))] += 1
        self._request[NOTES].update(
            close=int(code),
            reason=reason or None,
            audio_s=round(self._heard_s, 3),
            replays=self._stream.replays,
        )

    async def _listen(self) -> tuple[int, str]:
        """Messages, until the client is done. Returns how to close."""
        while True:
            message = await self._next_message()
            match message.type:
                case WSMsgType.BINARY:
                    await self._ask(message.data)
                case WSMsgType.TEXT:
                    if await self._text(message.data):
                        return int(WSCloseCode.OK), ""
                case WSMsgType.ERROR:
                    error = self._socket.exception()
                    if error is not None:
                        log.debug("stream.socket_failed", error=str(error))
                    return self._socket.close_code or int(WSCloseCode.PROTOCOL_ERROR), ""
                case _:
                    return self._socket.close_code or int(WSCloseCode.ABNORMAL_CLOSURE), ""

    async def _next_message(self) -> Any:
        receiving = asyncio.ensure_future(self._socket.receive())
        ending = asyncio.ensure_future(self._stream.ending.wait())
        waiting = {receiving, ending}
        if self._answering is not None:
            waiting.add(self._answering)
        try:
            done, _ = await asyncio.wait(
                waiting, timeout=self._settings.idle_s, return_when=asyncio.FIRST_COMPLETED
            )
            if self._answering is not None and self._answering in done:
                self._answering.result()  # raises what has ended the stream
            if receiving in done:
                return receiving.result()
            if ending in done:
                raise Refused(WSCloseCode.GOING_AWAY, "the server is shutting down; come again")
            raise Refused(CloseCode.IDLE, f"nothing came for {self._settings.idle_s:g} s")
        finally:
            receiving.cancel()
            ending.cancel()

    async def _text(self, text: str) -> bool:
        """A message that is no audio. True if it was the last."""
        try:
            said = msgspec.json.decode(text, type=_Said)
        except msgspec.DecodeError as error:
            raise Refused(
                WSCloseCode.UNSUPPORTED_DATA,
                f"audio is binary, and this text is not known: {error}",
            ) from None
        if said.config is not None:
            if said.config.model is not None:
                await self._change_model(said.config.model)
            self._wanted.take(said.config)
        elif said.eof:
            await self._ask(EOF)
            await self._wait_answered()
            return True
        elif said.reset:
            await self._ask(RESET)
        else:
            raise Refused(
                WSCloseCode.UNSUPPORTED_DATA, "audio is binary, and this text is not known"
            )
        return False

    async def _change_model(self, name: str) -> None:
        """For this connection, from its next message on."""
        try:
            wanted = self._service.find(name)
        except UnknownModel as error:
            raise Refused(WSCloseCode.POLICY_VIOLATION, str(error)) from None
        if wanted is self._served and not self._stream.begun:
            return
        await self._wait_answered()
        await self._stop_answering()
        await self._place.aclose()
        self._served = wanted
        self._stream = await self._place.enter_async_context(
            self._service.stream(wanted, request_id=self._request[REQUEST_ID])
        )

    async def _ask(self, data: bytes | str) -> None:
        if not self._stream.begun:
            self._stream.begin(self._wanted.request())
            self._answering = asyncio.create_task(self._answer())
        audio_s = len(data) / 2 / self._wanted.sample_rate if isinstance(data, bytes) else 0.0
        self._asked += 1
        self._heard_s += audio_s
        self._service.traffic.audio_s += audio_s
        await self._stream.send(data, audio_s)

    async def _answer(self) -> None:
        while True:
            for answer in await self._stream.receive():
                await self._socket.send_str(for_readers(answer) if self._for_readers else answer)
                self._answered += 1
            if self._answered >= self._asked:
                self._all_answered.set()

    async def _wait_answered(self) -> None:
        """Everything that was asked has its answer. Raises what ended the stream."""
        if self._answering is None:
            return
        self._all_answered.clear()
        while self._answered < self._asked:
            waiting = asyncio.ensure_future(self._all_answered.wait())
            await asyncio.wait({waiting, self._answering}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if self._answering.done():
                self._answering.result()
                return
            self._all_answered.clear()

    async def _stop_answering(self) -> None:
        answering, self._answering = self._answering, None
        if answering is not None:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)


def for_readers(answer: str) -> str:
    """With texts as people write them: without the spaces that the engine puts between words of
    scripts that have none."""
    said = msgspec.json.decode(answer)
    for part in (said, *said.get("alternatives", ())):
        for name in ("text", "partial"):
            if name in part:
                part[name] = reader_text([part[name]])
    return msgspec.json.format(msgspec.json.encode(said)).decode()


def _close_of(error: PoolError) -> tuple[int, str]:
    known = as_api_error(error)
    if known is None:
        return int(WSCloseCode.INTERNAL_ERROR), error.message
    code = WSCloseCode.TRY_AGAIN_LATER if known.status == 503 else WSCloseCode.INTERNAL_ERROR
    return int(code), f"{known.code}: {known.message}"


def _cut(reason: str) -> bytes:
    return reason.encode()[:_MOST_REASON_BYTES].decode(errors="ignore").encode()
