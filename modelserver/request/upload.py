"""A request with a recording in it, on its way to a transcript, whichever API it came by: admission
first, then the body, then a worker."""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

import msgspec
from aiohttp import web

from modelserver.access.gate import Pass
from modelserver.http.app_keys import SERVICE
from modelserver.http.middleware import KEY_NAME, NOTES, REQUEST_ID
from modelserver.request.body import BodyReader, must_be_acceptable
from modelserver.serving.served import ServedModel
from modelserver.serving.service import SpeechService
from modelserver.serving.transcription import Transcription
from modelserver.speech.messages import OnProgress, Speech, SpeechProgress, SpeechRequest
from modelserver.tracing import span
from supervisor import Admission, Spool

Read = Callable[[Mapping[str, str]], tuple[ServedModel, SpeechRequest]]
"""Function from the fields of the body to the model that transcribes it, and the request."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A recording that was received, admitted to a model."""

    request: web.Request
    served: ServedModel
    admission: Admission
    spool: Spool
    asked: SpeechRequest
    passed: Pass
    held: contextlib.AsyncExitStack

    async def transcribe(self, on_progress: OnProgress | None = None) -> Speech:
        """Return what is said in it. Releases admission and spool, however long the answer takes to
        send. Raises `supervisor.PoolError`."""
        service = self.request.app[SERVICE]
        limits = service.settings.limits

        def progress(done: SpeechProgress) -> None:
            self.passed.charge_until(done.recognised_s)
            if on_progress is not None:
                on_progress(done)

        transcription = Transcription(
            service,
            self.served,
            msgspec.structs.replace(self.asked, longest_audio_s=limits.audio_s),
            timeout_s=limits.request_s,
            on_progress=progress,
            request_id=self.request[REQUEST_ID],
        )
        done = await transcription.run(self.admission, self.spool)
        self.passed.charge_until(done.speech.recognised_s)
        await self.held.aclose()
        self.spool.close()
        self.request[NOTES].update(
            audio_s=done.speech.duration_s,
            queued_s=round(done.queued_s, 3),
            run_s=round(done.run_s, 3),
        )
        return done.speech


@contextlib.asynccontextmanager
async def receive_upload(request: web.Request, read: Read) -> AsyncIterator[Upload]:
    """Admit a request, then receive its body. `read` is called without fields first, to refuse
    early what can be refused, and again with those of the body. Raises `Refusal` or
    `supervisor.PoolError`."""
    service: SpeechService = request.app[SERVICE]
    limits = request.app[SERVICE].settings.limits
    must_be_acceptable(request, limits)
    served, asked = read({})
    with service.access.request(request.get(KEY_NAME)) as passed:
        async with (
            contextlib.AsyncExitStack() as in_use,
            contextlib.AsyncExitStack() as held,
            service.open_spool() as spool,
        ):
            # Until it is answered: who waits for the server's end waits for that.
            in_use.enter_context(served.used())
            name = request.get(KEY_NAME)
            admitting = service.admit(served, request.content_length, client=name)
            admission = await held.enter_async_context(admitting)
            async with service.drain.uploading():
                with span("receive") as receiving:
                    received = await BodyReader(request, spool, limits, asked.raw).receive()
                    receiving.set_attribute("modelserver.bytes", spool.size)
            admitted_to = served
            if received.fields:
                served, asked = read(received.fields)
            if served is not admitted_to:  # a field of the form has named another
                await held.aclose()
                in_use.enter_context(served.used())
                admitting = service.admit(served, spool.size, client=name)
                admission = await held.enter_async_context(admitting)
            request[NOTES].update(
                model=served.label, bytes=spool.size, audio_s=round(received.seconds, 3)
            )
            admission.resize(received.seconds, known=received.known)
            passed.expect(received.seconds)
            yield Upload(request, served, admission, spool, asked, passed, held)
