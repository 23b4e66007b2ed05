"""The OpenAPI document of the public side, `/openapi.json`.

`openapi.toml` lists operations, parameters and errors; schemas are made from what is really sent,
and an error's status is the server's own.

Source: OpenAPI 3.1.
"""

import functools
import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from typing import Any

import msgspec
from aiohttp import web

from models import PROFILES
from modelserver import __version__
from modelserver.api import about, ask, jobs, openai, realtime
from modelserver.api.health import Alive, Named, Ready
from modelserver.api.progress import PartialText, Progress
from modelserver.api.transcripts import Transcript
from modelserver.audio.formats import ENCODINGS
from modelserver.http.errors import STATUS, ErrorDocument, OpenAiErrorDocument, json_response
from modelserver.http.middleware import OPEN_PATHS
from modelserver.jobs.record import STATES
from modelserver.request.endpoints import (
    LONGEST_ENDPOINT_MS,
    LONGEST_UTTERANCE_S,
    SHORTEST_ENDPOINT_MS,
    SHORTEST_UTTERANCE_S,
)
from modelserver.request.parameters import (
    ASK_NAMES,
    FLAG_VALUES,
    FORMATS,
    JOB_NAMES,
    MOST_ALTERNATIVES,
    NAMES,
)
from modelserver.speech.phrases import MOST_TEXTS

_STRUCTS = (
    Transcript, ErrorDocument, OpenAiErrorDocument, Alive, Ready, Named, Progress, PartialText,
    openai.Json, openai.Verbose, openai.Delta, openai.Done, openai.Model, openai.Models,
    about.About, ask.Answered, ask.AskedInWriting, ask.NotAnswered, jobs.JobDocument, jobs.JobList,
    jobs.Message, realtime.Secret, realtime.SecretWanted,
)  # fmt: skip
_REF = "#/components/schemas/{name}"
_QUERIES = {"recording": NAMES, "job": JOB_NAMES, "question": ASK_NAMES}

_Schema = dict[str, Any]
_TEXT: _Schema = {"type": "string"}
_FLAG = {**_TEXT, "enum": list(FLAG_VALUES)}
_AUDIO = {**_TEXT, "contentMediaType": "application/octet-stream"}


def _or_zero(kind: str, least: int, most: int) -> _Schema:
    return {"type": kind, "anyOf": [{"const": 0}, {"minimum": least, "maximum": most}]}


_SCHEMAS: dict[str, _Schema] = {
    "words": _FLAG,
    "segments": _FLAG,
    "stream": _FLAG,
    "alternatives": {"type": "integer", "minimum": 0, "maximum": MOST_ALTERNATIVES},
    "profile": {**_TEXT, "enum": list(PROFILES)},
    "endpoint_ms": _or_zero("integer", SHORTEST_ENDPOINT_MS, LONGEST_ENDPOINT_MS),
    "max_utterance_s": _or_zero("number", SHORTEST_UTTERANCE_S, LONGEST_UTTERANCE_S),
    "channels": {**_TEXT, "pattern": "^(mix|split|[0-9]{1,2}(,[0-9]{1,2})*)$"},
    "encoding": {**_TEXT, "enum": list(ENCODINGS)},
    "rate": {"type": "integer", "minimum": 4000, "maximum": 768_000},
    "channel_count": {"type": "integer", "minimum": 1, "maximum": 32},
    "format": {**_TEXT, "enum": list(FORMATS)},
    "state": {**_TEXT, "enum": list(STATES)},
    "limit": {"type": "integer", "minimum": 1, "maximum": jobs.MOST_LISTED},
    "id": {**_TEXT, "minLength": 1},
    "Idempotency-Key": {**_TEXT, "pattern": "^[!-~]([ -~]{0,254}[!-~])?$"},
}
"""Schemas of parameters and headers whose values are not free text."""
_OPENAI_FORM: dict[str, _Schema] = {
    "file": _AUDIO,
    "model": _TEXT,
    "language": _TEXT,
    "prompt": _TEXT,
    "keywords[]": {"type": "array", "items": _TEXT, "maxItems": MOST_TEXTS},
    "response_format": {**_TEXT, "enum": list(openai.FORMATS)},
    "temperature": {"type": "number", "minimum": 0, "maximum": 1},
    "timestamp_granularities[]": {
        "type": "array",
        "items": {**_TEXT, "enum": list(openai.GRANULARITIES)},
    },
    "stream": _FLAG,
    "chunking_strategy": {
        "anyOf": [
            {**_TEXT, "enum": ["auto"]},
            {
                "type": "object",
                "required": ["type"],
                "properties": {
                    "type": {**_TEXT, "enum": ["server_vad"]},
                    "silence_duration_ms": _or_zero(
                        "integer", SHORTEST_ENDPOINT_MS, LONGEST_ENDPOINT_MS
                    ),
                },
            },
        ]
    },
}
_EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {"event": _TEXT, "data": {**_TEXT, "contentMediaType": "application/json"}},
}
_EVENTS = {"text/event-stream": {"schema": _EVENT}}
_TEXTS = {kind: {"schema": _TEXT} for kind in ("text/plain", "application/x-subrip", "text/vtt")}
_HEADERS = {"X-Request-ID": {"schema": _TEXT, "required": True}, "Server": {"schema": _TEXT}}
_MORE_HEADERS: dict[str, _Schema] = {
    "Location": {"schema": _TEXT, "required": True},
    "Idempotency-Replayed": {"schema": {**_TEXT, "enum": ["true"]}},
    "WWW-Authenticate": {"schema": _TEXT, "required": True},
    "Retry-After": {"schema": {**_TEXT, "pattern": "^[0-9]+$"}},
}


class _Operation(msgspec.Struct, forbid_unknown_fields=True):
    route: str
    summary: str
    tag: str
    query: str | tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    body: str = ""
    written: str = ""
    status: int = 200
    says: str = ""
    answer: tuple[str, ...] | None = None
    answer_headers: tuple[str, ...] = ()
    texts: bool = False
    events: bool = False
    errors: str = ""
    error_document: tuple[str, ...] = ("ErrorDocument",)


class _Source(msgspec.Struct, forbid_unknown_fields=True):
    """Contents of `openapi.toml`."""

    errors: dict[str, list[str]]
    parameters: dict[str, str]
    stream_parameters: dict[str, str]
    headers: dict[str, str]
    operations: dict[str, _Operation]


@functools.cache
def source() -> _Source:
    """Return the contents of `openapi.toml`."""
    text = (files("modelserver.api") / "openapi.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), _Source)


@functools.cache
def openapi_document() -> dict[str, Any]:
    """Return the whole document."""
    _, schemas = msgspec.json.schema_components(_STRUCTS, ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for name, operation in source().operations.items():
        method, path = operation.route.split(" ")
        paths.setdefault(path, {})[method.lower()] = _described(name, path, operation)
    tags = dict.fromkeys(operation.tag for operation in source().operations.values())
    over = {
        "operationId": "jobOver",
        "summary": "A job has ended; signed as Standard Webhooks 1.0 defines",
        "requestBody": {"required": True, "content": _json(["Message"])},
        "responses": {"2XX": {"description": "the message was received"}},
    }
    key = {
        "type": "http",
        "scheme": "bearer",
        "description": "required if the server has API keys (`auth.keys_file`)",
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "modelserver",
            "version": __version__,
            "description": "Speech to text. Live streams are described in /asyncapi.json.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "."}],
        "security": [{}, {"key": []}],
        "tags": [{"name": tag} for tag in tags],
        "paths": paths,
        "webhooks": {"jobOver": {"post": over}},
        "components": {"schemas": schemas, "securitySchemes": {"key": key}},
    }


def _described(name: str, path: str, operation: _Operation) -> dict[str, Any]:
    names = operation.query
    query = list(_QUERIES[names] if isinstance(names, str) else names)
    headers = [*operation.headers, "X-Request-ID"]
    made: dict[str, Any] = {
        "operationId": name,
        "summary": operation.summary,
        "tags": [operation.tag],
        "parameters": [
            *(_parameter("path", each) for each in re.findall(r"{(\w+)}", path)),
            *(_parameter("query", each, source().parameters[each]) for each in query),
            *(_parameter("header", each, source().headers[each]) for each in headers),
        ],
    }
    if path in OPEN_PATHS:
        made["security"] = [{}]
    if operation.body == "openai":
        form = {"type": "object", "required": ["file", "model"], "properties": _OPENAI_FORM}
        content: dict[str, Any] = {"multipart/form-data": {"schema": form}}
        made["requestBody"] = {"required": True, "content": content}
    elif operation.body == "secret":
        made["requestBody"] = {"required": False, "content": _json(["SecretWanted"])}
    elif operation.body:
        made["requestBody"] = _audio_body(query, operation.written)
    made["responses"] = _responses(operation)
    return made


def _parameter(place: str, name: str, about: str = "") -> dict[str, Any]:
    described = {"description": about} if about else {}
    schema = _SCHEMAS.get(name, _TEXT)
    return {"name": name, "in": place, "required": place == "path", **described, "schema": schema}


def _audio_body(names: Sequence[str], written: str) -> dict[str, Any]:
    """Audio as it is, or with fields beside it; `written`: the schema of JSON without audio."""
    about = source().parameters
    fields = {each: {**_SCHEMAS.get(each, _TEXT), "description": about[each]} for each in names}
    base64 = {**_TEXT, "contentEncoding": "base64"}
    form: _Schema = {"type": "object", "properties": {"file": _AUDIO, **fields}}
    document: _Schema = {"type": "object", "properties": {"audio": base64, **fields}}
    if "url" not in names:
        form["required"], document["required"] = ["file"], ["audio"]
    return {
        "required": "url" not in names,
        "content": {
            "application/octet-stream": {"schema": _AUDIO},
            "audio/*": {"schema": _AUDIO},
            "multipart/form-data": {"schema": form},
            **(_json([written]) if written else {"application/json": {"schema": document}}),
        },
    }


def _responses(operation: _Operation) -> dict[str, Any]:
    said = operation.says or operation.summary
    found: dict[str, Any] = {}
    if operation.status == 101:
        found["101"] = {"description": said}
    elif operation.answer is not None or operation.says:
        more = {name: _MORE_HEADERS[name] for name in operation.answer_headers}
        success: dict[str, Any] = {"description": said, "headers": {**_HEADERS, **more}}
        if operation.answer is not None:
            texts = _TEXTS if operation.texts else {}
            events = _EVENTS if operation.texts or operation.events else {}
            success["content"] = {**_json(operation.answer), **texts, **events}
        found[str(operation.status)] = success
    by_status: dict[int, list[str]] = {}
    for code in error_codes([f"@{operation.errors}"] if operation.errors else []):
        by_status.setdefault(STATUS[code], []).append(code)
    for status, codes in sorted(by_status.items()):
        headers = dict(_HEADERS)
        if status == 401:
            headers["WWW-Authenticate"] = _MORE_HEADERS["WWW-Authenticate"]
        if status in (429, 503):
            headers["Retry-After"] = _MORE_HEADERS["Retry-After"]
        found[str(status)] = {
            "description": " or ".join(f"`{code}`" for code in codes),
            "headers": headers,
            "content": _json(operation.error_document),
        }
    return found


def error_codes(listed: Iterable[str]) -> Iterator[str]:
    """Yield the codes of a list, with those of the groups in it."""
    for each in listed:
        if each.startswith("@"):
            yield from error_codes(source().errors[each[1:]])
        else:
            yield each
            if each == "unauthorized":
                yield from ("origin_refused", "host_refused")


def _json(names: Sequence[str]) -> dict[str, Any]:
    """JSON of one of these schemas; of any object without them."""
    refs = [{"$ref": _REF.format(name=name)} for name in names]
    schema = {"anyOf": refs} if len(refs) > 1 else refs[0] if refs else {"type": "object"}
    return {"application/json": {"schema": schema}}


async def openapi(request: web.Request) -> web.Response:
    """Answer `GET /openapi.json`."""
    return json_response(openapi_document())
