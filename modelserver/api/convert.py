"""Transcription of one audio file: `POST /api/audio/convert`."""

from collections.abc import Mapping

from aiohttp import web

from modelserver.api.progress import OurStory, stream_events
from modelserver.api.transcripts import (
    SUBTITLES,
    TEXTS,
    Transcript,
    off_the_loop,
    text_response,
    transcript,
)
from modelserver.http.app_keys import SERVICE
from modelserver.http.errors import json_response
from modelserver.http.middleware import REQUEST_ID
from modelserver.request.accept import wants_events, wants_plain_text
from modelserver.request.parameters import Parameters, read_parameters
from modelserver.request.upload import receive_upload
from modelserver.serving.served import ServedModel
from modelserver.speech.messages import OnProgress, Speech, SpeechRequest, recognition_of


async def convert(request: web.Request) -> web.StreamResponse:
    """Answer as JSON, as text or subtitles, or as events."""
    content_type = request.headers.get("Content-Type", "")
    query = list(request.query.items())
    plain, events = wants_plain_text(request), wants_events(request)
    wanted: tuple[Parameters, list[str]]

    def read(fields: Mapping[str, str]) -> tuple[ServedModel, SpeechRequest]:
        nonlocal wanted
        wanted = asked, _ = read_parameters(query, fields, content_type)
        served = request.app[SERVICE].models.find(asked.model, asked.language, asked.phrases)
        subtitles = asked.format in SUBTITLES
        return (
            served,
            SpeechRequest(
                words=asked.words or subtitles,
                words_asked_for=asked.words,
                # Readings are of segments; so are subtitles where words have no times.
                segments=asked.segments or asked.alternatives > 0 or subtitles,
                partials=events,
                channels=asked.channels,
                raw=asked.raw,
                **recognition_of(asked),
            ),
        )

    async with receive_upload(request, read) as upload:
        asked, warnings = wanted

        def answer(speech: Speech) -> Transcript:
            return transcript(
                speech,
                words=asked.words,
                segments=asked.segments,
                warnings=warnings,
                request_id=request[REQUEST_ID],
            )

        async def work(on_progress: OnProgress) -> Transcript:
            return answer(await upload.transcribe(on_progress))

        if events:
            return await stream_events(request, work, OurStory())
        speech = await upload.transcribe()
    if asked.format in TEXTS or plain:
        form = asked.format if asked.format in TEXTS else "text"
        return await off_the_loop(speech, lambda: text_response(speech, form))
    return await off_the_loop(speech, lambda: json_response(answer(speech)))
