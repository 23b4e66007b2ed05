"""`POST /api/audio/convert`: one WAV file in, one transcript out."""

import msgspec
from aiohttp import web

from modelserver.http.errors import json_response
from modelserver.http.keys import SERVICE
from modelserver.http.middleware import NOTES, REQUEST_ID
from modelserver.http.negotiation import flag, wants_plain_text
from modelserver.http.upload import must_be_acceptable, receive_audio
from modelserver.speech.messages import SpeechWord


class Transcript(msgspec.Struct, omit_defaults=True):
    """The answer. Times in seconds; `words` only where asked for."""

    text: str
    duration: float
    language: str
    model: str
    request_id: str
    words: list[SpeechWord] | None = None
    warnings: list[str] | None = None


async def convert(request: web.Request) -> web.Response:
    """Admission first, then the body, then a worker."""
    words = flag(request, "words")
    plain = wants_plain_text(request)
    service = request.app[SERVICE]
    must_be_acceptable(request, service.settings.limits)
    served = service.find(request.query.get("model"), request.query.get("language"))
    async with (
        service.admit(served, request.content_length) as place,
        service.open_spool() as spool,
    ):
        async with service.uploading():
            audio_s = await receive_audio(request, spool, service.settings.limits)
            request[NOTES].update(model=served.label, bytes=spool.size, audio_s=round(audio_s, 3))
            place.admission.resize(audio_s)
        done = await service.transcribe(place, spool, words=words, request_id=request[REQUEST_ID])
    speech = done.speech
    request[NOTES].update(queued_s=round(done.queued_s, 3), run_s=round(done.run_s, 3))
    if plain:
        return web.Response(text=speech.text, content_type="text/plain", charset="utf-8")
    return json_response(
        Transcript(
            text=speech.text,
            duration=speech.duration_s,
            language=speech.language,
            model=speech.model,
            request_id=request[REQUEST_ID],
            words=speech.words if words else None,
            warnings=speech.warnings or None,
        )
    )
