"""Client connection of the Wyoming protocol: answers its events and transcribes its recordings.
Source: the package `wyoming`, whose event classes are used for all that is sent.

A client may ask for the models (`describe`), and sends `transcribe`, `audio-start`, `audio-chunk`
..., `audio-stop`; it receives the text in pieces as they become final (`transcript-start`,
`transcript-chunk`), the whole text (`transcript`) and `transcript-stop`; or `error` with a code.
Only the chunks and the `audio-stop` are needed.
"""

import asyncio
import contextlib
from typing import Any

import structlog
from wyoming.asr import Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.error import Error
from wyoming.event import Event, async_write_event
from wyoming.info import AsrModel, AsrProgram, Attribution, Info
from wyoming.ping import Pong

from modelserver import __version__
from modelserver.http.errors import refusal_of
from modelserver.live.session import Audio, Ended, Input, Signal, Why, live_session
from modelserver.live.wyoming_events import (
    AUDIO_CHUNK,
    AUDIO_START,
    AUDIO_STOP,
    DESCRIBE,
    PING,
    TRANSCRIBE,
    BadEvent,
    ClientEvent,
    Wanted,
    ping_text,
    read_event,
    samples_of,
    wanted_of,
)
from modelserver.refusal import Refusal
from modelserver.serving.served import ServedModel
from modelserver.serving.service import SpeechService
from modelserver.speech.messages import CaptionRequest
from modelserver.speech.transcript import join_texts
from supervisor import PoolError

log: structlog.stdlib.BoundLogger = structlog.get_logger("wyoming")

_WRITE_S = 20.0
_DISCARD_S = 60.0
"""Seconds for which a refused client may continue its recording before its connection is closed."""
_DISCARD_IDLE_S = 5.0
"""The same without an event in between."""
_PUBLISHERS = {
    "vosk": Attribution("alphacephei.com", "https://alphacephei.com/vosk/"),
    "onnx": Attribution("k2-fsa", "https://github.com/k2-fsa/sherpa-onnx"),
}
_OURS = Attribution("modelserver", "")
"""Attribution of the program, and of models whose publisher is unknown."""


class WyomingClient:
    """A connection, which may transcribe one recording after the other."""

    def __init__(
        self, service: SpeechService, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._service = service
        self._reader = reader
        self._writer = writer
        self._wanted = Wanted()
        self._sending = False
        """The client is in the middle of a recording: its `audio-stop` has not come."""

    async def serve(self) -> None:
        """Answer events until the client closes the connection or is refused."""
        try:
            while (event := await self._next()) is not None:
                if event.type == AUDIO_START:
                    samples_of(event)
                elif event.type in (AUDIO_CHUNK, AUDIO_STOP):
                    if not await self._recording(event):
                        await self._read_on()
                        return
                    self._wanted = Wanted()
                else:
                    await self._answer(event)
        except Refusal as refused:
            await self.refuse(refused.code, refused.message)
        except PoolError as error:
            known = refusal_of(error)
            await self.refuse(known.code if known else "internal", error.message)
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            pass  # the client has closed the connection, or does not read

    async def refuse(self, code: str, message: str) -> None:
        """Send an `error` event, and read on until the client has sent its recording."""
        log.info("wyoming.refused", code=code, reason=message)
        with contextlib.suppress(ConnectionError, TimeoutError):
            await self._write(Error(text=message, code=code).event())
            await self._read_on()

    async def _read_on(self) -> None:
        """Discard the rest of a recording, so that its client gets what was sent to it.

        Home Assistant reads no event before it has sent all, ignores `error`, and then waits for
        a transcript or the end of the connection. A connection that is closed while its client
        sends is reset, and what was sent to the client is lost.
        """
        with contextlib.suppress(
            ConnectionError, asyncio.IncompleteReadError, TimeoutError, BadEvent
        ):
            async with asyncio.timeout(_DISCARD_S):
                while self._sending:
                    async with asyncio.timeout(_DISCARD_IDLE_S):
                        await self._read()

    async def _next(self) -> ClientEvent | None:
        idle_s = self._service.settings.streams.idle_s
        try:
            async with asyncio.timeout(idle_s):
                return await self._read()
        except TimeoutError:
            self._sending = False
            raise Refusal("idle", f"nothing came for {idle_s:g} s") from None

    async def _read(self) -> ClientEvent | None:
        event = await read_event(self._reader)
        if event is None or event.type == AUDIO_STOP:
            self._sending = False
        elif event.type in (AUDIO_START, AUDIO_CHUNK):
            self._sending = True
        return event

    async def _write(self, event: Event) -> None:
        async with asyncio.timeout(_WRITE_S):
            await async_write_event(event, self._writer)

    async def _answer(self, event: ClientEvent) -> None:
        """Answer an event that may come at any time. Unknown ones are ignored, as the protocol
        says."""
        if event.type == DESCRIBE:
            await self._write(self._info().event())
        elif event.type == PING:
            await self._write(Pong(text=ping_text(event)).event())
        elif event.type == TRANSCRIBE:
            self._wanted = wanted_of(event)

    def _info(self) -> Info:
        models = [
            AsrModel(
                name=served.label,
                attribution=_PUBLISHERS.get(str(served.report().get("engine")), _OURS),
                installed=True,
                description=served.in_words(),
                version=None,
                languages=served.languages,
            )
            for served in self._service.models.values()
        ]
        program = AsrProgram(
            name="modelserver",
            attribution=_OURS,
            installed=True,
            description="Speech recognition",
            version=__version__,
            models=models,
            supports_transcript_streaming=True,
        )
        return Info(asr=[program])

    def _find(self) -> ServedModel:
        """Find the model by its name, or by its language; Home Assistant names either or none."""
        name, language = self._wanted.name, self._wanted.language
        return self._service.models.find(name or None, None if name else language or None)

    async def _recording(self, event: ClientEvent) -> bool:
        """Transcribe a recording, of which `event` is the first chunk, or its end.

        Returns False if the server has ended it before the client did.
        """
        served = self._find()
        text = _Text()
        following: ClientEvent | None = event
        while following is not None and following.type != AUDIO_STOP:
            following = await self._alike(served, following, text)
        await self._begin(served, text)
        await self._write(
            Transcript(text=text.whole, language=text.language or served.language).event()
        )
        await self._write(TranscriptStop().event())
        return following is not None

    async def _begin(self, served: ServedModel, text: "_Text") -> None:
        """Say that a transcript follows, once: an `error` alone answers what is refused."""
        if not text.begun:
            text.begun = True
            await self._write(TranscriptStart(language=served.language).event())

    async def _alike(
        self, served: ServedModel, event: ClientEvent, text: "_Text"
    ) -> ClientEvent | None:
        """Transcribe chunks of one form, from `event` on.

        Returns the event that ends them, an `audio-stop` or a chunk of another form; None if the
        server ends the recording.
        """

        async def tell(answer: dict[str, Any]) -> None:
            text.language = text.language or answer.get("language")
            if said := text.add(answer.get("text", "")):
                await self._write(TranscriptChunk(text=said).event())

        form = samples_of(event)
        bytes_a_second = form.rate * form.frame_bytes
        coming: ClientEvent | None = event

        async def receive() -> Input:
            nonlocal event, coming
            received, coming = coming or await self._read(), None
            if received is None:
                raise ConnectionResetError
            if received.type == AUDIO_STOP or (
                received.type == AUDIO_CHUNK and samples_of(received) != form
            ):
                event = received
                return Signal.END
            if received.type == AUDIO_CHUNK:
                seconds = len(received.payload) / bytes_a_second
                return Audio(received.payload, seconds) if seconds else Signal.KEEPALIVE
            await self._answer(received)
            if received.type == TRANSCRIBE and self._find() is not served:
                raise BadEvent("transcribe names another model: send it before the first chunk")
            return Signal.KEEPALIVE

        async with live_session(self._service, served, tell) as session:
            await self._begin(served, text)
            language = "" if self._wanted.name else self._wanted.language or ""
            session.begin(
                CaptionRequest(
                    raw=form, partials=False, language=language, keywords=self._wanted.keywords
                )
            )
            try:
                await session.carry(receive)
            except Ended as ended:
                if ended.why is Why.IDLE:
                    self._sending = False
                    raise Refusal("idle", ended.reason) from None
                await session.end_soon()
                return None
        return event


class _Text:
    """The transcript of a recording so far."""

    def __init__(self) -> None:
        self._said: list[str] = []
        self.whole = ""
        self.language: str | None = None
        """The first that was detected and is not the model's own."""
        self.begun = False

    def add(self, said: str) -> str:
        """Return what a final result adds to the whole text, with a space before it if need be."""
        self._said.append(said)
        before, self.whole = self.whole, join_texts(self._said)
        return self.whole[len(before) :]
