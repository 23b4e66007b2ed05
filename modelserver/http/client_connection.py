"""One client's connection: aiohttp's, with what it leaves to us: clients that are refused while
they send, that close their side and wait, that go away, or that do not speak HTTP."""

import asyncio
import os
import socket
import uuid
from collections.abc import Iterable
from typing import Any, cast

import structlog
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

from modelserver.http.connections import Connections
from modelserver.http.errors import ApiError, error_response
from modelserver.http.middleware import signed
from modelserver.serving.counters import Traffic

log: structlog.stdlib.BoundLogger = structlog.get_logger("http")

_KEEPALIVE_S = 75.0
_NO_DESCRIPTORS = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n"
    b"Content-Length: 0\r\n\r\n"
)
_LINGER_S = 600.0
"""How long what a refused client is still sending is read, and thrown away: many clients read their
answer only when they have sent all."""
_UNREAD_MS = 30_000
"""How long a client may leave an answer unread (tcp(7), TCP_USER_TIMEOUT)."""
_TURNS_AFTER_EOF = 10
"""Of the loop: a request that has been read is with its handler after three."""
_LOOK_FIRST_S, _LOOK_LONGEST_S = 0.02, 1.0
_LINGER_IDLE_S, _LINGER_LOOK_S = 2.0, 0.5
_FIRST_LETTER = b"H"  # of HTTP/1.1
_TCP_CLOSE = 7
"""What the first byte of TCP_INFO says once the other side has reset the connection (tcp(7))."""


class ClientConnection(RequestHandler):
    """aiohttp's connection, counted, with our error document for what is not even HTTP."""

    __slots__ = (
        "_begun",
        "_connections",
        "_counted",
        "_half_closed",
        "_heard",
        "_timer",
        "_traffic",
        "cut_short",
    )

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
        self._counted = self._half_closed = self.cut_short = False
        self._heard = loop.time()
        self._begun = False
        self._timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        self._heard = asyncio.get_running_loop().time()
        heard = self._request_count
        waited = self._waits or not heard
        request = self._current_request
        ahead = request is not None and request.content.is_eof()
        super().data_received(data)
        if data and (waited or ahead):
            # Part of a next request's head may be in the parser, and cannot be had back.
            self._begun = self._request_count == heard or ahead

    @property
    def _waits(self) -> bool:
        """For its next request."""
        return self._waiter is not None and not self._waiter.done() and not self._messages

    @property
    def halfway(self) -> bool:
        """It has heard a part of its next request's head, and waits for the rest."""
        return self._waits and self._begun

    @property
    def is_websocket(self) -> bool:
        """It will bring no request any more, whatever it still waits for."""
        return self._payload_parser is not None

    def let_go(self) -> socket.socket | None:
        """Its socket, if it waits for its next request and has heard nothing of that: what comes
        from now on is for who has that socket. None, and all as it was, otherwise."""
        transport = self.transport
        if transport is None or transport.is_closing() or not self._waits or self._begun:
            return None
        if self._half_closed or transport.get_write_buffer_size():
            return None
        sock = cast("socket.socket", transport.get_extra_info("socket"))
        kept = socket.socket(fileno=os.dup(sock.fileno()))
        os.set_inheritable(kept.fileno(), False)
        transport.abort()
        return kept

    def linger(self) -> None:
        """After a refusal: aiohttp reads what is still sent until it is over; we end it where
        nothing comes any more."""
        loop = asyncio.get_running_loop()

        def look() -> None:
            if self.transport is None or self.transport.is_closing():
                return
            if loop.time() - self._heard > _LINGER_IDLE_S:
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

    def eof_received(self) -> bool | None:  # type: ignore[override]  # theirs: None
        """The client has closed its sending side: it waits for its answer, or has gone altogether.
        Only who is sent something tells which: the first letter of the answer, which is always the
        same. Who has gone answers it with a reset."""
        transport = self.transport
        if transport is None or transport.get_extra_info("socket").family == socket.AF_UNIX:
            return None
        if self.is_websocket:
            # It has a farewell of its own: who closes without it is gone.
            return None
        if self._half_closed:
            return True
        self._half_closed = True
        self._answer_after_eof(_TURNS_AFTER_EOF)
        return True

    def _answer_after_eof(self, turns: int) -> None:
        transport, request = self.transport, self._current_request
        if transport is None or transport.is_closing():
            return
        if not self._request_in_progress:
            if turns:  # what came before it may not have got to its handler yet
                asyncio.get_running_loop().call_soon(self._answer_after_eof, turns - 1)
            else:
                transport.close()
            return
        if self._messages:  # others that it has sent already, which are answered first
            asyncio.get_running_loop().call_later(_LOOK_FIRST_S, self._answer_after_eof, turns)
            return
        self.close()  # after this answer
        if request is None:
            return  # it is being sent
        if not request.content.is_eof():
            self.cut_short = True
            request.content.feed_eof()
        if not request.writer.output_size:
            transport.write(_FIRST_LETTER)
            self.transport = cast("asyncio.Transport", _WithoutFirstLetter(self, transport))
        self._abort_if_gone(transport, _LOOK_FIRST_S)

    def _abort_if_gone(self, transport: asyncio.Transport, after_s: float) -> None:
        if self.transport is None or transport.is_closing() or not self._request_in_progress:
            return
        sock = transport.get_extra_info("socket")
        try:
            state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        except OSError:
            state = _TCP_CLOSE
        if state == _TCP_CLOSE:
            transport.abort()
            return
        wait_s = min(_LOOK_LONGEST_S, 2 * after_s)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(wait_s, self._abort_if_gone, transport, wait_s)

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
                status=error.status,
                error=error.code,
                reason=error.message,
                client=request.remote,
            )
        else:
            log.error("request.failed", request_id=request_id, exc_info=exc)
            error = ApiError("internal", "the server failed; its log says how")
        response = signed(error_response(error, request_id), request_id)
        self._traffic.answered("none", error.status, error.code, 0.0)
        response.force_close()
        return response


class _WithoutFirstLetter:
    """A transport on which the first letter of what is written next has been sent already."""

    def __init__(self, connection: RequestHandler, transport: asyncio.Transport) -> None:
        self._connection, self._transport = connection, transport

    def write(self, data: bytes) -> None:
        """As of a transport."""
        self.writelines([data])

    def writelines(self, chunks: Iterable[bytes]) -> None:
        """As of a transport."""
        data = b"".join(chunks)
        assert data[:1] == _FIRST_LETTER
        self._connection.transport = self._transport
        self._transport.write(data[1:])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def _refusal(exc: BaseException | None, message: str | None) -> ApiError:
    """What the parser could not read, in a line."""
    reason = (message or "the request is not HTTP").strip().splitlines()[0]
    if isinstance(exc, LineTooLong) or "oo many headers" in reason:
        return ApiError("headers_too_large", "the request's line or headers are too large")
    return ApiError("bad_request", reason)
