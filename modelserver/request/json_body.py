"""A JSON body with audio in it, `{"audio": "BASE64", ...}`: stored in a spool as it arrives.

The audio's text is found in it and decoded in slices. msgspec decodes what is left, which is small.
"""

import asyncio
import mmap
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from modelserver.refusal import Refusal
from supervisor import Spool

AUDIO_KEYS = ("audio", "file", "data", "audio_base64", "audio_data", "content")
MOST_BYTES = 64 * 1024 * 1024
"""Most bytes of a body, decompressed. Larger audio is sent as the body itself or in a form."""
MOST_FIELDS = 64
_MOST_OTHERS_BYTES = 1024 * 1024
"""Most bytes of a body without its audio."""
_LONGEST_FIELD = 64 * 1024
_MOST_STRUCTURE = 20_000
"""Quotes, commas and opening brackets, which cost most to look at. Base64 has none."""
_AUDIO = re.compile(rb'"(?:%s)"\s*:\s*"' % "|".join(AUDIO_KEYS).encode(), re.IGNORECASE)
_PLACE = b'"<audio>"'
"""Stands for the audio in what is left."""
_SLICE_BYTES = 256 * 1024
_LONGEST_ESCAPE = 6


@dataclass(frozen=True, slots=True)
class _Found:
    """Fields as text, and where the audio's characters are, if there is any."""

    fields: dict[str, str]
    audio: tuple[int, int] | None


class JsonBody:
    """A JSON object in a spool. Raises `Refusal`."""

    def __init__(self, spool: Spool) -> None:
        """Store the text in `spool`, which the caller closes."""
        self._spool = spool
        self._structure = 0
        self.fields: dict[str, str] = {}
        """Values as text: numbers and booleans as JSON writes them, lists as JSON."""
        self.has_audio = False

    async def receive(self, chunks: AsyncIterator[bytes]) -> None:
        """Store the body. Raises `SpoolFull` if there is no space for it."""
        async for chunk in chunks:
            self._structure += sum(chunk.count(one) for one in (b'"', b",", b"[", b"{"))
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
        found = await asyncio.to_thread(_read, self._spool.fileno(), self._spool.size)
        self.fields = found.fields
        if found.audio is None:
            return
        self.has_audio = True
        at, end = found.audio
        while at < end:
            raw = await self._spool.read(at, min(_SLICE_BYTES, end - at))
            piece = _whole_escapes(raw, last=at + len(raw) == end)
            at += len(piece)
            if b"\\" in piece:
                piece = str(_decoded(b'"' + piece + b'"', str)).encode("utf-8", "replace")
            yield piece
            await asyncio.sleep(0)


def _read(fd: int, size: int) -> _Found:
    """Read the JSON behind `fd`. Called in a thread."""
    with mmap.mmap(fd, size, prot=mmap.PROT_READ) as text:
        at = _AUDIO.search(text)
        begin, end = (at.end(), text.find(b'"', at.end())) if at is not None else (0, 0)
        del at  # it holds the mapping
        if end < 0:
            raise _ended()
        if size - (end - begin) > _MOST_OTHERS_BYTES:
            raise Refusal("body_too_large", "the body is too large without the audio")
        left = text[: begin - 1] + _PLACE + text[end + 1 :] if begin else text[:]
    fields = dict(_fields(left, audio=begin > 0))
    return _Found(fields, (begin, end) if begin else None)


def _fields(left: bytes, *, audio: bool) -> Iterator[tuple[str, str]]:
    values = _decoded(left, dict[str, msgspec.Raw])
    if len(values) > MOST_FIELDS:
        raise _bad(f"it has more than {MOST_FIELDS} fields")
    quotes = places = texts = 0
    for name, raw in values.items():
        value = bytes(raw)
        quotes += 2 + name.count('"') + value.count(b'"')
        places += value == _PLACE
        if name.lower() in AUDIO_KEYS and value[:1] == b'"':
            texts += 1
        elif (text := _text(name, value)) is not None:
            yield name, text
    if audio and (texts != 1 or places != 1):
        raise Refusal("too_many_files", "the JSON holds audio twice")
    if quotes != left.count(b'"'):  # of two with the same name, the last is left
        raise Refusal("bad_parameter", "a field of the JSON is given twice")


def _text(name: str, value: bytes) -> str | None:
    if len(value) > _LONGEST_FIELD:
        raise _bad(f"the value of {name[:40]!r} is too long")
    match _decoded(value, Any):
        case None:
            return None
        case bool(flag):
            return "true" if flag else "false"
        case dict():
            raise _bad(f"the value of {name[:40]!r} is neither text nor a number")
        case list():
            return value.decode()
        case other:
            return str(other)


def _whole_escapes(text: bytes, *, last: bool) -> bytes:
    """Cut off an escape that may not be all there."""
    cut = -1 if last else text.rfind(b"\\", max(0, len(text) - _LONGEST_ESCAPE))
    return text if cut < 0 else text[:cut]


def _decoded(text: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        if "truncated" in str(error):
            raise _ended() from error
        raise _bad(str(error)) from error
    except RecursionError:
        raise _bad("it is nested too deeply") from None


def json_too_large() -> Refusal:
    """Return the refusal of a JSON body of more than `MOST_BYTES`."""
    return Refusal(
        "body_too_large",
        f"a JSON body may have {MOST_BYTES} bytes: send a larger file as the body itself, or in a "
        "form",
    )


def _ended() -> Refusal:
    return Refusal("incomplete_body", "unexpected end of the JSON")


def _bad(why: str) -> Refusal:
    return Refusal("bad_request", f"the JSON cannot be read: {why}")
