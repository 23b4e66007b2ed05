"""The OpenAPI document of the public side, `/openapi.json`: every route, parameter, answer, error
and header. Its schemas are made from what is really sent.

Source: OpenAPI 3.1.
"""

import functools
from typing import Any

import msgspec
from aiohttp import web

from models import PROFILES
from modelserver import __version__
from modelserver.api import about, ask, jobs, openai
from modelserver.api.health import Alive, Named, Ready
from modelserver.api.progress import PartialText, Progress
from modelserver.api.transcripts import Transcript
from modelserver.audio.formats import ENCODINGS
from modelserver.http.errors import STATUS, ErrorDocument, OpenAiErrorDocument, json_response
from modelserver.jobs.record import STATES
from modelserver.request.parameters import ASK_NAMES, FORMATS, MOST_ALTERNATIVES

_REF = "#/components/schemas/{name}"
_STRUCTS = (
    Transcript,
    ErrorDocument,
    OpenAiErrorDocument,
    Alive,
    Ready,
    Named,
    Progress,
    PartialText,
    openai.Json,
    openai.Verbose,
    openai.Delta,
    openai.Done,
    openai.Model,
    openai.Models,
    about.About,
    ask.Answered,
    ask.AskedInWriting,
    ask.NotAnswered,
    jobs.JobDocument,
    jobs.JobList,
    jobs.Message,
)
_FLAG = {"type": "string", "enum": ["true", "false", "1", "0", "yes", "no", "on", "off"]}
_TEXT = {"type": "string"}
_EVENTS = {
    "text/event-stream": {
        # Of each event.
        "schema": {
            "type": "object",
            "required": ["data"],
            "properties": {
                "event": _TEXT,
                "data": {"type": "string", "contentMediaType": "application/json"},
            },
        }
    }
}

_PARAMETERS: dict[str, tuple[dict[str, Any], str]] = {
    "model": (_TEXT, "name of a served model; by default the first"),
    "language": (_TEXT, "a served model that speaks it, as a BCP 47 tag; `auto` for any"),
    "words": (_FLAG, "also the words, with times and confidences"),
    "segments": (_FLAG, "also the utterances, with times"),
    "alternatives": (
        {"type": "integer", "minimum": 0, "maximum": MOST_ALTERNATIVES},
        "how many readings of each segment",
    ),
    "phrases": (_TEXT, "recognise these alone: a JSON list, or one a line"),
    "profile": (
        {"type": "string", "enum": list(PROFILES)},
        "how much work goes into the same audio; by default as the server is set up",
    ),
    "channels": (
        {"type": "string", "pattern": "^(mix|split|[0-9]{1,2}(,[0-9]{1,2})*)$"},
        "`mix`, `split`, or numbers of channels, counted from 0",
    ),
    "encoding": (
        {"type": "string", "enum": list(ENCODINGS)},
        "of samples without a container; with `rate`",
    ),
    "rate": ({"type": "integer", "minimum": 4000, "maximum": 768_000}, "samples a second"),
    "channel_count": (
        {"type": "integer", "minimum": 1, "maximum": 32},
        "channels of samples without a container",
    ),
    "format": ({"type": "string", "enum": list(FORMATS)}, "what the answer is to be"),
}
_BUSY = (
    "not_ready", "queue_full", "memory_pressure", "resource_exhausted", "shutting_down",
    "spool_full",
)  # fmt: skip
_OF_UPLOADS = (
    "bad_request", "bad_parameter", "malformed_multipart", "missing_file", "too_many_files",
    "incomplete_body", "not_audio", "unauthorized", "model_not_found", "grammar_unknown",
    "grammar_unsupported", "upload_timeout", "body_too_large", "audio_too_long",
    "too_large_for_server", "unsupported_media_type", "unsupported_audio", "expectation_failed",
    "rate_limited", "internal", "worker_lost", *_BUSY, "deadline_exceeded",
)  # fmt: skip
_OF_NEW_JOBS = (*_OF_UPLOADS, "url_refused", "url_failed", "repeat_in_progress", "repeat_differs")
_OF_QUESTIONS = (
    "assistant_missing", "assistant_failed", "assistant_busy", "assistant_timeout", "nothing_said",
)  # fmt: skip
_JOB_PARAMETERS: dict[str, tuple[dict[str, Any], str]] = {
    **_PARAMETERS,
    "url": (_TEXT, "where the audio is, instead of a body; of hosts that the server allows"),
    "webhook": (_TEXT, "what is told when it is over; of hosts that the server allows"),
}
_REQUEST_ID = {
    "name": "X-Request-ID",
    "in": "header",
    "required": False,
    "description": "an id of yours (up to 128 of A-Z a-z 0-9 . _ : / + = @ -), which comes back in "
    "the answer, in errors and in the log; any other is replaced",
    "schema": {"type": "string"},
}
_HEADERS = {"X-Request-ID": {"schema": _TEXT, "required": True}, "Server": {"schema": _TEXT}}
_AUDIO = {"type": "string", "contentMediaType": "application/octet-stream"}


@functools.cache
def openapi_document() -> dict[str, Any]:
    """The whole of it."""
    _, schemas = msgspec.json.schema_components(_STRUCTS, ref_template=_REF)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "modelserver",
            "version": __version__,
            "description": "Speech to text. Live streams are described in /asyncapi.json.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"key": []}],
        "paths": {
            "/api/audio/convert": {"post": _convert()},
            "/v1/audio/transcriptions": {"post": _transcriptions()},
            "/v1/audio/translations": {
                "post": {
                    "operationId": "translate",
                    "summary": "Nothing is translated here",
                    "parameters": [_REQUEST_ID],
                    "responses": _errors("OpenAiErrorDocument", "not_found", "unauthorized"),
                }
            },
            "/api/ask": {"post": _ask()},
            "/api/about": {"get": _get("about", "What a page has to know", "About", public=True)},
            "/v1/jobs": {"post": _new_job(), "get": _jobs()},
            "/v1/jobs/{id}": {"get": _job(), "delete": _deleted_job()},
            "/v1/models": {
                "get": _get("listModels", "Served models", "Models", openai_errors=True)
            },
            "/v1/models/{id}": {"get": _one_model()},
            "/api/audio/stream": {"get": _socket("stream", "Our own live stream")},
            "/ws": {"get": _socket("voskStream", "The Vosk project's protocol, also at `/`")},
            "/healthz": {"get": _get("alive", "The supervisor lives", "Alive", public=True)},
            "/readyz": {"get": _ready()},
            "/test": {"get": _get("named", "The server and its version", "Named", public=True)},
            "/openapi.json": {"get": _document("openapi", "This document")},
            "/asyncapi.json": {"get": _document("asyncapi", "Live streams, as AsyncAPI")},
        },
        "webhooks": {
            "jobOver": {
                "post": {
                    "operationId": "jobOver",
                    "summary": "A job is over; signed as Standard Webhooks 1.0 says",
                    "requestBody": {"required": True, "content": _json(_ref("Message"))},
                    "responses": {"2XX": {"description": "it was taken"}},
                }
            }
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "needed where the server asks for keys",
                }
            },
        },
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": _REF.format(name=name)}


def _json(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _answer(description: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "headers": _HEADERS, "content": content}


def _what_was_said(schema: Any) -> dict[str, Any]:
    """As JSON of that schema, and in every other form that there is."""
    texts = ("text/plain", "application/x-subrip", "text/vtt")
    content = _json(schema) | {kind: {"schema": _TEXT} for kind in texts} | _EVENTS
    return _answer("what was said", content)


def _errors(document: str | dict[str, Any], *codes: str) -> dict[str, Any]:
    """By status, each with the codes that it may have."""
    schema = _ref(document) if isinstance(document, str) else document
    by_status: dict[int, list[str]] = {}
    if "unauthorized" in codes:
        codes += ("origin_refused", "host_refused")
    for code in codes:
        by_status.setdefault(STATUS[code], []).append(code)
    found: dict[str, Any] = {}
    for status, names in sorted(by_status.items()):
        answer = _answer(" or ".join(f"`{name}`" for name in names), _json(schema))
        headers = dict(_HEADERS)
        if status == 401:
            headers["WWW-Authenticate"] = {"schema": _TEXT, "required": True}
        if status in (429, 503):
            headers["Retry-After"] = {"schema": {"type": "string", "pattern": "^[0-9]+$"}}
        found[str(status)] = {**answer, "headers": headers}
    return found


def _query(parameters: dict[str, tuple[dict[str, Any], str]]) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "query", "required": False, "description": text, "schema": schema}
        for name, (schema, text) in parameters.items()
    ]


def _audio_body(parameters: dict[str, tuple[dict[str, Any], str]]) -> dict[str, Any]:
    """Audio as it is, or with fields beside it."""
    fields = {name: {**schema, "description": text} for name, (schema, text) in parameters.items()}
    base64 = {"type": "string", "contentEncoding": "base64"}
    form = {"type": "object", "properties": {"file": _AUDIO, **fields}}
    document = {"type": "object", "properties": {"audio": base64, **fields}}
    if "url" not in parameters:
        form["required"], document["required"] = ["file"], ["audio"]
    return {
        "required": "url" not in parameters,
        "content": {
            "application/octet-stream": {"schema": _AUDIO},
            "audio/*": {"schema": _AUDIO},
            "multipart/form-data": {"schema": form},
            "application/json": {"schema": document},
        },
    }


def _convert() -> dict[str, Any]:
    return {
        "operationId": "convert",
        "summary": "One recording in, its text out",
        "parameters": [*_query(_PARAMETERS), _REQUEST_ID],
        "requestBody": _audio_body(_PARAMETERS),
        "responses": {
            "200": _what_was_said(_ref("Transcript")),
            **_errors("ErrorDocument", *_OF_UPLOADS),
        },
    }


def _transcriptions() -> dict[str, Any]:
    properties: dict[str, Any] = {
        "file": _AUDIO,
        "model": _TEXT,
        "language": _TEXT,
        "prompt": _TEXT,
        "response_format": {"type": "string", "enum": list(openai.FORMATS)},
        "temperature": {"type": "number", "minimum": 0, "maximum": 1},
        "timestamp_granularities[]": {
            "type": "array",
            "items": {"type": "string", "enum": list(openai.GRANULARITIES)},
        },
        "stream": _FLAG,
        "chunking_strategy": _TEXT,
    }
    return {
        "operationId": "transcribe",
        "summary": "As OpenAI's API",
        "parameters": [_REQUEST_ID],
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["file", "model"],
                        "properties": properties,
                    }
                }
            },
        },
        "responses": {
            "200": _what_was_said({"anyOf": [_ref("Json"), _ref("Verbose")]}),
            **_errors("OpenAiErrorDocument", *_OF_UPLOADS),
        },
    }


def _ask() -> dict[str, Any]:
    fields = {name: _PARAMETERS[name] for name in ASK_NAMES if name in _PARAMETERS}
    fields["history"] = (_TEXT, "what was said before: a JSON list of turns")
    fields["stream"] = (_FLAG, "answer with events, as `Accept: text/event-stream` does")
    body = _audio_body(fields)
    body["content"]["application/json"] = {"schema": _ref("AskedInWriting")}
    failed = {"anyOf": [_ref("ErrorDocument"), _ref("NotAnswered")]}
    return {
        "operationId": "ask",
        "summary": "A question, spoken or written, and a language model's answer",
        "parameters": [*_query(fields), _REQUEST_ID],
        "requestBody": body,
        "responses": {
            "200": _answer("question and answer", _json(_ref("Answered")) | _EVENTS),
            **_errors(failed, *_OF_UPLOADS, *_OF_QUESTIONS),
        },
    }


def _new_job() -> dict[str, Any]:
    key = {
        "name": "Idempotency-Key",
        "in": "header",
        "required": False,
        "description": "of a request that may be sent again: it makes one job, however often",
        "schema": {"type": "string", "pattern": "^[!-~]([ -~]{0,254}[!-~])?$"},
    }
    taken = _answer("it is on the disk", _json(_ref("JobDocument")))
    headers = {
        "Location": {"schema": _TEXT, "required": True},
        "Idempotency-Replayed": {"schema": {"type": "string", "enum": ["true"]}},
    }
    return {
        "operationId": "addJob",
        "summary": "One recording in, to be transcribed when there is time",
        "parameters": [*_query(_JOB_PARAMETERS), key, _REQUEST_ID],
        "requestBody": _audio_body(_JOB_PARAMETERS),
        "responses": {
            "202": {**taken, "headers": {**_HEADERS, **headers}},
            **_errors("ErrorDocument", *_OF_NEW_JOBS),
        },
    }


def _jobs() -> dict[str, Any]:
    made = _get("listJobs", "The newest first", "JobList")
    made["parameters"] = [
        *_query(
            {
                "state": ({"type": "string", "enum": list(STATES)}, "those alone"),
                "limit": (
                    {"type": "integer", "minimum": 1, "maximum": jobs.MOST_LISTED},
                    "how many",
                ),
                "before": (_TEXT, "those that follow on this one: `next` of the page before"),
            }
        ),
        _REQUEST_ID,
    ]
    made["responses"] |= _errors("ErrorDocument", "bad_parameter", "unauthorized", "not_ready")
    return made


_JOB_ID = {"name": "id", "in": "path", "required": True, "schema": {**_TEXT, "minLength": 1}}
_OF_JOBS = ("job_not_found", "job_elsewhere", "unauthorized", "not_ready")


def _job() -> dict[str, Any]:
    shown = {name: _PARAMETERS[name] for name in ("format", "words", "segments")}
    return {
        "operationId": "getJob",
        "summary": "How far it is, and its result; as text or subtitles the result alone",
        "parameters": [_JOB_ID, *_query(shown), _REQUEST_ID],
        "responses": {
            "200": _what_was_said(_ref("JobDocument")),
            **_errors("ErrorDocument", "bad_parameter", "job_unfinished", "job_failed", *_OF_JOBS),
        },
    }


def _deleted_job() -> dict[str, Any]:
    return {
        "operationId": "deleteJob",
        "summary": "Forget it, whatever its state is",
        "parameters": [_JOB_ID, _REQUEST_ID],
        "responses": {
            "204": {"description": "it is gone", "headers": _HEADERS},
            **_errors("ErrorDocument", *_OF_JOBS),
        },
    }


def _get(
    operation: str, summary: str, schema: str, *, public: bool = False, openai_errors: bool = False
) -> dict[str, Any]:
    document = "OpenAiErrorDocument" if openai_errors else "ErrorDocument"
    made: dict[str, Any] = {
        "operationId": operation,
        "summary": summary,
        "parameters": [_REQUEST_ID],
        "responses": {"200": _answer(summary, _json(_ref(schema)))},
    }
    if public:
        made["security"] = [{}]
    else:
        made["responses"] |= _errors(document, "unauthorized")
    return made


def _one_model() -> dict[str, Any]:
    made = _get("getModel", "One of them", "Model", openai_errors=True)
    path = {"name": "id", "in": "path", "required": True, "schema": {**_TEXT, "minLength": 1}}
    made["parameters"] = [path, _REQUEST_ID]
    made["responses"] |= _errors("OpenAiErrorDocument", "model_not_found", "unauthorized")
    return made


def _ready() -> dict[str, Any]:
    made = _get("ready", "A model is loaded and a worker able", "Ready", public=True)
    made["responses"] |= _errors("ErrorDocument", *_BUSY)
    return made


def _document(operation: str, summary: str) -> dict[str, Any]:
    return {
        "operationId": operation,
        "summary": summary,
        "security": [{}],
        "parameters": [_REQUEST_ID],
        "responses": {"200": _answer(summary, _json({"type": "object"}))},
    }


def _socket(operation: str, summary: str) -> dict[str, Any]:
    return {
        "operationId": operation,
        "summary": f"{summary}: a WebSocket",
        "parameters": [_REQUEST_ID],
        "responses": {
            "101": {"description": "the connection is a WebSocket now"},
            **_errors(
                "ErrorDocument",
                "bad_request",
                "upgrade_required",
                "unauthorized",
                "rate_limited",
                "model_not_found",
                *_BUSY,
            ),
        },
    }


async def openapi(request: web.Request) -> web.Response:
    """`/openapi.json`"""
    return json_response(openapi_document())
