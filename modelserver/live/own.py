"""Our own live stream, `/api/audio/stream`: any audio in, as it comes; captions out.

A client sends binary messages of a container (WebM, Ogg, WAV, MP3, ...) or of samples as the query
says, and JSON messages that tell what to do. It gets JSON messages; before anything but a good end
there is an "error" message with the document that HTTP would have. `asyncapi` describes them all.
"""

import contextlib
from typing import Any

import msgspec
from aiohttp import web

from modelserver.http.decoding import decoded
from modelserver.http.errors import ErrorInside, failed, refusal_of
from modelserver.http.middleware import KEY_NAME, NOT_ALLOWED, NOTES, REQUEST_ID
from modelserver.live.second_pass import SecondPass, is_utterance_audio
from modelserver.live.session import Audio, Input, LiveSession, Signal, live_session
from modelserver.live.websockets import LiveSocket, SocketClient, close_of, serve_socket
from modelserver.refusal import Refusal
from modelserver.request.parameters import STREAM_NAMES, Parameters, read_parameters
from modelserver.serving.served import ServedModel
from modelserver.speech.messages import (
    Caption,
    CaptionRequest,
    LastCaption,
    SpeechAlternative,
    SpeechWord,
    UtteranceAudio,
    recognition_of,
)
from supervisor import PoolError


class Begin(msgspec.Struct, tag_field="type", tag="begin"):
    """First message of a stream: the model and worker that recognise it."""

    request_id: str
    model: str
    language: str


class Partial(msgspec.Struct, tag_field="type", tag="partial"):
    """Text of a segment so far, which may still change. Times in seconds from the start of the
    stream: where the segment began, and how far the audio was recognised."""

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
    language: str | None = None


class Final(_Segment, tag_field="type", tag="final"):
    """A segment that will not change: its text, and when it was said. `words` and `alternatives`
    where they are asked for; `language`: the one that was detected, where it is not the model's
    own; `finalized`: it was ended by the client's `finalize`."""

    finalized: bool = False


class Revised(_Segment, tag_field="type", tag="revised"):
    """A segment that was told as final, as a second pass has understood it; the last word on it.
    Where no worker has time for that, none comes."""


class Notice(msgspec.Struct, tag_field="type", tag="warning"):
    """Warning about the stream, which continues."""

    message: str


class End(msgspec.Struct, tag_field="type", tag="end"):
    """Last message of a stream that ends well: seconds of audio, and number of segments. `reason`:
    "closed" by the client, or why the server ends it."""

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
    """A sign that there is more to come, while nothing is said."""


class Finalize(msgspec.Struct, tag_field="type", tag="finalize"):
    """End the segment at hand now: it is answered with a "final", empty if nothing was said."""


class Close(msgspec.Struct, tag_field="type", tag="close"):
    """The end of the audio: the last results are sent, then "end"."""


_MOST_NOTICES = 10
_KNOWN_TEXTS = (
    "a text message was ignored: audio is binary, and of text these are known: "
    '{"type": "keepalive"}, {"type": "finalize"}, {"type": "close"}'
)
_COMMANDS = {
    "keepalive": Signal.KEEPALIVE,
    "keep_alive": Signal.KEEPALIVE,
    "finalize": Signal.RESET,
    "close": Signal.END,
    "closestream": Signal.END,
    "eof": Signal.END,
    "end": Signal.END,
}


def _message_of(caption: Caption, kind: type[Final] | type[Revised]) -> Final | Revised:
    return kind(**{name: getattr(caption, name) for name in kind.__struct_fields__})


async def stream(request: web.Request) -> web.StreamResponse:
    """Answer a stream of our own protocol."""
    return await serve_socket(request, _Client)


class _Client(SocketClient):
    def __init__(self, request: web.Request, socket: LiveSocket) -> None:
        super().__init__(request, socket)
        self._second: SecondPass | None = None
        self._bytes_a_second = 0
        """Of samples; 0 where the audio is in a container."""
        self._unknown = 0
        """Text messages that were ignored."""

    async def run(self) -> tuple[int, str]:
        try:
            if (refused := self.request.get(NOT_ALLOWED)) is not None:
                raise refused
            asked, warnings = self._asked()
            served = self.service.models.find(asked.model, asked.language, asked.phrases)
            self.request[NOTES].update(model=served.label)
            request_id = self.request[REQUEST_ID]
            key_name = self.request.get(KEY_NAME)
            async with live_session(
                self.service, served, self._tell, request_id, key_name
            ) as session:
                self.session = session
                name = str(served.report().get("model") or served.label)
                await self._send(Begin(request_id, name, served.language))
                for warning in warnings:
                    await self._send(Notice(warning))
                return await self._transcribe(session, served, asked)
        except (Refusal, PoolError) as error:
            return await self._fail(error)

    def _asked(self) -> tuple[Parameters, list[str]]:
        asked, warnings = read_parameters(self.request.query.items(), {}, "", names=STREAM_NAMES)
        if asked.channels == "split" or "," in asked.channels:
            raise Refusal("bad_parameter", "a stream has one channel: name one, or mix")
        return asked, warnings

    async def _transcribe(
        self, session: LiveSession, served: ServedModel, asked: Parameters
    ) -> tuple[int, str]:
        second_model = await self._second_model(served, asked)
        request = CaptionRequest(
            raw=asked.raw,
            words=asked.words,
            partials=asked.partials,
            channels=asked.channels,
            with_audio=second_model is not None,
            **recognition_of(asked),
        )
        if asked.raw is not None:
            self._bytes_a_second = asked.raw.frame_bytes * asked.raw.rate
        async with contextlib.AsyncExitStack() as beside:
            if second_model is not None:
                second = SecondPass(
                    second_model,
                    request,
                    self._revise,
                    patience_s=self.service.settings.limits.request_s,
                    request_id=self.request[REQUEST_ID],
                )
                self._second = await beside.enter_async_context(second)
            session.begin(request, whole=asked.raw is None)
            return await self.carry(session)

    async def _second_model(self, served: ServedModel, asked: Parameters) -> ServedModel | None:
        """Return the model of the second pass; None if none is asked for, or after a warning if
        none can do it."""
        if not asked.second_pass:
            return None
        try:
            return self.service.models.for_second_pass(served, asked.language, asked.phrases)
        except Refusal as refused:
            await self._send(Notice(refused.message))
            return None

    def audio(self, data: bytes) -> Audio:
        return Audio(data, len(data) / self._bytes_a_second if self._bytes_a_second else 0.0)

    async def text(self, text: str) -> Input:
        if (command := _command(text)) is not None:
            return command
        self._unknown += 1
        if self._unknown <= _MOST_NOTICES:
            await self._send(Notice(_KNOWN_TEXTS))
        return Signal.KEEPALIVE

    async def _tell(self, answer: dict[str, Any]) -> None:
        if is_utterance_audio(answer):
            if self._second is not None:
                self._second.recognise_again(msgspec.convert(answer, UtteranceAudio))
            return
        if self.session is not None and (until := answer.get("recognised_until")) is not None:
            self.session.count_until(until)
            return
        if "kind" not in answer:
            if self._second is not None:
                await self._second.finish()
            last = msgspec.convert(answer, LastCaption)
            end = End(last.duration, last.segments, last.warnings, self.reason)
            if self.session is not None:
                self.session.count_until(last.duration)
            await self._send(end)
            return
        said = msgspec.convert(answer, Caption)
        if said.kind == "partial":
            await self._send(Partial(said.segment, said.text, said.start, said.end))
        else:
            await self._send(_message_of(said, Final))
            if self._second is not None:
                self._second.ended(said)

    async def _revise(self, said: Caption) -> None:
        await self._send(_message_of(said, Revised))

    async def _fail(self, error: Exception) -> tuple[int, str]:
        known = refusal_of(error) or failed()
        document = ErrorInside(known.code, known.message, self.request[REQUEST_ID])
        await self._send(Failure(document, known.retry_after_s))
        return close_of(known)

    async def _send(self, message: ServerMessage) -> None:
        await self.socket.send_text(msgspec.json.encode(message).decode())


class _Text(msgspec.Struct):
    type: str


def _command(text: str) -> Signal | None:
    """Return what a text message asks for; None where it is not known."""
    try:
        return _COMMANDS.get(decoded(text, _Text).type.lower())
    except Refusal:
        return None
