"""A JSON body with audio in it, `{"audio": "BASE64", ...}`: kept in a spool as it arrives, then
decoded by msgspec in a thread.

The thread holds the interpreter's lock while it decodes, so what is expensive to decode is bounded
before: the size, and the characters that make up structure.
"""

import asyncio
import mmap
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec

from modelserver.http.errors import ApiError
from supervisor import Spool

AUDIO_KEYS = ("audio", "file", "data", "audio_base64", "audio_data", "content")
MOST_BYTES = 64 * 1024 * 1024
"""Of a body, decompressed. Larger audio is sent as the body itself or in a form."""
MOST_FIELDS = 64
_MOST_STRUCTURE = 20_000
"""Quotes, commas and opening brackets in a body. Base64 has none."""
_LONGEST_FIELD = 64 * 1024
_SLICE_BYTES = 256 * 1024
"""Of base64 that is decoded in one go."""
_LONGEST_ESCAPE = 6


class JsonBody:
    """A JSON object in a spool. Raises `ApiError`."""

    def __init__(self, spool: Spool) -> None:
        """`spool`: where the text is kept; the caller closes it."""
        self._spool = spool
        self._structure = self._quotes = 0
        self.fields: dict[str, str] = {}
        """Values as text: numbers and booleans as JSON writes them, lists as JSON."""
        self.has_audio = False

    async def receive(self, chunks: AsyncIterator[bytes]) -> None:
        """Keep the body; `SpoolFull` where there is no space for it."""
        async for chunk in chunks:
            quotes = chunk.count(b'"')
            self._quotes += quotes
            self._structure += quotes + sum(chunk.count(one) for one in (b",", b"[", b"{"))
            if self._spool.size + len(chunk) > MOST_BYTES:
                raise json_too_large()
            if self._structure > _MOST_STRUCTURE:
                raise _bad(f"it has more than {MOST_FIELDS} fields, or lists that are too long")
            await self._spool.write(chunk)
        await self._spool.flush()

    async def audio(self) -> AsyncIterator[bytes]:
        """Decode the object, fill `fields`, and yield the characters of the audio."""
        if not self._spool.size:
            raise _ended()
        text = mmap.mmap(self._spool.fileno(), self._spool.size, prot=mmap.PROT_READ)
        # The mapping ends with its last view: an exception's traceback may hold one.
        found = await asyncio.to_thread(self._decode, text)
        text.madvise(mmap.MADV_DONTNEED)  # the spool has it: it need not be in our memory as well
        if found is None:
            return
        self.has_audio = True
        for piece in _characters(memoryview(found)[1:-1]):
            yield piece
            text.madvise(mmap.MADV_DONTNEED)
            await asyncio.sleep(0)

    def _decode(self, text: mmap.mmap) -> msgspec.Raw | None:
        values = _decoded(text, dict[str, msgspec.Raw])
        if len(values) > MOST_FIELDS:
            raise _bad(f"it has more than {MOST_FIELDS} fields")
        audio: dict[str, msgspec.Raw] = {}
        quotes = 0  # of the fields; the body has more where one that came before was replaced
        for name, raw in values.items():
            value = bytes(memoryview(raw)[:1])
            if value == b'"' and name.lower() in AUDIO_KEYS:
                audio[name] = raw
                quotes += name.count('"') + 4 + _escaped_quotes(raw)
                continue
            if len(memoryview(raw)) > _LONGEST_FIELD:
                raise _bad(f"the value of {name[:40]!r} is too long")
            quotes += name.count('"') + 2 + bytes(raw).count(b'"')
            self._keep(name, raw)
        repeated = len(audio) > 1
        for name in audio:
            key = msgspec.json.encode(name)
            repeated |= text.find(key, text.find(key) + 1) >= 0 and quotes != self._quotes
        if repeated:
            raise ApiError("too_many_files", "the JSON holds audio twice")
        if quotes != self._quotes:
            raise ApiError("bad_parameter", "a field of the JSON is given twice")
        return next(iter(audio.values()), None)

    def _keep(self, name: str, raw: msgspec.Raw) -> None:
        value = _decoded(raw, object)
        match value:
            case None:
                return
            case bool():
                self.fields[name] = "true" if value else "false"
            case dict():
                raise _bad(f"the value of {name[:40]!r} is neither text nor a number")
            case list():
                self.fields[name] = bytes(raw).decode()
            case _:
                self.fields[name] = str(value)


def _escaped_quotes(raw: msgspec.Raw) -> int:
    """Count the quotes inside a string. Its own two are not counted."""
    view = memoryview(raw)[1:-1]
    return sum(
        bytes(view[at : at + _SLICE_BYTES]).count(b'"') for at in range(0, len(view), _SLICE_BYTES)
    )


def _characters(text: memoryview) -> Iterator[bytes]:
    """The characters of a JSON string's inside, in slices, with escapes replaced."""
    at = 0
    while at < len(text):
        piece = bytes(text[at : at + _SLICE_BYTES])
        last = at + len(piece) == len(text)
        if not last and (escape := piece.rfind(b"\\", len(piece) - _LONGEST_ESCAPE)) >= 0:
            piece = piece[:escape]
        at += len(piece)
        if b"\\" in piece:
            piece = str(_decoded(b'"' + piece + b'"', str)).encode("utf-8", "replace")
        yield piece


def _decoded(text: Any, kind: Any) -> Any:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        if "truncated" in str(error):
            raise _ended() from error
        raise _bad(str(error)) from error
    except RecursionError:
        raise _bad("it is nested too deeply") from None


def json_too_large() -> ApiError:
    """Return the refusal of a JSON body of more than `MOST_BYTES`."""
    return ApiError(
        "body_too_large",
        f"a JSON body may have {MOST_BYTES} bytes: send a larger file as the body itself, or in a "
        "form",
    )


def _ended() -> ApiError:
    return ApiError("incomplete_body", "unexpected end of the JSON")


def _bad(why: str) -> ApiError:
    return ApiError("bad_request", f"the JSON cannot be read: {why}")
