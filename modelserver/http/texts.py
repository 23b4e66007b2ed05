"""Transcripts as text and as subtitles."""

from aiohttp import web

from modelserver.speech.messages import Speech
from modelserver.speech.subtitles import srt, vtt

TEXTS = ("text", "srt", "vtt")
"""What a transcript can be beside JSON."""


def text_response(speech: Speech, form: str) -> web.Response:
    """One of `TEXTS`; subtitles need the words."""
    match form:
        case "srt":
            text, kind = srt(speech.words), "application/x-subrip"
        case "vtt":
            text, kind = vtt(speech.words), "text/vtt"
        case _:
            text, kind = speech.text, "text/plain"
    return web.Response(text=text, content_type=kind, charset="utf-8")
