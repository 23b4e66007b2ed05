"""A client's connection: aiohttp's, which also counts itself, reads on after a refusal, can be
handed to another process, and answers what is not HTTP with an error document."""

import asyncio
import os
import socket
import uuid
from typing import cast

import structlog
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

from modelserver.http.connections import Connections
from modelserver.http.errors import STATUS, error_response, failed
from modelserver.http.middleware import signed
from modelserver.refusal import Refusal
from modelserver.serving.counters import Traffic

log: structlog.stdlib.BoundLogger = structlog.get_logger("http")

_KEEPALIVE_S = 75.0
_NO_DESCRIPTORS = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n"
    b"Content-Length: 0\r\n\r\n"
)
_LINGER_S = 600.0
"""Seconds for which the rest of a rejected request is read and discarded: many clients read the
answer only after they have sent everything."""
_UNREAD_MS = 30_000
"""Milliseconds for which a client may leave an answer unread (tcp(7), TCP_USER_TIMEOUT)."""
_LINGER_IDLE_S, _LINGER_LOOK_S = 2.0, 0.5


class ClientConnection(RequestHandler):
    """aiohttp's connection, counted, with our error document for what is not even HTTP."""

    __slots__ = ("_begun", "_connections", "_counted", "_received_at", "_timer", "_traffic")

    def __init__(
        self,
        server: web.Server,
        connections: Connections,
        traffic: Traffic,
        *,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=_KEEPALIVE_S,
            lingering_time=_LINGER_S,
            auto_decompress=False,  # what comes out has to be counted
        )
        self.access_logger = None  # the middleware logs requests
        self._connections = connections
        self._traffic = traffic
        self._counted = False
        self._received_at = loop.time()
        self._begun = False
        self._timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        self._received_at = asyncio.get_running_loop().time()
        requests_before = self._request_count
        waited = self._waits or not requests_before
        request = self._current_request
        ahead = request is not None and request.content.is_eof()
        super().data_received(data)
        if data and (waited or ahead):
            # Part of a next request's head may be in the parser, which does not return it.
            self._begun = self._request_count == requests_before or ahead

    @property
    def _waits(self) -> bool:
        """True if the connection waits for its next request."""
        return self._waiter is not None and not self._waiter.done() and not self._messages

    @property
    def halfway(self) -> bool:
        """True if a part of the next request's head has arrived, and the rest has not."""
        return self._waits and self._begun

    @property
    def is_websocket(self) -> bool:
        """True if the connection is a WebSocket, which brings no further request."""
        return self._payload_parser is not None

    def let_go(self) -> socket.socket | None:
        """Detach and return the socket, if the connection waits for its next request and has
        received nothing of that. Return None, and change nothing, otherwise."""
        transport = self.transport
        if transport is None or transport.is_closing() or not self._waits or self._begun:
            return None
        if transport.get_write_buffer_size():
            return None
        sock = cast("socket.socket", transport.get_extra_info("socket"))
        duplicate = socket.socket(fileno=os.dup(sock.fileno()))
        os.set_inheritable(duplicate.fileno(), False)
        transport.abort()
        return duplicate

    def linger(self) -> None:
        """Close the connection after a refusal once the client has stopped sending: aiohttp alone
        would read until the end of the body."""
        loop = asyncio.get_running_loop()

        def look() -> None:
            if self.transport is None or self.transport.is_closing():
                return
            if loop.time() - self._received_at > _LINGER_IDLE_S:
                self.force_close()
            else:
                self._timer = loop.call_later(_LINGER_LOOK_S, look)

        self._timer = loop.call_later(_LINGER_LOOK_S, look)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connections.opened(self)
        self._counted = True
        sock = transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_MS)
        if self._connections.beyond_hope:
            # Too many even to be told why one by one; what is said here may not be read. The loop's
            # own transports are of no class that could be asked for.
            stream = cast("asyncio.Transport", transport)
            stream.write(_NO_DESCRIPTORS)
            stream.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._counted:
            self._counted = False
            self._connections.closed(self)
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        request_id = uuid.uuid4().hex
        if status < 500:
            error = _refusal(exc, message)
            log.info(
                "request.refused",
                request_id=request_id,
                status=STATUS[error.code],
                error=error.code,
                reason=error.message,
                client=request.remote,
            )
        else:
            log.error("request.failed", request_id=request_id, exc_info=exc)
            error = failed()
        response = signed(error_response(error, request_id), request_id)
        self._traffic.answered("none", STATUS[error.code], error.code, 0.0)
        response.force_close()
        return response


def _refusal(exc: BaseException | None, message: str | None) -> Refusal:
    """Return the refusal of what the parser could not read, in one line."""
    reason = (message or "the request is not HTTP").strip().splitlines()[0].rstrip(":")
    if isinstance(exc, LineTooLong) or "oo many headers" in reason:
        return Refusal("headers_too_large", "the request's line or headers are too large")
    return Refusal("bad_request", reason)
