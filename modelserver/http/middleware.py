"""Steps that every request passes: an id, authentication, one log event, and errors made into
documents."""

import contextlib
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Protocol, runtime_checkable

import structlog
from aiohttp import HttpVersion11, WSCloseCode, web
from opentelemetry.trace import SpanKind

from modelserver import __version__
from modelserver.access.client_secrets import ClientSecret
from modelserver.access.gate import NotAllowed
from modelserver.http.app_keys import CONNECTIONS, SERVICE
from modelserver.http.client_address import client_address
from modelserver.http.errors import STATUS, close_reason, error_response, failed, refusal_of
from modelserver.http.origins import (
    allowed_origin,
    cors_headers,
    preflight,
    refuse_other_names,
    refuse_other_pages,
)
from modelserver.refusal import Refusal
from modelserver.tracing import fail, parent_of, span, trace_id
from modelserver.web import PAGES
from supervisor import counted

log: structlog.stdlib.BoundLogger = structlog.get_logger("http")

REQUEST_ID = web.RequestKey("request_id", str)
"""The id of the request."""

NOTES = web.RequestKey("notes", dict[str, object])
"""Fields that the handler adds to the log event of the request."""

CLIENT = web.RequestKey("client", str)
"""The client's address, behind gateways that are trusted."""

KEY_NAME = web.RequestKey("key_name", str)
"""Name of the request's key; missing if none is needed."""

NOT_ALLOWED = web.RequestKey("not_allowed", NotAllowed)
"""Error with which a page's stream is to be closed after its handshake: a browser hides from the
page why a handshake failed."""

CLIENT_SECRET = web.RequestKey("client_secret", ClientSecret)
"""The secret that a session of OpenAI's Realtime API came with instead of a key."""

BEGUN = web.RequestKey("begun", web.StreamResponse)
"""The answer, once its head has been sent."""

STREAM_PATH = "/api/audio/stream"
REALTIME_PATH = "/v1/realtime"
OPEN_PATHS = {
    "/healthz", "/readyz", "/test", "/asyncapi.json", "/openapi.json", "/api/about", *PAGES,
}  # fmt: skip
"""Need no key."""
_PROBES = ("/healthz", "/readyz")
_KEY_PROTOCOLS = ("bearer.", "openai-insecure-api-key.")
"""A browser's WebSocket can send no header of its own, but may name subprotocols. The second one is
what OpenAI's package names."""

_ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


@runtime_checkable
class Lingering(Protocol):
    """A connection whose client may still be sending what was refused."""

    def linger(self) -> None:
        """Read on, and throw it away, as long as something comes."""


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def each_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Outermost: nothing but answers, and cancellation, leaves it."""
    started = time.monotonic()
    request_id = request_id_of(request)
    request[REQUEST_ID], request[NOTES] = request_id, {}
    error: Refusal | None = None
    response: web.StreamResponse
    connections = request.app[CONNECTIONS]
    connections.begins(request.protocol)
    last = connections.handed_on
    settings = request.app[SERVICE].settings
    request[CLIENT] = client_address(request, settings.proxies)
    origin = allowed_origin(request, settings.cors)
    if (
        origin
        and request.method == "OPTIONS"
        and "Access-Control-Request-Method" in request.headers
    ):
        connections.rests(request.protocol)
        return signed(preflight(request, origin), request_id)
    try:
        if connections.too_many and request.method == "POST":
            raise Refusal(
                "resource_exhausted",
                f"{counted(connections.open, 'open connection')}, {connections.most} allowed",
                retry_after_s=5,
            )
        if request.path not in _PROBES and request.app[SERVICE].access.open:
            refuse_other_names(request, settings.server_names)
        page = request.path == "/" and "Upgrade" not in request.headers
        if request.path not in OPEN_PATHS and not page:
            _let_in(request)
        if NOT_ALLOWED not in request:
            refuse_other_pages(request, settings.cors)
        response = await _traced(request, handler)
    except Exception as exception:
        error = refusal_of(exception)
        if error is None:
            log.exception("request.failed", request_id=request_id, path=request.path)
            error = failed()
        if BEGUN in request:
            response = await _broken_off(request, error)
        else:
            response = error_response(error, request_id, request.path)
    except BaseException:
        if request[NOTES].get("close") in (None, 1006):
            request.app[SERVICE].traffic.abandoned += 1
            _log_request(request, request_id, None, "cancelled", started)
        else:  # a WebSocket that its client has closed as it should
            took_s = time.monotonic() - started
            request.app[SERVICE].traffic.answered(_route(request), 101, None, took_s)
            _log_request(request, request_id, 101, None, started)
        raise
    content = request.content
    if error is not None and BEGUN not in request and not content.is_eof():
        response.force_close()
        if isinstance(request.protocol, Lingering):
            request.protocol.linger()
    signed(response, request_id)
    if origin:
        response.headers.update(cors_headers(origin))
    if settings.cors.origins:
        response.headers.add("Vary", "Origin")
    connections.rests(request.protocol)
    if connections.too_many or last:
        response.force_close()
    code = error.code if error else None
    seconds = time.monotonic() - started
    request.app[SERVICE].traffic.answered(_route(request), response.status, code, seconds)
    _log_request(request, request_id, response.status, code, started)
    return response


async def note_begun(request: web.Request, response: web.StreamResponse) -> None:
    """Remember that an answer has begun (for `Application.on_response_prepare`)."""
    request[BEGUN] = response


async def _broken_off(request: web.Request, error: Refusal) -> web.StreamResponse:
    """End an answer that is under way, so that it does not look whole; no other can follow."""
    response = request[BEGUN]
    request[NOTES].update(broken_off=error.code)
    if isinstance(response, web.WebSocketResponse):
        with contextlib.suppress(ConnectionError):
            reason = close_reason(f"{error.code}: {error.message}")
            await response.close(code=WSCloseCode.INTERNAL_ERROR, message=reason)
    elif request.transport is not None:
        request.transport.abort()
    return response


async def _traced(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Handle the request in a span, a part of the client's trace if it names one."""
    if request.path in _PROBES:
        return await handler(request)
    headers, route = request.headers, _route(request)
    about = {
        "http.request.method": request.method,
        "http.route": route,
        "url.path": request.path,
        "client.address": request[CLIENT],
        "modelserver.request_id": request[REQUEST_ID],
    }
    above = parent_of(headers.get("traceparent", ""), ",".join(headers.getall("tracestate", [])))
    with span(f"{request.method} {route}", SpanKind.SERVER, above, about) as serving:
        if (trace := trace_id(serving)) is not None:
            request[NOTES]["trace_id"] = trace
        try:
            response = await handler(request)
        except Exception as exception:  # noqa: BLE001 - it is raised again below
            error = refusal_of(exception)
            status, code = (STATUS[error.code], error.code) if error else (500, "internal")
            serving.set_attributes({"http.response.status_code": status, "error.type": code})
            if status >= 500:  # others are the client's errors
                fail(serving, code, str(exception))
            failed = exception
        else:
            serving.set_attribute("http.response.status_code", response.status)
            if response.status >= 500:
                fail(serving, str(response.status))
            return response
    raise failed


def _let_in(request: web.Request) -> None:
    """Check the key. Raises `NotAllowed`, but not where a page would not see it."""
    access, given = request.app[SERVICE].access, _authorization(request)
    try:
        secret = access.secret_of(given) if request.path == REALTIME_PATH else None
        if secret is not None:
            request[CLIENT_SECRET] = secret
        name = access.who(given) if secret is None else secret.name
    except NotAllowed as refused:
        if request.path not in (STREAM_PATH, REALTIME_PATH) or "Origin" not in request.headers:
            raise
        request[NOT_ALLOWED] = refused
        return
    if name is not None:
        request[KEY_NAME] = request[NOTES]["key"] = name


def _authorization(request: web.Request) -> str | None:
    given = request.headers.get("Authorization")
    if given is None:
        offered = request.headers.get("Sec-WebSocket-Protocol", "").split(",")
        for one in map(str.strip, offered):
            for prefix in _KEY_PROTOCOLS:
                if one.startswith(prefix):
                    return f"Bearer {one[len(prefix) :]}"
    return given


def signed(response: web.StreamResponse, request_id: str) -> web.StreamResponse:
    """Add the headers that every answer has."""
    response.headers["X-Request-ID"] = request_id
    response.headers["Server"] = f"modelserver/{__version__}"
    return response


async def expect_continue(request: web.Request) -> web.Response | None:
    """Answer `Expect` on a route without a body, or with one of any kind: sends 100 immediately, if
    the client can understand it (RFC 9110, 10.1.1)."""
    if (refusal := unknown_expectation(request)) is not None:
        return refusal
    await say_continue(request)
    return None


async def say_continue(request: web.Request) -> None:
    """Send 100 to a client that expects it."""
    if "Expect" in request.headers and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # it does not belong to the answer


def unknown_expectation(request: web.Request) -> web.Response | None:
    """Return the answer to an unknown `Expect`; None for the known one."""
    expected = request.headers.get("Expect", "")
    if expected.lower() == "100-continue":
        return None
    request_id = request_id_of(request)
    error = Refusal(
        "expectation_failed",
        f"unknown expectation {expected[:60]!r}: only 100-continue is supported",
    )
    response = error_response(error, request_id)
    response.force_close()
    signed(response, request_id)
    request.app[SERVICE].traffic.answered(_route(request), STATUS[error.code], error.code, 0.0)
    return response


def _route(request: web.Request) -> str:
    """Return the pattern of the route, of which there are few; a path may be anything."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "none"


def request_id_of(request: web.Request) -> str:
    """Return the request id of the client or gateway, if it consists of harmless characters; else a
    new one."""
    given = request.headers.get("X-Request-ID", "")
    return given if _ACCEPTABLE_ID.fullmatch(given) else uuid.uuid4().hex


def _log_request(
    request: web.Request, request_id: str, status: int | None, error: str | None, started: float
) -> None:
    (log.debug if request.path in _PROBES else log.info)(
        "request.done" if status is not None else "request.abandoned",
        request_id=request_id,
        method=request.method,
        path=request.raw_path.partition("?")[0],
        status=status,
        error=error,
        client=request[CLIENT],
        duration_ms=round((time.monotonic() - started) * 1000, 1),
        **request[NOTES],
    )
