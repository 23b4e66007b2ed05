"""The public HTTP application, and how it is bound to a socket."""

import asyncio
import socket
import uuid
from typing import cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from modelserver.http.connections import Connections
from modelserver.http.convert import convert
from modelserver.http.errors import ApiError, error_response
from modelserver.http.health import healthz, readyz, test
from modelserver.http.keys import CONNECTIONS, SERVICE
from modelserver.http.middleware import each_request
from modelserver.http.upload import hold_continue
from modelserver.serving.service import SpeechService

_RECEIVE_BUFFER_BYTES = 128 * 1024
"""What the kernel holds for each connection before the server reads it: with many uploads at once
this, and not the uploads' size, is what the supervisor's memory depends on."""

_KEEPALIVE_S = 75.0
_NO_DESCRIPTORS = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n"
    b"Content-Length: 0\r\n\r\n"
)
_CLEANUP_S = 2.0


def build_application(service: SpeechService) -> web.Application:
    """The routes. Body sizes are bounded by the handlers that take bodies."""
    app = web.Application(middlewares=[each_request])
    app[SERVICE] = service
    app[CONNECTIONS] = Connections(service.places)
    app.router.add_post("/api/audio/convert", convert, expect_handler=hold_continue)
    app.router.add_get("/test", test)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    return app


def bind(host: str, port: int) -> socket.socket:
    """A listening socket's address taken, or `OSError`; it accepts once it is served."""
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
    sock.setblocking(False)
    try:
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


class HttpServer:
    """The application on a socket, from the first accept to the last answer."""

    def __init__(self, app: web.Application, sock: socket.socket) -> None:
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=_CLEANUP_S
        )
        self._connections = app[CONNECTIONS]
        self._socket = sock
        self._listener: asyncio.Server | None = None

    async def start(self) -> None:
        """Accept connections."""
        await self._runner.setup()
        server = self._runner.server
        assert server is not None
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            lambda: _Connection(server, self._connections, loop=loop),
            sock=self._socket,
            backlog=1024,
        )

    def stop_accepting(self) -> None:
        """New connections are refused by the kernel; those that are open stay."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def close(self) -> None:
        """Give answers that are ready a moment to leave, then close every connection."""
        self.stop_accepting()
        await self._runner.cleanup()


class _Connection(RequestHandler):
    """aiohttp's connection, with our error document for what is not even HTTP."""

    __slots__ = ("_connections", "_counted")

    def __init__(
        self, server: web.Server, connections: Connections, *, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(server, loop=loop, keepalive_timeout=_KEEPALIVE_S)
        self.access_logger = None  # the middleware logs requests
        self._connections = connections
        self._counted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connections.open += 1
        self._counted = True
        if self._connections.beyond_hope:
            # Too many even to be told why one by one; what is said here may not be read. The loop's
            # own transports are of no class that could be asked for.
            stream = cast("asyncio.Transport", transport)
            stream.write(_NO_DESCRIPTORS)
            stream.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._counted:
            self._counted = False
            self._connections.open -= 1
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
            reason = (message or "the request is not HTTP").strip().splitlines()[0]
            code = "headers_too_large" if status == 431 else "bad_request"
            response = error_response(ApiError(code, reason), request_id)
        else:
            self.log_exception("Error handling request %s", request_id, exc_info=exc)
            response = error_response(ApiError("internal", "the server failed"), request_id)
        response.force_close()
        return response
