"""Our own live stream, `/api/audio/stream`: any audio in, as it comes; captions out.

A client sends binary messages of a container (WebM, Ogg, WAV, MP3, ...) or of samples as the query
says, and JSON messages that tell what to do. It gets JSON messages; before anything but a good end
there is an "error" message with the document that HTTP would have. `asyncapi` describes them all.
"""

import asyncio
import contextlib
from typing import Any

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from modelserver.http.app_keys import SERVICE
from modelserver.http.decoding import decoded
from modelserver.http.errors import ErrorInside, refusal_of
from modelserver.http.middleware import KEY_NAME, NOT_ALLOWED, NOTES, REQUEST_ID
from modelserver.live.second_pass import SecondPass, is_heard_audio
from modelserver.live.session import Ended, LiveSession, live_session
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
from modelserver.request.parameters import STREAM_NAMES, Parameters, read_parameters
from modelserver.request.upload import find_model
from modelserver.serving.served import ServedModel
from modelserver.speech.messages import (
    RESET,
    Caption,
    CaptionRequest,
    HeardAudio,
    LastCaption,
    SpeechAlternative,
    SpeechWord,
)
from supervisor import PoolError


class Begin(msgspec.Struct, tag_field="type", tag="begin"):
    """The first message: what will hear it."""

    request_id: str
    model: str
    language: str


class Partial(msgspec.Struct, tag_field="type", tag="partial"):
    """What is understood of a segment so far; it may still change. Times in seconds from the start
    of the stream: where the segment began, and how far was heard."""

    segment: int
    text: str
    start: float
    end: float


class _Segment(msgspec.Struct, omit_defaults=True):
    segment: int
    text: str
    start: float
    end: float
    words: list[SpeechWord] | None = None
    alternatives: list[SpeechAlternative] | None = None


class Final(_Segment, tag_field="type", tag="final"):
    """A segment that will not change: its text, and when it was said. `words` and `alternatives`
    where they are asked for; `finalized`: it was ended by the client's `finalize`."""

    finalized: bool = False


class Revised(_Segment, tag_field="type", tag="revised"):
    """A segment that was told as final, as a second pass has understood it; the last word on it.
    Where no worker has time for that, none comes."""


class Notice(msgspec.Struct, tag_field="type", tag="warning"):
    """Something that was not as it should be, and was got over."""

    message: str


class End(msgspec.Struct, tag_field="type", tag="end"):
    """The last message of a stream that ends well: how many seconds were heard, in how many
    segments. `reason`: "closed" by the client, or why the server ends it."""

    duration: float
    segments: int
    warnings: list[str]
    reason: str


class Failure(msgspec.Struct, tag_field="type", tag="error"):
    """The last message of a stream that fails, before the close code: the error document."""

    error: ErrorInside
    retry_after: float | None = None


ServerMessage = Begin | Partial | Final | Revised | Notice | End | Failure


class KeepAlive(msgspec.Struct, tag_field="type", tag="keepalive"):
    """Nothing is said just now, and there is more to come."""


class Finalize(msgspec.Struct, tag_field="type", tag="finalize"):
    """End the segment at hand now: it is answered with a "final", empty if nothing was said."""


class Close(msgspec.Struct, tag_field="type", tag="close"):
    """That was all: the last results are sent, then "end"."""


_Command = KeepAlive | Finalize | Close
_MOST_NOTICES = 10
_KNOWN_TEXTS = (
    "a text message was ignored: audio is binary, and of text these are known: "
    '{"type": "keepalive"}, {"type": "finalize"}, {"type": "close"}'
)
_OTHER_NAMES = {"closestream": "close", "eof": "close", "end": "close", "keep_alive": "keepalive"}


async def stream(request: web.Request) -> web.StreamResponse:
    """The handshake is always made: a browser learns nothing of one that is refused."""
    socket = open_socket(request)
    if not socket.can_prepare(request).ok:
        raise Refusal("upgrade_required", "this is a WebSocket")
    await socket.prepare(request)
    await _Client(request, socket).serve()
    return socket


class _Client:
    def __init__(self, request: web.Request, socket: LiveSocket) -> None:
        self._request = request
        self._socket = socket
        self._service = request.app[SERVICE]
        self._session: LiveSession | None = None
        self._second: SecondPass | None = None
        self._reason = "closed"
        self._unknown = 0
        """Text messages that were ignored."""

    async def serve(self) -> None:
        """Until either side ends it."""
        code, reason = int(WSCloseCode.ABNORMAL_CLOSURE), ""
        try:
            code, reason = await self._until_its_end()
        except (ConnectionError, asyncio.CancelledError) as gone:  # the client, without a word
            tell_end(self._request, self._session, code, reason)
            if isinstance(gone, asyncio.CancelledError):
                raise
            return
        tell_end(self._request, self._session, code, reason)
        with contextlib.suppress(ConnectionError):
            await self._socket.close(code=code, message=cut_reason(reason))

    async def _until_its_end(self) -> tuple[int, str]:
        try:
            if (refused := self._request.get(NOT_ALLOWED)) is not None:
                raise refused
            asked, warnings = self._asked()
            served = find_model(self._service, asked.model, asked.language, asked.phrases)
            self._request[NOTES].update(model=served.label)
            request_id = self._request[REQUEST_ID]
            key_name = self._request.get(KEY_NAME)
            async with live_session(
                self._service, served, self._tell, request_id, key_name
            ) as session:
                self._session = session
                name = str(served.report().get("model") or served.label)
                await self._send(Begin(request_id, name, served.language))
                for warning in warnings:
                    await self._send(Notice(warning))
                return await self._carry(session, served, asked)
        except (Refusal, PoolError) as error:
            return await self._fail(error)

    def _asked(self) -> tuple[Parameters, list[str]]:
        asked, warnings = read_parameters(self._request.query.items(), {}, "", names=STREAM_NAMES)
        if asked.channels == "split" or "," in asked.channels:
            raise Refusal("bad_parameter", "a stream has one channel: name one, or mix")
        return asked, warnings

    async def _carry(
        self, session: LiveSession, served: ServedModel, asked: Parameters
    ) -> tuple[int, str]:
        request = CaptionRequest(
            raw=asked.raw,
            words=asked.words,
            alternatives=asked.alternatives,
            partials=asked.partials,
            phrases=asked.phrases,
            channels=asked.channels,
            profile=asked.profile,
            heard=asked.second_pass,
        )
        async with contextlib.AsyncExitStack() as beside:
            if asked.second_pass and (pool := served.pool) is not None:
                second = SecondPass(pool, request, self._revise, self._request[REQUEST_ID])
                self._second = await beside.enter_async_context(second)
            session.begin(request, whole=asked.raw is None)
            try:
                async with session.listening():
                    code = await self._listen(session, asked)
            except Ended as ended:
                self._reason = ended.reason
                await session.end_soon()
                return end_code(ended.why), ended.reason
            return code, ""

    async def _listen(self, session: LiveSession, asked: Parameters) -> int:
        raw = asked.raw
        bytes_a_second = raw.frame_bytes * raw.rate if raw is not None else 0
        while True:
            message = await self._socket.next_message()
            session.busy()
            match message.type:
                case WSMsgType.BINARY:
                    data = message.data
                    seconds = len(data) / bytes_a_second if bytes_a_second else 0.0
                    await session.ask(data, seconds)
                case WSMsgType.TEXT:
                    match _command(message.data):
                        case Finalize():
                            await session.ask(RESET)
                        case Close():
                            await session.end()
                            return int(WSCloseCode.OK)
                        case None:
                            await self._not_known()
                case _:
                    code = closed_by(self._socket, message)
                    tell_end(self._request, session, code, "")
                    return code
            session.heard()

    async def _not_known(self) -> None:
        self._unknown += 1
        if self._unknown <= _MOST_NOTICES:
            await self._send(Notice(_KNOWN_TEXTS))

    async def _tell(self, answer: dict[str, Any]) -> None:
        if is_heard_audio(answer):
            if self._second is not None:
                self._second.heard(msgspec.convert(answer, HeardAudio))
            return
        if self._session is not None and (until := answer.get("heard_until")) is not None:
            self._session.heard_until(until)
            return
        if "kind" not in answer:
            if self._second is not None:
                await self._second.finish()
            last = msgspec.convert(answer, LastCaption)
            end = End(last.duration, last.segments, last.warnings, self._reason)
            if self._session is not None:
                self._session.heard_until(last.duration)
            await self._send(end)
            return
        said = msgspec.convert(answer, Caption)
        if said.kind == "partial":
            await self._send(Partial(said.segment, said.text, said.start, said.end))
        else:
            await self._send(
                Final(
                    said.segment,
                    said.text,
                    said.start,
                    said.end,
                    said.words,
                    said.alternatives,
                    said.finalized,
                )
            )
            if self._second is not None:
                self._second.ended(said)

    async def _revise(self, said: Caption) -> None:
        await self._send(
            Revised(said.segment, said.text, said.start, said.end, said.words, said.alternatives)
        )

    async def _fail(self, error: Exception) -> tuple[int, str]:
        known = refusal_of(error) or Refusal("internal", "the server failed; its log says how")
        document = ErrorInside(known.code, known.message, self._request[REQUEST_ID])
        await self._send(Failure(document, known.retry_after_s))
        return close_of(known)

    async def _send(self, message: ServerMessage) -> None:
        await self._socket.send_text(msgspec.json.encode(message).decode())


class _Text(msgspec.Struct):
    type: str


def _command(text: str) -> _Command | None:
    """What a client writes; None where it is not known."""
    try:
        said = decoded(text, _Text).type.lower()
    except Refusal:
        return None
    match _OTHER_NAMES.get(said, said):
        case "keepalive":
            return KeepAlive()
        case "finalize":
            return Finalize()
        case "close":
            return Close()
    return None
