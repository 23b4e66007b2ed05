"""Request bodies as they arrive: with deadlines, decompressed, and bounded."""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web
from aiohttp.web_protocol import RequestPayloadError

from modelserver.http.middleware import say_continue
from modelserver.refusal import Refusal
from modelserver.request.codings import Inflater
from modelserver.request.headers import media_type
from modelserver.settings import LimitSettings

_CODINGS = ("gzip", "x-gzip", "deflate")
_MOST_EXPANSION = 20
_FREE_EXPANSION_BYTES = 16 * 1024 * 1024
"""A compressed body may expand to `_MOST_EXPANSION` times what was sent, and this much more.
Speech compresses to a half; only silence exceeds 20 to 1."""


def content_coding(request: web.Request) -> str | None:
    """Return "gzip" or "deflate", or None. Raises `Refusal` for any other Content-Encoding."""
    given = request.headers.get("Content-Encoding", "").strip().lower()
    codings = [c.strip() for c in given.split(",") if c.strip() not in ("", "identity")]
    if not codings:
        return None
    if len(codings) > 1 or codings[0] not in _CODINGS:
        raise Refusal(
            "unsupported_media_type",
            f"the Content-Encoding {given[:60]!r} is not supported: use gzip or deflate",
        )
    return "gzip" if "gzip" in codings[0] else codings[0]


def is_json(request: web.Request) -> bool:
    """Return whether the Content-Type says JSON."""
    kind = media_type(request.headers.get("Content-Type", ""))
    return kind in ("application/json", "text/json") or kind.endswith("+json")


async def body_chunks(request: web.Request, limits: LimitSettings) -> AsyncIterator[bytes]:
    """Send 100 Continue where it is expected, then yield the decompressed body.

    A chunk of a compressed body has at most 256 KiB, and other tasks run between two of them.
    Raises `Refusal` for a client that stops sending, is slower than `limits.upload_min_bytes_s`,
    disconnects, or sends what expands too much.
    """
    coding = content_coding(request)
    await say_continue(request)
    chunks = _with_deadlines(request, limits)
    async for chunk in chunks if coding is None else _inflated(chunks, coding):
        yield chunk


async def read_body(request: web.Request, limits: LimitSettings, most_bytes: int) -> bytes:
    """Read a whole body of at most `most_bytes`, decompressed. Raises `Refusal`."""
    error = Refusal("body_too_large", f"the request's body may have {most_bytes} bytes")
    if (request.content_length or 0) > most_bytes:
        raise error
    body = bytearray()
    async for chunk in body_chunks(request, limits):
        body += chunk
        if len(body) > most_bytes:
            raise error
    return bytes(body)


async def _with_deadlines(request: web.Request, limits: LimitSettings) -> AsyncIterator[bytes]:
    content = request.content
    loop = asyncio.get_running_loop()
    began, received = loop.time(), 0
    while True:
        try:
            chunk = content.read_nowait()
            if not chunk and not content.at_eof():
                async with asyncio.timeout(limits.upload_idle_s):
                    chunk = await content.readany()
        except TimeoutError:
            raise Refusal(
                "upload_timeout", f"nothing was received for {limits.upload_idle_s:g} s"
            ) from None
        except (RequestPayloadError, ConnectionError, EOFError) as error:
            raise Refusal("incomplete_body", "the body ended too early") from error
        if not chunk:
            return
        received += len(chunk)
        took = loop.time() - began
        if took > limits.upload_idle_s and received < limits.upload_min_bytes_s * took:
            raise Refusal(
                "upload_timeout",
                f"{received} bytes were received in {took:.0f} s; "
                f"{limits.upload_min_bytes_s} per second are required "
                "(limits.upload_min_bytes_s)",
            )
        yield chunk


async def _inflated(chunks: AsyncIterator[bytes], coding: str) -> AsyncIterator[bytes]:
    inflater, received, made = Inflater(coding), 0, 0
    async for chunk in chunks:
        received += len(chunk)
        for piece in inflater.feed(chunk):
            made += len(piece)
            if made > _MOST_EXPANSION * received + _FREE_EXPANSION_BYTES:
                raise Refusal(
                    "body_too_large",
                    f"the compressed body expands more than {_MOST_EXPANSION} times: send the "
                    "audio as FLAC or Opus, or uncompressed",
                )
            yield piece
            await asyncio.sleep(0)  # a little may become a lot: others have their turn
    inflater.finish()
