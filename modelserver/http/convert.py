"""`POST /api/audio/convert`: one audio file in, one transcript out."""

from collections.abc import Callable, Mapping

import msgspec
from aiohttp import web

from modelserver.http.errors import json_response
from modelserver.http.incoming import Asked, find_model, incoming
from modelserver.http.keys import SERVICE
from modelserver.http.middleware import REQUEST_ID
from modelserver.http.negotiation import wants_events, wants_plain_text
from modelserver.http.parameters import Parameters, read_parameters
from modelserver.http.progress import OurStory, stream_events
from modelserver.http.texts import TEXTS, text_response
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
    """As JSON, as text or subtitles, or bit by bit."""
    content_type = request.headers.get("Content-Type", "")
    query = list(request.query.items())
    plain, events = wants_plain_text(request), wants_events(request)
    wanted: tuple[Parameters, list[str]]

    def read(fields: Mapping[str, str]) -> Asked:
        nonlocal wanted
        wanted = asked, _ = read_parameters(query, fields, content_type)
        served = find_model(request.app[SERVICE], asked.model, asked.language, asked.phrases)
        return Asked(
            served,
            SpeechRequest(
                words=asked.words or asked.format in ("srt", "vtt"),
                alternatives=asked.alternatives,
                phrases=asked.phrases,
                # Readings are of segments.
                segments=asked.segments or asked.alternatives > 0,
                partials=events,
                channels=asked.channels,
                raw=asked.raw,
            ),
        )

    async with incoming(request, read) as came:
        asked, warnings = wanted

        async def transcript(told: Callable[[SpeechProgress], None]) -> Transcript:
            speech = await came.transcribe(told)
            return _transcript(speech, asked, warnings, request[REQUEST_ID])

        if events:
            return await stream_events(request, transcript, OurStory())
        speech = await came.transcribe()
    if asked.format in TEXTS or plain:
        return text_response(speech, asked.format if asked.format in TEXTS else "text")
    return json_response(_transcript(speech, asked, warnings, request[REQUEST_ID]))


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
