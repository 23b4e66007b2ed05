"""Questions, spoken or written, and the language model's answers: `POST /api/ask`."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web

from modelserver.api.progress import Event, OurStory, stream_events
from modelserver.assistant.chat import ChatFailed, Turn
from modelserver.assistant.ending import Ending, Finish
from modelserver.assistant.thoughts import Thought
from modelserver.http.app_keys import ASSISTANT, SERVICE
from modelserver.http.decoding import decoded
from modelserver.http.errors import ErrorInside, error_response, json_response, refusal_of
from modelserver.http.middleware import CLIENT, KEY_NAME, NOTES, REQUEST_ID
from modelserver.refusal import Refusal
from modelserver.request.accept import wants_events
from modelserver.request.parameters import ASK_NAMES, Parameters, read_parameters
from modelserver.request.receiving import is_json, read_body
from modelserver.request.upload import Upload, receive_upload
from modelserver.serving.served import ServedModel
from modelserver.serving.service import SpeechService
from modelserver.speech.messages import SpeechProgress, SpeechRequest, recognition_of

_LONGEST_TEXT = 32_000
_MOST_TURNS = 2_000
_MOST_BODY_BYTES = 1024 * 1024
_HINT = "; audio is sent as the body itself or in a form"


class Question(msgspec.Struct, omit_defaults=True):
    """Question as the server understood it. `duration` (seconds), `language` and `model` if it was
    spoken."""

    text: str
    request_id: str
    duration: float | None = None
    language: str | None = None
    model: str | None = None


class AnswerDelta(msgspec.Struct):
    """Text that is added to the answer."""

    text: str


class ThinkingDelta(msgspec.Struct):
    """Text that is added to what a reasoning model thinks before its answer."""

    text: str


class Answer(msgspec.Struct):
    """Complete answer. `finish`: "stop", or "length" or "content_filter" if it was cut off;
    `model`: the name that the language model reports."""

    text: str
    finish: Finish
    model: str


class Answered(msgspec.Struct):
    """A question with its answer."""

    question: Question
    answer: Answer


class NotAnswered(msgspec.Struct, omit_defaults=True):
    """An error document that also holds what was understood, and the beginning of the answer."""

    error: ErrorInside
    question: Question | None = None
    answer: str | None = None


class AskedInWriting(msgspec.Struct):
    """A written question, and what was said before it."""

    text: str
    history: list[Turn] = []
    stream: bool = False


_Report = Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class _Asking:
    """A question on its way."""

    history: list[Turn]
    stream: bool
    text: str | None = None
    spoken: Upload | None = None


async def ask(request: web.Request) -> web.StreamResponse:
    """Answer as events, or as JSON at the end."""
    assistant = request.app[ASSISTANT]
    who = request.get(KEY_NAME) or f"address {request[CLIENT]}"
    async with _asking(request, who) as asking:
        story = _Story()

        async def work(report: _Report) -> Answered:
            question = await _question(request, asking, report)
            story.question = question
            report(question)
            if not question.text:
                raise Refusal("nothing_said", "no speech was recognised in the audio")
            async with aclosing(assistant.answer(asking.history, question.text)) as answer:
                async for said in answer:
                    if isinstance(said, Ending):
                        text = "".join(story.parts)
                        request[NOTES].update(answered=len(text))
                        return Answered(question, Answer(text, said.finish, said.model))
                    if isinstance(said, Thought):
                        report(ThinkingDelta(said.text))
                        continue
                    story.parts.append(said)
                    report(AnswerDelta(said))
            raise ChatFailed("assistant_failed", "the language model returned an empty answer")

        if asking.stream or wants_events(request):
            return await stream_events(request, work, story)
        try:
            return json_response(await work(lambda _: None))
        except Exception as exception:
            error = refusal_of(exception)
            if error is None or story.question is None:
                raise
            request[NOTES].update(answer_error=error.code)
            document = story.not_answered(error, request[REQUEST_ID])
            return error_response(error, request[REQUEST_ID], document=document)


@asynccontextmanager
async def _asking(request: web.Request, who: str) -> AsyncIterator[_Asking]:
    """Receive the question, written or spoken, and yield it."""
    assistant = request.app[ASSISTANT]
    content_type = request.headers.get("Content-Type", "")
    query = list(request.query.items())
    service: SpeechService = request.app[SERVICE]
    if is_json(request):
        with assistant.asking(who), service.access.request(request.get(KEY_NAME)):
            asked, _ = read_parameters(query, {}, "", ("stream",))
            async with service.drain.uploading():
                body = await read_body(request, service.settings.limits, _MOST_BODY_BYTES)
            written = decoded(body, AskedInWriting, _HINT)
            text = written.text.strip()
            if not text or len(text) > _LONGEST_TEXT:
                raise Refusal("bad_parameter", f"text has from 1 to {_LONGEST_TEXT} characters")
            _must_be_bearable(written.history)
            yield _Asking(written.history, written.stream or asked.stream, text=text)
        return
    asked = Parameters()

    def read(fields: Mapping[str, str]) -> tuple[ServedModel, SpeechRequest]:
        nonlocal asked
        asked, _ = read_parameters(query, fields, content_type, ASK_NAMES)
        served = service.models.find(asked.model, asked.language, asked.phrases)
        speech = SpeechRequest(
            partials=True, channels=asked.channels, raw=asked.raw, **recognition_of(asked)
        )
        return served, speech

    with assistant.asking(who):
        async with receive_upload(request, read) as upload:
            history = decoded(asked.history, list[Turn], _HINT) if asked.history else []
            _must_be_bearable(history)
            yield _Asking(history, asked.stream, spoken=upload)


def _must_be_bearable(history: list[Turn]) -> None:
    if len(history) > _MOST_TURNS or any(len(turn.content) > _LONGEST_TEXT for turn in history):
        raise Refusal(
            "bad_parameter",
            f"history has up to {_MOST_TURNS} turns of up to {_LONGEST_TEXT} characters",
        )


async def _question(request: web.Request, asking: _Asking, report: _Report) -> Question:
    if asking.spoken is None:
        return Question(asking.text or "", request[REQUEST_ID])
    speech = await asking.spoken.transcribe(report)
    return Question(
        speech.text, request[REQUEST_ID], speech.duration_s, speech.language, speech.model
    )


class _Story:
    """Encoder of the answer (`modelserver.api.progress.Story`): besides the events of a file that
    is decoded it reports "question", "answer.thinking", "answer.delta", "answer.done" and "error".
    """

    def __init__(self) -> None:
        self.question: Question | None = None
        self.parts: list[str] = []
        """Of the answer so far."""
        self._file = OurStory()

    def events(
        self, news: SpeechProgress | Question | ThinkingDelta | AnswerDelta
    ) -> Iterator[Event]:
        match news:
            case Question():
                yield Event("question", news)
            case ThinkingDelta():
                yield Event("answer.thinking", news)
            case AnswerDelta():
                yield Event("answer.delta", news)
            case _:
                yield from self._file.events(news)

    def done(self, result: Answered) -> Event:
        return Event("answer.done", result)

    def failed(self, error: Refusal, request_id: str) -> Event:
        return Event("error", self.not_answered(error, request_id))

    def not_answered(self, error: Refusal, request_id: str) -> NotAnswered:
        """Return the error document, with the question and the part of the answer that exist so
        far."""
        inside = ErrorInside(error.code, error.message, request_id)
        return NotAnswered(inside, self.question, "".join(self.parts) or None)
