"""`POST /api/audio/convert`: one audio file in, one transcript out."""

import contextlib
from collections.abc import Callable

import msgspec
from aiohttp import web

from modelserver.http.errors import json_response
from modelserver.http.keys import SERVICE
from modelserver.http.middleware import NOTES, REQUEST_ID
from modelserver.http.negotiation import wants_events, wants_plain_text
from modelserver.http.parameters import Parameters, read_parameters
from modelserver.http.progress import answer_in_events
from modelserver.http.upload import Upload, must_be_acceptable
from modelserver.serving.served import ServedModel
from modelserver.serving.service import SpeechService
from modelserver.speech.messages import (
    Speech,
    SpeechProgress,
    SpeechRequest,
    SpeechSegment,
    SpeechWord,
)


class Transcript(msgspec.Struct, omit_defaults=True):
    """The answer. Times in seconds; `words` only where asked for, `segments` where they (or
    alternatives) are asked for or channels are heard one by one."""

    text: str
    duration: float
    language: str
    model: str
    request_id: str
    words: list[SpeechWord] | None = None
    segments: list[SpeechSegment] | None = None
    warnings: list[str] | None = None


async def convert(request: web.Request) -> web.StreamResponse:
    """Admission first, then the body, then a worker."""
    content_type = request.headers.get("Content-Type", "")
    query = list(request.query.items())
    asked, _ = read_parameters(query, {}, content_type)
    plain, events = wants_plain_text(request), wants_events(request)
    service = request.app[SERVICE]
    limits = service.settings.limits
    must_be_acceptable(request, limits)
    served = _find(service, asked)
    async with contextlib.AsyncExitStack() as held, service.open_spool() as spool:
        place = await held.enter_async_context(service.admit(served, request.content_length))
        async with service.uploading():
            received = await Upload(request, spool, limits, asked.raw).receive()
        wanted = served
        warnings: list[str] = []
        if received.fields:
            asked, warnings = read_parameters(query, received.fields, content_type)
            wanted = _find(service, asked)
        if wanted is not served:  # a field of the form has named another
            await held.aclose()
            place = await held.enter_async_context(service.admit(wanted, spool.size))
        request[NOTES].update(
            model=wanted.label, bytes=spool.size, audio_s=round(received.seconds, 3)
        )
        place.admission.resize(received.seconds, known=received.known)
        wanted_of_it = SpeechRequest(
            words=asked.words,
            alternatives=asked.alternatives,
            phrases=asked.phrases,
            # Readings are of segments.
            segments=asked.segments or asked.alternatives > 0,
            partials=events,
            channels=asked.channels,
            raw=asked.raw,
        )

        async def transcript(told: Callable[[SpeechProgress], None] | None) -> Transcript:
            done = await service.transcribe(
                place, spool, wanted_of_it, on_progress=told, request_id=request[REQUEST_ID]
            )
            request[NOTES].update(
                audio_s=done.speech.duration_s,
                queued_s=round(done.queued_s, 3),
                run_s=round(done.run_s, 3),
            )
            return _transcript(done.speech, asked, warnings, request[REQUEST_ID])

        if events:
            return await answer_in_events(request, transcript)
        answer = await transcript(None)
    if plain:
        return web.Response(text=answer.text, content_type="text/plain", charset="utf-8")
    return json_response(answer)


def _find(service: SpeechService, asked: Parameters) -> ServedModel:
    served = service.find(asked.model, asked.language)
    return service.with_phrases(served) if asked.phrases else served


def _transcript(
    speech: Speech, asked: Parameters, warnings: list[str], request_id: str
) -> Transcript:
    return Transcript(
        text=speech.text,
        duration=speech.duration_s,
        language=speech.language,
        model=speech.model,
        request_id=request_id,
        words=speech.words if asked.words else None,
        segments=speech.segments or ([] if asked.segments else None),
        warnings=[*warnings, *speech.warnings] or None,
    )
