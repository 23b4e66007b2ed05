"""OpenAI's audio API, for the clients that exist: `/v1/audio/transcriptions` and `/v1/models`.

Source: OpenAI's API reference, and what its Python and Node packages send and parse. What this
server cannot do is refused in words or, where a client could not do without, accepted and said in
`warnings`.
"""

import math
import time
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec
from aiohttp import web

from modelserver.api.progress import Event, stream_events
from modelserver.api.transcripts import SUBTITLES, TEXTS, off_the_loop, text_response
from modelserver.http.app_keys import SERVICE
from modelserver.http.decoding import decoded
from modelserver.http.errors import json_response, openai_error
from modelserver.http.middleware import expect_continue
from modelserver.refusal import Refusal
from modelserver.request.body import hold_continue
from modelserver.request.endpoints import read_endpoint_ms
from modelserver.request.openai_models import openai_model, openai_name
from modelserver.request.parameters import read_flag, read_language, read_list
from modelserver.request.upload import receive_upload
from modelserver.serving.served import ServedModel
from modelserver.speech.languages import ENGLISH_NAMES, primary_language
from modelserver.speech.messages import (
    Speech,
    SpeechProgress,
    SpeechRequest,
    SpeechSegment,
    SpeechWord,
)
from modelserver.speech.phrases import keyword_list, usable_keywords
from modelserver.speech.prompt import keywords_of
from modelserver.speech.transcript import join_texts

FORMATS = ("json", "verbose_json", *TEXTS)
GRANULARITIES = ("word", "segment")
_STARTED = int(time.time())


class _Usage(msgspec.Struct):
    seconds: int
    type: str = "duration"


class Json(msgspec.Struct, omit_defaults=True):
    """The plain answer."""

    text: str
    usage: _Usage
    warnings: list[str] | None = None


class _Segment(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Segment in OpenAI's form. `avg_logprob` is the logarithm of the words' mean confidence, if
    the model gives any; `tokens` is empty, and silence is not a segment."""

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float | None = None
    compression_ratio: float
    no_speech_prob: float


class _Word(msgspec.Struct):
    word: str
    start: float
    end: float


class Verbose(msgspec.Struct, omit_defaults=True):
    """The answer with segments or words."""

    language: str
    duration: float
    text: str
    usage: _Usage
    task: str | None = None
    segments: list[_Segment] | None = None
    words: list[_Word] | None = None
    warnings: list[str] | None = None


class Model(msgspec.Struct):
    """A served model."""

    id: str
    created: int
    object: str = "model"
    owned_by: str = "modelserver"


class Models(msgspec.Struct):
    """The list of served models."""

    data: list[Model]
    object: str = "list"


class Delta(msgspec.Struct):
    """A segment is final: what it adds to the text."""

    delta: str
    type: str = "transcript.text.delta"


class Done(msgspec.Struct):
    """The last event."""

    text: str
    usage: _Usage
    type: str = "transcript.text.done"


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Options of the form, beside the model."""

    form: str = "json"
    stream: bool = False
    words: bool = False
    segments: bool = True
    language: str = ""
    endpoint_ms: int = 0
    keywords: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


async def transcriptions(request: web.Request) -> web.StreamResponse:
    """Answer `POST /v1/audio/transcriptions`."""
    wanted = _Wanted()

    def read(fields: Mapping[str, str]) -> tuple[ServedModel, SpeechRequest]:
        nonlocal wanted
        language = read_language(fields.get("language", ""))
        models = request.app[SERVICE].models
        served, warnings = openai_model(models, fields.get("model") or None, language)
        wanted = _read(fields, warnings)
        verbose = wanted.form == "verbose_json"
        timed = verbose or wanted.form in SUBTITLES
        asked = SpeechRequest(
            words=timed,
            words_asked_for=verbose and wanted.words,
            segments=timed,
            partials=wanted.stream,
            language=wanted.language,
            endpoint_ms=wanted.endpoint_ms,
            keywords=wanted.keywords,
        )
        return served, asked

    async with receive_upload(request, read) as upload:
        if wanted.stream:
            return await stream_events(request, upload.transcribe, _Deltas())
        speech = await upload.transcribe()
    if wanted.form in TEXTS:
        return await off_the_loop(speech, lambda: text_response(speech, wanted.form))
    warnings = [*wanted.warnings, *speech.warnings] or None
    if wanted.form == "json":
        return json_response(Json(speech.text, _usage(speech), warnings))
    return await off_the_loop(speech, lambda: json_response(_verbose(speech, wanted, warnings)))


def _read(fields: Mapping[str, str], warnings: list[str]) -> _Wanted:
    form = fields.get("response_format") or "json"
    if form == "diarized_json":
        raise Refusal("bad_parameter", "speakers are not distinguished: response_format may be "
                       f"{', '.join(FORMATS)}")  # fmt: skip
    if form not in FORMATS:
        raise Refusal("bad_parameter", f"response_format={form[:40]!r} is not known; there are: "
                       f"{', '.join(FORMATS)}")  # fmt: skip
    if _listed(fields, "include"):
        raise Refusal("bad_parameter", "include: log probabilities of tokens are not available")
    granularities = _listed(fields, "timestamp_granularities")
    for one in granularities:
        if one not in GRANULARITIES:
            raise Refusal(
                "bad_parameter", f"timestamp_granularities={one[:40]!r}: word and segment are known"
            )
    temperature = fields.get("temperature") or "0"
    try:
        if not 0 <= float(temperature) <= 1:
            raise ValueError
    except ValueError:
        raise Refusal(
            "bad_parameter", f"temperature={temperature[:40]!r}; it is from 0 to 1"
        ) from None
    said = list(warnings)
    prompt = fields.get("prompt", "").strip()
    expected = keywords_of(prompt)
    if prompt and not expected:
        said.append("prompt: no names or terms were found in it; keywords are a list of them")
    keywords = keyword_list(read_list(fields.get("keywords", "")))
    return _Wanted(
        form=form,
        stream=read_flag("stream", fields.get("stream", "false")),
        words="word" in granularities,
        segments="segment" in granularities or not granularities,
        language=read_language(fields.get("language", "")) or "",
        endpoint_ms=_endpoint_ms(fields),
        keywords=usable_keywords([*keywords, *expected]),
        warnings=tuple(said),
    )


def _endpoint_ms(fields: Mapping[str, str]) -> int:
    """Read the pause of `chunking_strategy`, which comes as JSON or as a field for each member."""
    name = "silence_duration_ms"
    given: object = fields.get(f"chunking_strategy[{name}]") or 0
    if (text := fields.get("chunking_strategy", "")).lstrip().startswith("{"):
        given = decoded(text, dict[str, object], ": chunking_strategy").get(name) or 0
    return read_endpoint_ms(given, f"chunking_strategy.{name}")


def _listed(fields: Mapping[str, str], name: str) -> list[str]:
    """Return the values of a field that may be there several times, hold several with commas
    between them, or be a JSON list."""
    found: list[str] = []
    for line in fields.get(name, "").splitlines():
        if line.lstrip().startswith("["):
            found += decoded(line, list[str], f": {name}")
        else:
            found += line.split(",")
    return [one.strip() for one in found if one.strip()]


def _verbose(speech: Speech, wanted: _Wanted, warnings: list[str] | None) -> Verbose:
    primary = primary_language(speech.language)
    words = sorted(speech.words, key=lambda word: word.start) if wanted.segments else []
    starts = [word.start for word in words]
    return Verbose(
        task="transcribe",
        language=ENGLISH_NAMES.get(primary, speech.language),
        duration=speech.duration_s,
        text=speech.text,
        usage=_usage(speech),
        segments=[
            _segment(number, segment, words, starts)
            for number, segment in enumerate(speech.segments)
        ]
        if wanted.segments
        else None,
        words=[_Word(word.word, word.start, word.end) for word in speech.words]
        if wanted.words
        else None,
        warnings=warnings,
    )


def _segment(
    number: int, segment: SpeechSegment, words: list[SpeechWord], starts: list[float]
) -> _Segment:
    """`words` in the order of their `starts`."""
    inside = words[bisect_left(starts, segment.start) : bisect_right(starts, segment.end)]
    sure = [word.confidence for word in inside if word.confidence is not None]
    mean = sum(sure) / len(sure) if sure else None
    text = segment.text.encode()
    return _Segment(
        id=number,
        seek=round(segment.start * 100),
        start=segment.start,
        end=segment.end,
        text=segment.text,
        tokens=[],
        temperature=0.0,
        avg_logprob=None if mean is None else round(math.log(max(mean, 1e-6)), 4),
        compression_ratio=round(len(text) / max(1, len(zlib.compress(text))), 4),
        no_speech_prob=0.0,
    )


def _usage(speech: Speech) -> _Usage:
    return _Usage(math.ceil(speech.duration_s))


class _Deltas:
    """Segments as they are final, as events of that API (`modelserver.api.progress.Story`)."""

    def __init__(self) -> None:
        self._last = ""
        """The last letter so far: whether a space follows it depends on its script."""

    def events(self, progress: SpeechProgress) -> Iterator[Event]:
        if progress.segment is None:
            return
        text = progress.segment.text
        delta = join_texts((self._last, text))[len(self._last) :]
        self._last = text[-1:] or self._last
        yield Event(None, Delta(delta))

    def done(self, speech: Speech) -> Event:
        return Event(None, Done(speech.text, _usage(speech)))

    def failed(self, error: Refusal, request_id: str) -> Event:
        return Event("error", openai_error(error))


async def translations(request: web.Request) -> web.StreamResponse:
    """Refuse `POST /v1/audio/translations`, which is not supported."""
    raise Refusal(
        "not_found",
        "translation is not supported: /v1/audio/transcriptions returns the text as spoken",
    )


async def list_models(request: web.Request) -> web.Response:
    """Answer `GET /v1/models`."""
    models = [_model(served) for served in request.app[SERVICE].models.values()]
    return json_response(Models(models))


async def one_model(request: web.Request) -> web.Response:
    """Answer `GET /v1/models/{id}`."""
    wanted = request.match_info["id"]
    served = request.app[SERVICE].models.find(wanted)
    return json_response(msgspec.structs.replace(_model(served), id=wanted))


def _model(served: ServedModel) -> Model:
    return Model(openai_name(served), _STARTED)


def add_openai_routes(app: web.Application) -> None:
    """Add the routes where OpenAI's clients look."""
    app.router.add_post("/v1/audio/transcriptions", transcriptions, expect_handler=hold_continue)
    app.router.add_post("/v1/audio/translations", translations, expect_handler=hold_continue)
    app.router.add_get("/v1/models", list_models, expect_handler=expect_continue)
    app.router.add_get("/v1/models/{id:.+}", one_model, expect_handler=expect_continue)
