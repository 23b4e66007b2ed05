"""Wyoming, the protocol of Home Assistant's voice assistants: events on a plain connection.

The protocol has no keys and no encryption. Imported only where it is served.
"""

import asyncio
from typing import Any
from urllib.parse import urlsplit

import structlog

from modelserver.extras import how_to_install
from modelserver.handover import Sockets
from modelserver.handover.sockets import WYOMING
from modelserver.serving.service import SpeechService
from modelserver.wyoming_client import WyomingClient

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

    async def __aenter__(self) -> "WyomingListener":
        parts = urlsplit(self._uri)
        try:
            if parts.scheme == "unix":
                self._server = await asyncio.start_unix_server(self._accept, parts.path)
            elif parts.scheme == "tcp" and parts.hostname and parts.port is not None:
                sock = self._sockets.listen(WYOMING, parts.hostname, parts.port)
                self._server = await asyncio.start_server(self._accept, sock=sock)
            else:
                raise BadUri(f"{self._uri!r}: it must be tcp://HOST:PORT or unix:///PATH")
        except (OSError, ValueError) as error:
            raise BadUri(f"cannot listen on {self._uri}: {error}") from error
        addresses = [str(sock.getsockname()) for sock in self._server.sockets]
        log.info("wyoming.listening", uri=self._uri, addresses=addresses)
        name = self._service.settings.wyoming.announce
        if name and parts.scheme == "tcp":
            port = self._server.sockets[0].getsockname()[1]
            try:
                from modelserver.announcing import Announcement
            except ImportError as error:
                raise BadUri(f"wyoming.announce needs: {how_to_install('zeroconf')}") from error
            self._announcement = Announcement(name, parts.hostname or "", port)
            await self._announcement.begin()
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._announcement is not None:
            await self._announcement.end()
        self.stop_accepting()
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    def stop_accepting(self) -> None:
        """Those that are there go on."""
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
