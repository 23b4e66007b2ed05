"""Wyoming, the protocol of Home Assistant's voice assistants: events on a plain connection.

The protocol has no keys and no encryption. Imported only where it is served.
"""

import asyncio
import errno
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog

from models.extras import how_to_install
from modelserver.handover import Sockets
from modelserver.handover.sockets import WYOMING
from modelserver.live.wyoming_client import WyomingClient
from modelserver.serving.service import SpeechService

log: structlog.stdlib.BoundLogger = structlog.get_logger("wyoming")

_MOST_CONNECTIONS = 256


class BadUri(Exception):
    """The address cannot be listened on; the text says why."""


class WyomingListener:
    """Use as `async with`: listens, and at the end lets every client have its transcript."""

    def __init__(self, service: SpeechService, uri: str, sockets: Sockets) -> None:
        self._service = service
        self._uri, self._sockets = uri, sockets
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._announcement: Any = None
        self._socket: socket.socket | None = None
        self._path: Path | None = None

    def bind(self) -> None:
        """Take the address, so that `__aenter__` cannot fail. Raises `BadUri`."""
        parts = urlsplit(self._uri)
        try:
            if parts.scheme == "unix":
                self._path = Path(parts.path)
                self._socket = _bind_beside(self._path)
            elif parts.scheme == "tcp" and parts.hostname and parts.port is not None:
                self._socket = self._sockets.listen(WYOMING, parts.hostname, parts.port)
            else:
                raise BadUri(f"{self._uri!r}: it must be tcp://HOST:PORT or unix:///PATH")
        except (OSError, ValueError) as error:
            raise BadUri(f"cannot listen on {self._uri}: {error}") from error
        name = self._service.settings.wyoming.announce
        if name and parts.scheme == "tcp":
            try:
                from modelserver.live.mdns import Announcement
            except ImportError as error:
                raise BadUri(f"wyoming.announce needs: {how_to_install('zeroconf')}") from error
            port = self._socket.getsockname()[1]
            self._announcement = Announcement(name, parts.hostname or "", port)

    async def __aenter__(self) -> "WyomingListener":
        assert self._socket is not None
        if self._path is None:
            self._server = await asyncio.start_server(self._accept, sock=self._socket)
        else:
            self._server = await asyncio.start_unix_server(self._accept, sock=self._socket)
        return self

    async def take_path(self) -> None:
        """Take the path of a server that listened there before, and announce this one. What stands
        in the way is logged."""
        assert self._socket is not None
        if self._path is not None:
            try:
                _beside(self._path).rename(self._path)
            except OSError as error:
                log.error("wyoming.start_failed", reason=f"{self._path}: {error.strerror}")
                return
        address = self._path or self._socket.getsockname()
        log.info("wyoming.started", uri=self._uri, addresses=[str(address)])
        if self._announcement is not None:
            await self._announcement.begin()

    def close(self) -> None:
        """Give back what was bound and is not served."""
        if self._socket is not None:
            self._socket.close()
        if self._path is not None:
            _beside(self._path).unlink(missing_ok=True)

    async def __aexit__(self, *exception: object) -> None:
        if self._announcement is not None:
            await self._announcement.end()
        self.stop_accepting()
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        self.close()

    def stop_accepting(self) -> None:
        """Accept no more connections; those that are open stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            client = WyomingClient(self._service, reader, writer)
            if len(self._clients) <= _MOST_CONNECTIONS:
                await client.serve()
            else:
                message = f"{_MOST_CONNECTIONS} connections are open, which is the most: try later"
                await client.refuse("queue_full", message)
        except asyncio.CancelledError:
            pass  # the server ends
        except Exception:
            log.exception("wyoming.client_failed")
        finally:
            self._clients.discard(task)
            writer.close()


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}-{os.getpid()}")


def _bind_beside(path: Path) -> socket.socket:
    """Bind a Unix socket next to `path`: another server may answer there until this one takes
    it."""
    if path.exists() and not path.is_socket():
        raise FileExistsError(errno.EEXIST, "it is there, and is not a socket")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        _beside(path).unlink(missing_ok=True)
        sock.bind(str(_beside(path)))
        sock.listen()
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock
