"""Server-sent events: an answer that comes bit by bit (HTML Standard, section 9.2)."""

import asyncio

import msgspec
from aiohttp import web

from modelserver.http.app_keys import SERVICE
from modelserver.http.middleware import REQUEST_ID, signed
from modelserver.http.origins import allowed_origin, cors_headers

MEDIA_TYPE = "text/event-stream"
WRITE_S = 20.0
"""Seconds for which a client may leave events unread."""


class EventStream:
    """An answer that is under way once `open` has been called."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.response = web.StreamResponse()

    async def open(self) -> None:
        """Send the headers."""
        headers = self.response.headers
        headers["Content-Type"] = f"{MEDIA_TYPE}; charset=utf-8"
        headers["Cache-Control"] = "no-cache"
        headers["X-Accel-Buffering"] = "no"  # nginx would collect it
        signed(self.response, self._request[REQUEST_ID])
        cors = self._request.app[SERVICE].settings.cors
        if origin := allowed_origin(self._request, cors):
            headers.update(cors_headers(origin))
        await self.response.prepare(self._request)

    async def send(self, event: str | None, document: object) -> None:
        """Send one event. Raises `ConnectionError` where the client has gone."""
        await self._write(_encoded(event, document))

    async def send_large(self, event: str | None, document: object) -> None:
        """Send an event whose document may be a long transcript; a thread encodes it."""
        await self._write(await asyncio.to_thread(_encoded, event, document))

    async def stay(self) -> None:
        """Send a comment, so that gateways do not take the connection for dead."""
        await self._write(b": \n\n")

    async def _write(self, data: bytes) -> None:
        try:
            async with asyncio.timeout(WRITE_S):
                await self.response.write(data)
        except TimeoutError:
            if (transport := self._request.transport) is not None:
                transport.abort()
            raise ConnectionResetError(f"the client has read nothing for {WRITE_S:g} s") from None

    async def close(self) -> None:
        """End the answer."""
        await self.response.write_eof()


def _encoded(event: str | None, document: object) -> bytes:
    name = f"event: {event}\n".encode() if event else b""
    return name + b"data: " + msgspec.json.encode(document) + b"\n\n"
