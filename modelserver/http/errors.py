"""The one shape of errors, and the one place that gives an error its status.

Every answer that is not a success is `{"error": {"code", "message", "request_id"}}`.
"""

import math
from typing import Any

import msgspec
from aiohttp import web

from modelserver.refusal import Refusal
from supervisor import PoolError

STATUS = {
    "bad_request": 400,
    "bad_parameter": 400,
    "malformed_multipart": 400,
    "missing_file": 400,
    "too_many_files": 400,
    "incomplete_body": 400,
    "not_audio": 400,
    "unauthorized": 401,
    "origin_refused": 403,
    "host_refused": 403,
    "url_refused": 400,
    "not_found": 404,
    "model_not_found": 404,
    "assistant_missing": 404,
    "job_not_found": 404,
    "job_elsewhere": 404,
    "job_unfinished": 409,
    "job_failed": 409,
    "repeat_in_progress": 409,
    "repeat_differs": 422,
    "grammar_unknown": 400,
    "grammar_unsupported": 400,
    "method_not_allowed": 405,
    "upload_timeout": 408,
    "body_too_large": 413,
    "audio_too_long": 413,
    "too_large_for_server": 413,
    "unsupported_media_type": 415,
    "unsupported_audio": 415,
    "expectation_failed": 417,
    "bad_settings": 422,
    "not_upgraded": 409,
    "nothing_said": 422,
    "upgrade_required": 426,
    "rate_limited": 429,
    "headers_too_large": 431,
    "internal": 500,
    "worker_lost": 500,
    "not_ready": 503,
    "queue_full": 503,
    "memory_pressure": 503,
    "resource_exhausted": 503,
    "shutting_down": 503,
    "spool_full": 503,
    "stream_lost": 503,
    "url_failed": 502,
    "assistant_failed": 502,
    "assistant_busy": 503,
    "assistant_timeout": 504,
    "deadline_exceeded": 504,
}
"""Statuses of the codes that the API answers with. Codes are stable."""


_HEADERS = {
    "unauthorized": {"WWW-Authenticate": "Bearer"},
    "upgrade_required": {"Upgrade": "websocket"},
}
"""Headers that every answer with that code has, unless the refusal has its own."""

_MOST_REASON_BYTES = 123

_OPENAI = "/v1/audio/", "/v1/models", "/v1/realtime"
"""Paths of an API that writes errors otherwise."""


class ErrorInside(msgspec.Struct):
    """The content of every error document."""

    code: str
    message: str
    request_id: str


class ErrorDocument(msgspec.Struct):
    """The document of every answer that is not a success."""

    error: ErrorInside


class OpenAiError(msgspec.Struct):
    """The content of an error, as the clients of OpenAI's API parse it."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAiErrorDocument(msgspec.Struct):
    """The document of every answer on OpenAI's paths that is not a success."""

    error: OpenAiError


def openai_error(error: Refusal) -> OpenAiErrorDocument:
    """Return an error as the clients of OpenAI's API parse it."""
    match STATUS[error.code]:
        case 401:
            kind = "authentication_error"
        case 403:
            kind = "permission_error"
        case 429:
            kind = "rate_limit_error"
        case status if status < 500:
            kind = "invalid_request_error"
        case _:
            kind = "server_error"
    param = "model" if error.code == "model_not_found" else None
    return OpenAiErrorDocument(OpenAiError(error.message, kind, param, error.code))


def error_response(
    error: Refusal, request_id: str, path: str = "", document: object = None
) -> web.Response:
    """Return the error document in the form of that path, or the given one."""
    headers = _HEADERS.get(error.code, {}) | error.headers
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if document is None and path.startswith(_OPENAI):
        document = openai_error(error)
    elif document is None:
        document = ErrorDocument(ErrorInside(error.code, error.message, request_id))
    return json_response(document, status=STATUS[error.code], headers=headers)


def json_response(
    document: object, *, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """Return `document` as a UTF-8 JSON response, without needless escapes."""
    try:
        body = msgspec.json.encode(document)
    except UnicodeEncodeError:  # a path that is not UTF-8 is in it
        body = msgspec.json.encode(_as_unicode(msgspec.to_builtins(document)))
    return web.Response(
        body=body, status=status, content_type="application/json", charset="utf-8", headers=headers
    )


def _as_unicode(value: Any) -> Any:
    match value:
        case str():
            return value.encode(errors="replace").decode()
        case dict():
            return {_as_unicode(key): _as_unicode(item) for key, item in value.items()}
        case list() | tuple():
            return [_as_unicode(item) for item in value]
    return value


def failed() -> Refusal:
    """Return the error for a client after an unexpected exception."""
    return Refusal("internal", "internal error: the server's log has the details")


def close_reason(text: str) -> bytes:
    """Return as much of `text` as the close frame of a WebSocket holds (RFC 6455, 5.5)."""
    return text.encode()[:_MOST_REASON_BYTES].decode(errors="ignore").encode()


def refusal_of(error: Exception) -> Refusal | None:
    """Return the error for a client after an expected exception; None for an unexpected one."""
    match error:
        case Refusal() if error.code in STATUS:
            return error
        case PoolError() if error.code in STATUS and error.code != "internal":
            return Refusal(error.code, error.message, error.retry_after_s)
        case web.HTTPNotFound():
            return Refusal("not_found", "there is nothing at this path")
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            return Refusal(
                "method_not_allowed",
                f"{error.method} is not allowed at this path: use {allowed}",
                headers={"Allow": allowed},
            )
        case web.HTTPRequestEntityTooLarge():
            return Refusal("body_too_large", "the request's body is too large")
        case web.HTTPException() if 400 <= error.status < 500:
            return Refusal("bad_request", error.reason)
    return None
