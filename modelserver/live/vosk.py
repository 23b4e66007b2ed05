"""The WebSocket protocol of the Vosk project's server: samples in, one JSON answer a message.

Source: alphacep/vosk-server, `websocket/asr_server.py`, and its clients. A client may first send
`{"config": {...}}`, then binary messages of 16-bit samples, each answered with a partial or a final
result, and at the end `{"eof": 1}`, answered with the last one. `{"reset": 1}` ends an utterance.
"""

import contextlib
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from models import PROFILES
from modelserver.access.gate import NotAllowed
from modelserver.http.decoding import decoded
from modelserver.http.middleware import KEY_NAME, NOTES, REQUEST_ID
from modelserver.live.session import Audio, Input, LiveSession, Signal, live_session
from modelserver.live.websockets import LiveSocket, SocketClient, close_of, open_socket
from modelserver.refusal import Refusal
from modelserver.request.endpoints import read_endpoint_ms, read_max_utterance_s
from modelserver.request.parameters import read_language
from modelserver.serving.served import ServedModel
from modelserver.speech.messages import StreamRequest, recognition_of
from modelserver.speech.phrases import keyword_list, phrase_list
from supervisor import PoolError

_LEAST_RATE, _MOST_RATE = 1000, 192_000


class _Config(msgspec.Struct):
    """Configuration that a client may send; other fields are ignored, as vosk-server does. Values
    pass through `float()`, `int()` and `bool()`, as there."""

    sample_rate: Any = None
    words: Any = None
    max_alternatives: Any = None
    partial_words: Any = None
    phrase_list: list[Any] | None = None
    keywords: list[Any] | None = None
    """Words to prefer: not in that server's protocol."""
    model: str | None = None
    profile: str | None = None
    endpoint_ms: Any = None
    max_utterance_s: Any = None


N = TypeVar("N", int, float)


def _number(name: str, value: Any, kind: type[N]) -> N:
    """Convert a number. Raises `Refusal`."""
    try:
        return kind(value)
    except (TypeError, ValueError, OverflowError):
        raise Refusal("bad_request", f"{name}: a number is expected, not {value!r:.40}") from None


class _Said(msgspec.Struct):
    config: _Config | None = None
    eof: Any = None
    reset: Any = None


@dataclass(slots=True)
class _Wanted:
    """Options that the client has sent so far."""

    sample_rate: float
    words: bool = True
    alternatives: int = 0
    profile: str = ""
    endpoint_ms: int = 0
    max_utterance_s: float = 0.0
    partial_words: bool = False
    phrases: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    language: str = ""
    for_readers: bool = False
    """Texts are as people write them: without the spaces that the engine puts between words of
    scripts that have none."""

    def take(self, config: _Config) -> None:
        """Apply a client's configuration. Raises `Refusal`."""
        if config.phrase_list is not None:
            self.phrases = phrase_list(config.phrase_list, "phrase_list")
        if config.keywords is not None:
            self.keywords = keyword_list(config.keywords)
        if config.sample_rate is not None:
            rate = _number("sample_rate", config.sample_rate, float)
            if not _LEAST_RATE <= rate <= _MOST_RATE:
                raise Refusal(
                    "bad_parameter", f"sample_rate must be from {_LEAST_RATE} to {_MOST_RATE}"
                )
            self.sample_rate = rate
        if config.profile is not None:
            if config.profile not in ("", *PROFILES):
                raise Refusal("bad_parameter", f"profile must be one of {', '.join(PROFILES)}")
            self.profile = config.profile
        if config.endpoint_ms is not None:
            self.endpoint_ms = read_endpoint_ms(config.endpoint_ms)
        if config.max_utterance_s is not None:
            self.max_utterance_s = read_max_utterance_s(config.max_utterance_s)
        if config.words is not None:
            self.words = bool(config.words)
        if config.partial_words is not None:
            self.partial_words = bool(config.partial_words)
        if config.max_alternatives is not None:
            alternatives = _number("max_alternatives", config.max_alternatives, int)
            if not 0 <= alternatives <= 100:
                raise Refusal("bad_parameter", "max_alternatives must be from 0 to 100")
            self.alternatives = alternatives

    def request(self) -> StreamRequest:
        """Return the options as a worker takes them."""
        return StreamRequest(
            self.sample_rate,
            self.words,
            self.partial_words,
            self.for_readers,
            **recognition_of(self),
        )


async def vosk_stream(request: web.Request) -> web.StreamResponse:
    """`/` and `/ws`, for WebSockets only."""
    socket = open_socket(request)
    if not socket.can_prepare(request).ok:
        if request.path == "/ws":
            raise Refusal("upgrade_required", "this is a WebSocket")
        raise web.HTTPNotFound
    # Refused before the handshake, with a document, where it cannot be carried.
    client = _Client(request, socket)
    async with contextlib.AsyncExitStack() as held:
        await client.open_session(client.asked_for, held)
        await socket.prepare(request)
        await client.serve()
    return socket


class _Client(SocketClient):
    session: LiveSession

    def __init__(self, request: web.Request, socket: LiveSocket) -> None:
        super().__init__(request, socket)
        models, query = self.service.models, request.query
        self._wanted = _Wanted(float(self.service.settings.vosk.sample_rate))
        self._wanted.for_readers = query.get("text") == "reader"
        language = read_language(query.get("language", ""))
        self._wanted.language = language or ""
        self.asked_for = models.find(query.get("model"), language)

    async def open_session(self, served: ServedModel, held: contextlib.AsyncExitStack) -> None:
        """Admit the client's stream to that model. Raises `supervisor.PoolError`."""
        self._served = self._next = served
        self._held = held
        request_id, key_name = self.request[REQUEST_ID], self.request.get(KEY_NAME)
        opening = live_session(
            self.service, served, self._tell, request_id, key_name, since=self.since
        )
        self.session = await held.enter_async_context(opening)
        self.request[NOTES].update(model=served.label)

    async def run(self) -> tuple[int, str]:
        try:
            while True:
                end = await self.carry(self.session)
                if self._next is self._served:
                    return end
                await self.session.end(None)
                await self._held.aclose()
                await self.open_session(self._next, self._held)
        except (PoolError, NotAllowed) as error:
            return close_of(error)
        except Refusal as refused:
            with contextlib.suppress(PoolError):  # what was said before it is not lost
                await self.session.end_soon()
            return close_of(refused)

    def audio(self, data: bytes) -> Audio:
        self._begin()
        return Audio(data, len(data) / 2 / self._wanted.sample_rate)

    async def text(self, text: str) -> Input:
        try:
            said = decoded(text, _Said)
        except Refusal as error:
            raise Refusal(
                "bad_request", f"audio is binary, and this text is not known: {error}"
            ) from None
        if said.config is not None:
            self._wanted.take(said.config)
            self._choose(said.config.model)
            return Signal.KEEPALIVE if self._next is self._served else Signal.LEAVE
        if not said.eof and not said.reset:
            raise Refusal("bad_request", "audio is binary, and this text is not known")
        self._begin()
        return Signal.END if said.eof else Signal.RESET

    def _choose(self, name: str | None) -> None:
        """Choose the model for this connection, from its next message on."""
        models = self.service.models
        if name is not None:
            self.asked_for = models.find(name)
        phrases = self._wanted.phrases
        self._next = models.with_phrases(self.asked_for) if phrases else self.asked_for

    def _begin(self) -> None:
        if not self.session.begun:
            self.session.begin(self._wanted.request())

    async def _tell(self, answer: str) -> None:
        await self.socket.send_text(answer)
