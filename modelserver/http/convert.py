"""`POST /api/audio/convert`: one WAV file in, one transcript out."""

import msgspec
from aiohttp import web

from modelserver.http.errors import json_response
from modelserver.http.keys import SERVICE
from modelserver.http.middleware import REQUEST_ID
from modelserver.http.negotiation import flag, wants_plain_text
from modelserver.http.upload import receive_audio
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
    served = service.find(request.query.get("model"), request.query.get("language"))
    async with (
        service.admit(served, request.content_length) as place,
        service.open_spool() as spool,
    ):
        async with service.uploading():
            place.admission.units = await receive_audio(request, spool, service.settings.limits)
        speech = await service.transcribe(place, spool, words=words)
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
