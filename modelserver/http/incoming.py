"""A request with a recording in it, on its way to a transcript, whichever API it came by: admission
first, then the body, then a worker."""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

import msgspec
from aiohttp import web

from modelserver.access.gate import Pass
from modelserver.http.keys import SERVICE
from modelserver.http.middleware import KEY_NAME, NOTES, REQUEST_ID
from modelserver.http.upload import Upload, must_be_acceptable
from modelserver.serving.served import ServedModel
from modelserver.serving.service import Place, SpeechService
from modelserver.serving.transcribing import Transcribing
from modelserver.settings import LimitSettings
from modelserver.speech.messages import Speech, SpeechProgress, SpeechRequest
from modelserver.tracing import span
from supervisor import Spool


@dataclass(frozen=True, slots=True)
class Asked:
    """Which model is to hear it, and what it is to tell."""

    served: ServedModel
    speech: SpeechRequest


@dataclass(frozen=True, slots=True)
class Incoming:
    """A recording that is here, and has its place."""

    request: web.Request
    place: Place
    spool: Spool
    asked: Asked
    passed: Pass
    held: contextlib.AsyncExitStack

    async def transcribe(self, told: Callable[[SpeechProgress], None] | None = None) -> Speech:
        """What is said in it; afterwards the place and the spool are given back, however long the
        answer takes to send. Raises `supervisor.PoolError`."""
        service = self.request.app[SERVICE]
        limits = service.settings.limits

        def progress(done: SpeechProgress) -> None:
            self.passed.heard_until(done.recognised_s)
            if told is not None:
                told(done)

        transcribing = Transcribing(
            service,
            msgspec.structs.replace(self.asked.speech, longest_audio_s=limits.audio_s),
            timeout_s=limits.request_s,
            told=progress,
            request_id=self.request[REQUEST_ID],
        )
        done = await transcribing.run(self.place, self.spool)
        self.passed.heard_until(done.speech.recognised_s)
        await self.held.aclose()
        self.spool.close()
        self.request[NOTES].update(
            audio_s=done.speech.duration_s,
            queued_s=round(done.queued_s, 3),
            run_s=round(done.run_s, 3),
        )
        return done.speech


@contextlib.asynccontextmanager
async def incoming(
    request: web.Request, read: Callable[[Mapping[str, str]], Asked]
) -> AsyncIterator[Incoming]:
    """`read` says what is asked for, from the fields that the body has: none at first, since what
    can be refused without them shall be. Raises `ApiError`, `AudioError`, `UnknownModel`,
    `PhrasesRefused` or `supervisor.PoolError`."""
    service: SpeechService = request.app[SERVICE]
    limits = request_limits(request)
    must_be_acceptable(request, limits)
    asked = read({})
    with service.access.request(request.get(KEY_NAME)) as passed:
        async with (
            contextlib.AsyncExitStack() as in_use,
            contextlib.AsyncExitStack() as held,
            service.open_spool() as spool,
        ):
            # Until it is answered: who waits for the server's end waits for that.
            in_use.enter_context(asked.served.used())
            name = request.get(KEY_NAME)
            admission = service.admit(asked.served, request.content_length, client=name)
            place = await held.enter_async_context(admission)
            async with service.uploading():
                with span("receive") as receiving:
                    received = await Upload(request, spool, limits, asked.speech.raw).receive()
                    receiving.note(modelserver__bytes=spool.size)
            before = asked
            if received.fields:
                asked = read(received.fields)
            if asked.served is not before.served:  # a field of the form has named another
                await held.aclose()
                in_use.enter_context(asked.served.used())
                admission = service.admit(asked.served, spool.size, client=name)
                place = await held.enter_async_context(admission)
            request[NOTES].update(
                model=asked.served.label, bytes=spool.size, audio_s=round(received.seconds, 3)
            )
            place.admission.resize(received.seconds, known=received.known)
            passed.expect(received.seconds)
            yield Incoming(request, place, spool, asked, passed, held)


def request_limits(request: web.Request) -> LimitSettings:
    """Those that hold for whoever sends it."""
    settings = request.app[SERVICE].settings
    if (most := settings.auth.key_body) and request.get(KEY_NAME) is not None:
        return msgspec.structs.replace(settings.limits, body=min(most, settings.limits.body))
    return settings.limits


def find_model(
    service: SpeechService, name: str | None, language: str | None, phrases: tuple[str, ...] = ()
) -> ServedModel:
    """The one that is to hear it. Raises `UnknownModel` or `PhrasesRefused`."""
    served = service.find(name, language)
    return service.with_phrases(served) if phrases else served
