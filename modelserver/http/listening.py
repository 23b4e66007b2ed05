"""An application on a listening socket, from the first accept to the last answer."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

from aiohttp import web

from modelserver.http.client_connection import ClientConnection
from modelserver.http.connections import Connections
from modelserver.serving.counters import Traffic

_RECEIVE_BUFFER_BYTES = 128 * 1024
"""Bytes that the kernel holds for each connection before the server reads them: with many uploads
at once the supervisor's memory depends on this, not on the size of the uploads."""

_CLEANUP_S = 2.0
BACKLOG = 1024
"""Connections that may wait to be accepted, where `net.core.somaxconn` allows as many."""


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address, and accepts once it is served. Raises
    `OSError`."""
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


def url_of(sock: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class HttpServer:
    """The application on a socket. `give_up`: a handler is cancelled when its client is gone."""

    def __init__(
        self,
        app: web.Application,
        sock: socket.socket,
        connections: Connections,
        traffic: Traffic,
        *,
        give_up: bool,
        name: str = "",
    ) -> None:
        """Serve `app` on a socket. `give_up`: cancel a request whose client has disconnected;
        `name`: of the socket, for a process to which it is handed over."""
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=give_up, shutdown_timeout=_CLEANUP_S
        )
        self._connections = connections
        self._traffic = traffic
        self._socket = sock
        self._listener: asyncio.Server | None = None
        self.name = name

    async def start(self) -> None:
        """Start accepting connections."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        create = (
            loop.create_unix_server if self._socket.family is socket.AF_UNIX else loop.create_server
        )
        self._listener = await create(self._connection, sock=self._socket, backlog=BACKLOG)

    def _connection(self) -> ClientConnection:
        server = self._runner.server
        assert server is not None
        loop = asyncio.get_running_loop()
        return ClientConnection(server, self._connections, self._traffic, loop=loop)

    async def adopt(self, sock: socket.socket) -> None:
        """Serve a connection that another process has accepted."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):  # its client has gone
            await loop.connect_accepted_socket(self._connection, sock)

    def hand_on(self) -> None:
        """Hand further connections over to another process: see `Connections.handed_on`."""
        self._connections.handed_on = True

    def let_go(self) -> Iterator[socket.socket]:
        """Detach and yield the connections that wait for their next request, for another process to
        serve."""
        for connection in self.connections():
            if (sock := connection.let_go()) is not None:
                yield sock

    def connections(self) -> list[ClientConnection]:
        """Return the open connections."""
        server = self._runner.server
        there = server.connections if server is not None else ()
        return [one for one in there if isinstance(one, ClientConnection)]

    def stop_accepting(self) -> None:
        """Close the listening socket; open connections stay. The kernel then refuses new
        connections, unless another process holds the socket too: then they wait for that process.
        """
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def close(self) -> None:
        """Give answers that are ready a moment to leave, then close every connection."""
        self.stop_accepting()
        await self._runner.cleanup()
