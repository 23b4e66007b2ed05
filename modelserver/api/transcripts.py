"""Transcripts as documents, as text and as subtitles."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

import msgspec
from aiohttp import web

from modelserver.speech.messages import Speech, SpeechSegment, SpeechWord
from modelserver.speech.subtitles import srt, timed_words, vtt

SUBTITLES = ("srt", "vtt")
TEXTS = ("text", *SUBTITLES)
"""Formats of a transcript besides JSON."""


_LONG_WORDS, _LONG_LETTERS = 300, 3000
"""A transcript of more takes milliseconds to write out."""

T = TypeVar("T")


async def off_the_loop(speech: Speech, make: Callable[[], T]) -> T:
    """Return what `make` returns; it runs in a thread if the transcript is long."""
    if len(speech.words) <= _LONG_WORDS and len(speech.text) <= _LONG_LETTERS:
        return make()
    return await asyncio.to_thread(make)


class Transcript(msgspec.Struct, omit_defaults=True):
    """Transcript of a recording. Times in seconds; `words` only if requested, `segments` if they
    (or alternatives) are requested or channels are recognised separately."""

    text: str
    duration: float
    language: str
    model: str
    request_id: str
    words: list[SpeechWord] | None = None
    segments: list[SpeechSegment] | None = None
    warnings: list[str] | None = None


def transcript(
    speech: Speech, *, words: bool, segments: bool, warnings: list[str], request_id: str
) -> Transcript:
    """Return the transcript. `segments`: include them even if there are none; `warnings`: in
    addition to those of the recognition."""
    return Transcript(
        text=speech.text,
        duration=speech.duration_s,
        language=speech.language,
        model=speech.model,
        request_id=request_id,
        words=speech.words if words else None,
        segments=speech.segments or ([] if segments else None),
        warnings=[*warnings, *speech.warnings] or None,
    )


def as_text(speech: Speech, form: str) -> str:
    """Return one of `TEXTS`; subtitles need the words, or else the segments."""
    match form:
        case "srt":
            return srt(timed_words(speech))
        case "vtt":
            return vtt(timed_words(speech))
        case _:
            return speech.text


def text_response(speech: Speech, form: str) -> web.Response:
    """Return one of `TEXTS` as an answer."""
    kinds = {"srt": "application/x-subrip", "vtt": "text/vtt"}
    kind = kinds.get(form, "text/plain")
    return web.Response(text=as_text(speech, form), content_type=kind, charset="utf-8")
