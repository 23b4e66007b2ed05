"""A request's body, streamed into a spool: raw audio, or one file of a multipart form."""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import BodyPartReader, HttpVersion11, MultipartReader, web
from aiohttp.web_protocol import RequestPayloadError

from modelserver.audio.gate import WavGate
from modelserver.http.errors import ApiError
from modelserver.http.middleware import unknown_expectation
from modelserver.settings import LimitSettings
from supervisor import Spool

_CHUNK_BYTES = 64 * 1024
_FORM_OVERHEAD_BYTES = 64 * 1024
"""What the boundaries, headers and small fields of a form may add to the file."""

# `application/x-www-form-urlencoded` is what curl calls any body that it was not told about.
_RAW_TYPES = ("application/octet-stream", "application/x-www-form-urlencoded")


def must_be_acceptable(request: web.Request, limits: LimitSettings) -> None:
    """Whatever its headers can be refused for. Raises `ApiError`."""
    form = _is_form(request)
    if not form and not _is_raw_audio(request):
        raise ApiError(
            "unsupported_media_type",
            f"a body of type {request.content_type} is not taken; send the WAV file as audio/wav, "
            "application/octet-stream, or as a file in multipart/form-data",
        )
    if (coding := request.headers.get("Content-Encoding", "identity").lower()) != "identity":
        raise ApiError(
            "unsupported_media_type",
            f"a body that is encoded ({coding}) is not taken; send it plain",
        )
    overhead = _FORM_OVERHEAD_BYTES if form else 0
    if (request.content_length or 0) > limits.body + overhead:
        raise _too_large(limits)


async def receive_audio(request: web.Request, spool: Spool, limits: LimitSettings) -> float:
    """Take the audio in, refusing as early as can be. Returns how many seconds of it there are.

    Raises `ApiError`, `AudioError`, or `SpoolFull`.
    """
    await _continue(request)
    gate = WavGate(limits.audio_s)
    received = 0
    async for chunk in _patiently(
        _form_file(request) if _is_form(request) else _raw(request), limits
    ):
        received += len(chunk)
        if received > limits.body:
            raise _too_large(limits)
        gate.feed(chunk)
        await spool.write(chunk)
    return gate.finish()


def _is_form(request: web.Request) -> bool:
    return request.content_type == "multipart/form-data"


def _is_raw_audio(request: web.Request) -> bool:
    if "Content-Type" not in request.headers:
        return True
    return request.content_type.startswith("audio/") or request.content_type in _RAW_TYPES


async def hold_continue(request: web.Request) -> web.Response | None:
    """For routes with uploads: the client's `Expect: 100-continue` is answered by
    `receive_audio`, when the body is really wanted; another one here."""
    return unknown_expectation(request)


async def _continue(request: web.Request) -> None:
    if "Expect" in request.headers and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # it is no part of the answer


async def _patiently(chunks: AsyncIterator[bytes], limits: LimitSettings) -> AsyncIterator[bytes]:
    """The same chunks; raises `ApiError` for a client that stops sending, or goes away."""
    while True:
        try:
            async with asyncio.timeout(limits.upload_idle_s):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise ApiError(
                "upload_timeout", f"nothing was received for {limits.upload_idle_s:g} s"
            ) from None
        except (RequestPayloadError, ConnectionError, EOFError) as error:
            raise ApiError("incomplete_body", "the body ended too early") from error
        yield chunk


async def _raw(request: web.Request) -> AsyncIterator[bytes]:
    async for chunk in request.content.iter_any():
        yield chunk


async def _form_file(request: web.Request) -> AsyncIterator[bytes]:
    """The one part that is a file: it has a file name, or is called "file" or "audio"."""
    found = False
    other_bytes = 0
    try:
        form = await request.multipart()
        while (part := await form.next()) is not None:
            if isinstance(part, MultipartReader):
                raise ApiError("malformed_multipart", "a form within a form is not taken")
            is_file = _is_file(part)
            if is_file and found:
                raise ApiError("too_many_files", "the form holds more than one file")
            found = found or is_file
            while chunk := await part.read_chunk(_CHUNK_BYTES):
                if is_file:
                    yield chunk
                else:
                    other_bytes += len(chunk)
                if other_bytes > _FORM_OVERHEAD_BYTES:
                    raise ApiError("body_too_large", "the form's other fields are too large")
    except (ValueError, LookupError, AssertionError, RuntimeError) as error:
        # What aiohttp's reader raises for a body that is not what its header says.
        raise ApiError("malformed_multipart", f"the form cannot be read: {error}") from error
    if not found:
        raise ApiError("missing_file", "the form holds no file")


def _is_file(part: BodyPartReader) -> bool:
    return part.filename is not None or part.name in ("file", "audio")


def _too_large(limits: LimitSettings) -> ApiError:
    return ApiError("body_too_large", f"the body is too large; {limits.body} bytes are allowed")
