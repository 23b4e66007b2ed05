"""`POST /api/audio/convert`: one audio file in, one transcript out."""

import contextlib

import msgspec
from aiohttp import web

from modelserver.http.errors import json_response
from modelserver.http.keys import SERVICE
from modelserver.http.middleware import NOTES, REQUEST_ID
from modelserver.http.negotiation import wants_plain_text
from modelserver.http.parameters import read_parameters
from modelserver.http.upload import Upload, must_be_acceptable
from modelserver.speech.messages import SpeechRequest, SpeechSegment, SpeechWord


class Transcript(msgspec.Struct, omit_defaults=True):
    """The answer. Times in seconds; `words` only where asked for, `segments` only where channels
    are heard one by one."""

    text: str
    duration: float
    language: str
    model: str
    request_id: str
    words: list[SpeechWord] | None = None
    segments: list[SpeechSegment] | None = None
    warnings: list[str] | None = None


async def convert(request: web.Request) -> web.Response:
    """Admission first, then the body, then a worker."""
    content_type = request.headers.get("Content-Type", "")
    query = list(request.query.items())
    asked, _ = read_parameters(query, {}, content_type)
    plain = wants_plain_text(request)
    service = request.app[SERVICE]
    limits = service.settings.limits
    must_be_acceptable(request, limits)
    served = service.find(asked.model, asked.language)
    async with contextlib.AsyncExitStack() as held, service.open_spool() as spool:
        place = await held.enter_async_context(service.admit(served, request.content_length))
        async with service.uploading():
            received = await Upload(request, spool, limits, asked.raw).receive()
        wanted = served
        warnings: list[str] = []
        if received.fields:
            asked, warnings = read_parameters(query, received.fields, content_type)
            wanted = service.find(asked.model, asked.language)
        if wanted is not served:  # a field of the form has named another
            await held.aclose()
            place = await held.enter_async_context(service.admit(wanted, spool.size))
        request[NOTES].update(
            model=wanted.label, bytes=spool.size, audio_s=round(received.seconds, 3)
        )
        place.admission.resize(received.seconds, known=received.known)
        done = await service.transcribe(
            place,
            spool,
            SpeechRequest(words=asked.words, channels=asked.channels, raw=asked.raw),
            request_id=request[REQUEST_ID],
        )
    speech = done.speech
    request[NOTES].update(
        audio_s=speech.duration_s, queued_s=round(done.queued_s, 3), run_s=round(done.run_s, 3)
    )
    if plain:
        return web.Response(text=speech.text, content_type="text/plain", charset="utf-8")
    return json_response(
        Transcript(
            text=speech.text,
            duration=speech.duration_s,
            language=speech.language,
            model=speech.model,
            request_id=request[REQUEST_ID],
            words=speech.words if asked.words else None,
            segments=speech.segments or None,
            warnings=[*warnings, *speech.warnings] or None,
        )
    )
