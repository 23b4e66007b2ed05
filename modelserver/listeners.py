"""The public listeners: HTTP, and the Vosk project's protocol where it has a port of its own."""

import asyncio
import contextlib
import errno
import socket
import time
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web

from modelserver.handover.sockets import HTTP, VOSK, Sockets
from modelserver.http.connections import Connections
from modelserver.http.listening import HttpServer, url_of
from modelserver.serving.counters import Traffic
from modelserver.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.get_logger("server")

_LOOK_S = 0.005
_HALF_A_REQUEST_S = 2.0
"""Seconds for the rest of a request's head: a connection with half a head cannot be handed over."""

Give = Callable[[str, socket.socket], Awaitable[bool]]
"""Function that hands over a connection, given the name of the socket that accepted it; returns
False if no process takes it."""


class CannotListen(Exception):
    """Failure to listen on an address; the text says which and why."""


class PublicListeners:
    """Listeners of the public ports. Binds the addresses immediately, and accepts when asked to."""

    def __init__(self, settings: Settings, sockets: Sockets) -> None:
        """Bind the public ports. Raises `CannotListen`."""
        self._sockets = sockets
        self._listening = {}
        for name, port, setting in (
            (HTTP, settings.port, ""),
            (VOSK, settings.vosk.port, " (vosk.port)"),
        ):
            if name == VOSK and not port:
                continue
            try:
                self._listening[name] = sockets.listen(name, settings.host, port)
            except OSError as error:
                sockets.close()
                where = f"{settings.host} port {port}{setting}"
                raise CannotListen(
                    f"cannot listen on {where}: {_reason(error, setting)}"
                ) from error
        self._more = [(name, sock) for name in self._listening for sock in sockets.more(name)]
        """A unit of systemd may listen on several addresses for one purpose."""
        self.url = url_of(self._listening[HTTP])
        self._servers: list[HttpServer] = []

    @property
    def waited_for(self) -> bool:
        """Clients may be waiting on them from before this process."""
        return bool(self._sockets.waited_for & set(self._listening))

    async def accept(
        self,
        app: web.Application,
        vosk_app: web.Application,
        connections: Connections,
        traffic: Traffic,
    ) -> None:
        """Serve who comes, and who was being served by another process."""
        for name, sock in (*self._listening.items(), *self._more):
            served = app if name == HTTP else vosk_app
            server = HttpServer(served, sock, connections, traffic, give_up=True, name=name)
            await server.start()
            self._servers.append(server)
        if VOSK in self._listening:
            url = url_of(self._listening[VOSK]).replace("http", "ws", 1)
            log.info("vosk.started", url=url)
        await self.adopt()

    async def adopt(self) -> None:
        """Serve the connections that have been handed over meanwhile."""
        handed = self._sockets.connections
        while handed:
            name, sock = handed.pop()
            server = next((one for one in self._servers if one.name == name), None)
            if server is not None:
                await server.adopt(sock)
            else:
                sock.close()

    def stop_accepting(self) -> None:
        """Accept no more connections; those that are open stay."""
        for server in self._servers:
            server.stop_accepting()

    async def hand_over(
        self, give: Give, timeout_s: float, stop: asyncio.Event, no_requests: asyncio.Event
    ) -> int:
        """Hand every connection on as soon as it waits for its next request, until there is none;
        returns how many were. `no_requests` is set as soon as none of them can bring one."""
        began, handed = time.monotonic(), 0
        for server in self._servers:
            server.hand_on()
        while not stop.is_set() and (took := time.monotonic() - began) < timeout_s:
            for server in self._servers:
                for sock in server.let_go():
                    with sock:
                        handed += await give(server.name, sock)
            left = [one for server in self._servers for one in server.connections()]
            if took > _HALF_A_REQUEST_S:
                left = [one for one in left if not one.halfway]
            if all(one.is_websocket for one in left):
                no_requests.set()
            if not left:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await stop.wait()
        return handed

    async def close(self) -> None:
        """Give answers that are ready a moment to leave, then close every connection."""
        for server in self._servers:
            await server.close()
        for sock in (*self._listening.values(), *(sock for _, sock in self._more)):
            sock.close()
        self._sockets.close()


def _reason(error: OSError, setting: str) -> str:
    """Return why it failed, and, where another server has the port, what to do."""
    if error.errno != errno.EADDRINUSE:
        return str(error.strerror)
    other = (
        "set another vosk.port (or 0)"
        if setting
        else "set another --port (MODELSERVER_PORT) for this one"
    )
    return f"{error.strerror}: stop the server that has it, or {other}"
